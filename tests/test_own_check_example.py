"""The example package, installed by pip as a user would, is found through its entry point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import write_recipe

from constitutional import __version__

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "03_own_check"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder that holds the example package and this very checkout's metadata, each installed by pip."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    for project in (source, ROOT):
        command = [*pip, "--disable-pip-version-check", "--target", str(folder / "site"), str(project)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder / "site"


def cli(site: Path | None, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(site or ROOT)}
    command = [sys.executable, "-m", "constitutional", *arguments]
    folder = (site or ROOT / "tests").parent  # not the checkout, whose package would be found first
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_example_is_found_once_it_is_installed(site, tmp_path):
    constitution = tmp_path / "constitution.yaml"
    constitution.write_text((EXAMPLE / "constitution.yaml").read_text())
    code, text = cli(None, "validate", str(constitution))
    assert code == 1 and "Traceback" not in text
    line = next(line for line in text.splitlines() if "no check 'short_sentences' is installed" in line)
    assert f"{constitution}:26:5: principles.1.check: " in line
    code, text = cli(site, "validate", str(constitution))
    assert code == 0 and "easy-to-read@1.0.0, 3 principles" in text
    constitution.write_text(constitution.read_text().replace("check: complete", "check: short_sentence"))
    code, text = cli(site, "validate", str(constitution))
    assert code == 1 and "did you mean 'short_sentences'?" in text


@pytest.mark.slow
def test_a_run_records_the_versions_of_both_packages(site, tmp_path):
    recipe = write_recipe(tmp_path / "in")
    (tmp_path / "in" / "constitution.yaml").write_text((EXAMPLE / "constitution.yaml").read_text())
    code, text = cli(site, "run", str(recipe), "--out", str(tmp_path / "run"), "--display", "none")
    assert code == 0, text
    assert "base passes complete@1.0.0" in text and "base passes short-sentences@1.0.0" in text
    checks = json.loads((tmp_path / "run" / "lock.json").read_text())["checks"]
    assert checks == {
        "short-sentences@1.0.0": "check:short_sentences:short_sentences constitutional-short-sentences==1.0.0",
        "complete@1.0.0": "check:constitutional.checks:complete constitutional==" + __version__,
    }
