"""judge-pairs: labelled pairs judged in a run folder, resumable, and exported; in process, with a scripted judge."""

import json
from pathlib import Path

import pytest
from shared_data import sample

from constitutional.audit.current import open_view
from constitutional.audit.judged import read_judged
from constitutional.audit.status import status
from constitutional.cli.pairs import pairs_recipe
from constitutional.errors import ConfigError, DataError, RunError
from constitutional.interop.annotated_pairs import (
    AnnotatedPair,
    AnnotatedPairs,
    Annotator,
    Vote,
    read_annotated_pairs,
)
from constitutional.interop.icai_results import VOTES, read_results, read_votes, write_results
from constitutional.interop.judged import REFERENCE, export_judged
from constitutional.interop.pairs import read_pairs
from constitutional.interop.preference_rows import PreferenceRow, read_preference_rows
from constitutional.pipeline import RunOutcome, run_recipe
from constitutional.records import Comparison, HumanLabel, Judgment

SCRIPT = "likelihood:\n  - {keyword: sorry, p: 0.8}\n"
ROWS: list[object] = [{"prompt": f"q{i}", "chosen": f"sorry, no {i}", "rejected": f"sure, yes {i}"} for i in range(12)]


def judge(folder: Path, pairs: Path, *sets: str, out: str = "run") -> RunOutcome:
    (folder / "judge.yaml").write_text(SCRIPT)
    spec = f"scripted:{folder / 'judge.yaml'}"
    recipe = pairs_recipe(
        "p", str(pairs), "minimal", spec, templates=None, limit=None, kind="red_team", seed=3, sets=sets
    )
    return run_recipe(recipe, folder / "run.yaml", folder / out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {"prompt": "broken"}]))
    outcome = judge(folder, folder / "p.jsonl")
    assert outcome.bad_items == 1
    return folder / "run"


def test_the_folder_holds_comparisons_labels_failures_and_a_ledger(run: Path) -> None:
    with open_view(run) as view:
        comparisons = view.rows("sample", "data.jsonl", Comparison)
        labels = view.rows("sample", "labels.jsonl", HumanLabel)
        judgments = view.rows("judge", "data.jsonl", Judgment)
        result = view.step("sample")
        assert result is not None and [f.kind for f in result.failures()] == ["malformed_row"]
        assert view.ledger is not None and view.ledger.count() == len(judgments) == 12 * 2 * 3
        assert {p.kind for p in view.prompts.values()} == {"red_team"} and len(view.prompts) == 12
    assert [label.comparison_id for label in labels] == [c.id for c in comparisons]
    assert {label.preferred for label in labels} == {"a", "b"}
    preferred = {label.comparison_id: label.preferred for label in labels}
    for judgment in judgments:  # the judge likes what people chose, whichever place it has
        assert judgment.p_a == pytest.approx(0.8 if preferred[judgment.comparison_id] == "a" else 0.2)


def test_a_second_run_asks_nothing_and_a_killed_one_goes_on_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    again = judge(run.parent, run.parent / "p.jsonl")
    assert not status(run).uncounted  # people's answers: nobody was asked for them
    assert all(step.reused for step in again.steps)
    recipe_file = run.parent / "p.jsonl"
    judge(tmp_path, recipe_file, "judging.limit=5")
    whole = judge(tmp_path, recipe_file)
    folder = {step.name: step.result.folder for step in whole.steps}["judge"]
    first = {step.name: step.result.folder for step in again.steps}["judge"]
    assert len((folder / "data.jsonl").read_bytes()) and folder.name == first.name
    assert (folder / "data.jsonl").read_bytes() == (first / "data.jsonl").read_bytes()


def test_annotated_pairs_hold_labels_votes_and_p(run: Path, tmp_path: Path) -> None:
    judged = read_judged(run)
    exported = export_judged(judged, "annotated-pairs")
    path = tmp_path / "ap.json"
    path.write_text(exported.files[""])
    pairs = read_annotated_pairs(path)
    assert pairs.default == REFERENCE and pairs.lost == ()
    assert [who.type for who in pairs.annotators.values()] == ["human", "principle", "principle", "principle"]
    for item in pairs.items:
        assert isinstance(item, AnnotatedPair) and len(item.votes) == 4
        sides = {vote.pref for vote in item.votes.values()}
        assert len(sides) == 1  # people and judge agree
        values = [vote.value for by, vote in item.votes.items() if by != REFERENCE]
        assert values == pytest.approx([0.8 if sides == {"a"} else 0.2] * 3)
    back = read_pairs(str(path), kind="red_team")  # and they can be judged again
    assert [(c.messages, c.a, c.b) for c in back.comparisons] == [(c.messages, c.a, c.b) for c in judged.comparisons]
    assert [x.preferred for x in back.labels] == [x.preferred for x in judged.labels]
    assert any("log-probabilities" in line for line in exported.lost)


