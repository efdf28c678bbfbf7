"""Phrasings of a comparison_request side by side: chosen on the `tuning` examples, confirmed on the `gate` ones.

Of k wordings that are equally good the best on the tuning examples looks better than it is, the more so the larger k.
So nothing is claimed from the tuning examples: the intervals shown there are widened to hold for all k together
(Bonferroni: confidence 1 - 0.05 / k), and they only choose. The claim is made on the gate examples, which had no part
in the choice: whatever k was, the winner is by then *one* fixed wording, and it is compared with the shipped one
*once*, by an exact one-sided sign test on the examples that exactly one of the two gets right (McNemar). If both are
equally good, each such example is a fair coin toss, so "confirmed" at p <= 0.05 is wrong in at most 5 % of runs, for
any k and any number of examples. Several principles (and all of them together) mean several such claims; their p
values are adjusted by Holm's method, so that *any* false claim among them stays within the 5 %. That the shipped
wording won is no claim.

This holds for one call. Who looks at the gate examples, rewrites a wording and calls again, chooses on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from constitutional.audit.probes import (
    SPLITS,
    Answered,
    Asking,
    Probe,
    TriedExample,
    TriedQuestion,
    answer,
    examples_of,
    tried,
)
from constitutional.paired_tests import holm, sign_test
from constitutional.principles import Constitution
from constitutional.records import Record
from constitutional.statistics import Rate, rate

ALPHA = 0.05
SHIPPED = 0


@dataclass(frozen=True)
class Contest:
    """Wordings that compete: per principle the same number of them, the shipped one first.

    With several principles, wording i of each of them is one candidate: a way of asking.
    """

    name: str
    wordings: Mapping[str, Sequence[str]]

    @property
    def tried(self) -> int:
        """How many wordings compete, the shipped one included."""
        return len(next(iter(self.wordings.values())))


class WordingRow(Record):
    """One wording on the tuning examples."""

    number: int
    requests: dict[str, str]
    """By principle."""
    right: Rate
    """Its interval holds together with those of all other wordings at 95 %."""
    unusable: int
    orders: Rate


class HeldOut(Record):
    """The winner against the shipped wording on the gate examples."""

    winner: Rate
    shipped: Rate
    gained: int
    """Examples that only the winner gets right."""
    lost: int
    """Examples that only the shipped wording gets right."""
    p: float
    p_adjusted: float
    """Holm's, over all contests of the call."""
    confirmed: bool


class ContestResult(Record):
    """How one contest ended; `held_out` is None when the shipped wording won."""

    name: str
    wordings: tuple[WordingRow, ...]
    winner: int
    held_out: HeldOut | None


class WordingTrial(Record):
    """What a comparison of wordings found, and everything it was made from."""

    constitution: str
    constitution_digest: str
    templates: str
    template_digest: str
    judge: str
    seed: int
    alpha: float = ALPHA
    contests: tuple[ContestResult, ...]
    left_out: tuple[str, ...]
    examples: tuple[TriedExample, ...]
    questions: tuple[TriedQuestion, ...]


_Key = tuple[str, str, str]
_Answers = dict[_Key, Answered]  # by comparison id, principle and request


