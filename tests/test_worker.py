"""A worker, in this process: it makes every chunk as the run did, writes nothing, and refuses what is another's."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from scale_recipe import write_scale_recipe

from constitutional.config import load_recipe
from constitutional.errors import ConfigError, RunError
from constitutional.pipeline import run_recipe, worker
from constitutional.pipeline.inputs import load_inputs
from constitutional.pipeline.ray_engine import RayWorkers, most_workers, shared_limits
from constitutional.pipeline.worker import Ready, Task, Work, Worker
from constitutional.records import Judgment
from constitutional.runs import StageResult, load_result, open_run
from constitutional.runs.chunk_files import chunk_line
from constitutional.runs.engine import StageName

CHUNKED = ("revise", "helpful", "sample", "gate", "judge", "second", "answers")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("worker")
    recipe = write_scale_recipe(folder / "in")
    run_recipe(load_recipe(recipe), recipe, folder / "run")
    return recipe, folder / "run"


def snapshot(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def work_of(recipe: Path, run: Path) -> Work:
    inputs = load_inputs(load_recipe(recipe), recipe)
    return Work(inputs.recipe, recipe.resolve(), run.resolve(), inputs.prompts, Path.cwd())


def task_of(run: Path, place: Path, index: int, known: tuple[Judgment, ...] = ()) -> tuple[Task, StageResult]:
    """The task that made a chunk of a finished stage."""
    result = load_result(place)
    assert result is not None
    number, name = place.parent.name.split("-", 1)
    step = name.split("-")[0]
    done = {
        s: p for s, p in json.loads((run / "current.json").read_text()).items() if s in ("revise", "sample", "answers")
    }
    done = {s: p for s, p in done.items() if int(p.split("/")[1][:2]) < int(number)}
    reads = tuple(stamp.key for stamp in result.manifest.inputs.values())
    return Task(step, int(number), done, StageName(name, result.key, reads), index, known), result


def place_of(run: Path, name: str) -> Path:
    (found,) = run.glob(f"stages/*-{name}/*")
    return found


def lines(made: worker.Made, kind: str) -> bytes:
    rows = [json.loads(chunk_line(record, type(record))) for record in made.records]
    return b"".join(json.dumps(row[kind], sort_keys=True).encode() + b"\n" for row in rows if kind in row)


def same(path: Path) -> bytes:
    return b"".join(json.dumps(json.loads(line), sort_keys=True).encode() + b"\n" for line in path.open())


@pytest.mark.parametrize("name", CHUNKED)
def test_a_worker_makes_every_chunk_as_the_run_did_and_writes_nothing(
    finished: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    recipe, whole = finished
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    stage = "judge-second" if name == "second" else name
    place = place_of(run, stage)
    task, result = task_of(run, place, 0)
    before_place = snapshot(place)
    (place / "manifest.json").unlink()  # as if it were being made
    before = snapshot(run)
    made_by = Worker(work_of(recipe, run))
    assert made_by.ready().versions
    chunks = [made_by.make(task)]
    chunks += [made_by.make(replace(task, index=index)) for index in range(1, len(made_by._chunks))]
    kept = {file: text for made in chunks for file, text in made.kept.items()}
    assert b"".join(lines(made, "record") for made in chunks) == same(place / "data.jsonl")
    assert b"".join(lines(made, "failure") for made in chunks) == same(place / "failures.jsonl")
    assert {file: hashlib.sha256(text.encode()).hexdigest() for file, text in kept.items()} == {
        file: sha for file, sha in before_place.items() if file.startswith("applies-")
    }
    assert bool(kept) == (name == "revise")
    assert snapshot(run) == before and result.manifest.counts["records"] and len(chunks) > 1


def test_what_the_ledger_has_is_not_asked_again(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = finished
    shutil.copytree(whole, tmp_path / "run")
    task, _ = task_of(whole, place_of(whole, "judge"), 1)
    (place_of(tmp_path / "run", "judge") / "manifest.json").unlink()
    made_by = Worker(work_of(recipe, tmp_path / "run"))
    made_by.ready()
    asked = [record for record in made_by.make(task).records if isinstance(record, Judgment)]
    other = Judgment.model_validate({**asked[3].model_dump(mode="json"), "id": "", "p_a": 0.123})
    told = made_by.make(replace(task, known=(other,))).records
    assert [*told[:3], *told[4:]] == [*asked[:3], *asked[4:]] and told[3] == other != asked[3]


def test_a_worker_with_other_files_is_refused(finished: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, whole = finished
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.copytree(recipe.parent, tmp_path / "in")
    model = tmp_path / "in" / "model.yaml"
    model.write_text(model.read_text().replace("Maybe", "Perhaps"))
    task, _ = task_of(run, place_of(run, "helpful"), 0)
    (place_of(run, "helpful") / "manifest.json").unlink()
    other = Worker(work_of(tmp_path / "in" / recipe.name, run))
    other.ready()
    with pytest.raises(
        RunError, match=rf"^helpful: worker on .* would make another stage \(\w+, not {task.stage.key}\)"
    ):
        other.make(task)


def test_a_worker_without_the_run_folder_is_refused(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, whole = finished
    with pytest.raises(ConfigError, match=r"no run folder .*: every node needs the same files at the same place"):
        Worker(work_of(recipe, tmp_path / "none")).ready()
    monkeypatch.setattr(worker, "PATIENCE", 0.0)
    made_by = Worker(work_of(recipe, whole))
    made_by.ready()
    task, _ = task_of(whole, place_of(whole, "judge"), 0)
    with pytest.raises(RunError, match=r"judge: worker on .* does not see the finished steps in"):
        made_by.make(replace(task, done={"sample": "stages/04-sample/gone"}))


def test_workers_with_other_packages_are_refused(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as folder:
        workers = RayWorkers.__new__(RayWorkers)
        workers._folder = folder
        with pytest.raises(RunError, match=r"worker on node7 has other packages.*: torch 1\.0, here "):
            own = {**worker.package_versions(), "git": worker.git_commit()}
            workers._check(Ready("node7", 5, own | {"torch": "1.0"}))
        workers._check(Ready("node7", 5, own))
        assert '"pid":5' in (folder.path / "events.jsonl").read_text()


def test_the_limits_of_a_server_are_for_all_workers_together(finished: tuple[Path, Path]) -> None:
    recipe = load_recipe(finished[0], ["endpoint.requests_per_minute=600", "endpoint.concurrency=10"])
    shared = shared_limits(recipe, 4).endpoint
    assert (shared.requests_per_minute, shared.tokens_per_minute, shared.concurrency) == (150, None, 2)
    served = ["scripted:m.yaml", "openai:m@http://127.0.0.1:1/v1"]
    assert most_workers(recipe, served) == 10 and most_workers(recipe, served[:1]) is None
    for workers in range(1, 11):
        shared = shared_limits(recipe, workers).endpoint
        assert shared.concurrency >= 1 and workers * shared.concurrency <= 10
    few = load_recipe(finished[0], ["endpoint.requests_per_minute=2.5"])
    assert most_workers(few, served) == 2 and few.endpoint.concurrency == 64
    assert most_workers(load_recipe(finished[0], ["endpoint.requests_per_minute=0.5"]), served) == 1
