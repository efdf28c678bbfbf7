"""The evaluation table: rates by the refusal detector, win rates by preference model and by judge, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from constitutional.evaluation.answers import SYSTEMS, EvaluatedAnswer, System
from constitutional.evaluation.checked import CheckRow
from constitutional.evaluation.perplexity import Perplexity
from constitutional.feedback.label import opinions
from constitutional.records import Comparison, Judgment, Prompt, PromptKind, Record
from constitutional.statistics import Interval, Rate, WinRate, proportion_difference, rate, win_rate
from constitutional.text_metrics import boilerplate_share, distinct_n, mean_length

PAIRS: tuple[tuple[System, System], ...] = (("sl-cai", "base"), ("rl-cai", "base"), ("rl-cai", "sl-cai"))
KINDS: tuple[PromptKind, ...] = ("red_team", "benign", "helpful")


class SystemRow(Record):
    """One system on one kind of prompts. On red-team prompts `compliance` is harm done; on others `refusal` is."""

    system: System
    kind: PromptKind
    compliance: Rate
    partial: Rate
    refusal: Rate
    empty: Rate
    mean_words: float
    distinct_2: float
    boilerplate: float
    kl: float | None


class Change(Record):
    """Difference of a rate between a system and the base (system minus base), with Newcombe's 95 % interval."""

    system: System
    kind: PromptKind
    rate: Literal["compliance", "refusal"]
    difference: float
    interval: Interval


class Win(Record):
    """How often one system's answer is preferred to another's, on one kind of prompts."""

    by: Literal["preference model", "judge"]
    system: System
    against: System
    kind: PromptKind
    rate: WinRate
    unusable: int


class Evaluation(Record):
    """Everything the evaluation table shows. What a recipe does not ask for is not written: `checks` (only where
    principles are code) and `perplexity`."""

    rows: tuple[SystemRow, ...]
    changes: tuple[Change, ...]
    wins: tuple[Win, ...]
    checks: tuple[CheckRow, ...] = ()
    perplexity: tuple[Perplexity, ...] = ()

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        return {name: value for name, value in fields.items() if value or name not in ("checks", "perplexity")}

    def row(self, system: System, kind: PromptKind) -> SystemRow | None:
        """One row, None when there were no such prompts or answers."""
        return next((r for r in self.rows if r.system == system and r.kind == kind), None)


def answer_pairs(
    prompts: Sequence[Prompt], answers: Sequence[EvaluatedAnswer], system: System, against: System
) -> list[Comparison]:
    """Comparisons of two systems' answers to the same prompts (`a` is `system`); equal texts are left to be ties."""
    by_key = {(a.system, a.prompt_id): a for a in answers}
    found = []
    for prompt in prompts:
        one, other = by_key.get((system, prompt.id)), by_key.get((against, prompt.id))
        if one is not None and other is not None:
            found.append(
                Comparison(
                    prompt_id=prompt.id,
                    messages=prompt.messages,
                    a=one.text,
                    b=other.text,
                    a_model=one.model,
                    b_model=other.model,
                    origin="evaluation",
                    parents=(one.id, other.id),
                )
            )
    return found


def system_rows(answers: Sequence[EvaluatedAnswer], systems: Sequence[System] = SYSTEMS) -> tuple[SystemRow, ...]:
    """Rates and text statistics per system and kind of prompts."""
    rows = []
    for system in systems:
        for kind in KINDS:
            chosen = [a for a in answers if a.system == system and a.kind == kind]
            if chosen:
                rows.append(_row(system, kind, chosen))
    return tuple(rows)


def _row(system: System, kind: PromptKind, answers: Sequence[EvaluatedAnswer]) -> SystemRow:
    def share_of(label: str) -> Rate:
        return rate(sum(a.label == label for a in answers), len(answers))

    texts, distances = [a.text for a in answers], [a.kl for a in answers if a.kl is not None]
    return SystemRow(
        system=system,
        kind=kind,
        compliance=share_of("compliance"),
        partial=share_of("partial"),
        refusal=share_of("refusal"),
        empty=share_of("empty"),
        mean_words=mean_length(texts),
        distinct_2=distinct_n(texts, 2),
        boilerplate=boilerplate_share(texts),
        kl=sum(distances) / len(distances) if distances else None,
    )


def changes(rows: Sequence[SystemRow]) -> tuple[Change, ...]:
    """Compliance on red-team and refusal on other prompts, each trained system against the base."""
    found = []
    base = {row.kind: row for row in rows if row.system == "base"}
    for row in rows:
        if row.system == "base" or row.kind not in base:
            continue
        name: Literal["compliance", "refusal"] = "compliance" if row.kind == "red_team" else "refusal"
        new, old = getattr(row, name), getattr(base[row.kind], name)
        found.append(
            Change(
                system=row.system,
                kind=row.kind,
                rate=name,
                difference=new.share - old.share,
                interval=proportion_difference(new.count, new.n, old.count, old.n),
            )
        )
    return tuple(found)


def wins_by_score(
    pairs: Mapping[tuple[System, System, PromptKind], Sequence[Comparison]], scores: Mapping[str, tuple[float, float]]
) -> list[Win]:
    """Win rates by preference model; `scores` holds the scores of a and b by comparison id."""
    found = []
    for (system, against, kind), comparisons in pairs.items():
        outcomes = [_outcome(*scores[c.id]) for c in comparisons]
        if outcomes:
            rate = win_rate(outcomes, [c.prompt_id for c in comparisons])
            found.append(Win(by="preference model", system=system, against=against, kind=kind, rate=rate, unusable=0))
    return found


def wins_by_judge(
    pairs: Mapping[tuple[System, System, PromptKind], Sequence[Comparison]],
    judgments: Sequence[Judgment],
    by: Literal["preference model", "judge"] = "judge",
) -> list[Win]:
    """Win rates by judge: the mean over principles and orders decides; equal answers tie; unusable ones are counted.

    `by` is what kind of judge it was.
    """
    by_comparison = opinions(judgments)
    found = []
    for (system, against, kind), comparisons in pairs.items():
        outcomes, prompts, unusable = [], [], 0
        for comparison in comparisons:
            opinion = by_comparison.get(comparison.id, [])
            if comparison.a == comparison.b:
                outcomes.append(0.5)
            elif opinion:
                outcomes.append(_outcome(sum(o.p_a for o in opinion) / len(opinion), 0.5))
            else:
                unusable += 1
                continue
            prompts.append(comparison.prompt_id)
        if outcomes:
            rate = win_rate(outcomes, prompts)
            found.append(Win(by=by, system=system, against=against, kind=kind, rate=rate, unusable=unusable))
    return found


def _outcome(one: float, other: float) -> float:
    return 1.0 if one > other else 0.0 if one < other else 0.5
