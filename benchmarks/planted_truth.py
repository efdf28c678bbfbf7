"""A simulated judge with known faults, and whether statistics and audit find them inside their 95 % intervals.

The judge writes real Judgment records of real Comparison records. For each prompt its answers are easy or hard to tell
apart (margin m); under each principle it takes a side s = +1 or -1 with P(s = +1) = sigmoid(slope * log length ratio);
the second principle repeats the first one's side with probability `repeats`; in each order it says

    logit p(first answer) = +-s m + shift + noise,   noise normal,

and it refuses at random. Labels agree with s at the principle's accuracy. What is planted follows in closed form, or by
quadrature; see `truths`. Of 100 exact 95 % intervals 93 or more hold the truth with probability 0.87 only, so coverage
over more seeds tells more (`--seeds 1000`).

    python benchmarks/planted_truth.py [--seeds 100] [--first 0] [--prompts 150]
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from constitutional.audit.measures.agreeing import label_fits
from constitutional.audit.measures.corpus import Corpus
from constitutional.audit.measures.figures import figures
from constitutional.audit.measures.length import length_effect
from constitutional.audit.measures.pairs import principle_pairs
from constitutional.audit.measures.resample import Bootstrap
from constitutional.audit.measures.table import make_table
from constitutional.feedback.gate import GateReport, Labelled, measure_gate
from constitutional.feedback.label import opinions
from constitutional.feedback.options import option_probability
from constitutional.records import Comparison, Judgment, Order, Usage, short_digest, user
from constitutional.statistics import Interval, cluster_bootstrap, wilson
from constitutional.statistics.clustered import ratios
from constitutional.statistics.logistic import fit_logistic

Found = dict[str, Interval | None]
LENGTHS = (99, 199, 399)  # characters; + 1, as the length ratio counts them
PRINCIPLES = ("first@1.0.0", "second@1.0.0", "third@1.0.0")


@dataclass(frozen=True)
class Planted:
    """What is known of the judge."""

    shift: float = 0.8
    """Log-odds that being read first adds."""
    slope: float = 0.7
    """Of the side on the log length ratio."""
    accuracy: tuple[float, float, float] = (0.85, 0.7, 0.4)
    """Share of labels equal to the judge's side, before noise."""
    repeats: float = 0.6
    refuses: float = 0.05
    margins: tuple[float, ...] = (0.5, 1.5, 3.0)
    noise: float = 0.4


@dataclass(frozen=True)
class Simulated:
    comparisons: list[Comparison]
    judgments: list[Judgment]
    labels: dict[tuple[str, str], bool]
    """By comparison and principle: whether `a` is better."""


def judgment(comparison: Comparison, principle: str, order: Order, logit_first: float | None) -> Judgment:
    """The record of one verdict; None is a refusal."""
    key = short_digest([comparison.id, principle, order])
    logprobs, outcome, p_a, mass = (), "refused", None, None
    if logit_first is not None:
        logprobs = (float(-np.logaddexp(0.0, -logit_first)), float(-np.logaddexp(0.0, logit_first)))
        outcome, p_first, mass = option_probability(logprobs)
        assert p_first is not None
        p_a = p_first if order == "ab" else 1 - p_first
    return Judgment(
        key=key,
        comparison_id=comparison.id,
        principle=principle,
        principle_digest=short_digest(principle),
        template_digest="simulated",
        judge="simulated",
        mode="logprob",
        order=order,
        outcome=outcome,
        p_a=p_a,
        logprobs=logprobs,
        mass=mass,
        usage=Usage(),
        seed=0,
    )


