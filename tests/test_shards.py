"""Shards of a run and their merge: the bytes of a run that made every chunk itself, and nothing that does not fit."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from recipes import write_recipe
from scale_recipe import left, write_scale_recipe
from training_recipe import training_recipe, write_training_recipe
from typer.testing import CliRunner

from constitutional.backends.endpoint.answers import Answered
from constitutional.backends.endpoint.calls import NAME as CALLS
from constitutional.backends.endpoint.calls import Calls
from constitutional.backends.endpoint.merged_calls import merge_calls
from constitutional.cli.app import app
from constitutional.config import load_recipe
from constitutional.errors import BudgetError, ConfigError, RunError, ShardDone
from constitutional.pipeline import run_recipe
from constitutional.pipeline.merge import merge_shards
from constitutional.pipeline.shards import NOTE, open_shard, parse_shard

ROUNDS = ("revise", "helpful", "sample", "gate", "judge", "judge-second", "answers")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scale_recipe(tmp_path_factory.mktemp("shards") / "in")


def run(recipe: Path, out: Path, *sets: str, shard: str | None = None, until: str | None = None) -> bool:
    """Whether the run stopped as a shard does."""
    engine = partial(open_shard, parse_shard(shard)) if shard else None
    try:
        run_recipe(load_recipe(recipe, sets), recipe, out, until=until, engine=engine)
    except ShardDone:
        return True
    return False


def shards(recipe: Path, folder: Path, count: int, until: str) -> list[Path]:
    """One round: the run folder copied, a shard made in each copy."""
    made = []
    for index in range(count):
        shard = folder / f"shard{index}"
        shutil.rmtree(shard, ignore_errors=True)
        if (folder / "run").exists():
            shutil.copytree(folder / "run", shard)
        if run(recipe, shard, shard=f"{index}/{count}", until=until):
            made.append(shard)
    return made


@pytest.mark.slow
def test_shards_merged_round_by_round_are_the_run_of_one_machine(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "whole")
    for stage in ROUNDS:
        step = stage.split("-")[0]
        made = shards(recipe, tmp_path, 2, step)
        found = merge_shards(tmp_path / "run", made[::-1])  # in any order
        assert (len(made), found.stage) == (2, stage)
        if stage != "judge":  # the second judge's chunks are a stage of their own, which reads nothing of the first's
            run(recipe, tmp_path / "run", until=step)
    assert not run(recipe, tmp_path / "run")
    assert left(tmp_path / "run") == left(tmp_path / "whole")


@pytest.fixture(scope="module")
def judged(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two shards of the judge step, done, and the run they were copied from."""
    folder = tmp_path_factory.mktemp("judged")
    run(recipe, folder / "run", until="gate")
    assert len(shards(recipe, folder, 2, "judge")) == 2
    return folder


@pytest.fixture
def apart(judged: Path, tmp_path: Path) -> Path:
    shutil.copytree(judged, tmp_path / "it")
    return tmp_path / "it"


