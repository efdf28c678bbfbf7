"""Agreement of real judges and people: LLMBar, XSTest, PyRIT, MT-bench. Prints tables; skips what is not here.

python benchmarks/real_agreement.py
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from constitutional.statistics import Interval, Rate, bracketed, cluster_bootstrap, rate
from constitutional.statistics.agreement import (
    alpha_of_coincidences,
    cohen_kappa,
    coincidences,
    interval_alpha,
    interval_sums,
    kappa_of_table,
    krippendorff_alpha,
)
from constitutional.statistics.ranking import BradleyTerry, bradley_terry, win_matrix

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LLMBAR = DATA / "llmbar" / "llmbar_judge_verdicts_both_orders.jsonl.gz"
XSTEST = DATA / "xstest" / "completions_gpt4_mistralinstruct.jsonl.gz"
PYRIT = DATA / "pyrit_scores" / "human_scored_responses.jsonl.gz"
MTBENCH = {"people": DATA / "mtbench" / "human.jsonl.gz", "GPT-4": DATA / "mtbench" / "gpt4_pair.jsonl.gz"}

Row = dict[str, Any]


def load(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Judged:
    """One judge on comparisons in both orders. A verdict nobody could read is counted, and in no share."""

    consistent: Rate
    first: Rate
    """Of all readable verdicts, those for the answer read first."""
    right: Rate
    """Of all readable verdicts, those that agree with the gold label."""
    unreadable: int


def order_consistency(rows: list[Row]) -> Judged:
    """LLMBar's verdicts name answers, not positions: the swapped order's are already turned back."""
    read = [(r["winner_original"], r["winner_swapped"], str(r["label"])) for r in rows]
    both = [(x, y) for x, y, _ in read if x in ("1", "2") and y in ("1", "2")]
    each = [(v, first, label) for x, y, label in read for v, first in ((x, "1"), (y, "2")) if v in ("1", "2")]
    return Judged(
        consistent=rate(sum(x == y for x, y in both), len(both)),
        first=rate(sum(v == first for v, first, _ in each), len(each)),
        right=rate(sum(v == label for v, _, label in each), len(each)),
        unreadable=2 * len(rows) - len(each),
    )


@dataclass(frozen=True)
class Annotated:
    same: Rate
    kappa: float | None
    kappa_interval: Interval | None


def two_annotators(rows: list[Row]) -> Annotated:
    """XSTest's three-way labels; the interval draws prompts, as two models answered each."""
    a, b = [r["annotation_1"] for r in rows], [r["annotation_2"] for r in rows]
    names = sorted({*a, *b})
    k = len(names)
    cells = np.eye(k * k)[[names.index(x) * k + names.index(y) for x, y in zip(a, b, strict=True)]]
    (interval,) = cluster_bootstrap(cells, [r["id"] for r in rows], lambda t: kappa_of_table(t.reshape(-1, k, k)))
    same = sum(x == y for x, y in zip(a, b, strict=True))
    return Annotated(same=rate(same, len(rows)), kappa=cohen_kappa(a, b), kappa_interval=interval)


def scores(rows: list[Row], file: str = "") -> NDArray[np.float64]:
    """Scores of three annotators, [annotators, responses]."""
    return np.array([r["human_scores"] for r in rows if len(r["human_scores"]) == 3 and r["file"].startswith(file)]).T


def alphas(ratings: NDArray[np.float64]) -> dict[str, tuple[float | None, Interval | None]]:
    """Krippendorff's alpha at each level, with an interval over responses."""
    pairs, found = coincidences(ratings), {}
    n, values = pairs.shape[0], pairs.shape[1]
    for level in ("nominal", "ordinal"):

        def of(t: NDArray[np.float64], level: Any = level) -> NDArray[np.float64]:
            return alpha_of_coincidences(t.reshape(-1, values, values), level)

        found[level] = (krippendorff_alpha(ratings, level), cluster_bootstrap(pairs.reshape(n, -1), None, of)[0])
    found["interval"] = (
        krippendorff_alpha(ratings, "interval"),
        cluster_bootstrap(interval_sums(ratings), None, interval_alpha)[0],
    )
    return found


