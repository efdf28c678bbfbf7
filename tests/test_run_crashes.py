"""The run folder and the ledger under kill -9, a full disk and several starters at once."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from run_harness import BATCH, judgment

from constitutional.errors import ConstitutionalError, LedgerError, RunError
from constitutional.ledger import open_ledger, open_ledger_read_only
from constitutional.ledger.export import export
from constitutional.records import Answer, Usage
from constitutional.runs import load_result, open_run, write_atomic

HARNESS = Path(__file__).with_name("run_harness.py")
KILLS = int(os.environ.get("KILLS", "20"))
LEDGER_KILLS = int(os.environ.get("LEDGER_KILLS", "40"))


def start(mode: str, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Starts the harness and waits until its imports are done."""
    path = os.pathsep.join([str(HARNESS.parents[1]), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, str(HARNESS), mode, str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
    assert child.stdout and child.stdout.readline() == "ready\n"
    return child


def results(folder: Path) -> dict[str, str]:
    """What a finished job left, without times: the merged files' digests and the ledger's head."""
    found: dict[str, str] = {}
    for name in ("01-sample", "02-judge"):
        (stage,) = (folder / "stages" / name).iterdir()
        result = load_result(stage)
        assert result is not None
        found |= {f"{name}/{file}": sha for file, sha in result.manifest.outputs.items()}
        assert sorted(p.name for p in stage.iterdir()) == ["data.jsonl", "failures.jsonl", "manifest.json"]
    with open_ledger_read_only(folder / "ledger.sqlite") as ledger:
        assert ledger.verify([result.manifest.ledger_head or ""]) == []
        assert ledger.count() == 2 * len(load_result(next((folder / "stages/01-sample").iterdir())).records(Answer))
        return found | {"head": ledger.head}


def chunk_times(folder: Path) -> dict[Path, int]:
    """When each chunk was written; a job that is at work may tidy one away between the two looks at it."""
    found = {}
    for path in folder.glob("stages/*/*/chunks/0*.jsonl"):
        with suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def wait_for_chunks(child: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    """Returns when so many chunks are there, or the process has ended."""
    while child.poll() is None and len(chunk_times(folder)) < count:
        time.sleep(0.005)


@pytest.mark.slow
def test_a_job_killed_anywhere_and_resumed_leaves_the_same_bytes(tmp_path: Path) -> None:
    child = start("job", tmp_path / "whole", "25")
    begun = time.monotonic()
    assert child.wait() == 0
    whole = time.monotonic() - begun
    expected, draw, kills, trial, hit = results(tmp_path / "whole"), random.Random(), 0, 0, set()
    while kills < KILLS:
        folder, trial = tmp_path / f"killed{trial}", trial + 1
        while True:
            before = chunk_times(folder)
            child = start("job", folder, "25")
            if draw.random() < 0.5:  # somewhere in the work itself, however slow the machine has become
                wait_for_chunks(child, folder, len(before) + draw.randrange(1, 6))
            try:
                code = child.wait(timeout=whole * draw.choice((0.0, 0.1, 1.0)) * draw.random())
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                kills += 1
                hit.add(len(chunk_times(folder)))
                code = None
            now = chunk_times(folder)
            for path, moment in before.items():
                finished = (path.parents[1] / "manifest.json").exists()
                assert finished or now.get(path) == moment, f"{path} was done and is redone or gone"
            if kills >= KILLS or code is not None:
                break
        assert code is not None or start("job", folder, "0").wait() == 0
        assert results(folder) == expected
    assert len(hit) > 2, "the kills did not fall at different points of the work"


@contextmanager
def started(mode: str, folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A harness that forks: whatever becomes of the test, none of its processes is left."""
    child = start(mode, folder, *arguments)
    try:
        yield child
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe
            with suppress(BrokenPipeError):
                pipe.close()


def send(child: "subprocess.Popen[str]") -> None:
    assert child.stdin
    child.stdin.write("go\n")
    child.stdin.flush()


def said_until_dead(child: "subprocess.Popen[str]") -> list[str]:
    assert child.stdout
    return [line.rstrip("\n") for line in iter(child.stdout.readline, "dead\n")]


@pytest.mark.slow
def test_a_ledger_killed_while_committing_keeps_every_acknowledged_batch_whole(tmp_path: Path) -> None:
    draw, known, told = random.Random(), 0, 0
    with started("append", tmp_path) as child:
        for _ in range(LEDGER_KILLS):
            send(child)
            assert child.stdout
            pid = int(child.stdout.readline().removeprefix("pid "))
            acknowledged = [int(child.stdout.readline()) for _ in range(draw.randint(0, 3))]
            time.sleep(0.02 * draw.random())
            os.kill(pid, signal.SIGKILL)
            acknowledged += [int(line) for line in said_until_dead(child)]
            known, told = (acknowledged or [known])[-1], told + len(acknowledged)
            with open_ledger_read_only(tmp_path / "ledger.sqlite") as ledger:
                assert ledger.count() >= known
                assert ledger.count() % BATCH == 0
                assert ledger.verify() == []
    assert told > LEDGER_KILLS // 4


def test_of_eight_starters_one_wins_and_the_others_are_told_by_whom(tmp_path: Path) -> None:
    with started("hold", tmp_path) as child:
        for number in range(int(os.environ.get("STARTS", "20"))):
            send(child)
            assert child.stdout
            run = tmp_path / str(number)
            overloaded = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)  # what takes a second then says nothing of us
            said = [child.stdout.readline().split(" ", 2) for _ in range(8)]
            ((winner, _, host),) = [line for line in said if line[1] == "won"]
            for pid, how, text in said:
                if how == "lost":
                    seconds, message = text.split(" ", 1)
                    assert pid != winner and (float(seconds) < 1 or overloaded)
                    assert f"run folder {run} is in use by pid {winner} on host {host.strip()} since 20" in message
            os.kill(int(winner), signal.SIGKILL)
            assert said_until_dead(child) == []
            with open_run(run), pytest.raises(RunError, match=f"pid {os.getpid()} "):
                open_run(run)


@pytest.mark.slow
def test_four_readers_beside_a_writer_are_neither_locked_out_nor_kept_waiting(tmp_path: Path) -> None:
    """Read p99 under 50 ms; on a machine too busy for that, no more than twice that of a ledger nobody writes to."""
    with open_ledger(tmp_path / "quiet.sqlite") as ledger:
        for batch in range(200):
            ledger.append([judgment(f"{batch}-{i}", comparison_id=f"b{batch}") for i in range(8)])
    with started("traffic", tmp_path, os.environ.get("TRAFFIC_SECONDS", "30")) as child:
        assert child.stdout
        *readers, end = [json.loads(line) for line in child.stdout]
    assert end == {"codes": [0] * 5} and len(readers) == 4
    for reader in readers:
        assert reader["wrong"] == []
        assert reader["ledger"] < max(0.05, 2 * reader["quiet"]), reader
        assert reader["reads"] > 50
    with open_ledger_read_only(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.count() > 100 and ledger.verify() == []


class Disk:
    """A folder whose disk can be filled and freed."""

    def __init__(self, folder: Path, fill: Callable[[], None], free: Callable[[], None]) -> None:
        self.folder, self.fill, self.free = folder, fill, free


@pytest.fixture(params=["file size limit", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "file size limit":
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def limit(size: int) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

        yield Disk(tmp_path, lambda: limit(0), lambda: limit(soft))
        limit(soft)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    filler = tmp_path / "filler"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC

    try:
        yield Disk(tmp_path, fill, filler.unlink)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def refused(disk: Disk, path: Path, kind: type[ConstitutionalError], action: Callable[[], object]) -> None:
    """With a full disk the action fails in one line that names the path, and leaves no half file."""
    files = {file for file in disk.folder.rglob("*") if file.is_file() and "sqlite" not in file.name}
    disk.fill()
    with pytest.raises(kind) as caught:
        action()
    after = {file for file in disk.folder.rglob("*") if file.is_file() and "sqlite" not in file.name}
    disk.free()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert after - {disk.folder / "filler"} - files == set()


def test_a_full_disk_stops_every_writer_and_what_was_there_stands(disk: Disk) -> None:
    note, row = disk.folder / "note.json", {"text": "y" * 8192}
    write_atomic(note, "first")
    refused(disk, note, RunError, lambda: write_atomic(note, "x" * 8192))
    assert note.read_text() == "first"
    with open_run(disk.folder / "run") as run:
        run.event("first")
        events = run.path / "events.jsonl"
        refused(disk, events, RunError, lambda: run.event("second", **row))
        run.event("third")
        assert events.read_text().count("\n") == 2 and '"third"' in events.read_text()
        refused(disk, run.path / "stages", RunError, lambda: run.stage(1, "a", {}).folder)
    refused(disk, disk.folder / "run", RunError, lambda: open_run(disk.folder / "run"))
    open_run(disk.folder / "run").close()


def test_a_log_line_that_fits_only_in_part_is_taken_back(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.event("first")
        before = (run.path / "events.jsonl").read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
        try:
            with pytest.raises(RunError, match=r"cannot write .*events\.jsonl"):
                run.event("second")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (run.path / "events.jsonl").read_bytes() == before


def test_a_ledger_on_a_full_disk_keeps_what_it_had_and_goes_on_afterwards(disk: Disk) -> None:
    path = disk.folder / "ledger.sqlite"
    with open_ledger(path) as ledger:
        ledger.append([judgment(f"{i}") for i in range(20)])
        more = [judgment(f"more{i}", raw="z" * 4096) for i in range(60)]
        refused(disk, path, LedgerError, lambda: ledger.append(more))
        assert (ledger.count(), ledger.verify()) == (20, [])
        assert ledger.append(more) == 60
    with open_ledger_read_only(path) as ledger:
        assert (ledger.count(), ledger.verify()) == (80, [])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_an_export_on_a_full_disk_leaves_no_half_file(disk: Disk, tmp_path_factory, suffix: str) -> None:
    ledger = tmp_path_factory.mktemp("elsewhere") / "ledger.sqlite"
    with open_ledger(ledger) as opened:  # stays open: a reader beside it needs to write nothing
        opened.append([judgment(f"{i}", raw="z" * 4096) for i in range(20)])
        out = disk.folder / f"out{suffix}"
        refused(disk, out, LedgerError, lambda: export(ledger, out))
        assert not out.exists() and export(ledger, out) == 20


@pytest.mark.parametrize("full_at", ["chunk 2", "finish"])
def test_a_stage_on_a_full_disk_stops_and_resumes_to_the_same_bytes(disk: Disk, full_at: str) -> None:
    def work(items: Sequence[int], chunk: int) -> Iterator[Answer]:
        if full and chunk == 2:
            disk.fill()
        for item in items:
            text = f"{item}" * 5000
            yield Answer(prompt_id="p", model="m", text=text, finish_reason="stop", seed=chunk, usage=Usage())

    full = False
    with open_run(disk.folder / "run") as run:
        whole = run.stage(1, "whole", {})
        whole.run_chunks(range(10), work, chunk_size=2, output_type=Answer)
        expected = whole.finish().manifest.outputs
        stage, full = run.stage(2, "full", {}), full_at == "chunk 2"
        with pytest.raises(RunError, match=rf"cannot write .*{'000002' if full else 'data'}\.jsonl: .*"):
            stage.run_chunks(range(10), work, chunk_size=2, output_type=Answer)
            disk.fill()
            stage.finish()
        assert stage.result() is None
        disk.free()
        names = {path.name for path in stage.folder.rglob("*") if path.is_file()}
        chunks = {f"00000{i}.jsonl" for i in range(2 if full else 5)}
        assert names == chunks | {"plan.json", "started.json"}
        full = False
        stage = run.stage(2, "full", {})
        stage.run_chunks(range(10), work, chunk_size=2, output_type=Answer)
        assert stage.finish().manifest.outputs == expected