def simulate(planted: Planted, seed: int, prompts: int = 150, per_prompt: int = 3) -> Simulated:
    """The records of one judge on `prompts` prompts with `per_prompt` comparisons each."""
    rng = np.random.default_rng(seed)
    made = Simulated([], [], {})
    for q in range(prompts):
        margin = rng.choice(planted.margins)
        for i in range(per_prompt):
            long_a, long_b = rng.choice(LENGTHS, 2).tolist()
            comparison = Comparison(
                prompt_id=short_digest(q),
                messages=(user(f"prompt {q}"),),
                a=f"{i} a ".ljust(long_a, "x"),
                b=f"{i} b ".ljust(long_b, "x"),
                origin="sampled",
            )
            made.comparisons.append(comparison)
            p_a = 1 / (1 + np.exp(-planted.slope * np.log((long_a + 1) / (long_b + 1))))
            sides = [rng.random() < p_a for _ in PRINCIPLES]
            sides[1] = sides[0] if rng.random() < planted.repeats else sides[1]
            for principle, side, accuracy in zip(PRINCIPLES, sides, planted.accuracy, strict=True):
                made.labels[comparison.id, principle] = bool(side == (rng.random() < accuracy))
                for order, turn in (("ab", 1), ("ba", -1)):
                    logit = turn * margin * (1 if side else -1) + planted.shift + planted.noise * rng.normal()
                    refused = rng.random() < planted.refuses
                    made.judgments.append(judgment(comparison, principle, order, None if refused else logit))
    return made


def truths(planted: Planted) -> dict[str, float]:
    """What each estimate is an estimate of."""
    m, noise = np.array(planted.margins), planted.noise
    up, down = stats.norm.cdf((m + planted.shift) / noise), stats.norm.cdf((m - planted.shift) / noise)
    keeps = stats.norm.cdf(2 * m / (noise * np.sqrt(2)))  # the mean of both orders is on the side s
    kept = float(keeps.mean())
    ratio = np.array([np.log((a + 1) / (b + 1)) for a, b in product(LENGTHS, repeat=2)])
    p_side = 1 / (1 + np.exp(-planted.slope * ratio))
    p_seen = kept * p_side + (1 - kept) * (1 - p_side)
    common = float(((2 * p_side - 1) ** 2).mean())  # both follow the length
    pairs = {"first second": planted.repeats + (1 - planted.repeats) * common, "first third": common}
    first, second = _moments(planted)
    found = {
        "order consistency": float((up * down + (1 - up) * (1 - down)).mean()),
        "first position": float((up + 1 - down).mean() / 2),
        "position shift": planted.shift,
        "refusals": planted.refuses,
        "length slope": _population_slope(ratio, p_seen),
    }
    for name, accuracy in zip(PRINCIPLES, planted.accuracy, strict=True):
        found[f"accuracy {name}"] = kept * accuracy + (1 - kept) * (1 - accuracy)
    for name, same in pairs.items():
        found[f"correlation {name}"] = same * float((first**2).mean() / second.mean())
        found[f"conflict {name}"] = float((1 - same * ((2 * keeps - 1) ** 2).mean()) / 2)
    return found


def _moments(planted: Planted) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and mean square of the opinion's distance from one half towards s, for each margin (Gauss-Hermite)."""
    x, w = np.polynomial.hermite_e.hermegauss(60)
    w = np.outer(w, w) / w.sum() ** 2
    one, two = planted.noise * x[:, None], planted.noise * x[None, :]
    first, second = [], []
    for m in planted.margins:
        h = (_sigmoid(m + planted.shift + one) + _sigmoid(m - planted.shift + two)) / 2 - 0.5
        first.append((w * h).sum())
        second.append((w * h * h).sum())
    return np.array(first), np.array(second)


