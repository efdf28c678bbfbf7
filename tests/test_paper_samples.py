"""The samples of Bai et al. 2022: letter for letter in and out, as pairs, and our own revisions written as they are."""

import gzip
import json
from pathlib import Path

import pytest
from fake_run import CONSTITUTION, make_run
from shared_data import sample

from constitutional.audit.current import open_view
from constitutional.audit.judged import read_judged, read_revision_samples
from constitutional.errors import DataError, RunError
from constitutional.interop.judged import export_judged
from constitutional.interop.pairs import read_pairs
from constitutional.interop.paper import CRITIQUE
from constitutional.interop.paper_samples import paper_row, paper_sample, read_paper_samples
from constitutional.records import Revision

SAMPLES = "cai_paper/samples_with_pm_scores.jsonl.gz"


def test_every_sample_of_the_paper_comes_back_equal() -> None:
    path = sample(SAMPLES)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = list(read_paper_samples(str(path)))
    assert [paper_row(one) for one in found] == rows and len(rows) == 330
    assert sum(len(one.rounds) == 4 for one in found) == 66
    assert {len(one.answers) for one in found if not one.rounds} == {17}
    assert all(not one.critique_request.startswith(CRITIQUE[0]) for s in found for one in s.rounds)


def test_the_samples_are_pairs_to_judge() -> None:
    pairs = read_pairs(str(sample(SAMPLES)))
    assert len(pairs.comparisons) + len(pairs.failures) == 330
    sources = {label.comparison_id: label for label in pairs.labels}
    by_prompt = {}
    for one in read_paper_samples(str(sample(SAMPLES))):
        best = max(one.answers, key=lambda a: a[1])[0] if one.answers else one.rounds[-1].revision
        by_prompt.setdefault(best.strip(), one)
    for comparison in pairs.comparisons:
        label = sources[comparison.id]
        assert label.source == ("provenance" if comparison.origin == "revision" else "preference_model")
        assert (comparison.a if label.preferred == "a" else comparison.b) in by_prompt
        assert comparison.messages[-1].role == "user"


@pytest.mark.parametrize(
    "row",
    [
        {"rl_prompt": "\n\nHuman: x\n\nAssistant:", "cst": 3},
        {"rl_prompt": 1, "sampled_answers": []},
        {"model": "m", "rl_prompt": "p", "comparison_dataset": "d", "sampled_answers": [], "more": 1},
        {"model": "m", "rl_prompt": "p", "comparison_dataset": "d", "sampled_answers": [{"sampled_string": "x"}]},
    ],
)
def test_other_rows_are_refused_with_their_place(row: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"^here: no sample of the paper"):
        paper_sample(row, "here")


def test_our_revisions_are_written_as_samples_and_read_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="revise")
    text, lost = read_revision_samples(run)
    path = tmp_path / "samples.jsonl"
    path.write_text(text)
    assert len(lost) == 1 and "seeds" in lost[0]
    with open_view(run) as view:
        revisions, prompts = view.rows("revise", "data.jsonl", Revision), view.prompts
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    assert len(lines) == len(revisions) > 3
    for row, revision in zip(lines, revisions, strict=True):
        found = paper_sample(row, "")
        assert found.initial == f" {revision.initial}" and found.model == revision.policy
        assert [s.revision for s in found.rounds] == [f" {r.revision}" for r in revision.rounds]
        assert [s.critique for s in found.rounds] == [f" {r.critique}" for r in revision.rounds]
        assert [s.key for s in found.rounds] == [r.principle for r in revision.rounds]
        for step, made in zip(found.rounds, revision.rounds, strict=True):
            principle = CONSTITUTION.principle(made.principle)
            assert step.critique_request == principle.critique_request
        assert found.prompt.endswith("\n\nAssistant:")
        assert prompts[revision.prompt_id].messages[-1].content in found.prompt
    with pytest.raises(RunError, match="nothing was judged"):
        read_judged(run)


def test_hostile_texts_of_a_whole_run_go_into_every_format(tmp_path: Path) -> None:
    judged = read_judged(
        make_run(tmp_path / "run", until="label")
    )  # its answers hold markup, controls, half surrogates
    for format in ("annotated-pairs", "trl", "icai-results"):
        for name, text in export_judged(judged, format).files.items():
            (tmp_path / (name or format)).write_bytes(text.encode("utf-8"))
    pairs = json.loads((tmp_path / "annotated-pairs").read_bytes())
    assert pairs["annotators"]["ba751e7b"]["name"] == "soft label, rule mean"
    texts = {(c.a, c.b) for c in judged.comparisons}
    assert {(c["response_a"]["text"], c["response_b"]["text"]) for c in pairs["comparisons"]} == texts
    assert any("\ud800" in a + b for a, b in texts)
    rows = [json.loads(line) for line in (tmp_path / "trl").read_bytes().split(b"\n") if line]
    assert len(rows) == sum(p.p_a is not None for p in judged.preferences)