def compare_wordings(
    constitution: Constitution,
    contests: Sequence[Contest],
    asking: Asking,
    *,
    limit: int | None = None,
    left_out: Sequence[str] = (),
) -> WordingTrial:
    """Judges the tuning examples under every wording, and the gate examples under each winner and what it replaces.

    Args:
        constitution: whose examples are judged.
        contests: what competes with what.
        asking: the judge, its templates and the seed.
        limit: at most this many examples of a principle and split.
        left_out: told in the result.

    Raises:
        BackendError: the judge gives no log-probabilities.
    """
    examples = examples_of(constitution, limit)
    tuning, gate = ([e for e in examples if e.split == split] for split in SPLITS)
    every = [(contest, number) for contest in contests for number in range(contest.tried)]
    answers = _ask(every, constitution, tuning, asking)
    rows = [_rows(contest, answers, tuning) for contest in contests]
    winners = [best(found) for found in rows]
    rivals = [
        (c, n) for c, winner in zip(contests, winners, strict=True) if winner != SHIPPED for n in (SHIPPED, winner)
    ]
    confirming = _ask(rivals, constitution, gate, asking)
    pairs = [
        (_rights(_under(contest, winner, confirming, gate)), _rights(_under(contest, SHIPPED, confirming, gate)))
        for contest, winner in zip(contests, winners, strict=True)
        if winner != SHIPPED
    ]
    held_out = iter(confirm(pairs))
    return WordingTrial(
        constitution=constitution.ref,
        constitution_digest=constitution.digest,
        templates=asking.pack.ref,
        template_digest=asking.pack.digest("judge"),
        judge=asking.backend.model,
        seed=asking.seed,
        contests=tuple(
            ContestResult(
                name=contest.name,
                wordings=tuple(found),
                winner=winner,
                held_out=None if winner == SHIPPED else next(held_out),
            )
            for contest, found, winner in zip(contests, rows, winners, strict=True)
        ),
        left_out=tuple(left_out),
        examples=tuple(examples),
        questions=tuple(tried(item) for item in (*answers.values(), *confirming.values())),
    )


def best(rows: Sequence[WordingRow]) -> int:
    """The number of the wording with most right answers; then most order-consistent; then the first, shipped first."""
    return max(rows, key=lambda row: (row.right.count, row.orders.count, -row.number)).number


def confirm(pairs: Sequence[tuple[Sequence[bool], Sequence[bool]]]) -> list[HeldOut]:
    """Tests winners against shipped wordings.

    Args:
        pairs: for each contest the winner's and the shipped wording's right answers to the same held-out examples.
    """
    counts = []
    for winner, shipped in pairs:
        differing = [new for new, old in zip(winner, shipped, strict=True) if new != old]
        counts.append((sum(differing), len(differing) - sum(differing)))
    p_values = [sign_test(gained, lost) for gained, lost in counts]
    return [
        HeldOut(
            winner=rate(sum(winner), len(winner)),
            shipped=rate(sum(shipped), len(shipped)),
            gained=gained,
            lost=lost,
            p=p,
            p_adjusted=adjusted,
            confirmed=adjusted <= ALPHA,
        )
        for (winner, shipped), (gained, lost), p, adjusted in zip(pairs, counts, p_values, holm(p_values), strict=True)
    ]


def _ask(
    pairs: Sequence[tuple[Contest, int]], constitution: Constitution, examples: Sequence[TriedExample], asking: Asking
) -> _Answers:
    """Each of these wordings on these examples; what several contests need is asked once."""
    probes: dict[_Key, Probe] = {}
    for contest, number in pairs:
        for example in examples:
            if example.owner in contest.wordings:
                request = contest.wordings[example.owner][number]
                probe = Probe(example, constitution.principle(example.owner), f"wording {number}", request)
                probes.setdefault((example.comparison.id, example.owner, request), probe)
    return dict(zip(probes, answer(list(probes.values()), asking), strict=True))


def _rows(contest: Contest, answers: _Answers, tuning: Sequence[TriedExample]) -> list[WordingRow]:
    rows = []
    for number in range(contest.tried):
        found = _under(contest, number, answers, tuning)
        readable = [item.opinion for item in found if item.opinion is not None]
        rows.append(
            WordingRow(
                number=number,
                requests={ref: wordings[number] for ref, wordings in contest.wordings.items()},
                right=rate(sum(_rights(found)), len(found), 1 - ALPHA / contest.tried),
                unusable=len(found) - len(readable),
                orders=rate(sum(opinion.consistent for opinion in readable), len(readable)),
            )
        )
    return rows


def _under(contest: Contest, number: int, answers: _Answers, examples: Sequence[TriedExample]) -> list[Answered]:
    """The answers to one wording, example by example: the same order for every wording."""
    return [
        answers[example.comparison.id, example.owner, contest.wordings[example.owner][number]]
        for example in examples
        if example.owner in contest.wordings
    ]


def _rights(answered: Sequence[Answered]) -> list[bool]:
    return [item.verdict > 0 for item in answered]
