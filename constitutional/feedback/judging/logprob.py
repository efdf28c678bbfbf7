"""Mode `logprob`: p is the softmax over the two options' log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from constitutional.backends import Backend, Likelihood
from constitutional.feedback.judging.ways import TOO_LONG, Question, Told, Way, fits
from constitutional.feedback.options import OPTION_TOKENS, option_probability
from constitutional.records import Dialogue, Usage
from constitutional.templates import TemplatePack


def ask_logprob(questions: Sequence[Question], backend: Backend, pack: TemplatePack, way: Way) -> list[Told]:
    """The judge's opinion by its options; `error` where the question does not fit, `invalid` without mass."""
    read = read_options([question.dialogue for question in questions], backend, pack)
    return [_told(question, likelihood) for question, likelihood in zip(questions, read, strict=True)]


def read_options(dialogues: Sequence[Dialogue], backend: Backend, pack: TemplatePack) -> list[Likelihood | None]:
    """The log-probabilities of the options after each dialogue; None where it leaves no room for them."""
    fitting = [i for i, dialogue in enumerate(dialogues) if fits(backend, dialogue, OPTION_TOKENS)]
    asked = [dialogues[i] for i in fitting]
    likelihoods = backend.loglikelihood(asked, [pack.options] * len(asked)) if asked else []
    by_row = dict(zip(fitting, likelihoods, strict=True))
    return [by_row.get(i) for i in range(len(dialogues))]


def _told(question: Question, likelihood: Likelihood | None) -> Told:
    if likelihood is None:
        return Told("error", None, error=TOO_LONG)
    outcome, p_first, mass = option_probability(likelihood.logprobs)
    usage = Usage(prompt_tokens=likelihood.prompt_tokens)
    return Told(outcome, question.turned(p_first), finite(likelihood.logprobs), mass, usage=usage)


def finite(logprobs: tuple[float, ...]) -> tuple[float, ...]:
    """The log-probabilities as a record can hold them: infinite ones, and NaN, are no JSON."""
    return logprobs if all(map(math.isfinite, logprobs)) else ()