def _population_slope(ratio: NDArray[np.float64], p: NDArray[np.float64]) -> float:
    """The slope that fits the whole population best, through the origin by symmetry: one equation, by bisection."""
    low, high = 0.0, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (ratio * (p - _sigmoid(middle * ratio))).sum() > 0 else (low, middle)
    return low


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def recover(made: Simulated, seed: int = 0, draws: int = 1000) -> Found:
    """The intervals of every planted parameter, from the records alone."""
    prompt = {c.id: c.prompt_id for c in made.comparisons}
    ratio = {c.id: np.log((len(c.a) + 1) / (len(c.b) + 1)) for c in made.comparisons}
    heard = opinions(made.judgments)
    p_a = {(c, o.principle): o.p_a for c, found in heard.items() for o in found}
    consistent = [(prompt[c], o.consistent, 1.0) for c, found in heard.items() for o in found]
    spoken = [j for j in made.judgments if j.p_a is not None]
    first = [(prompt[j.comparison_id], (j.p_a > 0.5) == (j.order == "ab"), 1.0) for j in spoken]
    shift = [(prompt[j.comparison_id], j.logprobs[0] - j.logprobs[1], 1.0) for j in _both_orders(spoken)]
    refused = sum(j.outcome == "refused" for j in made.judgments)
    sides = [(prompt[c], ratio[c], p > 0.5) for (c, _), p in p_a.items() if p != 0.5]
    fit = fit_logistic(
        [[1.0, x] for _, x, _ in sides], [float(s) for _, _, s in sides], clusters=[q for q, _, _ in sides]
    )
    found: Found = {
        "order consistency": _mean(consistent, seed, draws),
        "first position": _mean(first, seed, draws),
        "position shift": _mean(shift, seed, draws),
        "refusals": wilson(refused, len(made.judgments)),
        "length slope": fit.interval(1) if fit.converged else None,
    }
    for name in PRINCIPLES:
        answered = [(p > 0.5) == made.labels[c, k] for (c, k), p in p_a.items() if k == name]
        found[f"accuracy {name}"] = wilson(sum(answered), len(answered))
    for pair, one, other in (("first second", 0, 1), ("first third", 0, 2)):
        both = [
            (prompt[c.id], p_a[c.id, PRINCIPLES[one]] - 0.5, p_a[c.id, PRINCIPLES[other]] - 0.5)
            for c in made.comparisons
            if (c.id, PRINCIPLES[one]) in p_a and (c.id, PRINCIPLES[other]) in p_a
        ]
        x, y = np.array([b[1] for b in both]), np.array([b[2] for b in both])
        columns = np.column_stack([np.ones_like(x), x, y, x * x, y * y, x * y, x * y < 0])
        found[f"correlation {pair}"], found[f"conflict {pair}"] = cluster_bootstrap(
            columns, [b[0] for b in both], _correlation_and_conflict, seed=seed, draws=draws
        )
    return found


def recover_by_audit(made: Simulated, seed: int = 0, draws: int = 1000) -> Found:
    """The same parameters as the audit prints them; it has no figure for the position shift."""
    corpus, by_id = Corpus(), {c.id: c for c in made.comparisons}
    corpus.reader.read((j.to_json() for j in made.judgments), "simulated")
    for key, number in corpus.reader.comparisons.numbers.items():
        c = by_id[key]
        corpus.place[number] = len(corpus.comparisons.prompt)
        corpus.comparisons.prompt.append(corpus.prompts.number(c.prompt_id))
        corpus.comparisons.log_ratio.append(float(np.log((len(c.a) + 1) / (len(c.b) + 1))))
        corpus.comparisons.tags.append(())
        for principle in PRINCIPLES:
            corpus.labels.add(number, principle, 1 if made.labels[key, principle] else -1, "planted")
    table = make_table(corpus)
    bootstrap = Bootstrap(len(corpus.prompts), draws, seed)
    rows, subjects = np.arange(len(table)), [key[0] for key in table.subjects]
    (all_rows,) = figures(table, rows, np.zeros(len(table), dtype=np.int64), 1, bootstrap)
    found: Found = {
        "order consistency": all_rows.order_consistency.interval,
        "first position": all_rows.first_position.interval,
        "refusals": wilson(all_rows.outcomes["refused"], all_rows.judgments),
        "length slope": length_effect(table, rows).slope.interval,
    }
    fits = label_fits(table, rows, table.cells.subject.astype(np.int64), len(subjects), bootstrap)
    for name, fit in zip(subjects, fits, strict=True):
        found[f"accuracy {name}"] = fit.accuracy.interval if fit else None
    for pair in principle_pairs(table, range(len(subjects)), bootstrap):
        name = f"{pair.one.split('@')[0]} {pair.other.split('@')[0]}"
        if name != "second third":
            found[f"correlation {name}"], found[f"conflict {name}"] = pair.correlation.interval, pair.conflict.interval
    return found


