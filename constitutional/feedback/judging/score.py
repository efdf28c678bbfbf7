"""Mode `score`: each answer is graded alone, and the grades of two answers make an opinion (Lee et al. 2023, d-RLAIF).

The judge's grade of an answer is a distribution: the probabilities of the pack's `grades` (1 to 10), made to add up to
one. Its expected value, put on a scale from -1 to 1, is the answer's score, and is kept. Which answer is better needs
no scale: p_a is the probability that a grade drawn for `a` is higher than one drawn for `b`, plus half the probability
that they are equal. Two judges that differ only in how they space their grades so have the same opinion.

A grade that begins another one ("1", "10") counts only as far as it ends there: its probability is less by that of what
would make the longer one of it. So the sum is right whether a tokenizer has a token for "10" or writes it digit by
digit: where a server lists no token for the longer grade, it has what makes it of the shorter one, or its bound where
that is greater.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from constitutional.backends import Backend
from constitutional.feedback.judging.ways import TOO_LONG, Question, Told, Way, fits
from constitutional.feedback.options import MIN_MASS, OPTION_TOKENS
from constitutional.records import Dialogue, Usage, assistant
from constitutional.templates import TemplatePack


@dataclass(frozen=True)
class Grading:
    """The grades of one answer: log-probabilities of the grades in order, and their mass."""

    logprobs: tuple[float, ...]
    mass: float
    prompt_tokens: int
    fault: str | None = None
    """Why there are none, where what came back from a server is no answer."""

    @property
    def shares(self) -> list[float]:
        """The probabilities of the grades among themselves."""
        return grade_shares(self.logprobs)


def ask_score(questions: Sequence[Question], backend: Backend, pack: TemplatePack, way: Way) -> list[Told]:
    """Opinions from grades. An answer is graded once, under each principle, whatever pairs and orders it is in."""
    places: dict[tuple[str, str, str], Dialogue] = {}
    for question in questions:
        for text in (question.comparison.a, question.comparison.b):
            if (place := _place(question, text)) not in places:
                places[place] = pack.render(
                    "score",
                    conversation=question.comparison.messages,
                    answer=text,
                    score_request=question.principle.score_request or "",
                ).dialogue
    graded = dict(zip(places, grade(list(places.values()), backend, pack.grades), strict=True))
    unpaid = {place: found.prompt_tokens for place, found in graded.items() if found is not None}
    told = []
    for question in questions:
        pair = [_place(question, text) for text in (question.comparison.a, question.comparison.b)]
        usage = Usage(prompt_tokens=sum(unpaid.pop(place, 0) for place in pair))
        told.append(_told(graded[pair[0]], graded[pair[1]], usage))
    return told


def _place(question: Question, text: str) -> tuple[str, str, str]:
    return question.comparison.prompt_id, question.principle.ref, text


def grade(dialogues: Sequence[Dialogue], backend: Backend, grades: tuple[str, ...]) -> list[Grading | None]:
    """The grading after each dialogue; None where it leaves no room for a grade."""
    longer = {
        short: [long[len(short) :] for long in grades if long != short and long.startswith(short)] for short in grades
    }
    begins = [short for short in grades if longer[short]]
    fitting = [i for i, dialogue in enumerate(dialogues) if fits(backend, dialogue, OPTION_TOKENS)]
    asked = [dialogues[i] for i in fitting]
    asked += [_begun(dialogues[i], short) for i in fitting for short in begins]
    options = [grades] * len(fitting) + [tuple(longer[short]) for _ in fitting for short in begins]
    likelihoods = backend.loglikelihood(asked, options) if asked else []
    found: dict[int, Grading] = {}
    for row, i in enumerate(fitting):
        logprobs = dict(zip(grades, likelihoods[row].logprobs, strict=True))
        tokens, fault = likelihoods[row].prompt_tokens, likelihoods[row].fault
        for number, short in enumerate(begins):
            rest = likelihoods[len(fitting) + row * len(begins) + number]
            said = (likelihoods[row].note or {}).get("unlisted")
            for suffix, value in zip(longer[short], rest.logprobs, strict=True):
                long = short + suffix
                if isinstance(said, list) and long.strip() in said:  # its own reading is a bound of one token alone
                    logprobs[long] = max(logprobs[long], logprobs[short] + value)
            ends = 1 - fsum(math.exp(value) for value in rest.logprobs)
            logprobs[short] += math.log(ends) if ends > 0 else math.nan if math.isnan(ends) else -math.inf
            tokens, fault = tokens + rest.prompt_tokens, fault or rest.fault
        mass = min(fsum(math.exp(value) for value in logprobs.values()), 1.0)
        found[i] = Grading(tuple(logprobs.values()), mass, tokens, fault)
    return [found.get(i) for i in range(len(dialogues))]


def _begun(dialogue: Dialogue, short: str) -> Dialogue:
    """The dialogue after the model has said the beginning of a grade."""
    if dialogue[-1].role != "assistant":
        return (*dialogue, assistant(short))
    return (*dialogue[:-1], assistant(dialogue[-1].content + short))


def grade_shares(logprobs: Sequence[float]) -> list[float]:
    """Probabilities that add up to one, from log-probabilities of which at least one is finite."""
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return [weight / fsum(weights) for weight in weights]


def expected_score(shares: Sequence[float]) -> float:
    """The expected place among the grades, from -1 for the lowest to 1 for the highest."""
    return fsum(share * (2 * i / (len(shares) - 1) - 1) for i, share in enumerate(shares))


def superiority(a: Sequence[float], b: Sequence[float]) -> float:
    """P(grade of a > grade of b) + P(equal) / 2, for independent grades with these probabilities."""
    below_a, below_b = 0.0, 0.0
    higher, lower = [], []
    for share_a, share_b in zip(a, b, strict=True):
        higher.append(share_a * below_b)
        lower.append(share_b * below_a)
        below_a, below_b = below_a + share_a, below_b + share_b
    # as a difference: of equal gradings it is exactly one half, and turned it is exactly 1 minus it
    return min(max(0.5 + (fsum(higher) - fsum(lower)) / 2, 0.0), 1.0)


def _told(a: Grading | None, b: Grading | None, usage: Usage) -> Told:
    if a is None or b is None:
        return Told("error", None, usage=usage, error=TOO_LONG)
    if fault := a.fault or b.fault:
        return Told("invalid", None, usage=usage, error=fault)
    if math.isnan(a.mass) or math.isnan(b.mass):
        return Told("error", None, usage=usage, error="the judge gave a grade that is not a number")
    mass = min(a.mass, b.mass)
    logprobs = a.logprobs + b.logprobs
    kept = logprobs if all(map(math.isfinite, logprobs)) else ()
    if mass < MIN_MASS:
        return Told("invalid", None, kept, mass, usage=usage)
    said = {"a": expected_score(a.shares), "b": expected_score(b.shares)}
    p_a = superiority(a.shares, b.shares)
    return Told("tie" if a.logprobs == b.logprobs else "preference", p_a, kept, mass, usage=usage, said=said)
