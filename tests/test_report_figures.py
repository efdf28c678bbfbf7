import math
from itertools import pairwise

import pytest

from constitutional.audit.charts import histogram_chart, line_chart, nice_ticks
from constitutional.audit.figures import Curve
from constitutional.audit.tables import histogram, principle_row, principle_rows
from constitutional.audit.transcripts import evenly
from constitutional.audit.wording import fixed, pct, points
from constitutional.principles import Constitution, Principle
from constitutional.records import Judgment, Usage


def test_numbers_are_written_as_readers_expect() -> None:
    assert (pct(0.725), pct(None), points(-0.225), points(0.0)) == ("72.5\u202f%", "—", "−22.5", "+0.0")
    assert (fixed(-0.0004, 3), fixed(-1.5, 1), fixed(None, 2)) == ("0.000", "−1.5", "—")
    assert histogram([0.0, 0.1, 0.3, 0.7, 0.999, 1.0]) == (1, 1, 0, 1, 0, 0, 0, 1, 0, 2)
    assert evenly(range(25), 12)[:3] == [0, 2, 4] and evenly([1, 2], 12) == [1, 2]


@pytest.mark.parametrize("values", [(1.0,), (2.0, 2.0), (0.0, 0.0), (-3.2, 7.9, 0.5), (1e-5, 3e-5), (1e6, 2e6)])
def test_a_curve_stays_inside_its_chart(values: tuple[float, ...]) -> None:
    curve = Curve(stage="rl", figure="kl", unit="u", steps=tuple(range(1, len(values) + 1)), values=values)
    chart = line_chart(curve, "t")
    assert all(46 <= x <= 350 and 12 <= y <= 164 for x, y in chart.points)
    heights = [y for _, y in chart.points]
    assert [v for _, v in sorted(zip(heights, values, strict=True))] == sorted(values, reverse=True)
    ticks = nice_ticks(min(values), max(values))
    assert ticks[0] <= min(values) and ticks[-1] >= max(values) and 2 <= len(ticks) <= 8
    gaps = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert len(gaps) == 1 and all(math.isfinite(t.at) for t in chart.y_ticks)


def test_the_highest_bar_fills_the_histogram() -> None:
    chart = histogram_chart([0, 5, 10, 0, 0, 0, 0, 0, 0, 1])
    assert chart.n == 16 and chart.bars[2].height == 2 * chart.bars[1].height and chart.bars[0].height == 0
    assert histogram_chart([0] * 10).bars[0].height == 0


def test_judgments_without_a_number_count_and_give_none() -> None:
    judgment = Judgment(
        key="k", comparison_id="c", principle="kind@1.0.0", principle_digest="d", template_digest="t", judge="j",
        mode="logprob", order="ab", outcome="error", p_a=None, logprobs=(), mass=None, usage=Usage(), seed=0,
    )  # fmt: skip
    row = principle_row("kind@1.0.0", "Kind", [judgment])
    assert (row.judgments, row.usable, row.outcomes) == (1, 0, {"error": 1})
    assert (row.mean_p, row.decisiveness, row.decisiveness_both, row.mean_mass) == (None, None, None, None)
    assert (row.order_consistency.n, row.first_position.n) == (0, 0)


def test_the_row_over_all_principles_is_of_the_judge_alone() -> None:
    text, code = (
        Principle(id=name, version="1.0.0", title=name, comparison_request="?", check=check)
        for name, check in (("text", None), ("code", "mine:f"))
    )
    constitution = Constitution(id="c", version="1.0.0", title="t", principles=(text, code))

    def judged(pair: str, principle: Principle, mode: str, p: tuple[float | None, float | None]) -> list[Judgment]:
        shared = {
            "comparison_id": pair, "principle": principle.ref, "principle_digest": "d", "template_digest": "t",
            "judge": "j", "mode": mode, "logprobs": (), "usage": Usage(), "seed": 0,
            "mass": {"logprob": 0.5, "applies": 0.9, "check": None}[mode],
        }  # fmt: skip
        return [
            Judgment.model_validate(
                {
                    **shared,
                    "key": order,
                    "order": order,
                    "p_a": q,
                    "outcome": "not_applicable" if q is None else "preference",
                }
            )
            for order, q in zip(("ab", "ba"), p, strict=True)
        ]

    by_judge = judged("one", text, "logprob", (0.9, 0.2))
    left_out, by_code = judged("two", text, "applies", (None, None)), judged("one", code, "check", (1.0, 1.0))
    rows = principle_rows([*by_judge, *left_out, *by_code], constitution)
    assert [row.principle for row in rows] == [text.ref, code.ref, "all"]
    assert rows[2] == principle_row("all", "all principles", by_judge)
    assert (rows[2].order_consistency.count, rows[2].order_consistency.n, rows[2].mean_mass) == (0, 1, 0.5)
    assert rows[0].outcomes == {"not_applicable": 2, "preference": 2} and rows[0].mean_mass == 0.5
    assert rows[1].order_consistency.count == 1 and rows[1].mean_mass is None
    assert [row.principle for row in principle_rows(by_code, constitution)] == [code.ref]
