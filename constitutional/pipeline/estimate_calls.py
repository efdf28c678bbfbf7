"""Calls of one kind and their tokens, counted from the recipe, the prompts and the templates filled in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from constitutional.backends.specs import split_spec
from constitutional.feedback.judging.ways import TEMPLATE_OF, Way
from constitutional.pipeline.inputs import Inputs
from constitutional.principles import Principle
from constitutional.records import Dialogue, Prompt, Record
from constitutional.templates import Value

CHARACTERS = 4.0
"""A token's characters, about, of English text."""

MEASURED = 48
"""Questions that are filled in to find their mean length."""


class Asked(Record):
    """Calls of one kind: tokens are those of a single one; `at_once` is how many a chunk makes together."""

    role: str
    spec: str
    calls: int
    prompt: float
    completion: int
    at_once: int


def mean_tokens(
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


def filler(tokens: int) -> str:
    """A text of so many tokens, in the place of one that no model has written yet."""
    return ("word " * tokens)[: int(tokens * CHARACTERS)].strip()


def plain_tokens(inputs: Inputs, prompts: Sequence[Prompt]) -> float:
    """Mean tokens of the question that is a prompt alone."""
    chosen = list(islice(prompts, 0, None, max(1, len(prompts) // MEASURED)))
    asked = [inputs.pack.render("respond", conversation=p.messages).dialogue for p in chosen]
    return math.fsum(map(_tokens, asked)) / max(1, len(asked))


def whether_applies(
    inputs: Inputs,
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
    spec: str | None = None,
    times: int | None = None,
) -> list[Asked]:
    """Whether principles apply, asked of conversations so many `times` (None: once of each prompt)."""
    conditional = [p for p in principles if p.applies_when is not None]
    length = mean_tokens(inputs, "applies", prompts, conditional)
    asked = len(prompts) if times is None else times
    one = asked_of(inputs, "judge", asked * len(conditional), length, 1, inputs.recipe.chunk_size)
    return [behind_options(one.model_copy(update={"spec": spec or one.spec}), inputs.pack.yes_no)]


def behind_options(one: Asked, *choices: Iterable[str]) -> Asked:
    """Questions behind each of which options are read: once for each choice, and what a server needs besides."""
    calls, more = len(choices), 0.0
    if one.spec.startswith("openai:"):  # a preference model's spec is none of a backend
        several = [option.strip() for options in choices for option in options if not _is_token(option)]
        calls, more = calls + len(several), sum(map(len, several)) / CHARACTERS
    return one.model_copy(update={"calls": one.calls * calls, "prompt": one.prompt + more / calls})


def _is_token(option: str) -> bool:
    """Whether an option is one token anywhere: a letter or digit, or a word. "(A)" and "10" may be several."""
    return len(option.strip()) <= 1 or option.strip().isalpha()


def asked_of(inputs: Inputs, role: str, calls: int, prompt: float, completion: int, at_once: int) -> Asked:
    """Calls of the model behind a role."""
    spec = inputs.spec(role) if role == "judge" else _writer(inputs, role)
    return Asked(role=role, spec=spec, calls=calls, prompt=prompt, completion=completion, at_once=at_once)


def _writer(inputs: Inputs, role: str) -> str:
    """What writes a role's text, as lock.json names it; told from the spec alone: a model need not be here yet."""
    spec = inputs.spec(role)
    kind, rest = split_spec(spec)
    through = inputs.recipe.policy_engine == "openvino" and spec == inputs.spec("policy")
    return f"openvino:{rest}" if through and kind in ("local", "embedded") else spec


def questions(
    inputs: Inputs,
    way: Way,
    spec: str,
    n: int,
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
    answer: int | None = None,
) -> list[Asked]:
    """`n` questions, each in both orders, as a way of judging asks them; `answer` is an answer's tokens if known."""
    if way.mode == "model" or not principles:
        return []
    text = filler(inputs.sampling("policy").max_tokens if answer is None else answer)
    length = mean_tokens(inputs, TEMPLATE_OF[way.mode], prompts, principles, a=text, b=text, answer=text)
    drawn = way.sampling.max_tokens if way.sampling else 0
    size = judged_at_once(inputs) * 2 * max(1, len(principles))
    one = Asked(role="judge", spec=spec, calls=2 * n, prompt=length, completion=1, at_once=size)
    if way.mode == "vote":
        return [one.model_copy(update={"calls": 2 * n * way.samples, "completion": drawn})]
    if way.mode == "cot":
        reasoned = one.model_copy(update={"calls": 2 * n * way.samples, "completion": drawn})
        longer = length + drawn + len(inputs.pack.conclusion) / CHARACTERS
        behind = reasoned.model_copy(update={"prompt": longer, "completion": 1})
        return [reasoned, behind_options(behind, inputs.pack.options)]
    return [behind_grades(inputs, one) if way.mode == "score" else behind_options(one, inputs.pack.options)]


def behind_grades(inputs: Inputs, one: Asked) -> Asked:
    """Questions behind each of which a grade is read, and what makes a longer one of it."""
    grades = inputs.pack.grades
    rests = [[other[len(short) :] for other in grades if other.startswith(short)] for short in grades]
    return behind_options(one, grades, *(filter(None, rest) for rest in rests if any(rest)))


def judged_at_once(inputs: Inputs) -> int:
    """Comparisons that a chunk holds."""
    return max(1, inputs.recipe.chunk_size // 2)
