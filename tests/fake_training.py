"""The rows and results a training would have left, made up from the records before it."""

from __future__ import annotations

from collections.abc import Sequence

from fake_models import HOSTILE

from constitutional.records import Answer, Comparison, Failure, Preference, Prompt, Record, Revision
from constitutional.statistics import wilson
from constitutional.training.rows import (
    Agreement,
    NamedAgreement,
    PreferenceModelResult,
    PreferenceRow,
    RewardRow,
    RlResult,
    SftResult,
    SftRow,
)

PM = "pm-0123456789abcdef"


def sft_rows(prompts: Sequence[Prompt], revisions: Sequence[Revision], answers: Sequence[Answer]) -> list[SftRow]:
    asked = {p.id: p.messages for p in prompts}
    rows = [
        SftRow(
            prompt=asked[r.prompt_id],
            completion=r.final,
            source_id=r.id,
            principle=r.rounds[-1].principle,
            origin="revision",
        )
        for r in revisions
    ]
    return rows + [
        SftRow(prompt=asked[a.prompt_id], completion=a.text, source_id=a.id, principle=None, origin="helpful")
        for a in answers
    ]


def sft_result(rows: int) -> SftResult:
    return SftResult(
        rows=rows,
        failures=(Failure(item_id="x", stage="sft", kind="too_long", message="long"),),
        control_tokens=0,
        steps=4,
        trainable_parameters=134_000_000,
        first_loss=2.5,
        last_loss=1.5,
    )


def preference_rows(preferences: Sequence[Preference], comparisons: Sequence[Comparison]) -> list[PreferenceRow]:
    by_id, rows = {c.id: c for c in comparisons}, []
    for p in preferences:
        if p.p_a is not None:
            c = by_id[p.comparison_id]
            chosen, rejected = (c.a, c.b) if p.a_chosen else (c.b, c.a)
            rows.append(
                PreferenceRow(
                    messages=c.messages,
                    chosen=chosen,
                    rejected=rejected,
                    probability=max(p.p_a, 1 - p.p_a),
                    preference_id=p.id,
                    comparison_id=c.id,
                    source="ai",
                    principles=p.principles,
                )
            )
    return rows


def pm_result(rows: int) -> PreferenceModelResult:
    return PreferenceModelResult(
        rows=rows,
        failures=(),
        control_tokens=0,
        steps=3,
        trainable_parameters=7,
        train_loss=0.69,
        heldout=Agreement(n=40, correct=29, accuracy=29 / 40, interval=wilson(29, 40), calibration_error=0.0625),
        model=PM,
        by_source=(NamedAgreement(name="human:<script>`|.jsonl", agreement=_agreement(4, 3)),),
        by_principle=(NamedAgreement(name="kind@1.0.0", agreement=_agreement(0, 0)),),
        probe=_agreement(40, 17),
    )


def _agreement(n: int, correct: int) -> Agreement:
    share = correct / n if n else None
    error = 0.25 if n else None
    return Agreement(n=n, correct=correct, accuracy=share, interval=wilson(correct, n), calibration_error=error)


def reward_rows(prompts: Sequence[Prompt]) -> list[RewardRow]:
    return [
        RewardRow(prompt_id=p.id, step=i + 1, completion=HOSTILE, score=None if i == 1 else i / 7, preference_model=PM)
        for i, p in enumerate(prompts)
    ]


def rl_result() -> RlResult:
    return RlResult(
        prompts=9,
        failures=(),
        control_tokens=0,
        steps=6,
        trainable_parameters=7,
        completions=36,
        empty_completions=1,
        groups=9,
        zero_spread_groups=2,
        first_reward=-0.25,
        last_reward=0.75,
        last_kl=0.0125,
        preference_model=PM,
    )


def lines(records: Sequence[Record]) -> str:
    return "".join(r.to_json() + "\n" for r in records).encode("utf-8", "backslashreplace").decode()