def test_results_of_icai_come_back_with_the_same_votes(run: Path, tmp_path: Path) -> None:
    exported = export_judged(read_judged(run), "icai-results")
    for name, text in exported.files.items():
        (tmp_path / name).write_text(text, newline="")
    pairs = read_results(tmp_path)
    assert {
        tuple(sorted(str(v.pref) for v in i.votes.values())) for i in pairs.items if isinstance(i, AnnotatedPair)
    } == {
        ("a", "a", "a", "a"),
        ("b", "b", "b", "b"),
    }
    first = (tmp_path / VOTES).read_text().splitlines()[:2]
    assert first == ["index,votes", '0,"{0: True, 1: True, 2: True}"']


def test_ties_are_written_as_readers_of_the_results_know_them_and_listed() -> None:
    votes = {"l": Vote("b"), "p": Vote("a"), "q": Vote(None, "both", 0.5), "r": Vote(None, "invalid"), "s": Vote("b")}
    annotators = {id: Annotator(None, id, "human" if id == "l" else "principle") for id in votes}
    items = (AnnotatedPair("1", "q", "x", "y", None, None, votes), AnnotatedPair("2", "q", "x", "z", None, None, {}))
    files, lost = write_results(AnnotatedPairs(annotators, items, "l", "", ""))
    assert files[VOTES] == "index,votes\n0,\"{0: False, 1: None, 2: 'invalid', 3: True}\"\n"
    assert [line.split(" ", 1)[0] for line in lost] == ["1", "1", "the"] and "both answers or neither" in lost[0]


@pytest.mark.parametrize(
    "cell",
    [
        "__import__('os').system('id')",
        "{0: 1}",
        "{'0': True}",
        "[True]",
        "{0: 'yes'}",
        "{" * 9999,
        None,
        "{True: True}",
    ],
)
def test_votes_are_read_and_never_run(cell: object) -> None:
    with pytest.raises(DataError, match=r"^here: votes: expected"):
        read_votes(cell, "here")
    assert read_votes("{0: True, 1: None, 12: 'invalid', 3: False}", "") == {0: True, 1: None, 12: "invalid", 3: False}


def test_preference_rows_for_trl_trace_to_the_ledger(run: Path, tmp_path: Path) -> None:
    judged = read_judged(run)
    path = tmp_path / "rows.jsonl"
    path.write_text(export_judged(judged, "trl").files[""])
    rows = list(read_preference_rows(str(path)))
    assert len(rows) == 12
    by_id = {j.id: j for j in judged.judgments}
    for row in rows:
        assert row.chosen[0].content.startswith("sorry") and row.chosen_prob == pytest.approx(0.8)
        cited = [by_id[id] for id in row.judgment_ids]
        assert len(cited) == 6 and {j.principle for j in cited} == set(row.principles)
        assert {j.comparison_id for j in cited} == {row.comparison_id}
        assert {j.judge for j in cited} == {row.judge} and {j.seed for j in cited} == {row.seed} == {3}
    back = read_pairs(str(path), seed=3, kind="red_team")
    assert {(c.a, c.b) for c in back.comparisons} == {(c.a, c.b) for c in judged.comparisons}
    path.write_text('{"prompt": []}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1: no preference row"):
        list(read_preference_rows(str(path)))


def test_the_rows_load_as_a_data_set_of_conversations(run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    path = tmp_path / "rows.jsonl"
    path.write_text(export_judged(read_judged(run), "trl").files[""])
    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 12 and set(rows.column_names) == set(PreferenceRow.model_fields)
    for column in ("prompt", "chosen", "rejected"):  # what TRL calls conversational: lists of {role, content}
        assert all(turn.keys() == {"role", "content"} for row in rows for turn in row[column])


def test_an_original_keeps_what_is_in_it(tmp_path: Path) -> None:
    original = sample("icai/example_ap.json")
    judge(tmp_path, original)
    exported = json.loads(export_judged(read_judged(tmp_path / "run"), "annotated-pairs", original=original).files[""])
    before = json.loads(original.read_text())
    assert exported["metadata"] == before["metadata"]
    assert {id: exported["annotators"][id] for id in before["annotators"]} == before["annotators"]
    for new, old in zip(exported["comparisons"], before["comparisons"], strict=True):
        assert {id: new["annotations"][id] for id in old["annotations"]} == old["annotations"]
        assert len(new["annotations"]) == len(old["annotations"]) + 3
        assert {key: value for key, value in new.items() if key != "annotations"} == {
            key: value for key, value in old.items() if key != "annotations"
        }


def test_wrong_formats_and_folders_are_one_line(run: Path, tmp_path: Path) -> None:
    judged = read_judged(run)
    with pytest.raises(ConfigError, match=r"no format 'tlr' \(did you mean 'trl'\?\)"):
        export_judged(judged, "tlr")
    with pytest.raises(ConfigError, match="only annotated-pairs"):
        export_judged(judged, "trl", original=run)
    with pytest.raises(RunError, match="not a run folder"):
        read_judged(tmp_path)


def test_revisions_beside_pairs_and_missing_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(ConfigError, match=r"sample\.pairs takes the place"):
        judge(tmp_path, tmp_path / "p.jsonl", "sample.revisions=true")
    with pytest.raises(ConfigError, match="prompts: missing"):
        judge(tmp_path, tmp_path / "p.jsonl", "stages=[revise, sample, judge]")
    assert not (tmp_path / "run").exists()
