"""Runs on Ray, which is started twice for all of them: the bytes of a local run, whoever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from scale_recipe import left, write_scale_recipe
from training_recipe import training_recipe, write_training_recipe

from constitutional.config import load_recipe
from constitutional.display import Silent
from constitutional.pipeline import run_recipe
from constitutional.pipeline.context import Context
from constitutional.pipeline.ray_engine import RayChoice, _sweep, open_ray

ray = pytest.importorskip("ray")
KILLS = int(os.environ.get("WORKER_KILLS", "10"))
ENGINE = partial(open_ray, RayChoice(workers=2))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Ray on this machine, small; its address."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options = {"num_cpus": 4, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    context = ray.init(address="local", _temp_dir=folder, log_to_driver=False, logging_level="ERROR", **options)
    try:
        yield context.address_info["address"]
    finally:
        own = psutil.Process().children(recursive=True)
        ray.shutdown()
        psutil.wait_procs(own, timeout=20)  # they write to the folder as long as they live
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe of many small chunks, and what a run in one process makes of it."""
    folder = tmp_path_factory.mktemp("ray")
    recipe = write_scale_recipe(folder / "in", prompts=30, chunk_size=2, delay=0.02)
    run_recipe(load_recipe(recipe), recipe, folder / "run")
    return recipe, folder / "run"


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    path = folder / "events.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["kind"] == kind]


def gone(pids: set[int], seconds: float = 120) -> bool:
    """Whether no process is left, or soon none: some of Ray's look for their parent once in a while."""
    until = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


class Killer(Silent):
    """At every fourth sign of progress, kills a worker."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.killed = folder, 0, set()

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.calls += 1
        alive = [int(str(row["pid"])) for row in events(self.folder, "worker") if row["pid"] not in self.killed]
        if self.calls % 4 == 0 and alive and len(self.killed) < KILLS:
            os.kill(alive[-1 if self.calls % 8 else 0], signal.SIGKILL)
            self.killed.add(alive[-1 if self.calls % 8 else 0])


@pytest.mark.slow
def test_workers_killed_again_and_again_leave_the_bytes_of_a_local_run(
    cluster: str, whole: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, expected = whole
    killer = Killer(tmp_path / "run")
    run_recipe(load_recipe(recipe), recipe, tmp_path / "run", engine=ENGINE, display=killer)
    assert len(killer.killed) == KILLS == len(events(tmp_path / "run", "worker_lost"))
    assert left(tmp_path / "run") == left(expected)
    assert gone({int(str(row["pid"])) for row in events(tmp_path / "run", "worker")})


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "constitutional", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    )


@pytest.mark.slow
def test_an_error_in_a_worker_is_the_error_of_a_local_run_and_nothing_of_ray_is_left(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(whole[0].parent, tmp_path / "in")
    recipe, model = tmp_path / "in" / "recipe.yaml", tmp_path / "in" / "model.yaml"
    model.write_text('fail: ["red 4"]\n' + model.read_text())
    scratch = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    arguments = ("run", str(recipe), "--out", str(tmp_path / "run"), "--display", "none", "--engine", "ray")
    driver = start(*arguments, "--workers", "2", TMPDIR=str(scratch))
    started: set[int] = set()
    while driver.poll() is None:
        with suppress(psutil.Error):
            started |= {process.pid for process in psutil.Process(driver.pid).children(recursive=True)}
        time.sleep(0.05)
    said, _ = driver.communicate()
    assert len(started) >= 4 and gone(started, 1)
    assert list(scratch.iterdir()) == []
    scratch.rmdir()
    assert driver.returncode == 1 and "Resume with:" in said  # it says that asking again may help
    assert said.startswith("error: scripted failure on 'red 4'; ") and said.count("\n") == 2
    chunks = sorted(path.name for path in tmp_path.glob("run/stages/01-revise/*/chunks/0*"))
    assert chunks == ["000000.jsonl"]  # what comes before it is kept, as in a local run


@pytest.mark.slow
def test_a_driver_killed_with_its_own_ray_leaves_nothing_behind_and_a_folder_that_goes_on_either_way(
    cluster: str, whole: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, expected = whole
    out = tmp_path / "run"
    arguments = ["run", str(recipe), "--out", str(out), "--display", "none", "--engine", "ray"]
    driver = start(*arguments, "--workers", "2")
    try:
        until = time.monotonic() + 240
        while not list(out.glob("stages/01-revise/*/manifest.json")):
            assert time.monotonic() < until and driver.poll() is None
            time.sleep(0.02)
        started = {process.pid for process in psutil.Process(driver.pid).children(recursive=True)}
        started |= {int(str(row["pid"])) for row in events(out, "worker")}
    finally:
        driver.kill()
        driver.communicate()
    assert not list(out.glob("stages/07*"))
    assert len(started) >= 4 and gone(started)
    base = Path(tempfile.gettempdir())
    assert list(base.glob(f"ray-{driver.pid}-*"))  # its own last act would have been to remove it
    _sweep(base)  # as the next one does that starts a Ray
    assert not list(base.glob(f"ray-{driver.pid}-*"))
    shutil.copytree(out, tmp_path / "other")
    run_recipe(load_recipe(recipe), recipe, out)
    assert left(out) == left(expected)
    arguments[3] = str(tmp_path / "other")
    resumed = start(*arguments, "--workers", "2", "--address", cluster)
    said, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    assert left(tmp_path / "other") == left(expected)


def test_only_what_a_dead_driver_left_is_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    names = [f"ray-{dead.pid}-left", f"ray-{os.getpid()}-alive", "ray-x-other", f"ray-{dead.pid}-notray"]
    for name in names:
        (tmp_path / name).mkdir()
        if not name.endswith("notray"):
            (tmp_path / name / "session_latest").symlink_to(tmp_path)
    _sweep(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(names[1:])


@pytest.mark.slow
def test_models_opened_by_workers_and_two_systems_compared_leave_the_bytes_of_a_local_run(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one thread each: the last digits of a sum may depend on their number."""
    pytest.importorskip("trl")
    recipe = write_training_recipe(tmp_path / "in")
    stages = "stages=[revise, helpful, sft, sample, judge, answers, evaluate]"
    small = ["chunk_size=2", "threads=1", "judging.principles_per_comparison=1", "evaluation.max_tokens=6"]
    chosen = training_recipe(recipe, stages, "judge=local:policy", *small)
    run_recipe(chosen, recipe, tmp_path / "here")
    monkeypatch.setattr(Context, "open_spec", lambda self, spec: pytest.fail(f"{spec} opened by the driver"))
    outcome = run_recipe(chosen, recipe, tmp_path / "ray", engine=ENGINE)
    assert left(tmp_path / "ray") == left(tmp_path / "here")
    assert len(events(tmp_path / "ray", "worker")) >= 2
    counts = {step.name: step.result.manifest.counts.get("records", 0) for step in outcome.steps}
    held_out, orders = 6, 2  # a chunk of `evaluate` is one comparison
    assert counts["answers"] > held_out and counts["judge"] and counts["evaluate"] > orders, counts
