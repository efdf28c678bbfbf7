"""The steps that judge: gate, judge, label. Judgments go to the ledger chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from constitutional.config import resolve_path
from constitutional.feedback.applies import Applicability, applies, unread
from constitutional.feedback.gate import (
    GateReport,
    Labelled,
    labelled_examples,
    labelled_pairs,
    measure_gate,
    sureness,
)
from constitutional.feedback.judge import choose_principles
from constitutional.feedback.label import label_by_origin
from constitutional.feedback.sample import compare_contrast, compare_revision
from constitutional.pipeline.asking import asked_key, judged, run_judge
from constitutional.pipeline.context import Context, Done, Lazy
from constitutional.pipeline.feedback_steps import usable_revisions
from constitutional.pipeline.labelling import Labeller, label_key
from constitutional.principles import Principle
from constitutional.prompts import load_pairs
from constitutional.records import Answer, Comparison, Failure, Judgment, Preference, Revision
from constitutional.runs import StageResult, write_atomic


def gate_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Labelled comparisons → the judge's answers → pass or fail (Judgment records, labelled.jsonl, gate.json).

    Where principles have an `applies_when`, the judge is asked it of their own examples, too (applies.jsonl).
    """
    settings, principles = ctx.recipe.gate, ctx.taking_part("judge")
    asked = {p.ref for p in principles}
    examples = labelled_examples(
        ctx.constitution, per_principle=settings.examples_per_principle, checks=True, request=ctx.juror.way.request
    )
    labelled = [item for item in examples if asked.issuperset(item.principles)]
    if settings.human is not None:
        pairs = load_pairs(str(resolve_path(ctx.recipe_file, settings.human)), settings.human_limit)
        labelled += labelled_pairs(pairs, ctx.asked_of_pairs)
    stage = ctx.folder.stage(
        number,
        "gate",
        {
            "labelled": [[item.comparison.id, list(item.principles)] for item in labelled],
            "settings": settings.model_dump(mode="json", exclude={"human", "human_limit", "examples_per_principle"}),
            "ties": "prefer none",  # they once had a side: those gates, and labels behind them, are measured again
            **asked_key(ctx, principles),
            **ctx.case_key(principles),
        },
        {},
    )
    by_ref = {p.ref: p for p in principles}
    assigned = {item.comparison.id: [by_ref[ref] for ref in item.principles] for item in labelled}
    comparisons = [item.comparison for item in labelled]
    run_judge(ctx, stage, comparisons, assigned)
    if (finished := stage.result()) is not None:
        return finished
    answered = judged(ctx, comparisons, assigned)
    verdicts = _cases(ctx, labelled, by_ref)
    report = measure_gate(
        labelled,
        answered,
        judge=ctx.identity("judge"),
        template_digest=ctx.juror.way.template_digest(ctx.pack),
        min_order_consistency=settings.min_order_consistency,
        fallback=settings.fallback,
        principles=principles,
        verdicts=verdicts,
    )
    write_atomic(stage.folder / "gate.json", report.to_json() + "\n")
    write_atomic(stage.folder / "labelled.jsonl", "".join(item.to_json() + "\n" for item in labelled))
    outputs = ["gate.json", "labelled.jsonl"]
    if verdicts:
        write_atomic(stage.folder / "applies.jsonl", "".join(verdict.to_json() + "\n" for verdict in verdicts))
        outputs.append("applies.jsonl")
    for row in report.applies:
        ctx.display.say(f"{row.principle} applies: {row.line}")
    return stage.finish(outputs=outputs, ledger_head=ctx.ledger.head, failed=unread(verdicts, "gate"))


def _cases(ctx: Context, labelled: Sequence[Labelled], by_ref: Mapping[str, Principle]) -> list[Applicability]:
    """What the judge says to whether principles apply to their own examples; nothing where none has a case.

    A preference model is not asked: its opinion is about no principle.
    """
    if ctx.juror.way.mode == "model":
        return []
    backend = Lazy(ctx, ctx.spec("judge"))
    verdicts: list[Applicability] = []
    for ref, principle in by_ref.items():
        own = [item.comparison for item in labelled if item.source == "examples" and ref in item.principles]
        asked = {c.prompt_id: c.messages for c in own} if principle.applies_when is not None else {}
        if asked:
            verdicts += applies(asked, [principle], backend=backend.backend, pack=ctx.pack, seed=ctx.recipe.seed)
    return verdicts


def load_gate(result: StageResult) -> GateReport:
    """The gate's report in a finished gate stage.

    Raises:
        RunError: it is damaged, or not the one that the stage wrote: a run labels by what it says.
    """
    return result.read("gate.json", GateReport)[0]


