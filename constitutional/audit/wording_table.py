"""A comparison of wordings in plain words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from constitutional.audit.wording_trial import ALPHA, SHIPPED, ContestResult, HeldOut, WordingRow, WordingTrial
from constitutional.display import printable
from constitutional.statistics import with_interval

WIDTH = 100


def wording_lines(trial: WordingTrial) -> list[str]:
    """Every contest: its wordings on the tuning examples, and the sentence that says what came of it."""
    lines = [line for contest in trial.contests for line in (*_contest(trial, contest), "")]
    lines += [f"left out: {reason}" for reason in trial.left_out]
    lines.append(f"judge {trial.judge}, templates {trial.templates}, constitution {trial.constitution}")
    return [printable(line) for line in lines]


def _contest(trial: WordingTrial, contest: ContestResult) -> Iterator[str]:
    tried = len(contest.wordings)
    yield contest.name
    yield f"  {'':<10}{'right on tuning':<27}{'same in both orders':<21}unread"
    for row in contest.wordings:
        right = f"{with_interval(row.right)} of {row.right.n}"
        yield f"  {_name(row.number):<10}{right:<27}{_orders(row):<21}{row.unusable}"
        if len(row.requests) == 1:
            (text,) = row.requests.values()
            yield from textwrap.wrap(text, WIDTH, initial_indent="      ", subsequent_indent="      ")
    yield f"  the intervals hold for all {tried} at once ({100 * (1 - ALPHA / tried):.1f} % each)"
    tests = sum(other.held_out is not None for other in trial.contests)
    yield from textwrap.wrap(_verdict(contest, tests), WIDTH, initial_indent="  ", subsequent_indent="  ")


def _verdict(contest: ContestResult, tests: int) -> str:
    winner = contest.wordings[contest.winner]
    won = f"{_name(winner.number)} wins on tuning ({winner.right.share:.2f} of {winner.right.n})"
    if contest.held_out is None:
        return f"the shipped wording wins on tuning ({winner.right.share:.2f} of {winner.right.n}) and stays"
    held = contest.held_out
    among = f", {held.p_adjusted:.3f} as one of {tests} such tests" if tests > 1 else ""
    said = (
        f"of {held.winner.n}, it is right where the shipped wording is wrong {_times(held.gained)}, and wrong where "
        f"that is right {_times(held.lost)} (p = {held.p:.3f}, exact sign test{among})"
    )
    if held.confirmed:
        return f"{won} and is confirmed on held-out examples: {said}"
    return f"{won} and is not confirmed on held-out examples: {said}{_too_few(held)}"


def _too_few(held: HeldOut) -> str:
    fewest = 1
    while 0.5**fewest > ALPHA:
        fewest += 1
    if held.gained + held.lost >= fewest:
        return ""
    return f"; fewer than {fewest} differing examples can confirm nothing"


def _name(number: int) -> str:
    return "shipped" if number == SHIPPED else f"wording {number}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _orders(row: WordingRow) -> str:
    return f"{row.orders.share:.2f} of {row.orders.n}" if row.orders.n else ""
