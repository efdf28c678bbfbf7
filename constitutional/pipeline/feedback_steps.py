"""The steps that write: revise, helpful, sample. Each makes one stage folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from constitutional.feedback.applies import Applicability, applies, unread
from constitutional.feedback.contrast import contrast, contrasting
from constitutional.feedback.respond import respond
from constitutional.feedback.revise import revise
from constitutional.feedback.sample import compare_revision, sample
from constitutional.interop.pairs import LabelledPairs, label_counts
from constitutional.pipeline.context import Context, Done, Lazy
from constitutional.records import (
    Answer,
    Comparison,
    Failure,
    Prompt,
    Revision,
    seed_for,
    short_digest,
)
from constitutional.runs import StageResult, write_atomic
from constitutional.runs.logs import read_rows

_PAIRS_A_CHUNK = 10_000


def revise_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Red-team prompts → answers, critiques, revisions (Revision records)."""
    settings, prompts = ctx.recipe.revise, ctx.select("red_team", "train")
    principles = ctx.taking_part("revise")
    draw, critic_draw = ctx.sampling("policy"), ctx.sampling("feedback")
    templates = ("respond", "critique", "revise") if settings.critique else ("respond", "revise_direct")
    conditions = ctx.case_key(principles)
    if conditions:
        conditions["judge"] = ctx.identity("judge")
    stage = ctx.folder.stage(
        number,
        "revise",
        {
            "prompts": ctx.prompts_key(prompts),
            "principles": [[p.ref, p.critique_request, p.revision_request, *p.shown("revision")] for p in principles],
            **ctx.code_key(principles),
            **conditions,
            "templates": [ctx.pack.digest(t) for t in templates],
            "policy": ctx.identity("policy"),
            **ctx.engine_key,
            "critic": ctx.identity("feedback"),
            "sampling": [draw.model_dump(mode="json"), critic_draw.model_dump(mode="json")],
            "settings": settings.model_dump(mode="json"),
            "seed": ctx.recipe.seed,
            "chunk_size": ctx.recipe.chunk_size,
        },
        {},
    )
    specs = [ctx.writer("policy"), ctx.writer("feedback"), ctx.spec("judge")]
    opened = {spec: Lazy(ctx, spec) for spec in specs}  # roles of one model share it
    policy, critic, judge = (opened[spec] for spec in specs)

    def work(chunk: Sequence[Prompt], index: int) -> Iterator[Revision | Failure]:
        verdicts: list[Applicability] = []
        if conditions:
            asked = {prompt.id: prompt.messages for prompt in chunk}
            verdicts = list(applies(asked, principles, backend=judge.backend, pack=ctx.pack, seed=ctx.recipe.seed))
            stage.keep(_verdicts(index), "".join(verdict.to_json() + "\n" for verdict in verdicts))
        return revise(
            chunk,
            policy=policy.backend,
            critic=critic.backend,
            pack=ctx.pack,
            principles=principles,
            policy_sampling=draw,
            critic_sampling=critic_draw,
            rounds=settings.rounds,
            replacement=settings.replacement,
            critique=settings.critique,
            candidates=settings.candidates,
            seed=ctx.recipe.seed,
            chunk=index,
            checks=ctx.checks,
            verdicts=verdicts,
        )

    stage.run_chunks(
        prompts, work, chunk_size=ctx.recipe.chunk_size, output_type=Revision, progress=ctx.display.progress
    )
    if (finished := stage.result()) is not None:
        return finished
    chunks = range(0, len(prompts), ctx.recipe.chunk_size) if conditions else []
    names = [_verdicts(index) for index, _ in enumerate(chunks)]
    said = [
        Applicability.model_validate(row) for name in names for _, row in read_rows(stage.folder / name)
    ]  # from the files: the chunks of an earlier attempt are not done again
    return stage.finish(outputs=names, failed=unread(said, "revise"))


def _verdicts(chunk: int) -> str:
    """The file of a revise stage with what the judge said to `applies_when`: Applicability records of one chunk."""
    return f"applies-{chunk:06d}.jsonl"


def helpful_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Helpful prompts → the policy's own answers (Answer records), which keep SFT from forgetting how to help."""
    settings, prompts = ctx.recipe.helpful, ctx.select("helpful", "train")
    draw = ctx.sampling("policy", max_tokens=settings.max_tokens)
    stage = ctx.folder.stage(
        number,
        "helpful",
        {
            "prompts": ctx.prompts_key(prompts),
            "templates": [ctx.pack.digest("respond")],
            "policy": ctx.identity("policy"),
            **ctx.engine_key,
            "draws": settings.draws,
            "sampling": draw.model_dump(mode="json"),
            "seed": ctx.recipe.seed,
            "chunk_size": ctx.recipe.chunk_size,
        },
        {},
    )
    policy = Lazy(ctx, ctx.writer("policy"))

    def work(chunk: Sequence[Prompt], index: int) -> Iterator[Answer | Failure]:
        return respond(
            chunk,
            policy=policy.backend,
            pack=ctx.pack,
            sampling=draw,
            seed=seed_for(ctx.recipe.seed, "helpful"),
            chunk=index,
            draws=settings.draws,
        )

    stage.run_chunks(prompts, work, chunk_size=ctx.recipe.chunk_size, output_type=Answer, progress=ctx.display.progress)
    return stage.finish()


