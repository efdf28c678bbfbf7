"""What the audit's table counts where a ledger holds more than one judge, mode or text of the same principle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scipy.stats import binomtest

from constitutional.audit.measures.audit import _panels
from constitutional.audit.measures.corpus import ATTRIBUTES, Corpus
from constitutional.audit.measures.judges import judges_agreement
from constitutional.audit.measures.resample import Bootstrap
from constitutional.audit.measures.significance import _position
from constitutional.audit.measures.table import Table, make_table


def row(comparison: str, order: str, p: float | None, **more: Any) -> dict[str, Any]:
    given = {"judge": "J", "mode": "logprob", "template_digest": "T1", "mass": 1.0, **more}
    return {
        "comparison_id": comparison,
        "principle": "x@1.0.0",
        "principle_digest": "d",
        "p_a": p,
        "order": order,
        "outcome": "preference" if p is not None else "invalid",
        "usage": {"prompt_tokens": 1, "completion_tokens": 0},
        **given,
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    corpus = Corpus()
    corpus.reader.read([json.dumps({"id": f"{i + 1:016x}", **one}) for i, one in enumerate(rows)], "here")
    for name, number in corpus.reader.comparisons.numbers.items():
        corpus.place[number] = len(corpus.comparisons.prompt)
        corpus.comparisons.prompt.append(corpus.prompts.number(name))
        corpus.comparisons.log_ratio.append(0.0)
        for attribute in ATTRIBUTES:
            corpus.comparisons.attributes[attribute].append(None)
        corpus.comparisons.tags.append(())
    return make_table(corpus)


def test_a_principle_that_was_judged_and_is_checked_stands_in_a_panel_once() -> None:
    """An author who gives a principle a check, and changes nothing else, has judgments of both under one id@version."""
    said = [(f"c{i}", order, 0.9 if i % 2 else 0.1) for i in range(20) for order in ("ab", "ba")]
    by_check = {"judge": "check", "mode": "check", "template_digest": "", "mass": None}
    rows = [row(*one) for one in said] + [row(*one, **by_check) for one in said]
    rows += [row(*one, principle="y@1.0.0") for one in said] + [
        row(*one, principle="z@1.0.0", **by_check) for one in said
    ]
    (panel,) = _panels(table_of(rows), Bootstrap(20, 20, 0))
    assert panel.principles == ("x@1.0.0", "y@1.0.0", "z@1.0.0")
    assert panel.clusters == (panel.principles,) and len(panel.pairs) == 3


@pytest.mark.parametrize("other", ["T0", "T2"])  # before and after the template in the alphabet
@pytest.mark.parametrize("said", [None, "the contrary"])
def test_judges_agree_as_asked_most_often(other: str, said: str | None) -> None:
    usual = [
        row(f"c{i}", order, 0.9 if i % 2 else 0.1, judge=judge)
        for i in range(20)
        for judge in ("J", "K")
        for order in ("ab", "ba")
    ]
    few = [
        row(f"c{i}", order, None if said is None else 0.1 if i % 2 else 0.9, template_digest=other)
        for i in range(5)
        for order in ("ab", "ba")
    ]
    table = table_of(usual + few)
    found = judges_agreement(table, Bootstrap(20, 20, 0))
    assert found is not None
    (pair,) = found.pairs
    assert (pair.same.value, pair.same.n) == (1.0, 20)


def test_masses_are_those_of_comparisons_and_not_of_whether_a_principle_applies() -> None:
    judged = [row(f"c{i}", order, 0.8, mass=0.9) for i in range(10) for order in ("ab", "ba")]
    unread = [row(f"d{i}", order, None, mass=0.001, mode="applies") for i in range(10) for order in ("ab", "ba")]
    total, count = table_of(judged + unread).masses
    assert (total.sum(), count.sum()) == (pytest.approx(18.0), 20)


@pytest.mark.parametrize("tie", [0.5, 0.5 + 1e-13, 0.5 - 1e-13])
def test_a_tie_says_nothing_of_position(tie: float) -> None:
    decided = [row(f"c{i}", order, p) for i in range(9) for order, p in (("ab", 0.9), ("ba", 0.2))]
    ties = [row(f"d{i}", order, p) for i in range(30) for order, p in (("ab", 0.1), ("ba", tie))]
    assert _position(table_of(decided + ties), 0) == (binomtest(9, 9).pvalue, 9)
