"""How far judges agree: every two of them, principle by principle, on the comparisons both were asked about.

A pure function of the ledger. A verdict is the answer that an opinion (both orders) is for; where p is one half, or an
order could not be read, there is none. Pairs without two verdicts are counted and are no agreement. Checks are no
judges: they say the same whoever judges beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from constitutional.feedback.label import opinions
from constitutional.feedback.label.opinions import side
from constitutional.records import Judgment, Record
from constitutional.statistics import Rate, rate


class JudgeAgreement(Record):
    """Two judges under one principle."""

    principle: str
    one: str
    other: str
    asked: int
    """Comparisons both were asked about."""
    same: Rate
    """Same verdict, of the comparisons on which both have one, with its 95 % Wilson interval."""
    one_without: int
    """Comparisons on which the first has no verdict."""
    other_without: int
    """Comparisons on which the second has none; some may be without either."""
    disagreed: tuple[str, ...]
    """Ids of the comparisons on which the verdicts differ."""


def judge_name(judgment: Judgment) -> str:
    """A judge as an audit calls it: its identity and the mode it is asked in."""
    return f"{judgment.judge} ({judgment.mode})"


def by_judge(judgments: Iterable[Judgment]) -> dict[str, list[Judgment]]:
    """Judgments by judge and mode. What a judge said of a principle's case counts for every mode it is asked in."""
    judgments = [judgment for judgment in judgments if judgment.mode != "check"]
    found: dict[str, list[Judgment]] = {judge_name(j): [] for j in judgments if j.mode != "applies"}
    for judgment in judgments:
        for name, own in found.items():
            if name == judge_name(judgment) or (judgment.mode == "applies" and name.startswith(f"{judgment.judge} (")):
                own.append(judgment)
    return found


def judge_agreement(judges: Mapping[str, Sequence[Judgment]]) -> list[JudgeAgreement]:
    """One row for every two judges and every principle that both were asked under, by principle.

    Args:
        judges: each judge's judgments, by name; `by_judge` sorts those of a ledger.
    """
    asked: dict[str, dict[str, dict[str, int]]] = {}  # principle, judge, comparison: 1, -1, or 0 without a verdict
    for name, judgments in judges.items():
        for judgment in judgments:
            if judgment.mode != "check":
                asked.setdefault(judgment.principle, {}).setdefault(name, {})[judgment.comparison_id] = 0
        for comparison_id, found in opinions(j for j in judgments if j.mode != "check").items():
            for o in found:
                asked[o.principle][name][comparison_id] = side(o.p_a)
    return [
        _row(principle, one, other, by_name[one], by_name[other])
        for principle, by_name in sorted(asked.items())
        for one, other in combinations([name for name in judges if name in by_name], 2)
        if by_name[one].keys() & by_name[other].keys()
    ]


def _row(
    principle: str, one: str, other: str, verdicts: Mapping[str, int], others: Mapping[str, int]
) -> JudgeAgreement:
    both = sorted(verdicts.keys() & others.keys())
    decided = [c for c in both if verdicts[c] and others[c]]
    differ = tuple(c for c in decided if verdicts[c] != others[c])
    return JudgeAgreement(
        principle=principle,
        one=one,
        other=other,
        asked=len(both),
        same=rate(len(decided) - len(differ), len(decided)),
        one_without=sum(not verdicts[c] for c in both),
        other_without=sum(not others[c] for c in both),
        disagreed=differ,
    )