def usable_revisions(ctx: Context, done: Done) -> list[Revision]:
    """Revisions that may be preferred to what they revise: flagged ones only where SFT may train on them, too."""
    keep_flagged = not ctx.recipe.sft.drop_flagged
    found = done["revise"].records(Revision)
    return [r for r in found if r.final and (r.usable or keep_flagged) and r.final != r.initial]


def _given_pairs(ctx: Context, pairs: LabelledPairs, number: int) -> StageResult:
    """The comparisons of a file, its labels (labels.jsonl), and a Failure for each row that gave none."""
    labels, found = [label.to_json() for label in pairs.labels], pairs.in_order
    content = short_digest([labels, [item.to_json() for item in found]])
    stage = ctx.folder.stage(number, "sample", {"pairs": content, "seed": ctx.recipe.seed}, {})
    stage.run_chunks(found, lambda chunk, index: chunk, chunk_size=_PAIRS_A_CHUNK, output_type=Comparison, here=True)
    if stage.result() is None:
        write_atomic(stage.folder / "labels.jsonl", "".join(label + "\n" for label in labels))
    return stage.finish(label_counts(pairs.labels), outputs=["labels.jsonl"])


def _contrast_key(ctx: Context) -> dict[str, object]:
    """What the step's key holds of contrast pairs; nothing where there are none."""
    if not ctx.recipe.sample.contrast:
        return {}
    asked = contrasting(ctx.taking_part("judge"))
    requests = [[p.ref, p.comparison_request, p.negated_comparison_request] for p in asked]
    return {"contrast": requests, "contrast_template": ctx.pack.digest("contrast")}


def sample_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Red-team prompts → pairs of answers to compare: two draws of SL-CAI, and revision and original (Comparisons)."""
    if ctx.pairs is not None:
        return _given_pairs(ctx, ctx.pairs, number)
    settings, prompts = ctx.recipe.sample, ctx.select("red_team", "train")
    draw = ctx.sampling("policy", temperature=settings.temperature)
    spec = ctx.writes(ctx.trained(done, "sft"))
    inputs = {"sft": done["sft"]} if "sft" in done else {}
    if settings.revisions:
        inputs["revise"] = done["revise"]
    stage = ctx.folder.stage(
        number,
        "sample",
        {
            "prompts": ctx.prompts_key(prompts),
            "templates": [ctx.pack.digest("respond")],
            "policy": ctx.identity("policy"),
            **ctx.engine_key,
            "sampling": draw.model_dump(mode="json"),
            "n": settings.n,
            "revisions": ["drop_flagged", ctx.recipe.sft.drop_flagged] if settings.revisions else [],
            **({"compare": settings.compare} if settings.compare != "neighbours" else {}),
            **_contrast_key(ctx),
            "seed": ctx.recipe.seed,
            "chunk_size": ctx.recipe.chunk_size,
        },
        inputs,
    )
    policy = Lazy(ctx, spec)
    revisions = usable_revisions(ctx, done) if settings.revisions else []
    against_original = {r.prompt_id: compare_revision(ctx.prompt(r.prompt_id), r) for r in revisions}

    def work(chunk: Sequence[Prompt], index: int) -> list[Comparison | Failure]:
        pairs: list[Comparison | Failure] = [against_original[p.id] for p in chunk if p.id in against_original]
        if settings.contrast:
            pairs += contrast(
                chunk,
                policy=policy.backend,
                pack=ctx.pack,
                principles=ctx.taking_part("judge"),
                sampling=draw,
                seed=seed_for(ctx.recipe.seed, "sample"),
                chunk=index,
            )
        else:
            pairs += sample(
                chunk,
                policy=policy.backend,
                pack=ctx.pack,
                sampling=draw,
                n=settings.n,
                seed=seed_for(ctx.recipe.seed, "sample"),
                chunk=index,
                compare=settings.compare,
            )
        place = {prompt.id: i for i, prompt in enumerate(chunk)}  # prompt by prompt, so that a limit takes both kinds
        return sorted(pairs, key=lambda pair: place[pair.item_id if isinstance(pair, Failure) else pair.prompt_id])

    stage.run_chunks(
        prompts, work, chunk_size=ctx.recipe.chunk_size, output_type=Comparison, progress=ctx.display.progress
    )
    return stage.finish()
