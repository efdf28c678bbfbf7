import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_run import CONSTITUTION, PACK, make_run
from recipes import write_recipe

from constitutional.audit.current import STEP_NAMES, open_view
from constitutional.audit.index import KINDS, Entry, build_index
from constitutional.audit.lineage import lineage
from constitutional.audit.trace import TraceNode, problems, render_trace, trace
from constitutional.config import load_recipe
from constitutional.errors import RunError
from constitutional.ledger import open_ledger
from constitutional.pipeline import run_recipe
from constitutional.records import Comparison, Judgment, Preference, Revision, short_digest
from constitutional.runs import open_run
from constitutional.training.rows import PreferenceRow, SftRow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("trace") / "run")


def nodes(node: TraceNode) -> Iterator[TraceNode]:
    yield node
    for child in node.children:
        yield from nodes(child)


def facts(node: TraceNode, name: str) -> list[str]:
    return [value for key, value in node.facts if key == name]


def raw_rows(run: Path, step: str, file: str) -> list[dict[str, object]]:
    folder = json.loads((run / "current.json").read_text())[step]
    return [json.loads(line) for line in (run / folder / file).read_bytes().split(b"\n")[:-1]]


def test_every_record_of_a_whole_run_has_an_ancestry_without_a_contradiction(run: Path) -> None:
    with open_view(run) as view:
        index = build_index(view)
        ids, kinds = list(index.entries), {entry.kind for entry in index.entries.values()}
    assert kinds == {
        "prompt", "revision", "answer", "comparison", "labelled comparison", "judgment", "preference", "sft row",
        "preference row", "reward row", "evaluated answer", "step",
    }  # fmt: skip
    for record_id in ids[::7]:
        found = trace(run, record_id)
        assert found.id == record_id and problems(found) == []
        assert facts(found, "stands in") or found.kind == "step"
    for kind in kinds:
        one = next(entry.id for entry in index.entries.values() if entry.kind == kind)
        assert problems(trace(run, one)) == []


def test_a_preference_row_goes_down_to_principles_templates_judge_orders_seed_and_prompt(run: Path) -> None:
    row = raw_rows(run, "pm", "rows.jsonl")[0]
    tree = trace(run, short_digest(row))
    assert tree.kind == "preference row" and tree.children[0].id == row["preference_id"]
    judgments = [n for n in nodes(tree) if n.kind == "judgment"]
    assert len(judgments) == 2 * len(CONSTITUTION.principles)
    assert {facts(n, "order")[0] for n in judgments} == {"ab", "ba"}
    assert {facts(n, "judge")[0] for n in judgments} == {"feedback-model"}
    assert {facts(n, "seed")[0] for n in judgments} == {"5"}
    digest = PACK.digest("judge")
    assert {facts(n, "template")[0] for n in judgments} == {f"judge of pack {PACK.ref}, digest {digest}"}
    cited = {n.id: n for judgment in judgments for n in judgment.children}
    for principle in CONSTITUTION.principles:
        assert facts(cited[principle.ref], "digest") == [principle.digest]
        assert facts(cited[principle.ref], "comparison_request") == [principle.comparison_request]
    comparison = next(n for n in nodes(tree) if n.kind == "comparison")
    assert comparison.id == row["comparison_id"]
    assert facts(next(n for n in nodes(comparison) if n.kind == "prompt"), "kind") == ["red_team"]
    made = float(facts(tree.children[0], "made again from its judgments")[0])
    assert max(made, 1 - made) == pytest.approx(row["probability"], abs=1e-4)


def test_an_rl_answer_goes_down_through_all_the_training(run: Path) -> None:
    answer = next(a for a in raw_rows(run, "answers", "data.jsonl") if a["system"] == "rl-cai")
    tree = trace(run, str(answer["id"]))
    steps = [n.title.split(":")[0] for n in nodes(tree) if n.kind == "step"]
    assert {"answers", "rl", "pm", "label", "gate", "judge", "sample", "sft", "revise", "helpful"} <= {
        s.split(" ")[0] for s in steps
    }
    requests = {name for n in nodes(tree) if n.kind == "principle" for name, _ in n.facts if name.endswith("_request")}
    assert requests == {"critique_request", "revision_request", "comparison_request"}
    base = next(a for a in raw_rows(run, "answers", "data.jsonl") if a["system"] == "base")
    assert not [n for n in nodes(trace(run, str(base["id"]))) if n.title.startswith("rl")]


