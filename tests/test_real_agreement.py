"""What the benchmark prints of real judges and people, against counting by hand and other libraries."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import choix
import krippendorff
import numpy as np
import pytest
from shared_data import sample
from sklearn.metrics import cohen_kappa_score

from constitutional.statistics import wilson
from constitutional.statistics.agreement import Level


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "real_agreement.py"
    spec = importlib.util.spec_from_file_location("real_agreement", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# (consistent, both orders readable) of the plain prompt.
@pytest.mark.parametrize(
    ("judge", "consistent", "n", "published"),
    [("GPT-4", 389, 419, 0.93), ("PaLM2", 300, 415, 0.73), ("ChatGPT", 276, 419, 0.66), ("Falcon", 174, 419, 0.42)],
)
def test_order_consistency_of_llmbars_judges(
    bench: ModuleType, judge: str, consistent: int, n: int, published: float
) -> None:
    rows = bench.load(sample("llmbar/llmbar_judge_verdicts_both_orders.jsonl.gz"))
    found = bench.order_consistency([r for r in rows if r["judge"] == judge and r["strategy"] == "Vanilla"])
    assert (found.consistent.count, found.consistent.n) == (consistent, n)
    assert found.consistent.interval == wilson(consistent, n)
    assert found.consistent.share == pytest.approx(published, abs=0.01)
    assert found.unreadable >= 419 - n


def test_xstests_two_annotators(bench: ModuleType) -> None:
    rows = bench.load(sample("xstest/completions_gpt4_mistralinstruct.jsonl.gz"))
    found = bench.two_annotators(rows)
    assert (found.same.count, found.same.n) == (882, 900)
    assert found.same.count == sum(r["agreement"] == "TRUE" for r in rows)
    theirs = cohen_kappa_score([r["annotation_1"] for r in rows], [r["annotation_2"] for r in rows])
    assert found.kappa == pytest.approx(theirs, abs=1e-6)
    assert found.kappa_interval.low < found.kappa < found.kappa_interval.high


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_pyrits_three_annotators(bench: ModuleType, level: Level) -> None:
    ratings = bench.scores(bench.load(sample("pyrit_scores/human_scored_responses.jsonl.gz")))
    assert ratings.shape == (3, 386)
    value, interval = bench.alphas(ratings)[level]
    assert value == pytest.approx(krippendorff.alpha(reliability_data=ratings, level_of_measurement=level), abs=1e-6)
    assert interval.low < value < interval.high


@pytest.mark.parametrize("file", ["human", "gpt4_pair"])
def test_mtbenchs_ranking_equals_choix(bench: ModuleType, file: str) -> None:
    rows = bench.load(sample(f"mtbench/{file}.jsonl.gz"))
    names, fit, intervals = bench.rank_models(rows)
    won = []  # every verdict twice, so that a tie is one each way
    for r in rows:
        a, b = names.index(r["model_a"]), names.index(r["model_b"])
        first, second = {1.0: ((a, b), (a, b)), 0.0: ((b, a), (b, a)), 0.5: ((a, b), (b, a))}[
            bench.OUTCOMES[r["winner"]]
        ]
        won += [first, second]
    theirs = choix.ilsr_pairwise(len(names), won, max_iter=10_000, tol=1e-13)
    assert fit.ratings == pytest.approx((theirs - theirs.mean()).tolist(), abs=1e-6)
    assert names[fit.order()[0]] == "gpt-4"
    assert all(i.low < rating < i.high for i, rating in zip(intervals, fit.ratings, strict=True))
    assert np.mean([i.high - i.low for i in intervals]) < 0.6
