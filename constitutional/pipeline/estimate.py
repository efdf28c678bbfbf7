"""What a recipe would ask of its models, before anything is asked: calls, tokens, cost and time by step.

Counted from the recipe, the prompts and the templates. It is an upper bound wherever the models decide: every candidate
is drawn, every principle applies, every answer is as long as it may be, and a server that is to tell an option's
probability is asked once more for each option that may be several tokens there. A token is taken to be four characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from constitutional.backends.endpoint.calls import Price, load_prices
from constitutional.backends.specs import split_spec
from constitutional.config import resolve_path
from constitutional.evaluation.evaluate import KINDS, PAIRS
from constitutional.feedback.contrast import contrasting
from constitutional.feedback.gate import labelled_examples, labelled_pairs
from constitutional.feedback.judging.ways import TEMPLATE_OF, Way
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.rewarding import reward_principles
from constitutional.principles import Principle
from constitutional.prompts import load_pairs
from constitutional.records import Dialogue, Prompt, Record
from constitutional.settings import EndpointSettings, RewardSettings
from constitutional.templates import Value

CHARACTERS = 4.0
"""A token's characters, about, of English text."""

FIRST_TOKEN, A_SECOND = 0.5, 50.0
"""Seconds until a server begins to answer, and tokens a second it then writes: what is assumed for the time."""

