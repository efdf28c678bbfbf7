"""A simulated judge with known faults: the statistics find them, and the gate stops a judge that is wrong."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from constitutional.feedback.label import opinions


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "planted_truth.py"
    spec = importlib.util.spec_from_file_location("planted_truth", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_planted_parameters_lie_inside_their_intervals(bench: ModuleType) -> None:
    seeds = 16
    by_statistics, by_audit = bench.coverage(bench.Planted(), range(seeds), 60)
    assert (len(by_statistics), len(by_audit)) == (12, 11)
    for hits in (by_statistics, by_audit):
        assert min(hits.values()) >= 12, hits  # of 16 at 0.95 each: fewer with probability 0.001
        assert sum(hits.values()) >= 0.91 * len(hits) * seeds, hits


def test_the_audit_and_the_statistics_agree(bench: ModuleType) -> None:
    made = bench.simulate(bench.Planted(), 3, 80)
    one, other = bench.recover(made), bench.recover_by_audit(made)
    for name, interval in other.items():
        width = one[name].high - one[name].low
        assert interval.low == pytest.approx(one[name].low, abs=0.1 * width), name
        assert interval.high == pytest.approx(one[name].high, abs=0.1 * width), name


def test_a_wrong_truth_would_be_missed(bench: ModuleType) -> None:
    """The intervals are narrow enough to tell the planted judge from another."""
    found = bench.recover(bench.simulate(bench.Planted(), 0), 0, draws=300)
    other = bench.truths(bench.Planted(shift=2.0, slope=-0.7, accuracy=(0.6, 0.5, 0.6), repeats=0.0, refuses=0.1))
    missed = {name for name, i in found.items() if not i.low <= other[name] <= i.high}
    assert missed == set(found) - {"correlation first third", "conflict first third"}  # these two hardly changed


def test_the_closed_forms_equal_a_large_sample(bench: ModuleType) -> None:
    planted = bench.Planted(margins=(0.3, 1.0), noise=0.6, shift=0.5)  # noisy enough to turn opinions over
    truth, made = bench.truths(planted), bench.simulate(planted, 1, 800)
    for name, interval in bench.recover(made, 1, draws=300).items():
        middle, half = (interval.low + interval.high) / 2, (interval.high - interval.low) / 2
        assert abs(truth[name] - middle) < 2 * half, name


def test_a_judge_of_positions_alone_is_seen_as_one(bench: ModuleType) -> None:
    planted = bench.Planted(margins=(0.0,), noise=0.0, shift=1.5, refuses=0.0)
    made = bench.simulate(planted, 0, 40)
    found = [o for each in opinions(made.judgments).values() for o in each]
    assert len(found) == 40 * 3 * 3
    assert [o.p_a for o in found] == pytest.approx([0.5] * len(found), abs=1e-12)
    assert not any(o.consistent for o in found)  # the same position both times
    assert all((j.p_a > 0.5) == (j.order == "ab") for j in made.judgments)


def test_the_gate_stops_a_judge_below_chance_and_lets_one_above_through(bench: ModuleType) -> None:
    below, above = ([bench.gate(accuracy, seed) for seed in range(20)] for accuracy in (0.4, 0.6))
    assert [r.passed for r in below] == [False] * 20
    assert sum(r.passed for r in above) >= 17  # 95 of 100 in the benchmark
    assert np.mean([r.sources[0].accuracy for r in below + above]) == pytest.approx(0.5, abs=0.02)
