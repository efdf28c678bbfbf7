"""The last steps: answers (of base, SL-CAI and RL-CAI to held-out prompts) and evaluate (rates and win rates)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from constitutional.backends.memory import release_memory
from constitutional.evaluation.answers import EvaluatedAnswer, System, answer
from constitutional.evaluation.checked import check_rows, failures, score_answers
from constitutional.evaluation.evaluate import (
    KINDS,
    PAIRS,
    Evaluation,
    answer_pairs,
    changes,
    system_rows,
    wins_by_judge,
    wins_by_score,
)
from constitutional.feedback.judge import choose_principles
from constitutional.pipeline.asking import asked_key, judged, run_judge
from constitutional.pipeline.context import MODEL_NAMES, Context, Done, Lazy
from constitutional.pipeline.forgetting import forgetting
from constitutional.pipeline.preference_rows import conditions
from constitutional.records import Comparison, Failure, Prompt, PromptKind, assistant, seed_for
from constitutional.runs import StageResult, write_atomic
from constitutional.training.pm_folder import Condition

Pairs = dict[tuple[System, System, PromptKind], list[Comparison]]


def compared(ctx: Context, done: Done) -> dict[System, str]:
    """The models to compare and their specs: the policy, and what training made of it."""
    systems: dict[System, str] = {"base": ctx.spec("policy")}
    if "sft" in done:
        systems["sl-cai"] = ctx.trained(done, "sft")
    if "rl" in done:
        systems["rl-cai"] = ctx.trained(done, "rl")
    return systems


def answers_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Held-out prompts → one answer of each system (EvaluatedAnswer records)."""
    trained: dict[str, StageResult] = {name: done[name] for name in ("sft", "rl") if name in done}
    return answer_stage(ctx, "answers", number, compared(ctx, done), trained)


def answer_stage(
    ctx: Context, name: str, number: int, systems: Mapping[System, str], inputs: Mapping[str, StageResult]
) -> StageResult:
    """The stage `name`: every system's answers to the held-out prompts. `inputs` are the steps that trained them."""
    settings = ctx.recipe.evaluation
    draw = ctx.sampling("policy", max_tokens=settings.max_tokens, temperature=settings.temperature)
    prompts = [p for kind in KINDS for p in ctx.select(kind, "heldout")]
    stage = ctx.folder.stage(
        number,
        name,
        {
            "prompts": ctx.prompts_key(prompts),
            "templates": [ctx.pack.digest("respond")],
            "policy": ctx.identity("policy"),
            **ctx.engine_key,
            "sampling": draw.model_dump(mode="json"),
            "systems": list(systems),
            "seed": ctx.recipe.seed,
            "chunk_size": ctx.recipe.chunk_size,
        },
        inputs,
    )
    size = ctx.recipe.chunk_size
    # work is cut by system first, so that there is never more than one trained model in memory
    starts = range(0, len(prompts), size)
    tasks = [(system, i, prompts[start : start + size]) for system in systems for i, start in enumerate(starts)]
    opened: dict[str, Lazy] = {}

    def open_only(system: System) -> tuple[Lazy, Lazy, Lazy]:
        """What writes as a system, and what measures it and the base. Of others that were trained none stays open."""
        own, base = systems[system], systems["base"]
        wanted = [ctx.writes(own), own, base]
        for spec in [spec for spec in opened if spec not in (*wanted, ctx.writes(base))]:
            del opened[spec]
            release_memory()
        for spec in wanted:
            opened.setdefault(spec, Lazy(ctx, spec))
        return opened[wanted[0]], opened[own], opened[base]

    def work(chunk: Sequence[tuple[System, int, list[Prompt]]], index: int) -> Iterator[EvaluatedAnswer | Failure]:
        for system, part, batch in chunk:
            writer, own, base = open_only(system)
            yield from answer(
                batch,
                system=system,
                policy=writer.backend,
                measured=None if system == "base" else (own.backend, base.backend),
                pack=ctx.pack,
                sampling=draw,
                seed=seed_for(ctx.recipe.seed, "answers"),
                chunk=part,  # the same draw for every system
            )

    stage.run_chunks(tasks, work, chunk_size=1, output_type=EvaluatedAnswer, progress=ctx.display.progress)
    return stage.finish()