def refused(folder: Path, *parts: str) -> str:
    """The one line in which a merge is refused; nothing is written then."""
    before = sorted(path for path in (folder / "run").rglob("*"))
    with pytest.raises(RunError) as caught:
        merge_shards(folder / "run", [folder / part for part in parts])
    assert sorted(path for path in (folder / "run").rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_merge_that_was_cut_short_is_given_again(recipe: Path, apart: Path) -> None:
    expected = apart / "expected"
    shutil.copytree(apart / "run", expected)
    run(recipe, expected, until="judge")
    merge_shards(apart / "run", [apart / "shard0", apart / "shard1"])
    for chunk in sorted(apart.glob("run/stages/06-judge/*/chunks/0*.jsonl"))[2:]:
        chunk.unlink()
    found = merge_shards(apart / "run", [apart / "shard1", apart / "shard0"])
    assert (found.stage, found.judgments > 0) == ("judge", True)
    run(recipe, apart / "run", until="judge")
    assert left(apart / "run") == left(expected)
    assert "is finished there already" in refused(apart, "shard0", "shard1")
    (manifest,) = apart.glob("run/stages/06-judge/*/manifest.json")  # as if made from an older build of what it reads
    manifest.write_text(re.sub(r'("built": ")[^"]+(")', r"\g<1>older\g<2>", manifest.read_text()))
    merge_shards(apart / "run", [apart / "shard0", apart / "shard1"])
    run(recipe, apart / "run", until="judge")
    assert left(apart / "run") == left(expected)


def test_what_does_not_fit_is_not_merged(recipe: Path, apart: Path) -> None:
    assert "shard 1/2 is not among the folders (1 missing)" in refused(apart, "shard0")
    assert "named twice" in refused(apart, "shard0", "shard0")
    assert "named twice" in refused(apart, "run", "shard1")
    assert "no shard: nothing was made there with --shard" in refused(apart, "shard0", "none")
    shutil.copytree(apart / "shard0", apart / "again")
    assert "two of the folders are shard 0/2" in refused(apart, "shard0", "again", "shard1")
    (first, *_) = sorted(apart.glob("shard1/stages/06-judge/*/chunks/0*.jsonl"))
    first.rename(apart / "aside")
    assert "shard1: shard 1/2 is not done: chunk 1 is missing (1 in all)" in refused(apart, "shard0", "shard1")
    (apart / "aside").rename(first)
    shutil.copytree(apart / "run", apart / "other")
    run(recipe, apart / "other", "judging.principles_per_comparison=1", shard="1/2")
    assert "differ in their stage and settings (06-judge/" in refused(apart, "shard0", "other")
    shutil.rmtree(apart / "other")
    shutil.copytree(apart / "run", apart / "other")
    run(recipe, apart / "other", shard="1/3")
    assert "number of shards (2, 3)" in refused(apart, "shard0", "other")
    note = json.loads((apart / "shard0" / NOTE).read_text())
    (apart / "shard0" / NOTE).write_text(json.dumps(note | {"stage": "../../../outside"}))
    assert "its shard cannot be read" in refused(apart, "shard0", "shard1")


def test_shards_that_read_another_build_are_not_merged(recipe: Path, apart: Path) -> None:
    shutil.rmtree(apart / "run")
    run(recipe, apart / "run", until="gate")
    assert "not the run the shards were copied from: it has not the 'sample' that they read" in refused(
        apart, "shard0", "shard1"
    )
    shutil.rmtree(apart / "shard1")
    shutil.copytree(apart / "run", apart / "shard1")
    run(recipe, apart / "shard1", shard="1/2")
    assert "builds of what the stage reads" in refused(apart, "shard0", "shard1")


def test_a_shard_reads_no_step_that_every_shard_would_finish_for_itself(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "run", until="helpful")
    merge_shards(tmp_path / "run", shards(recipe, tmp_path, 2, "sample"))
    with pytest.raises(RunError, match="judge: reads a step that only the run folder may finish"):
        run(recipe, tmp_path / "run", "stages=[revise, helpful, sample, judge]", shard="0/2")


def test_a_shard_trains_nothing_whatever_was_trained_before_under_other_settings(tmp_path: Path) -> None:
    trained = write_training_recipe(tmp_path / "in")

    def again(*sets: str) -> None:
        sharding = partial(open_shard, parse_shard("0/2"))
        run_recipe(training_recipe(trained, *sets), trained, tmp_path / "run", until="sample", engine=sharding)

    run_recipe(training_recipe(trained), trained, tmp_path / "run", until="sft")
    with pytest.raises(ShardDone, match="sample: "):
        again()
    with pytest.raises(RunError, match="sft: training is not done in chunks"):
        again("sft.helpful_ratio=0.5")


def test_the_commands_say_what_is_left(recipe: Path, tmp_path: Path) -> None:
    arguments = ["helpful", str(recipe), "--out", str(tmp_path / "s0"), "--display", "none", "--shard", "0/1"]
    with pytest.raises(ShardDone, match=r"revise: 3 of 3 chunks are in .*s0 \(shard 0/1\). .*constitutional merge RUN"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    said = CliRunner().invoke(app, ["merge", str(tmp_path / "run"), str(tmp_path / "s0")])
    assert said.exit_code == 0 and said.output.startswith("revise: 3 chunks in ")


def paid(folder: Path, *calls: tuple[str | None, float]) -> float:
    """What a store has cost, after calls that are answered, or (without a key) only paid."""
    store = Calls(folder / CALLS)
    for key, usd in calls:
        answer = None if key is None else Answered(text=f"to {key}", finish="stop")
        store.keep("m", key, answer, (1, 1), usd)
    spent = store.spent
    store.close()
    return spent


def test_paid_calls_of_copies_are_counted_once_each(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    paid(run, ("before", 1.0), (None, 2.0))
    for name in ("a", "b", "none"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "none" / CALLS).unlink()
    paid(tmp_path / "a", ("first", 10.0), (None, 20.0), ("both", 40.0))
    paid(tmp_path / "b", ("both", 40.0), ("last", 100.0))
    paid(run, ("meanwhile", 200.0))
    assert [merge_calls(run, tmp_path / name) for name in ("a", "b", "none")] == [70.0, 140.0, 0.0]
    assert paid(run) == 1 + 2 + 200 + 70 + 140  # what both asked was paid twice
    assert [merge_calls(run, tmp_path / name) for name in ("b", "a")] == [0.0, 0.0]
    store = Calls(run / CALLS)
    found = store.find("m", ["before", "first", "both", "last", "meanwhile"])
    store.close()
    assert {key: answer.text for key, answer in found.items()} == {key: f"to {key}" for key in found} and len(
        found
    ) == 5
    (tmp_path / "new").mkdir()  # a run folder that is made by the merge
    assert [merge_calls(tmp_path / "new", tmp_path / name) for name in ("a", "b")] == [73.0, 140.0]
    (tmp_path / "b" / CALLS).write_bytes(b"no database, but long enough to be looked at" * 50)
    with pytest.raises(RunError, match=r"b/calls.sqlite: its calls cannot be taken into"):
        merge_calls(run, tmp_path / "b")


def test_what_shards_paid_a_server_is_in_the_budget_of_the_merged_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for extra in ("openai", "tenacity", "aiolimiter"):
        pytest.importorskip(extra)
    from api_server import Server, without_keys

    without_keys(monkeypatch)
    recipe = write_recipe(tmp_path / "in", prompts=8)
    (tmp_path / "in" / "prices.yaml").write_text("m: {prompt: 100.0, completion: 1000.0}\n")
    with Server(tmp_path / "in" / "model.yaml") as server:
        served = f"\njudge: openai:m@{server.url}\nendpoint: {{prices: prices.yaml}}\n"
        recipe.write_text(recipe.read_text().replace("chunk_size: 4", "chunk_size: 2") + served)
        run(recipe, tmp_path / "run", until="gate")
        before = paid(tmp_path / "run")
        made = shards(recipe, tmp_path, 2, "judge")
        own = [paid(folder) - before for folder in made]
        assert len(made) == 2 and before > 0 and min(own) > 0
        merge_shards(tmp_path / "run", made)
        merge_shards(tmp_path / "run", made[::-1])
        assert paid(tmp_path / "run") == pytest.approx(before + sum(own))
        asked = sum(server.asked.values())
        run_recipe(load_recipe(recipe), recipe, tmp_path / "run", until="judge", budget=before + sum(own))
        assert sum(server.asked.values()) == asked
        with pytest.raises(BudgetError):
            more = load_recipe(recipe, ["judging.principles_per_comparison=all"])
            run_recipe(more, recipe, tmp_path / "run", until="judge", budget=before + sum(own))
    arguments = ["judge", str(recipe), "--out", str(tmp_path / "s"), "--shard", "0/2", "--budget", "1"]
    with pytest.raises(ConfigError, match="--budget counts the calls of one process"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "s").exists()
