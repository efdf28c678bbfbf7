"""What a recipe would ask of its models, before anything is asked: calls, tokens, cost and time by step.

Counted from the recipe, the prompts and the templates. It is an upper bound wherever the models decide: every candidate
is drawn, every principle applies, every answer is as long as it may be, and a server that is to tell an option's
probability is asked once more for each option that may be several tokens there. A token is taken to be four characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from constitutional.backends.endpoint.calls import Price, load_prices
from constitutional.backends.specs import split_spec
from constitutional.config import resolve_path
from constitutional.evaluation.evaluate import KINDS, PAIRS
from constitutional.feedback.contrast import contrasting
from constitutional.feedback.gate import labelled_examples, labelled_pairs
from constitutional.pipeline.estimate_calls import (
    CHARACTERS,
    Asked,
    asked_of,
    behind_grades,
    behind_options,
    filler,
    judged_at_once,
    mean_tokens,
    plain_tokens,
    questions,
    whether_applies,
)
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.rewarding import reward_principles
from constitutional.prompts import load_pairs
from constitutional.records import Prompt, Record
from constitutional.settings import EndpointSettings, RewardSettings

FIRST_TOKEN, A_SECOND = 0.5, 50.0
"""Seconds until a server begins to answer, and tokens a second it then writes: what is assumed for the time."""


class Load(Record):
    """What one step asks of one model. `usd` and `seconds` are None where nothing is known of the model."""

    step: str
    role: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None = None
    seconds: float | None = None


def estimate(inputs: Inputs, steps: Sequence[str]) -> tuple[Load, ...]:
    """What the data steps ask, at most, and the judge that rewards or watches RL; all else of training is no call.

    Raises:
        ConfigError: a recipe that names what is not there.
    """
    counted: dict[str, list[Asked]] = {
        "revise": _revise(inputs),
        "helpful": _helpful(inputs),
        "sample": _sample(inputs),
        "gate": _gate(inputs) if "gate" in steps else [],
        "judge": _judge(inputs) if "judge" in steps else [],
        "rl": _rl(inputs) if "rl" in steps else [],
        "answers": _answers(inputs),
        "evaluate": _evaluate(inputs) if "evaluate" in steps else [],
    }
    prices = load_prices(resolve_path(inputs.recipe_file, given) if (given := inputs.recipe.endpoint.prices) else None)
    return tuple(
        _load(inputs, step, asked, prices) for step in steps for asked in counted.get(step, []) if asked.calls > 0
    )


def _load(inputs: Inputs, step: str, asked: Asked, prices: dict[str, Price]) -> Load:
    kind, rest = split_spec(asked.spec)
    read, written = round(asked.calls * asked.prompt), asked.calls * asked.completion
    name = rest.rpartition("@")[0] if kind == "openai" else ""
    price = prices.get(name)
    return Load(
        step=step,
        role=asked.role,
        model=f"openai:{name}" if kind == "openai" else f"{kind}:{rest.rsplit('/', 1)[-1]}",
        calls=asked.calls,
        prompt_tokens=read,
        completion_tokens=written,
        usd=price.of(read, written) if price else None,
        seconds=_seconds(asked, inputs.recipe.endpoint) if kind == "openai" else None,
    )


def _seconds(asked: Asked, settings: EndpointSettings) -> float:
    """The slowest of: calls one after another in as many rows as there are at once, and the limits a minute."""
    rows = max(1, min(settings.concurrency, asked.at_once, asked.calls))
    bounds = [asked.calls / rows * (FIRST_TOKEN + asked.completion / A_SECOND)]
    if settings.requests_per_minute:
        bounds.append(60 * asked.calls / settings.requests_per_minute)
    if settings.tokens_per_minute:
        bounds.append(60 * asked.calls * (asked.prompt + asked.completion) / settings.tokens_per_minute)
    return max(bounds)


def _revise(inputs: Inputs) -> list[Asked]:
    settings, prompts = inputs.recipe.revise, inputs.select("red_team", "train")
    if not inputs.runs("revise"):
        return []
    principles = inputs.taking_part("revise")
    size, n = inputs.recipe.chunk_size, len(prompts)
    own, critic = inputs.sampling("policy").max_tokens, inputs.sampling("feedback").max_tokens
    answer, said = filler(max(own, critic)), filler(critic)
    found = [asked_of(inputs, "policy", n, plain_tokens(inputs, prompts), own, size)]
    if settings.critique:
        length = mean_tokens(inputs, "critique", prompts, principles, answer=answer)
        found.append(asked_of(inputs, "feedback", n * settings.rounds, length, critic, size))
    template = "revise" if settings.critique else "revise_direct"
    length = mean_tokens(inputs, template, prompts, principles, answer=answer, critique=said)
    found.append(asked_of(inputs, "feedback", n * settings.rounds * settings.candidates, length, critic, size))
    return found + whether_applies(inputs, prompts, principles)


def _helpful(inputs: Inputs) -> list[Asked]:
    prompts, settings = inputs.select("helpful", "train"), inputs.recipe.helpful
    most = inputs.sampling("policy", max_tokens=settings.max_tokens).max_tokens
    calls = len(prompts) * settings.draws
    return [asked_of(inputs, "policy", calls, plain_tokens(inputs, prompts), most, inputs.recipe.chunk_size)]


def _sample(inputs: Inputs) -> list[Asked]:
    if inputs.pairs is not None:
        return []  # ready-made pairs: nothing is drawn
    if inputs.runs("sft"):
        return []  # SL-CAI answers, which is no server's model
    settings, size = inputs.recipe.sample, inputs.recipe.chunk_size
    prompts, most = inputs.select("red_team", "train"), inputs.sampling("policy").max_tokens
    if settings.contrast:
        found = contrasting(inputs.taking_part("judge"))
        against = [p.model_copy(update={"comparison_request": p.negated_comparison_request}) for p in found]
        length = mean_tokens(inputs, "contrast", prompts, [*found, *against])
        return [asked_of(inputs, "policy", 2 * len(prompts), length, most, size)]
    return [asked_of(inputs, "policy", len(prompts) * settings.n, plain_tokens(inputs, prompts), most, size)]


def _gate(inputs: Inputs) -> list[Asked]:
    settings, principles, way = inputs.recipe.gate, inputs.taking_part("judge"), inputs.juror.way
    if way.mode == "model":
        return []  # a preference model is asked nothing
    by_judge = {p.ref: p for p in principles if p.ref not in inputs.checks}
    per = settings.examples_per_principle
    labelled = labelled_examples(inputs.constitution, per_principle=per, checks=True, request=way.request)
    if settings.human is not None:
        pairs = load_pairs(str(resolve_path(inputs.recipe_file, settings.human)), settings.human_limit)
        labelled += labelled_pairs(pairs, inputs.asked_of_pairs)
    asked = [item for item in labelled if item.principles[0] in by_judge]
    prompts = [
        Prompt(messages=item.comparison.messages, kind="red_team", source="gate", split="train") for item in asked
    ]
    n = sum(len(item.principles) for item in asked)
    found = questions(inputs, way, inputs.juror.spec, n, prompts, list(by_judge.values()))
    conditional = [p for p in principles if p.applies_when is not None]
    refs = {p.ref for p in conditional}
    cases = sum(item.source == "examples" and item.principles[0] in refs for item in labelled)
    length = mean_tokens(inputs, "applies", prompts, conditional)
    one = asked_of(inputs, "judge", cases, length, 1, inputs.recipe.chunk_size)
    return [*found, behind_options(one, inputs.pack.yes_no)]


class _Compared(Record):
    """What is judged: how many comparisons, of which prompts, and their answers' tokens (None: as many as may be).

    `cases` are the times that whether a principle applies is asked: once for each prompt of each chunk.
    """

    n: int
    prompts: tuple[Prompt, ...]
    cases: int
    answer: int | None = None


def _judge(inputs: Inputs) -> list[Asked]:
    settings, compared = inputs.recipe.judging, _given(inputs) or _drawn(inputs)
    found: list[Asked] = []
    for juror in inputs.jury:
        principles = inputs.taking_part("judge", juror.way)
        by_judge = [p for p in principles if p.ref not in inputs.checks]
        count = len(by_judge)
        if settings.principles_per_comparison != "all":
            count = min(count, settings.principles_per_comparison)
        n, prompts = compared.n * count, compared.prompts
        found += questions(inputs, juror.way, juror.spec, n, prompts, by_judge, compared.answer)
        if juror.way.mode != "model":
            found += whether_applies(inputs, prompts, principles, juror.spec, compared.cases)
    return found


def _given(inputs: Inputs) -> _Compared | None:
    """The pairs of a file that are judged, which are known; None where the recipe names none."""
    if inputs.pairs is None:
        return None
    pairs = inputs.pairs.comparisons[: inputs.recipe.judging.limit]
    by_id = {prompt.id: prompt for prompt in inputs.pairs.prompts}
    size = judged_at_once(inputs)
    cases = sum(len({pair.prompt_id for pair in pairs[i : i + size]}) for i in range(0, len(pairs), size))
    characters = sum(len(pair.a) + len(pair.b) for pair in pairs) / (2 * len(pairs))
    prompts = tuple(by_id[pair.prompt_id] for pair in pairs)
    return _Compared(n=len(pairs), prompts=prompts, cases=cases, answer=math.ceil(characters / CHARACTERS))


def _drawn(inputs: Inputs) -> _Compared:
    """The comparisons that the sample step makes, at most: no two answers to a prompt are equal."""
    settings, prompts = inputs.recipe.sample, inputs.select("red_team", "train")
    per = math.comb(settings.n, 2) if settings.compare == "all" else settings.n // 2
    most = len(prompts) * ((1 if settings.contrast else per) + settings.revisions)
    n = min(most, inputs.recipe.judging.limit or most)
    # a prompt's comparisons stand together: each bound between two chunks parts those of one prompt at most
    cases = min(n, len(prompts) + math.ceil(n / judged_at_once(inputs)) - 1)
    return _Compared(n=n, prompts=tuple(prompts), cases=cases)


def _rl(inputs: Inputs) -> list[Asked]:
    """What the judge is asked of rollouts and of the watch's probes: a grade under each principle, none left empty."""
    settings, watch = inputs.recipe.rl, inputs.recipe.rl.watch
    if settings.algorithm == "dpo" or inputs.juror.way.mode == "model":
        return []
    prompts = [*inputs.select("red_team", "train"), *inputs.select("helpful", "train")]
    asked = len(prompts) if settings.algorithm == "best_of_n" else settings.steps * settings.prompts_per_step
    rollouts = asked * settings.generations
    found: list[Asked] = []
    probed, shown, length = 0, 0, settings.max_tokens
    if watch is not None:
        shown, length = min(watch.prompts, len(prompts)), max(length, watch.max_tokens or 0)
        probed = shown * (1 + math.ceil(settings.steps / watch.every))  # one before the first step, one at the last
        if watch.heldout == "judge":
            found += _rewarding(inputs, RewardSettings(kind="judge"), prompts, probed, shown, length)
    for part in settings.parts:
        if part.kind == "judge":
            most = min(len(prompts), asked + shown)
            found += _rewarding(inputs, part, prompts, rollouts + probed, most, length)
    return found


