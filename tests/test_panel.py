"""Agreement of judges, against counts made by hand."""

import pytest

from constitutional.feedback.judging.panel import by_judge, judge_agreement
from constitutional.records import Judgment, Usage
from constitutional.statistics import wilson


def judgment(judge, comparison, p, *, principle="p@1.0.0", order="ab", mode="logprob"):
    outcome = "preference" if p is not None else "not_applicable" if mode == "applies" else "invalid"
    return Judgment(
        key=f"{judge}{comparison}{principle}{order}{mode}", comparison_id=comparison, principle=principle,
        principle_digest="d", template_digest="t", judge=judge, mode=mode, order=order, outcome=outcome, p_a=p,
        logprobs=(), mass=None, usage=Usage(), seed=0,
    )  # fmt: skip


def both(judge, comparison, ab, ba=None, **more):
    ba = ab if ba is None else ba
    return [judgment(judge, comparison, p, order=order, **more) for p, order in ((ab, "ab"), (ba, "ba"))]


def test_agreement_counts_verdicts_and_shows_who_had_none():
    one = [*both("one", "c1", 0.9), *both("one", "c2", 0.9), *both("one", "c3", 0.2), *both("one", "c4", 0.5)]
    one += [*both("one", "c5", 0.8), *both("one", "c6", 0.7), *both("one", "c9", 0.7, principle="q@1.0.0")]
    two = [*both("two", "c1", 0.6), *both("two", "c2", 0.4), *both("two", "c3", 0.1), *both("two", "c4", 0.9)]
    two += [judgment("two", "c5", 0.9), judgment("two", "c5", None, order="ba"), *both("two", "c7", 0.9)]
    two += both("two", "c6", None, mode="applies")
    code = both("code", "c1", 0.0, mode="check")
    (row,) = judge_agreement(by_judge([*one, *two, *code]))
    assert (row.principle, row.one, row.other) == ("p@1.0.0", "one (logprob)", "two (logprob)")
    assert row.asked == 6 and (row.same.count, row.same.n) == (2, 3)
    assert row.same.interval == wilson(2, 3) and row.disagreed == ("c2",)
    assert (row.one_without, row.other_without) == (1, 2)  # a tie; an unread order and a case that is none


def test_one_model_in_two_modes_is_two_judges():
    found = by_judge([*both("m", "c1", 0.9), *both("m", "c1", 0.1, mode="cot"), *both("m", "c2", None, mode="applies")])
    assert {name: len(rows) for name, rows in found.items()} == {"m (logprob)": 4, "m (cot)": 4}
    (row,) = judge_agreement(found)
    assert (row.asked, row.same.count, row.same.n, row.one_without) == (2, 0, 1, 1)
    assert judge_agreement({}) == [] and judge_agreement({"m": both("m", "c1", 0.9)}) == []
    three = {name: both(name, "c1", p) for name, p in (("x", 0.9), ("y", 0.8), ("z", 0.1))}
    assert [(r.one, r.other, r.same.count) for r in judge_agreement(three)] == [
        ("x", "y", 1),
        ("x", "z", 0),
        ("y", "z", 0),
    ]


@pytest.mark.parametrize("p", [0.5, None])
def test_no_verdict_at_all_leaves_the_whole_interval(p):
    (row,) = judge_agreement({"x": both("x", "c", p), "y": both("y", "c", 0.9)})
    assert row.same.n == 0 and (row.same.interval.low, row.same.interval.high) == (0.0, 1.0)