OUTCOMES = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (inconsistent)": 0.5}


def rank_models(rows: list[Row]) -> tuple[list[str], BradleyTerry, list[Interval | None]]:
    """Models, their fit, and intervals of the ratings in which whole questions are drawn."""
    names = sorted({r["model_a"] for r in rows} | {r["model_b"] for r in rows})
    k = len(names)
    first, second = ([names.index(r[side]) for r in rows] for side in ("model_a", "model_b"))
    won = np.array([OUTCOMES[r["winner"]] for r in rows])
    columns = np.zeros((len(rows), k * k))
    columns[np.arange(len(rows)), np.array(first) * k + second] += won
    columns[np.arange(len(rows)), np.array(second) * k + first] += 1 - won

    def ratings(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([bradley_terry(wins.reshape(k, k)).ratings for wins in t])

    intervals = cluster_bootstrap(columns, [r["question_id"] for r in rows], ratings, draws=500)
    return names, bradley_terry(win_matrix(k, first, second, won)), intervals


def share(value: Rate) -> str:
    return f"{value.count:4}/{value.n:<4} {value.share:.4f} [{value.interval.low:.4f}, {value.interval.high:.4f}]"


def number(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.4f}" + (f" [{interval.low:.4f}, {interval.high:.4f}]" if interval else "")


def show_llmbar() -> None:
    rows = load(LLMBAR)
    print("LLMBar, 419 comparisons in both orders; 95 % intervals (Wilson)")
    print(f"{'judge':<14}{'prompt':<10}{'order consistency':<38}{'for the first read':<38}{'unreadable':>10}")
    for strategy in ("Vanilla", "CoT", "Swap", "Swap_CoT"):
        for judge in sorted({r["judge"] for r in rows}):
            found = order_consistency([r for r in rows if r["judge"] == judge and r["strategy"] == strategy])
            line = f"{judge:<14}{strategy:<10}{share(found.consistent):<38}{share(found.first):<38}"
            print(f"{line}{found.unreadable:>10}")


def show_xstest() -> None:
    found = two_annotators(load(XSTEST))
    print("\nXSTest, two annotators of the answers of two models, three ways")
    print(f"  same label {share(found.same)}")
    print(f"  kappa      {number(found.kappa, found.kappa_interval)} (prompts drawn)")


def show_pyrit() -> None:
    rows = load(PYRIT)
    print("\nPyRIT, three annotators of harm severity (0, 0.25 … 1); Krippendorff's alpha, responses drawn")
    for file in ("", "hate_speech", "violence"):
        ratings = scores(rows, file)
        levels = ", ".join(f"{level} {number(*found)}" for level, found in alphas(ratings).items())
        print(f"  {file or 'all':<12} n = {ratings.shape[1]}: {levels}")


def show_mtbench() -> None:
    print(
        "\nMT-bench, Bradley-Terry log-strengths (mean 0), ties half a win each; questions drawn; and Wald's intervals"
    )
    for who, path in MTBENCH.items():
        rows = load(path)
        names, fit, intervals = rank_models(rows)
        ties = sum(OUTCOMES[r["winner"]] == 0.5 for r in rows)
        print(f"  {who}: {len(rows)} verdicts, {ties} of them ties, ridge {fit.ridge}")
        for place, i in enumerate(fit.order(), start=1):
            wald = bracketed(fit.interval(i), signed=True)
            print(f"  {place}. {names[i]:<18}{number(fit.ratings[i], intervals[i]):<28} Wald {wald}")


def main() -> None:
    parts: list[tuple[tuple[Path, ...], Callable[[], None]]] = [
        ((LLMBAR,), show_llmbar),
        ((XSTEST,), show_xstest),
        ((PYRIT,), show_pyrit),
        (tuple(MTBENCH.values()), show_mtbench),
    ]
    for paths, show in parts:
        missing = [path for path in paths if not path.exists()]
        if missing:
            print(f"skipped: no {missing[0]}")
        else:
            show()


if __name__ == "__main__":
    main()
