"""The wheel holds everything: installed elsewhere, it validates the packaged constitutions and finds its packs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "runs/stage.py",
        "audit/report.html.j2",
        "audit/report_audit.j2",
        "audit/audit.html.j2",
        "_data/constitutions/minimal.yaml",
        "_data/constitutions/young_learners.lock",
        "constitution/starter.yaml",
        "_data/prompts/chat/judge.j2",
    ):
        assert f"constitutional/{needed}" in names
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import constitutional, constitutional.constitution as c, constitutional.templates as t; "
        "from constitutional.constitution.lock import check_lock; "
        "assert check_lock('young_learners') == check_lock('helpful_honest') == (); "
        "print(constitutional.__file__, c.load_constitution('harmlessness').ref, t.load_pack('transcript').ref)"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    file, constitution, pack = done.stdout.split()
    assert Path(file).is_relative_to(site) and constitution == "harmlessness@1.1.0" and pack.startswith("transcript@")