def test_an_sl_answer_goes_down_to_the_principles_it_was_revised_under(run: Path) -> None:
    answer = next(a for a in raw_rows(run, "answers", "data.jsonl") if a["system"] == "sl-cai")
    tree = trace(run, str(answer["id"]))
    revise = next(n for n in nodes(tree) if n.title.startswith("revise:"))
    cited = {n.id: n for n in revise.children if n.kind == "principle"}
    assert problems(tree) == [] and list(cited) == [p.ref for p in CONSTITUTION.principles]
    for principle in CONSTITUTION.principles:
        assert facts(cited[principle.ref], "digest") == [principle.digest]
        assert facts(cited[principle.ref], "critique_request") == [principle.critique_request]
        assert facts(cited[principle.ref], "revision_request") == [principle.revision_request]


def test_the_label_of_a_contrast_pair_goes_down_to_the_gate(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    run_recipe(load_recipe(recipe, ["pm.contrast=1"]), recipe, tmp_path / "run", until="label")
    rows = [row for row in raw_rows(tmp_path / "run", "label", "data.jsonl") if row["rule"] == "contrast"]
    assert rows and {round(float(str(row["p_a"])), 6) for row in rows} == {
        0.85
    }  # the scripted judge's, on every example
    tree = trace(tmp_path / "run", str(rows[0]["id"]))
    assert problems(tree) == []
    assert facts(tree, "p of contrast pairs")[0].startswith("0.8500, the judge's mean on the comparisons of the gate")


def test_the_steps_of_a_run_of_the_pipeline_itself(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in")
    whole = run_recipe(load_recipe(recipe, ()), recipe, tmp_path / "run")
    refs = [
        principle["id"] + "@1.0.0"
        for principle in json.loads((whole.folder / "constitution.json").read_text())["principles"]
    ]
    asked = {
        "revise": {"critique_request", "revision_request"},
        "gate": {"comparison_request"},
        "judge": {"comparison_request"},
        "evaluate": {"comparison_request"},
    }
    for step in whole.steps:
        tree = trace(whole.folder, step.result.key)
        assert problems(tree) == []
        cited = [n for n in tree.children if n.kind == "principle"]
        assert [n.id for n in cited] == (refs if step.name in asked else [])
        for node in cited:
            assert {name for name, _ in node.facts if name.endswith("_request")} == asked[step.name]


def test_the_seeds_of_single_draws_are_shown_where_a_record_keeps_them(run: Path) -> None:
    with open_view(run) as view:
        index = build_index(view)
        comparison = view.rows("sample", "data.jsonl", Comparison)[0]
        revision = view.rows("revise", "data.jsonl", Revision)[0]

        def tree(record: Comparison | Revision) -> TraceNode:
            return lineage(index, Entry(record.id, record))

        def with_seeds(critique: int | None, drawn: int | None) -> Revision:
            first = revision.rounds[0].model_copy(update={"critique_seed": critique, "revision_seed": drawn})
            return revision.model_copy(update={"rounds": (first,)})

        found = tree(comparison.model_copy(update={"a_seed": 0, "b_seed": 12}))
        assert (facts(found, "seed of a"), facts(found, "seed of b")) == (["0"], ["12"])
        found = tree(comparison.model_copy(update={"a_seed": None, "b_seed": None}))
        assert facts(found, "seed of a") == facts(found, "seed of b") == []
        for critique, drawn in ((7, 8), (None, 9)):
            one = next(n for n in tree(with_seeds(critique, drawn)).children if n.kind == "round")
            assert facts(one, "seed of critique") == ([] if critique is None else [str(critique)])
            assert facts(one, "seed of revision") == [str(drawn)]


def test_a_revision_shows_its_rounds_and_what_it_was_used_for(run: Path) -> None:
    revision = raw_rows(run, "revise", "data.jsonl")[0]
    tree = trace(run, str(revision["id"])[:12].upper())
    rounds = [n for n in tree.children if n.kind == "round"]
    assert [n.children[0].id for n in rounds] == [r["principle"] for r in revision["rounds"]]  # type: ignore[attr-defined]
    row = next(r for r in raw_rows(run, "sft", "rows.jsonl") if r["source_id"] == revision["id"])
    assert f"sft row {short_digest(row)}" in facts(tree, "used by")[0]
    assert trace(run, short_digest(row)).children[0].id == revision["id"]


def test_a_judgment_by_its_key_and_one_that_only_the_ledger_holds(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    judgment = Judgment.model_validate(raw_rows(copy, "judge", "data.jsonl")[0])
    assert trace(copy, judgment.key[:20]).id == judgment.id
    fields = judgment.model_dump(exclude={"id"}) | {"key": "f" * 64, "seed": 99}
    other = Judgment.model_validate(fields)
    with open_run(copy), open_ledger(copy / "ledger.sqlite") as ledger:
        ledger.append([other])
    tree = trace(copy, other.id)
    assert facts(tree, "stands in") == ["ledger.sqlite"] and facts(tree, "seed") == ["99"]
    assert trace(copy, "f" * 64).id == other.id


def test_ids_that_cannot_be_followed(run: Path) -> None:
    with pytest.raises(RunError, match="no record 'deadbeefdeadbeef'"):
        trace(run, "deadbeefdeadbeef")
    for bad in ("", "abc", "../x", "zzzz", "\x1b[2J"):
        with pytest.raises(RunError, match="is no id: expected at least 4 hex digits") as caught:
            trace(run, bad)
        assert "\x1b" not in str(caught.value)


def test_an_ambiguous_beginning_lists_what_it_fits(run: Path) -> None:
    with open_view(run) as view:
        index = build_index(view)
    one = next(iter(index.entries.values()))
    twin = one.id[:8] + "0" * 8
    index.entries[twin] = one.__class__(twin, one.record)
    with pytest.raises(RunError, match=f"begins 2 ids: {one.id} .prompt., {twin} .prompt.; give more digits"):
        index.find(one.id[:8])
    assert index.find(one.id) is one


def _rewrite(run: Path, file: str, change: object) -> None:
    path = run / file
    data = json.loads(path.read_text())
    change(data)  # type: ignore[operator]
    path.write_text(json.dumps(data))


def test_a_contradiction_is_said(run: Path, tmp_path: Path) -> None:
    label = next(p for p in raw_rows(run, "label", "data.jsonl") if p["p_a"] is not None)

    changed = shutil.copytree(run, tmp_path / "constitution")
    _rewrite(changed, "constitution.json", lambda c: c["principles"][0].update(comparison_request="Which is worse?"))
    found = problems(trace(changed, str(label["id"])))
    digest = CONSTITUTION.principles[0].digest
    assert any(f"recorded with digest {digest}, but not-harmful@1.0.0 in the constitution" in line for line in found)

    for step, wanted in (("gate", []), ("revise", ["revision_request"])):  # a gate shows no revision request
        key = Path(json.loads((run / "current.json").read_text())[step]).name
        changed = shutil.copytree(run, tmp_path / f"constitution-{step}")
        _rewrite(changed, "constitution.json", lambda c: c["principles"][0].update(revision_request="Be kind."))
        told = [line for line in problems(trace(changed, key)) if "than the constitution stored in the run has" in line]
        assert told == [
            f"principle {CONSTITUTION.principles[0].ref}: the step used another {name} than the constitution stored "
            "in the run has"
            for name in wanted
        ]

    for number, shape in enumerate(([["a@1.0.0", "0" * 16]], ["a@1.0.0"], None)):
        changed = shutil.copytree(run, tmp_path / f"shape-{number}")
        revise = json.loads((run / "current.json").read_text())["revise"]
        _rewrite(changed, f"{revise}/manifest.json", lambda m, s=shape: m["settings"].update(principles=s))
        assert any(
            "not recorded in the step's settings" in line for line in problems(trace(changed, Path(revise).name))
        )

    changed = shutil.copytree(run, tmp_path / "gone")
    _rewrite(changed, "constitution.json", lambda c: c["principles"].pop(0))
    assert any("in no constitution stored" in line for line in problems(trace(changed, str(label["id"]))))

    changed = shutil.copytree(run, tmp_path / "lock")
    _rewrite(changed, "lock.json", lambda lock: lock["models"].update(judge="another"))
    _rewrite(changed, "lock.json", lambda lock: lock["templates"].update(judge="0" * 16))
    found = problems(trace(changed, str(label["id"])))
    assert any("locked another as its judge" in line for line in found)
    assert any("is not among those the run locked" in line for line in found)

    changed = shutil.copytree(run, tmp_path / "ledger")
    for file in changed.glob("ledger.sqlite*"):
        file.unlink()
    with open_ledger(changed / "ledger.sqlite"):
        pass
    assert any("the ledger does not hold it" in line for line in problems(trace(changed, str(label["id"]))))


def test_records_that_do_not_follow_from_their_parents_are_said(run: Path) -> None:
    from constitutional.audit import agreement

    with open_view(run) as view:
        index = build_index(view)
        preference = next(p for p in view.rows("label", "data.jsonl", Preference) if p.p_a is not None)
        judgments = [index.entries[i].record for i in preference.judgment_ids]
        assert all(isinstance(j, Judgment) for j in judgments)
        row = view.rows("pm", "rows.jsonl", PreferenceRow)[0]
        sft = next(r for r in view.rows("sft", "rows.jsonl", SftRow) if r.principle)
        revision = next(r for r in view.rows("revise", "data.jsonl", Revision) if r.id == sft.source_id)
        pair = view.rows("evaluate", "comparisons.jsonl", Comparison)[0]
        wrong = preference.model_copy(update={"p_a": 0.99})
        assert not [f for f in agreement.label_agrees(index, preference, judgments) if f[0] == "PROBLEM"]  # type: ignore[arg-type]
        assert "PROBLEM" in dict(agreement.label_agrees(index, wrong, judgments))  # type: ignore[arg-type]
        turned = judgments[0].model_copy(update={"order": "ba", "p_a": 0.9})  # type: ignore[union-attr]
        assert agreement.probability_agrees(turned) and not agreement.probability_agrees(judgments[0])  # type: ignore[arg-type]
        entries = index.entries
        swapped = row.model_copy(update={"chosen": row.rejected, "rejected": row.chosen})
        label, comparison = entries[row.preference_id], entries[row.comparison_id]
        assert agreement.turned_as_labelled(swapped, label, comparison)
        assert not agreement.turned_as_labelled(row, label, comparison)
        other = sft.model_copy(update={"completion": "something else"})
        assert agreement.completion_agrees(other, entries[revision.id])
        assert not agreement.completion_agrees(sft, entries[revision.id])
        assert agreement.parents_agree(index, pair.model_copy(update={"a": "x"})) and not agreement.parents_agree(
            index, pair
        )


def test_the_text_is_one_line_a_fact_without_control_characters(run: Path) -> None:
    row = next(r for r in raw_rows(run, "rl", "rewards.jsonl"))
    text = render_trace(trace(run, short_digest(row)), width=100)
    text.encode("utf-8")
    assert not [c for c in text if ord(c) < 32 and c != "\n"] and "\x9b" not in text
    assert "<script>alert(1)</script>" in text and "…" in text
    assert all(len(line.strip()) <= 110 for line in text.split("\n"))


def test_a_partial_run_is_traced_as_far_as_it_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="sft")
    row = raw_rows(run, "sft", "rows.jsonl")[0]
    assert problems(trace(run, short_digest(row))) == []
    (run / "ledger.sqlite").unlink()
    assert trace(run, short_digest(row)).kind == "sft row"


def test_steps_whose_folders_are_gone_or_stale(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    current = json.loads((run / "current.json").read_text())
    with open_view(run) as view:
        index = build_index(view)
        ids = [next(e.id for e in index.entries.values() if e.kind == kind) for kind in sorted(KINDS.values())]
    (run / "current.json").write_text(
        json.dumps({**current, "renamed-step": "stages/12-renamed-step/0123456789abcdef"})
    )
    for name, folder in current.items():
        (run / folder).rename(run / "aside")
        with open_view(run) as view:
            index = build_index(view)
            for record_id in ids:
                if record_id in index.entries:
                    lineage(index, index.entries[record_id])
            dependent = [lineage(index, e) for e in index.entries.values() if e.kind == "step"]
        assert name in STEP_NAMES[-1:] or any(
            f"step {name} is not finished" in p for n in dependent for p in problems(n)
        )
        (run / "aside").rename(run / folder)
    (run / "current.json").write_text(json.dumps({**current, "sft": current["helpful"]}))  # another step's folder
    assert any("'sft', which is not the current one" in line for line in problems(trace(run, current["rl"][-16:])))