def judge_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Comparisons × principles × both orders → the ledger (Judgment records).

    The further judges of a recipe are asked the same after the labels' judge; their judgments have folders of their own
    beside, which no later step reads.
    """
    settings = ctx.recipe.judging
    results: list[StageResult] = []
    comparisons = done["sample"].records(Comparison)[: settings.limit]
    count = None if settings.principles_per_comparison == "all" else settings.principles_per_comparison
    asked = settings.model_dump(mode="json", include={"principles_per_comparison", "limit"})
    for juror in ctx.jury:
        principles = ctx.taking_part("judge", juror.way)
        name = f"judge-{juror.name}" if results else "judge"
        key = {"settings": asked, **asked_key(ctx, principles, juror), **ctx.case_key(principles)}
        stage = ctx.folder.stage(number, name, key, {"sample": done["sample"]})
        assigned = {c.id: choose_principles(c.id, principles, count, ctx.recipe.seed) for c in comparisons}
        run_judge(ctx, stage, comparisons, assigned, ask_applies=True, juror=juror)
        results.append(stage.finish(ledger_head=ctx.ledger.head))
    return results[0]


def label_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Judgments (or, when gate or recipe say so, provenance) → soft labels (Preference records, comparisons.jsonl).

    What the recipe has fitted to the gate's labelled comparisons is kept (calibrations.jsonl, weights.json).
    """
    asks = ctx.recipe.label.source == "judge"
    by_judge = asks and load_gate(done["gate"]).labels == "judge"
    clamp = ctx.recipe.label.clamp
    contrast, drop_flagged = ctx.recipe.pm.contrast, ctx.recipe.sft.drop_flagged
    inputs = {"gate": done["gate"]} if asks else {}
    inputs |= {"sample": done["sample"], "judge": done["judge"]} if by_judge else {}
    negated = ctx.recipe.sample.contrast and not by_judge  # contrast pairs say themselves which answer is preferred
    if negated:
        inputs["sample"] = done["sample"]
    if (not by_judge and not negated) or contrast:
        inputs["revise"] = done["revise"]
    if contrast:
        inputs["helpful"] = done["helpful"]
    principles = ctx.taking_part("judge")
    stage = ctx.folder.stage(
        number,
        "label",
        {
            **(label_key(ctx.recipe.label, principles) if by_judge else {"rule": "provenance", "weights": []}),
            "contrast": contrast,
            **({"contrast_p": "sureness"} if contrast and by_judge else {}),
            **({"clamp": clamp} if by_judge and ctx.juror.way.mode == "cot" else {}),
            "drop_flagged": drop_flagged,
            "seed": ctx.recipe.seed,
            # of judged labels the judge step's key holds it
            **({"limit": ctx.recipe.judging.limit} if negated and ctx.recipe.judging.limit is not None else {}),
        },
        inputs,
    )
    usable = usable_revisions(ctx, done) if "revise" in inputs else []
    if by_judge:
        comparisons = done["sample"].records(Comparison)[: ctx.recipe.judging.limit]
        asked = {c.id for c in comparisons}
        judgments = done["judge"].records(Judgment)
    elif negated:
        comparisons = done["sample"].records(Comparison)[: ctx.recipe.judging.limit]
        judgments, asked = [], set()
    else:
        comparisons = [compare_revision(ctx.prompt(r.prompt_id), r) for r in usable]
        judgments, asked = [], set()
    labelled = done["gate"].read("labelled.jsonl", Labelled) if asks else []
    answered = done["gate"].records(Judgment) if asks else []
    labeller = Labeller(ctx.recipe.label, principles, ctx.recipe.seed, labelled, answered)
    sure = sureness(labelled, answered, clamp) if contrast and by_judge else 1.0
    if contrast and usable:
        comparisons += _contrasts(ctx, done, usable, round(contrast * len(comparisons)))

    def work(chunk: Sequence[Comparison], index: int) -> Iterable[Preference | Failure]:
        judged = [c for c in chunk if c.id in asked]
        yield from labeller(judged, judgments)
        yield from label_by_origin([c for c in chunk if c.id not in asked], contrast=sure)

    stage.run_chunks(comparisons, work, chunk_size=max(1, len(comparisons)), output_type=Preference, here=True)
    outputs = {"comparisons.jsonl": "".join(c.to_json() + "\n" for c in comparisons)}
    if stage.result() is None:
        outputs |= labeller.fits if by_judge else {}
        for name, text in outputs.items():
            write_atomic(stage.folder / name, text)
        for line in labeller.lines if by_judge else ():
            ctx.display.say(line)
    return stage.finish(outputs=list(outputs))


def _contrasts(ctx: Context, done: Done, refusals: Sequence[Revision], count: int) -> list[Comparison]:
    """Helpful prompts, spread evenly over the file, with one answer each, against the next refusal in turn.

    Most answers are cut at their token limit; so are the rollouts that the preference model is going to score.
    """
    answers = [a for a in done["helpful"].records(Answer) if a.index == 0]
    count = min(count, len(answers))
    spread = [answers[i * len(answers) // count] for i in range(count)]
    return [
        compare_contrast(ctx.prompt(answer.prompt_id), answer, refusals[i % len(refusals)])
        for i, answer in enumerate(spread)
    ]
