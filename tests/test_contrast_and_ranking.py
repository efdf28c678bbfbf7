"""Comparisons of n answers, contrast pairs of a principle and its negation, and rankings from pairs."""

import json
import math
from pathlib import Path

import pytest
from fake_models import FakeModel

from constitutional.backends.scripted import ScriptedBackend
from constitutional.constitution import load_constitution
from constitutional.errors import ConfigError
from constitutional.feedback.contrast import contrast
from constitutional.feedback.ranking import RankedAnswers, best_against_worst, rank_answers
from constitutional.feedback.sample import sample
from constitutional.principles import Principle
from constitutional.records import Comparison, Failure, Preference, Prompt, Sampling, short_digest, user
from constitutional.templates import load_pack

SAMPLING = Sampling(temperature=1.0, max_tokens=64)
POLITE = Principle(
    id="polite",
    version="1.0.0",
    title="Polite",
    comparison_request="Which response is more polite?",
    negated_comparison_request="Which response is less polite?",
)
SCRIPT = """
rules:
  - {anywhere: "less polite", reply: "go away"}
  - {anywhere: "more polite", reply: "please come in"}
"""


def prompts(n: int) -> list[Prompt]:
    return [Prompt(messages=(user(f"q{i}"),), kind="helpful", source="t", split="train") for i in range(n)]


def policy(folder: Path, script: str = SCRIPT) -> ScriptedBackend:
    (folder / "m.yaml").write_text(script)
    return ScriptedBackend(folder / "m.yaml")


@pytest.mark.parametrize("pack", ["chat", "transcript"])
def test_contrast_pairs_answer_under_a_principle_and_under_its_negation(tmp_path: Path, pack: str) -> None:
    asked = prompts(3)
    other = POLITE.model_copy(update={"id": "no_negation", "negated_comparison_request": None})
    found = list(
        contrast(
            asked, policy=policy(tmp_path), pack=load_pack(pack), principles=[other, POLITE], sampling=SAMPLING, seed=1
        )
    )
    assert [c.prompt_id for c in found if isinstance(c, Comparison)] == [p.id for p in asked]
    for pair in found:
        assert isinstance(pair, Comparison)
        assert (pair.a, pair.b) == ("please come in", "go away")
        assert (pair.origin, pair.principle) == ("negation", "polite@1.0.0") and pair.a_seed != pair.b_seed
        assert Comparison.model_validate_json(pair.to_json()) == pair


def test_contrast_pairs_that_are_none_are_failures(tmp_path: Path) -> None:
    same = policy(tmp_path, "default: same\n")
    kinds = [
        c.kind
        for c in contrast(
            prompts(2), policy=same, pack=load_pack("chat"), principles=[POLITE], sampling=SAMPLING, seed=1
        )
        if isinstance(c, Failure)
    ]
    assert kinds == ["identical_pair"] * 2
    with pytest.raises(ConfigError, match="negated_comparison_request"):
        next(contrast(prompts(1), policy=same, pack=load_pack("chat"), principles=[], sampling=SAMPLING, seed=1))


def test_comparisons_of_other_origins_keep_their_ids() -> None:
    pair = Comparison(prompt_id="p", messages=(user("q"),), a="x", b="y", origin="sampled")
    before = {  # as it was written before contrast pairs existed
        "prompt_id": "p",
        "messages": [{"role": "user", "content": "q"}],
        "a": "x",
        "b": "y",
        "a_model": None,
        "b_model": None,
        "origin": "sampled",
        "parents": [],
        "a_seed": None,
        "b_seed": None,
    }
    assert pair.id == short_digest(before)
    assert json.loads(pair.to_json()) == {**before, "id": pair.id}


def test_all_with_all_compares_every_two_answers_once() -> None:
    found = list(
        sample(prompts(2), policy=FakeModel("m"), pack=load_pack("chat"), sampling=SAMPLING, n=4, seed=2, compare="all")
    )
    for prompt in prompts(2):
        pairs = [c for c in found if isinstance(c, Comparison) and c.prompt_id == prompt.id]
        texts = {text for c in pairs for text in (c.a, c.b)}
        assert len(texts) >= 3 and len(pairs) == math.comb(len(texts), 2) == len({frozenset((c.a, c.b)) for c in pairs})


def compared(p: dict[tuple[str, str], float | None]) -> tuple[list[Comparison], list[Preference]]:
    pairs = [Comparison(prompt_id="p", messages=(user("q"),), a=a, b=b, origin="sampled") for a, b in p]
    labels = [
        Preference(comparison_id=c.id, p_a=value, rule="mean", judgment_ids=(), principles=())
        for c, value in zip(pairs, p.values(), strict=True)
    ]
    return pairs, labels


def test_a_ranking_finds_the_strengths_its_labels_were_made_from() -> None:
    strength = {"w": 0.3, "x": -1.1, "y": 1.4, "z": -0.6}
    made = {(a, b): 1 / (1 + math.exp(strength[b] - strength[a])) for a in strength for b in strength if a < b}
    pairs, labels = compared(dict(made))
    (ranking,) = rank_answers(pairs, labels)
    assert isinstance(ranking, RankedAnswers)
    assert ranking.answers == ("y", "w", "z", "x") and ranking.ridge == 0 and ranking.pairs == 6
    assert ranking.ratings == pytest.approx([strength[text] for text in ranking.answers], abs=1e-6)  # their mean is 0
    (best,) = best_against_worst([ranking], pairs)
    assert isinstance(best, Comparison) and {best.a, best.b} == {"x", "y"}


def test_rankings_without_labels_or_links_are_failures_and_ties_have_no_best() -> None:
    pairs, labels = compared({("a", "b"): None})
    assert [f.kind for f in rank_answers(pairs, labels) if isinstance(f, Failure)] == ["no_label"]
    pairs, labels = compared({("a", "b"): 0.7, ("c", "d"): 0.6})
    assert [f.kind for f in rank_answers(pairs, labels) if isinstance(f, Failure)] == ["not_connected"]
    pairs, labels = compared({("a", "b"): 0.5, ("b", "c"): 0.5, ("a", "c"): None})
    (ranking,) = rank_answers(pairs, labels)
    assert isinstance(ranking, RankedAnswers) and (ranking.pairs, ranking.unlabelled) == (2, 1)
    assert [f.kind for f in best_against_worst([ranking], pairs) if isinstance(f, Failure)] == ["tie"]
    pairs, labels = compared({("a", "b"): 1.0, ("b", "c"): 1.0})
    (ranking,) = rank_answers(pairs, labels)
    assert isinstance(ranking, RankedAnswers) and ranking.answers == ("a", "b", "c") and ranking.ridge > 0
    assert [f.kind for f in best_against_worst([ranking], pairs) if isinstance(f, Failure)] == ["no_pair"]


def test_the_shipped_constitution_has_principles_to_contrast() -> None:
    from constitutional.feedback.contrast import contrasting

    assert contrasting(load_constitution("helpful_honest").principles)
