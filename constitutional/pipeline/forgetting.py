"""What training made a policy forget: perplexity on held-out helpful answers, in stages beside the evaluation.

The answers are those of a file, or the start model's own to the held-out helpful prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from constitutional.backends.identity import identify
from constitutional.config import resolve_path
from constitutional.errors import ConfigError, DataError
from constitutional.evaluation.answers import System
from constitutional.evaluation.perplexity import (
    START,
    Perplexity,
    ReferenceAnswer,
    ReferenceScore,
    perplexities,
    score_references,
)
from constitutional.feedback.respond import respond
from constitutional.pipeline.apart import conversation_digest, trained_conversations
from constitutional.pipeline.context import Context, Lazy
from constitutional.pipeline.inputs import Inputs, naming_absent
from constitutional.prompts import load_pairs
from constitutional.records import Answer, Failure, Prompt, seed_for, short_digest
from constitutional.runs import StageResult
from constitutional.settings.loop import PerplexitySettings


def check_perplexity(inputs: Inputs, steps: Sequence[str]) -> None:
    """There are answers to measure on, and models that can say how likely they find them.

    Raises:
        ConfigError: the policy, or the start model, gives no log-probabilities.
        DataError: no held-out helpful prompt, or a file that cannot be used.
    """
    settings = inputs.recipe.evaluation.perplexity
    if settings is None or "evaluate" not in steps:
        return
    start = inputs.spec("policy") if settings.start is None else inputs.located(settings.start)
    identify(start, inputs.recipe.dtype)
    for spec in (inputs.spec("policy"), start):
        if spec.startswith("openvino:"):
            raise ConfigError(f"evaluation.perplexity: {spec} gives no log-probabilities: use `embedded:` or `local:`")
    if settings.answers is not None:
        path = resolve_path(inputs.recipe_file, settings.answers)
        with naming_absent("evaluation.perplexity.answers", path):
            load_pairs(str(path), 1)
    elif not inputs.select("helpful", "heldout"):
        raise DataError(
            "evaluation.perplexity: no held-out helpful prompt to answer: hold some out (prompts.helpful), or name a "
            "file of answers"
        )


def forgetting(
    ctx: Context, number: int, systems: Mapping[System, str], inputs: Mapping[str, StageResult]
) -> tuple[tuple[Perplexity, ...], StageResult] | None:
    """Perplexity of each system, and the stage that holds what it is made from; None where a recipe asks for none.

    Args:
        ctx: the run.
        number: of the step it belongs to.
        systems: spec by name of the models to measure.
        inputs: the steps that trained them.
    """
    settings = ctx.recipe.evaluation.perplexity
    if settings is None:
        return None
    start = ctx.spec("policy") if settings.start is None else ctx.located(settings.start)
    references = _of_file(ctx, settings) if settings.answers is not None else _of_model(ctx, number, start)
    specs: dict[str, str] = {START: start}
    specs.update(systems.items())
    stage = ctx.folder.stage(
        number,
        "perplexity",
        {
            "references": short_digest([one.id for one in references]),
            "start": identify(start, ctx.recipe.dtype),
            "systems": list(systems),
            "policy": ctx.identity("policy"),
            "templates": [ctx.pack.digest("respond")],
            "chunk_size": ctx.recipe.chunk_size,
        },
        inputs,
    )
    size = ctx.recipe.chunk_size
    tasks = [(name, references[at : at + size]) for name in specs for at in range(0, len(references), size)]
    opened = {spec: Lazy(ctx, spec) for spec in specs.values()}

    def work(chunk: Sequence[tuple[str, Sequence[ReferenceAnswer]]], index: int) -> Iterator[ReferenceScore | Failure]:
        for name, batch in chunk:
            backend, counter = opened[specs[name]].backend, opened[start].backend
            yield from score_references(batch, system=name, backend=backend, start=counter, pack=ctx.pack)

    stage.run_chunks(tasks, work, chunk_size=1, output_type=ReferenceScore, progress=ctx.display.progress)
    result = stage.finish()
    return perplexities(result.records(ReferenceScore), len(references)), result


def _of_file(ctx: Context, settings: PerplexitySettings) -> list[ReferenceAnswer]:
    """The chosen answers of a file, each conversation once and none that is trained on."""
    path = str(resolve_path(ctx.recipe_file, settings.answers or ""))
    name = Path(path).name if Path(path).exists() else path
    seen = trained_conversations(ctx, ("pm", "rl"))
    found = []
    for pair in load_pairs(path, settings.limit):
        told = conversation_digest(pair.messages)
        if told not in seen and pair.chosen.strip():
            seen.add(told)
            found.append(ReferenceAnswer(messages=pair.messages, text=pair.chosen, source=name))
    if not found:
        raise DataError(f"evaluation.perplexity: {path}: no answer to a conversation that is not trained on")
    return found


def _of_model(ctx: Context, number: int, start: str) -> list[ReferenceAnswer]:
    """The start model's answers, drawn as the policy draws in training: its likeliest ones alone would say little."""
    prompts = ctx.select("helpful", "heldout")
    draw = ctx.sampling("policy", max_tokens=ctx.recipe.evaluation.max_tokens)
    writer = ctx.writes(start) if start == ctx.spec("policy") else start
    model = identify(writer, ctx.recipe.dtype)
    stage = ctx.folder.stage(
        number,
        "references",
        {
            "prompts": ctx.prompts_key(prompts),
            "templates": [ctx.pack.digest("respond")],
            "policy": model,
            "sampling": draw.model_dump(mode="json"),
            "seed": ctx.recipe.seed,
            "chunk_size": ctx.recipe.chunk_size,
        },
        {},
    )
    policy = Lazy(ctx, writer)

    def work(chunk: Sequence[Prompt], index: int) -> Iterator[Answer | Failure]:
        seed = seed_for(ctx.recipe.seed, "references")
        return respond(chunk, policy=policy.backend, pack=ctx.pack, sampling=draw, seed=seed, chunk=index)

    stage.run_chunks(prompts, work, chunk_size=ctx.recipe.chunk_size, output_type=Answer, progress=ctx.display.progress)
    by_id = {prompt.id: prompt.messages for prompt in prompts}
    answers = stage.finish().records(Answer)
    return [ReferenceAnswer(messages=by_id[a.prompt_id], text=a.text, source=model) for a in answers]
