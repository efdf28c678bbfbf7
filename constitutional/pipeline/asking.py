"""Judging in a run: chunk by chunk into the ledger, and what was said looked up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from constitutional.feedback.judge import judge, questions
from constitutional.feedback.judging.ways import Judge
from constitutional.pipeline.context import Context
from constitutional.pipeline.jury import MODEL, Juror
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment
from constitutional.runs import Stage


class LazyJudge:
    """A judge that is opened at the first chunk that needs it, and not at all when every chunk is done."""

    def __init__(self, ctx: Context, spec: str) -> None:
        self._ctx, self._spec = ctx, spec

    @cached_property
    def judge(self) -> Judge:
        """The open judge: a model that is asked, or a preference model."""
        if not self._spec.startswith(MODEL):
            return self._ctx.open_spec(self._spec)
        from constitutional.training.scorer import PreferenceModel

        return PreferenceModel(self._spec.removeprefix(MODEL))


def run_judge(
    ctx: Context,
    stage: Stage,
    comparisons: Sequence[Comparison],
    assigned: Mapping[str, Sequence[Principle]],
    *,
    ask_applies: bool = False,
    juror: Juror | None = None,
) -> None:
    """Judges comparisons chunk by chunk; each chunk's judgments are in the ledger before its file exists.

    Args:
        ctx: the run.
        stage: whose chunks they are.
        comparisons: what is judged.
        assigned: by comparison id, the principles it is judged under.
        ask_applies: leaves principles out whose `applies_when` does not hold.
        juror: who judges; the labels' judge when None.
    """
    asked = juror or ctx.juror
    lazy = LazyJudge(ctx, asked.spec)

    def work(chunk: Sequence[Comparison], index: int) -> Iterator[Judgment]:
        return judge(
            chunk,
            assigned=[assigned[c.id] for c in chunk],
            backend=lazy.judge,
            pack=ctx.pack,
            seed=ctx.recipe.seed,
            known=ctx.ledger.lookup,
            checks=ctx.checks,
            ask_applies=ask_applies,
            way=asked.way,
        )

    stage.run_chunks(
        comparisons,
        work,
        chunk_size=max(1, ctx.recipe.chunk_size // 2),
        output_type=Judgment,
        before_commit=ctx.ledger.append,
        progress=ctx.display.progress,
        known=lambda chunk: list(ctx.ledger.judgments([c.id for c in chunk])),
    )


def judged(
    ctx: Context,
    comparisons: Sequence[Comparison],
    assigned: Mapping[str, Sequence[Principle]],
    *,
    ask_applies: bool = False,
) -> list[Judgment]:
    """The answers of the labels' judge in the ledger, in the order they are asked; `ask_applies` as they were asked."""
    asked = questions(
        comparisons,
        [assigned[c.id] for c in comparisons],
        pack=ctx.pack,
        judge_model=ctx.identity("judge"),
        checks=ctx.checks,
        ask_applies=ask_applies,
        way=ctx.juror.way,
    )
    keys = [question.key for question in asked]
    found = ctx.ledger.lookup(keys)
    return [found[key] for key in keys]


def asked_key(ctx: Context, principles: Sequence[Principle], juror: Juror | None = None) -> dict[str, object]:
    """What the key of a stage holds of who is asked, how, and under which requests."""
    asked = juror or ctx.juror
    template = asked.way.template_digest(ctx.pack)
    scored = [[p.ref, p.score_request] for p in principles] if asked.way.mode == "score" else []
    return {
        "principles": [[p.ref, p.comparison_request, *p.shown("comparison")] for p in principles],
        **({"score_requests": scored} if scored else {}),
        **ctx.code_key(principles),
        "templates": [template] if template else [],
        "judge": asked.identity(ctx.recipe.dtype),
        **asked.way.settings(),
        "seed": ctx.recipe.seed,
        "chunk_size": ctx.recipe.chunk_size,
    }