MEASURED = 48
"""Questions that are filled in to find their mean length."""


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
    counted: dict[str, list[_Asked]] = {
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


class _Asked(Record):
    """Calls of one kind: tokens are those of a single one; `at_once` is how many a chunk makes together."""

    role: str
    spec: str
    calls: int
    prompt: float
    completion: int
    at_once: int


def _load(inputs: Inputs, step: str, asked: _Asked, prices: dict[str, Price]) -> Load:
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


def _seconds(asked: _Asked, settings: EndpointSettings) -> float:
    """The slowest of: calls one after another in as many rows as there are at once, and the limits a minute."""
    rows = max(1, min(settings.concurrency, asked.at_once, asked.calls))
    bounds = [asked.calls / rows * (FIRST_TOKEN + asked.completion / A_SECOND)]
    if settings.requests_per_minute:
        bounds.append(60 * asked.calls / settings.requests_per_minute)
    if settings.tokens_per_minute:
        bounds.append(60 * asked.calls * (asked.prompt + asked.completion) / settings.tokens_per_minute)
    return max(bounds)


def _mean(
    inputs: Inputs, template: str, prompts: Sequence[Prompt], principles: Sequence[Principle], **texts: Value
) -> float:
    """Mean tokens of a question, from some of the prompts and principles filled in."""
    if not prompts or not principles:
        return 0.0
    count = min(MEASURED, max(len(prompts), len(principles)))
    lengths = []
    for i in range(count):
        prompt, principle = prompts[i * len(prompts) // count], principles[i % len(principles)]
        wanted = inputs.pack.required(template)
        own = {name: getattr(principle, name, None) or "" for name in wanted if name not in texts}
        values: dict[str, Value] = {**own, **texts, "conversation": prompt.messages}
        rendered = inputs.pack.render(template, principle.few_shots, **{k: v for k, v in values.items() if k in wanted})
        lengths.append(_tokens(rendered.dialogue))
    return math.fsum(lengths) / count


def _tokens(dialogue: Dialogue) -> float:
    return sum(len(message.content) for message in dialogue) / CHARACTERS


def _filler(tokens: int) -> str:
    return ("word " * tokens)[: int(tokens * CHARACTERS)].strip()


def _plain(inputs: Inputs, prompts: Sequence[Prompt]) -> float:
    """Mean tokens of the question that is a prompt alone."""
    chosen = list(islice(prompts, 0, None, max(1, len(prompts) // MEASURED)))
    asked = [inputs.pack.render("respond", conversation=p.messages).dialogue for p in chosen]
    return math.fsum(map(_tokens, asked)) / max(1, len(asked))


def _revise(inputs: Inputs) -> list[_Asked]:
    settings, prompts = inputs.recipe.revise, inputs.select("red_team", "train")
    if not inputs.runs("revise"):
        return []
    principles = inputs.taking_part("revise")
    size, n = inputs.recipe.chunk_size, len(prompts)
    own, critic = inputs.sampling("policy").max_tokens, inputs.sampling("feedback").max_tokens
    answer, said = _filler(max(own, critic)), _filler(critic)
    found = [_asked(inputs, "policy", n, _plain(inputs, prompts), own, size)]
    if settings.critique:
        length = _mean(inputs, "critique", prompts, principles, answer=answer)
        found.append(_asked(inputs, "feedback", n * settings.rounds, length, critic, size))
    template = "revise" if settings.critique else "revise_direct"
    length = _mean(inputs, template, prompts, principles, answer=answer, critique=said)
    found.append(_asked(inputs, "feedback", n * settings.rounds * settings.candidates, length, critic, size))
    return found + _applies(inputs, prompts, principles)


def _applies(
    inputs: Inputs,
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
    spec: str | None = None,
    times: int | None = None,
) -> list[_Asked]:
    """Whether principles apply, asked of conversations so many `times` (None: once of each prompt)."""
    conditional = [p for p in principles if p.applies_when is not None]
    length = _mean(inputs, "applies", prompts, conditional)
    asked = len(prompts) if times is None else times
    one = _asked(inputs, "judge", asked * len(conditional), length, 1, inputs.recipe.chunk_size)
    return [_read(one.model_copy(update={"spec": spec or one.spec}), inputs.pack.yes_no)]


def _read(one: _Asked, *choices: Iterable[str]) -> _Asked:
    """Questions behind each of which options are read: once for each choice, and what a server needs besides."""
    calls, more = len(choices), 0.0
    if split_spec(one.spec)[0] == "openai":
        several = [option.strip() for options in choices for option in options if not _is_token(option)]
        calls, more = calls + len(several), sum(map(len, several)) / CHARACTERS
    return one.model_copy(update={"calls": one.calls * calls, "prompt": one.prompt + more / calls})


def _is_token(option: str) -> bool:
    """Whether an option is one token anywhere: a letter or digit, or a word. "(A)" and "10" may be several."""
    return len(option.strip()) <= 1 or option.strip().isalpha()


def _asked(inputs: Inputs, role: str, calls: int, prompt: float, completion: int, at_once: int) -> _Asked:
    spec = inputs.spec(role) if role == "judge" else _writer(inputs, role)
    return _Asked(role=role, spec=spec, calls=calls, prompt=prompt, completion=completion, at_once=at_once)


def _writer(inputs: Inputs, role: str) -> str:
    """What writes a role's text, as lock.json names it; told from the spec alone: a model need not be here yet."""
    spec = inputs.spec(role)
    kind, rest = split_spec(spec)
    through = inputs.recipe.policy_engine == "openvino" and spec == inputs.spec("policy")
    return f"openvino:{rest}" if through and kind in ("local", "embedded") else spec


def _helpful(inputs: Inputs) -> list[_Asked]:
    prompts, settings = inputs.select("helpful", "train"), inputs.recipe.helpful
    most = inputs.sampling("policy", max_tokens=settings.max_tokens).max_tokens
    calls = len(prompts) * settings.draws
    return [_asked(inputs, "policy", calls, _plain(inputs, prompts), most, inputs.recipe.chunk_size)]


def _sample(inputs: Inputs) -> list[_Asked]:
    if inputs.pairs is not None:
        return []  # ready-made pairs: nothing is drawn
    if inputs.runs("sft"):
        return []  # SL-CAI answers, which is no server's model
    settings, size = inputs.recipe.sample, inputs.recipe.chunk_size
    prompts, most = inputs.select("red_team", "train"), inputs.sampling("policy").max_tokens
    if settings.contrast:
        found = contrasting(inputs.taking_part("judge"))
        against = [p.model_copy(update={"comparison_request": p.negated_comparison_request}) for p in found]
        length = _mean(inputs, "contrast", prompts, [*found, *against])
        return [_asked(inputs, "policy", 2 * len(prompts), length, most, size)]
    return [_asked(inputs, "policy", len(prompts) * settings.n, _plain(inputs, prompts), most, size)]


def _questions(
    inputs: Inputs,
    way: Way,
    spec: str,
    n: int,
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
    answer: int | None = None,
) -> list[_Asked]:
    """`n` questions, each in both orders, as a way of judging asks them; `answer` is an answer's tokens if known."""
    if way.mode == "model" or not principles:
        return []
    text = _filler(inputs.sampling("policy").max_tokens if answer is None else answer)
    length = _mean(inputs, TEMPLATE_OF[way.mode], prompts, principles, a=text, b=text, answer=text)
    drawn = way.sampling.max_tokens if way.sampling else 0
    size = _judged_at_once(inputs) * 2 * max(1, len(principles))
    one = _Asked(role="judge", spec=spec, calls=2 * n, prompt=length, completion=1, at_once=size)
    if way.mode == "vote":
        return [one.model_copy(update={"calls": 2 * n * way.samples, "completion": drawn})]
    if way.mode == "cot":
        reasoned = one.model_copy(update={"calls": 2 * n * way.samples, "completion": drawn})
        longer = length + drawn + len(inputs.pack.conclusion) / CHARACTERS
        behind = reasoned.model_copy(update={"prompt": longer, "completion": 1})
        return [reasoned, _read(behind, inputs.pack.options)]
    return [_graded(inputs, one) if way.mode == "score" else _read(one, inputs.pack.options)]


def _graded(inputs: Inputs, one: _Asked) -> _Asked:
    """Questions behind each of which a grade is read, and what makes a longer one of it."""
    grades = inputs.pack.grades
    rests = [[other[len(short) :] for other in grades if other.startswith(short)] for short in grades]
    return _read(one, grades, *(filter(None, rest) for rest in rests if any(rest)))


def _gate(inputs: Inputs) -> list[_Asked]:
    settings, principles, way = inputs.recipe.gate, inputs.taking_part("judge"), inputs.juror.way
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
    found = _questions(inputs, way, inputs.juror.spec, n, prompts, list(by_judge.values()))
    conditional = [p for p in principles if p.applies_when is not None]
    refs = {p.ref for p in conditional}
    cases = sum(item.source == "examples" and item.principles[0] in refs for item in labelled)
    length = _mean(inputs, "applies", prompts, conditional)
    one = _asked(inputs, "judge", cases, length, 1, inputs.recipe.chunk_size)
    return [*found, _read(one, inputs.pack.yes_no)]


class _Compared(Record):
    """What is judged: how many comparisons, of which prompts, and their answers' tokens (None: as many as may be).

    `cases` are the times that whether a principle applies is asked: once for each prompt of each chunk.
    """

    n: int
    prompts: tuple[Prompt, ...]
    cases: int
    answer: int | None = None


def _judge(inputs: Inputs) -> list[_Asked]:
    settings, compared = inputs.recipe.judging, _given(inputs) or _drawn(inputs)
    found: list[_Asked] = []
    for juror in inputs.jury:
        principles = inputs.taking_part("judge", juror.way)
        by_judge = [p for p in principles if p.ref not in inputs.checks]
        count = len(by_judge)
        if settings.principles_per_comparison != "all":
            count = min(count, settings.principles_per_comparison)
        n, prompts = compared.n * count, compared.prompts
        found += _questions(inputs, juror.way, juror.spec, n, prompts, by_judge, compared.answer)
        if juror.way.mode != "model":
            found += _applies(inputs, prompts, principles, juror.spec, compared.cases)
    return found


def _given(inputs: Inputs) -> _Compared | None:
    """The pairs of a file that are judged, which are known; None where the recipe names none."""
    if inputs.pairs is None:
        return None
    pairs = inputs.pairs.comparisons[: inputs.recipe.judging.limit]
    by_id = {prompt.id: prompt for prompt in inputs.pairs.prompts}
    size = _judged_at_once(inputs)
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
    cases = min(n, len(prompts) + math.ceil(n / _judged_at_once(inputs)) - 1)
    return _Compared(n=n, prompts=tuple(prompts), cases=cases)


def _judged_at_once(inputs: Inputs) -> int:
    """Comparisons that a chunk holds."""
    return max(1, inputs.recipe.chunk_size // 2)


def _rl(inputs: Inputs) -> list[_Asked]:
    """What the judge is asked of rollouts and of the watch's probes: a grade under each principle, none left empty."""
    settings, watch = inputs.recipe.rl, inputs.recipe.rl.watch
    if settings.algorithm == "dpo" or inputs.juror.way.mode == "model":
        return []
    prompts = [*inputs.select("red_team", "train"), *inputs.select("helpful", "train")]
    asked = len(prompts) if settings.algorithm == "best_of_n" else settings.steps * settings.prompts_per_step
    rollouts = asked * settings.generations
    found: list[_Asked] = []
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
) -> list[_Asked]:
    """The judge's grades of `answers` of so many tokens, and whether principles apply to as many prompts as `cases`."""
    principles, settings = reward_principles(inputs, part), inputs.recipe.rl
    tokens = _mean(inputs, "score", prompts, principles, answer=_filler(length))
    count = len(principles) if part.draw == "all" else 1
    at_once = settings.prompts_per_step * settings.generations
    graded = _graded(inputs, _asked(inputs, "judge", answers * count, tokens, 1, at_once))
    conditional = sum(principle.applies_when is not None for principle in principles)
    (applies,) = _applies(inputs, prompts, principles, times=cases)
    if part.draw == "one" and conditional:  # of each prompt one principle alone is asked
        applies = applies.model_copy(update={"calls": applies.calls // conditional})
    return [graded, applies]


def _answers(inputs: Inputs) -> list[_Asked]:
    prompts = [p for kind in KINDS for p in inputs.select(kind, "heldout")]
    most = inputs.sampling("policy", max_tokens=inputs.recipe.evaluation.max_tokens).max_tokens
    return [_asked(inputs, "policy", len(prompts), _plain(inputs, prompts), most, inputs.recipe.chunk_size)]


def _evaluate(inputs: Inputs) -> list[_Asked]:
    systems = {"base"} | ({"sl-cai"} if inputs.runs("sft") else set()) | ({"rl-cai"} if inputs.runs("rl") else set())
    pairs = sum(set(pair) <= systems for pair in PAIRS)
    settings, prompts = inputs.recipe.evaluation, inputs.select("red_team", "heldout")
    shown = prompts[: settings.judge_limit]
    principles = [p for p in inputs.taking_part("evaluate") if p.ref not in inputs.checks]
    count = len(principles)
    if settings.principles_per_comparison != "all":
        count = min(count, settings.principles_per_comparison)
    n = len(shown) * pairs
    most = inputs.sampling("policy", max_tokens=settings.max_tokens).max_tokens
    found = _questions(inputs, inputs.juror.way, inputs.juror.spec, n * count, shown, principles, most)
    return found + (_applies(inputs, shown, principles) if n else [])
