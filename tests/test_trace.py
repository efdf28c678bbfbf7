import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_run import CONSTITUTION, PACK, make_run

from constitutional.audit.current import open_view
from constitutional.audit.index import build_index
from constitutional.audit.trace import TraceNode, problems, render_trace, trace
from constitutional.errors import RunError
from constitutional.ledger import open_ledger
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

    changed = shutil.copytree(run, tmp_path / "gone")
    _rewrite(changed, "constitution.json", lambda c: c["principles"].pop(0))
    assert any("not in the constitution stored" in line for line in problems(trace(changed, str(label["id"]))))

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
    from constitutional.audit import checks

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
        assert not [f for f in checks.label_agrees(index, preference, judgments) if f[0] == "PROBLEM"]  # type: ignore[arg-type]
        assert "PROBLEM" in dict(checks.label_agrees(index, wrong, judgments))  # type: ignore[arg-type]
        turned = judgments[0].model_copy(update={"order": "ba", "p_a": 0.9})  # type: ignore[union-attr]
        assert checks.probability_agrees(turned) and not checks.probability_agrees(judgments[0])  # type: ignore[arg-type]
        entries = index.entries
        swapped = row.model_copy(update={"chosen": row.rejected, "rejected": row.chosen})
        label, comparison = entries[row.preference_id], entries[row.comparison_id]
        assert checks.turned_as_labelled(swapped, label, comparison)
        assert not checks.turned_as_labelled(row, label, comparison)
        other = sft.model_copy(update={"completion": "something else"})
        assert checks.completion_agrees(other, entries[revision.id])
        assert not checks.completion_agrees(sft, entries[revision.id])
        assert checks.parents_agree(index, pair.model_copy(update={"a": "x"})) and not checks.parents_agree(index, pair)


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