def evaluate_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Answers → evaluation.json (and the judge's Judgment records on pairs of answers)."""
    principles = ctx.taking_part("evaluate")
    settings = ctx.recipe.evaluation
    count = None if settings.principles_per_comparison == "all" else settings.principles_per_comparison
    limit = settings.judge_limit
    trained: dict[str, StageResult] = {name: done[name] for name in ("sft", "rl") if name in done}
    forgotten = forgetting(ctx, number, compared(ctx, done), trained)
    asked_under = conditions(ctx) if "pm" in done and ctx.recipe.pm.conditioned else []
    stage = ctx.folder.stage(
        number,
        "evaluate",
        {
            **asked_key(ctx, principles),
            **ctx.case_key([p for p in principles if p.ref not in ctx.checks]),
            "per_comparison": settings.principles_per_comparison,
            "limit": limit,
            **({"perplexity": forgotten[1].key} if forgotten else {}),
            **({"conditions": [c.model_dump(mode="json") for c in asked_under]} if asked_under else {}),
        },
        {"answers": done["answers"], **({"pm": done["pm"]} if "pm" in done else {})},
    )
    if (finished := stage.result()) is not None:
        return finished
    answers = done["answers"].records(EvaluatedAnswer)
    pairs: Pairs = {
        (system, against, kind): answer_pairs(ctx.select(kind, "heldout"), answers, system, against)
        for system, against in PAIRS
        for kind in KINDS
    }
    shown = {key: found[:limit] for key, found in pairs.items() if key[2] == "red_team"}
    asked = [c for found in shown.values() for c in found if c.a != c.b]
    by_judge = [p for p in principles if p.ref not in ctx.checks]
    asked = asked if by_judge else []
    assigned = {c.id: choose_principles(c.id, by_judge, count, ctx.recipe.seed) for c in asked}
    run_judge(ctx, stage, asked, assigned, ask_applies=True)
    rows = system_rows(answers)
    wins = wins_by_judge(shown, judged(ctx, asked, assigned, ask_applies=True)) if by_judge else []
    if "pm" in done:
        wins = wins_by_score(pairs, _scores(ctx, done, pairs, asked_under)) + wins
    scores = list(score_answers(answers, ctx.prompts, principles, ctx.checks))
    checks = check_rows(scores, answers)
    evaluation = Evaluation(
        rows=rows,
        changes=changes(rows),
        wins=tuple(wins),
        checks=checks,
        perplexity=forgotten[0] if forgotten else (),
    )
    write_atomic(stage.folder / "evaluation.json", evaluation.to_json() + "\n")
    write_atomic(stage.folder / "comparisons.jsonl", "".join(c.to_json() + "\n" for c in asked))
    outputs = ["evaluation.json", "comparisons.jsonl"]
    if scores:
        write_atomic(stage.folder / "checks.jsonl", "".join(found.to_json() + "\n" for found in scores))
        outputs.append("checks.jsonl")
    return stage.finish(outputs=outputs, ledger_head=ctx.ledger.head, failed=failures(scores))


def _scores(ctx: Context, done: Done, pairs: Pairs, asked_under: Sequence[Condition]) -> dict[str, tuple[float, float]]:
    """The preference model's scores of a and b, by comparison id; each distinct answer is scored once.

    A conditioned model scores under the principles as the constitution words and weighs them now, as it rewards.
    """
    from constitutional.training.scorer import PreferenceModel

    model = PreferenceModel(done["pm"].folder / MODEL_NAMES["pm"], conditions=asked_under)
    comparisons = {c.id: c for found in pairs.values() for c in found}
    texts = sorted({(c.prompt_id, text) for c in comparisons.values() for text in (c.a, c.b)})
    dialogues = [(*ctx.prompt(prompt_id).messages, assistant(text)) for prompt_id, text in texts]
    score = dict(zip(texts, model.score(dialogues), strict=True))
    return {c.id: (score[c.prompt_id, c.a], score[c.prompt_id, c.b]) for c in comparisons.values()}
