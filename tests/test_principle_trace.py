"""What a principle decided, counted again from the files themselves."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_run import CONSTITUTION, make_run
from run_harness import judgment
from test_label_compare import SETS
from test_label_compare import run as run_tiny
from test_trace import nodes, raw_rows
from typer.testing import CliRunner

from constitutional.audit.principle_trace import PrincipleTrace, render_principle, trace_principle
from constitutional.audit.trace import trace
from constitutional.cli.app import app
from constitutional.errors import RunError
from constitutional.ledger import open_ledger
from constitutional.records import Preference, short_digest
from constitutional.runs import open_run, write_atomic

REF = CONSTITUTION.principles[0].ref


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("decided") / "run")


def test_everything_that_goes_back_to_a_principle_is_listed(run: Path) -> None:
    found = trace_principle(run, REF)
    total: Counter[str] = Counter()
    for part, step in zip(found.judgments, ("gate", "judge", "evaluate"), strict=True):
        rows = [row for row in raw_rows(run, step, "data.jsonl") if row["principle"] == REF]
        assert part.step == step and part.ids == tuple(row["id"] for row in rows) and rows
        assert part.outcomes == dict(sorted(Counter(row["outcome"] for row in rows).items()))  # type: ignore[type-var]
        total.update(part.outcomes)
    assert found.ledger == dict(sorted(total.items())) and found.title == CONSTITUTION.principles[0].title
    labels = [row for row in raw_rows(run, "label", "data.jsonl") if REF in row["principles"]]  # type: ignore[operator]
    assert [one.id for one in found.labels] == [row["id"] for row in labels] and labels
    assert {one.share for one in found.labels} == {1 / len(CONSTITUTION.principles)}
    revised = [r for r in raw_rows(run, "revise", "data.jsonl") if REF in str(r["rounds"])]
    assert found.revisions == tuple(row["id"] for row in revised)
    assert found.rounds == sum(step["principle"] == REF for row in revised for step in row["rounds"])  # type: ignore
    by_file = {rows.file: rows.ids for rows in found.training_rows}
    sft = [row for row in raw_rows(run, "sft", "rows.jsonl") if row["principle"] == REF]
    assert by_file["sft/rows.jsonl"] == tuple(short_digest(row) for row in sft) and sft
    trained = raw_rows(run, "pm", "rows.jsonl")
    assert by_file["pm/rows.jsonl"] == tuple(short_digest(row) for row in trained)
    assert found.rewards and found.rewards.ids == tuple(short_digest(r) for r in raw_rows(run, "rl", "rewards.jsonl"))
    for one in (found.labels[0].id, by_file["pm/rows.jsonl"][0], found.rewards.ids[0], found.revisions[0]):
        assert REF in str(trace(run, one))  # the other way, too


def test_shares_follow_the_rule_and_alone_is_one(tmp_path: Path) -> None:
    from recipes import write_recipe

    recipe = write_recipe(tmp_path / "in")
    constitution = recipe.parent / "constitution.yaml"
    constitution.write_text(constitution.read_text().replace("  - id: safe\n", "  - id: safe\n    weight: 2\n"))
    for rule, shares in (("weighted", {0.5}), ("mean", {1 / 3}), ("sampled", {1.0}), ("calibrated", None)):
        result = run_tiny(recipe, *SETS, f"label.rule={rule}")
        found = trace_principle(tmp_path / "in/run", "safe@1.0.0")
        cited = [p.id for p in result.records(Preference) if "safe@1.0.0" in p.principles]
        assert [one.id for one in found.labels] == cited and cited
        given = {one.share for one in found.labels}
        assert given == shares if shares else all(0.3 < share < 0.4 for share in given)
    assert found.rewards is None and "rewards: none leads back to it" in render_principle(found)


def test_the_command_prints_counts_or_json_and_knows_the_nearest_name(run: Path) -> None:
    done = CliRunner().invoke(app, ["trace", str(run), "--principle", REF])
    assert done.exit_code == 0 and f"principle {REF}" in done.output and "and " in done.output
    done = CliRunner().invoke(app, ["trace", str(run), "--principle", REF, "--json"])
    assert PrincipleTrace.model_validate(json.loads(done.output)) == trace_principle(run, REF)
    with pytest.raises(RunError, match=rf"no principle .* in this run \(did you mean '{REF}'"):
        trace_principle(run, REF.replace("@1.0.0", "@1.0.1"))
    with pytest.raises(RunError) as caught:
        trace_principle(run, "\x1b[2J\n")
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
    for arguments in ([], ["abcd", "--principle", REF]):
        assert CliRunner().invoke(app, ["trace", str(run), *arguments]).exit_code == 2
    by_id = json.loads(
        CliRunner().invoke(app, ["trace", str(run), trace_principle(run, REF).labels[0].id, "--json"]).output
    )
    assert by_id["kind"] == "preference"


def test_a_file_that_is_not_the_manifests_is_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    data = copy / json.loads((copy / "current.json").read_text())["label"] / "data.jsonl"
    data.write_bytes(data.read_bytes()[:-2])
    with pytest.raises(RunError, match="not the file its manifest names"):
        trace_principle(copy, REF)


def test_a_reward_goes_down_to_the_judgments_behind_it(run: Path) -> None:
    row = raw_rows(run, "rl", "rewards.jsonl")[-1]
    tree = trace(run, short_digest(row))
    facts = dict(tree.facts)
    trained = raw_rows(run, "pm", "rows.jsonl")
    expected = 2 * len(trained) * len(CONSTITUTION.principles)
    assert facts["judgments behind its preference model"] == f"{expected} in {len(trained)} training rows"
    assert f"{REF} x {2 * len(trained)}" in facts["of them"]
    own = [n for n in tree.children if n.kind == "preference row"]
    assert own and [n for n in nodes(own[0]) if n.kind == "judgment"]


def test_a_hundred_thousand_judgments_are_searched_in_seconds(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "big")
    one = judgment("x").to_json()
    lines = (one.replace("kind@1.0.0", f"p{i % 16}@1.0.0") for i in range(100_000))
    with open_run(copy) as folder:
        stage = folder.stage(6, "judge", {"big": True}, {})
        (stage.folder / "data.jsonl").write_text("".join(line + "\n" for line in lines))
        result = stage.finish(outputs=["data.jsonl"])
    current = json.loads((copy / "current.json").read_text())
    current["judge"] = result.folder.relative_to(copy).as_posix()
    write_atomic(copy / "current.json", json.dumps(current))
    with open_ledger(copy / "ledger.sqlite") as ledger:
        ledger.append([judgment("new", principle="p3@1.0.0")])  # a principle no constitution has, but the ledger
    begun = time.process_time()
    found = trace_principle(copy, "p3@1.0.0")
    assert time.process_time() - begun < 3
    assert found.judgments[1].outcomes == {"preference": 6250} and found.ledger == {"preference": 1}
