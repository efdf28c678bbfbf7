import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from fake_models import make_prompts
from fake_run import CONSTITUTION, RECIPE, make_run

from constitutional.audit.report import write_report

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("browser") / "run")
    write_report(folder, RECIPE, CONSTITUTION, make_prompts())
    return folder


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_draws_it(run: Path, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "shot.png"
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    options += "--disable-component-update --disable-sync --hide-scrollbars"
    command = [str(CHROMIUM), *options.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},1600", f"--screenshot={shot}", (run / "report.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    drawn, different = _variety(shot)
    assert drawn == width and different > 50, "the page is blank"


def _variety(png: Path) -> tuple[int, int]:
    """Width of an image, and how many different bytes its unpacked lines hold: a handful in a blank one."""
    data, at, packed, width = png.read_bytes(), 8, b"", 0
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        width = int.from_bytes(body[:4], "big") if kind == b"IHDR" else width
        packed += body if kind == b"IDAT" else b""
        at += length + 12
    return width, len(set(zlib.decompress(packed)))