def _both_orders(spoken: list[Judgment]) -> list[Judgment]:
    """Judgments whose other order was answered, too: their sides cancel."""
    orders: dict[tuple[str, str], int] = {}
    for j in spoken:
        orders[j.comparison_id, j.principle] = orders.get((j.comparison_id, j.principle), 0) + 1
    return [j for j in spoken if orders[j.comparison_id, j.principle] == 2]


def _mean(rows: list[tuple[str, float, float]], seed: int, draws: int) -> Interval | None:
    return cluster_bootstrap([r[1:] for r in rows], [r[0] for r in rows], ratios, seed=seed, draws=draws)[0]


def _correlation_and_conflict(t: NDArray[np.float64]) -> NDArray[np.float64]:
    n, x, y, xx, yy, xy, against = t.T
    return np.stack([(xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n)), against / n], axis=1)


def coverage(planted: Planted, seeds: range, prompts: int) -> tuple[Counter[str], Counter[str]]:
    """In how many seeds the interval of each parameter holds the truth: of `recover`, and of the audit."""
    truth, hits = truths(planted), (Counter[str](), Counter[str]())
    for seed in seeds:
        made = simulate(planted, seed, prompts)
        for counts, found in zip(hits, (recover(made, seed), recover_by_audit(made, seed)), strict=True):
            for name, interval in found.items():
                counts[name] += interval is not None and interval.low <= truth[name] <= interval.high
    return hits


def gate(accuracy: float, seed: int, n: int = 400) -> GateReport:
    """The gate's report on a judge that is right with this probability, the same way in both orders."""
    rng = np.random.default_rng([seed, n])
    labelled, judgments = [], []
    for i in range(n):
        comparison = Comparison(
            prompt_id=short_digest(i), messages=(user(f"prompt {i}"),), a="better", b="worse", origin="human"
        )
        labelled.append(Labelled(comparison=comparison, principles=(PRINCIPLES[0],), source="human"))
        logit = 2.0 if rng.random() < accuracy else -2.0
        judgments += [
            judgment(comparison, PRINCIPLES[0], "ab", logit + 0.5),
            judgment(comparison, PRINCIPLES[0], "ba", -logit + 0.5),
        ]
    return measure_gate(
        labelled,
        judgments,
        judge="simulated",
        template_digest="simulated",
        min_order_consistency=0.6,
        fallback="stop",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=150)
    asked = parser.parse_args()
    planted, seeds = Planted(), range(asked.first, asked.first + asked.seeds)
    truth, both = truths(planted), coverage(planted, seeds, asked.prompts)
    print(f"{asked.prompts} prompts, 3 comparisons each, 3 principles, 2 orders; {asked.seeds} seeds\n")
    print(f"{'inside its 95 % interval':<28}{'planted':>9}{'statistics':>14}{'audit':>14}")
    for name in truth:
        cells = [f"{hits[name]}/{asked.seeds}" if name in hits else "" for hits in both]
        print(f"{name:<28}{truth[name]:>9.4f}{cells[0]:>14}{cells[1]:>14}")
    cells = [f"{sum(hits.values()) / len(hits) / asked.seeds:.4f}" for hits in both]
    print(f"{'all':<37}{cells[0]:>14}{cells[1]:>14}")
    for accuracy in (0.4, 0.5, 0.6):
        passed = sum(gate(accuracy, seed).passed for seed in seeds)
        print(f"a judge right on {accuracy:.0%} of 400 passes the gate in {passed} of {asked.seeds} seeds")


if __name__ == "__main__":
    main()