def _rewarding(
    inputs: Inputs, part: RewardSettings, prompts: Sequence[Prompt], answers: int, cases: int, length: int
) -> list[Asked]:
    """The judge's grades of `answers` of so many tokens, and whether principles apply to as many prompts as `cases`."""
    principles, settings = reward_principles(inputs, part), inputs.recipe.rl
    tokens = mean_tokens(inputs, "score", prompts, principles, answer=filler(length))
    count = len(principles) if part.draw == "all" else 1
    at_once = settings.prompts_per_step * settings.generations
    graded = behind_grades(inputs, asked_of(inputs, "judge", answers * count, tokens, 1, at_once))
    conditional = sum(principle.applies_when is not None for principle in principles)
    (applies,) = whether_applies(inputs, prompts, principles, times=cases)
    if part.draw == "one" and conditional:  # of each prompt one principle alone is asked
        applies = applies.model_copy(update={"calls": applies.calls // conditional})
    return [graded, applies]


def _answers(inputs: Inputs) -> list[Asked]:
    prompts = [p for kind in KINDS for p in inputs.select(kind, "heldout")]
    most = inputs.sampling("policy", max_tokens=inputs.recipe.evaluation.max_tokens).max_tokens
    return [asked_of(inputs, "policy", len(prompts), plain_tokens(inputs, prompts), most, inputs.recipe.chunk_size)]


def _evaluate(inputs: Inputs) -> list[Asked]:
    systems = {"base"} | ({"sl-cai"} if inputs.runs("sft") else set()) | ({"rl-cai"} if inputs.runs("rl") else set())
    pairs = sum(set(pair) <= systems for pair in PAIRS)
    settings, prompts = inputs.recipe.evaluation, inputs.select("red_team", "heldout")
    if inputs.juror.way.mode == "model":
        return []
    shown = prompts[: settings.judge_limit]
    principles = [p for p in inputs.taking_part("evaluate") if p.ref not in inputs.checks]
    count = len(principles)
    if settings.principles_per_comparison != "all":
        count = min(count, settings.principles_per_comparison)
    n = len(shown) * pairs
    most = inputs.sampling("policy", max_tokens=settings.max_tokens).max_tokens
    found = questions(inputs, inputs.juror.way, inputs.juror.spec, n * count, shown, principles, most)
    return found + (whether_applies(inputs, shown, principles) if n else [])
