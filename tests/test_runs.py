import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from constitutional.errors import RunError
from constitutional.pipeline.shared import share
from constitutional.records import canonical_json
from constitutional.runs import RunFolder, open_run, read_log, write_atomic


@pytest.fixture
def run(tmp_path: Path) -> Iterable[RunFolder]:
    with open_run(tmp_path / "run") as folder:
        yield folder


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", "/tmp", "a\n", ".."])
def test_a_stage_name_cannot_leave_the_folder(run: RunFolder, name: str) -> None:
    with pytest.raises(RunError, match="cannot name a stage"):
        run.stage(1, name, {})


def test_logs_are_appended_and_a_torn_line_does_not_spoil_the_next(run: RunFolder) -> None:
    run.event("started", stage="a", text="\ud800\u2028")
    run.metric(step=1, loss=float("nan"), nested=[float("inf")])
    events, metrics = run.path / "events.jsonl", run.path / "metrics.jsonl"
    with events.open("ab") as file:
        file.write(b'{"kind": "torn')
    assert [row["kind"] for row in read_log(events)] == ["started"]
    run.event("next")
    assert [row["kind"] for row in read_log(events)] == ["started", "next"]
    assert read_log(events)[0]["text"] == "\ud800\u2028" and str(read_log(events)[0]["time"]).endswith("+00:00")
    (row,) = read_log(metrics)
    assert (row["step"], row["loss"], row["nested"]) == (1, "nan", ["inf"])
    events.write_bytes(b"{}\n{\n")
    with pytest.raises(RunError, match=r"events\.jsonl:2: damaged line"):
        read_log(events)
    assert read_log(run.path / "absent.jsonl") == []


def test_write_atomic_replaces_whole_files_and_respects_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, "é\n")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o022))
    for wrong, content in ((tmp_path / "no" / "x", "x"), (tmp_path, "x"), (path, "\ud800")):
        with pytest.raises(RunError, match=f"cannot write {wrong}"):
            write_atomic(wrong, content)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"] and path.read_bytes() == b"second"


def test_a_run_folder_has_one_holder_and_is_free_after_close(tmp_path: Path) -> None:
    with open_run(tmp_path / "r") as run:
        begun = time.monotonic()
        with pytest.raises(RunError, match=rf"r is in use by pid {os.getpid()} on host .+ since 20\d\d-"):
            open_run(tmp_path / "r")
        assert time.monotonic() - begun < 1
        assert json.loads((run.path / ".holder.json").read_text())["pid"] == os.getpid()
    assert not (run.path / ".holder.json").exists()
    open_run(tmp_path / "r").close()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=f"cannot write {tmp_path / 'file'}"):
        open_run(tmp_path / "file")


def test_folders_of_one_store_have_one_holder(tmp_path: Path) -> None:
    store = tmp_path / "store"
    one, other = share(store, "arms/one"), share(store, "arms/other")
    with open_run(store), open_run(one), open_run(other):  # as a loop does
        assert elsewhere(one) == elsewhere(other) == elsewhere(store) == 1
    with open_run(one):
        assert elsewhere(other) == elsewhere(store) == 1
        assert json.loads((store / ".holder.json").read_text())["pid"] == os.getpid()
    assert elsewhere(one) == elsewhere(other) == elsewhere(store) == 0
    assert not list(store.rglob(".holder.json"))
    (one / ".lock").unlink(missing_ok=True)
    (one / ".lock").mkdir()  # it cannot be opened, when the store is held already
    with pytest.raises((OSError, RunError)):
        open_run(one)
    assert not list(store.rglob(".holder.json")) and elsewhere(store) == 0


def test_stages_on_another_disk_are_no_store(tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "stages"
    disk.mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stages").symlink_to(disk)
    with open_run(tmp_path / "run"):
        assert elsewhere(tmp_path / "run") == 1
        assert [place.name for place in disk.parent.iterdir()] == ["stages"]


def elsewhere(folder: Path) -> int:
    """How another process ends that opens the folder: with 1 where it is refused by the name of its holder."""
    code = "import sys, pathlib, constitutional.runs as r; r.open_run(pathlib.Path(sys.argv[1])).close()"
    child = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert child.returncode == 0 or f"in use by pid {os.getpid()}" in child.stderr, child.stderr
    return child.returncode


def test_equal_settings_have_equal_keys_whatever_their_order(run: RunFolder) -> None:
    assert run.stage(1, "a", {"x": 1, "y": (2,)}).key == run.stage(9, "a", {"y": [2], "x": 1}).key
    keys = {run.stage(1, *parts).key for parts in (("a", {}), ("b", {}), ("a", {"x": 1}), ("a", {"x": "1"}))}
    assert len(keys) == 4 and canonical_json({"x": 1}) == '{"x":1}'
