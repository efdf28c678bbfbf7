"""Mode `cot`: the judge reasons first, then its options are read (Bai et al. 2022, section 4.1).

After each drawn reasoning stands the pack's `conclusion` ("So the answer is:"), and the options' log-probabilities are
read behind it. Such probabilities come out near 0 or 1, as a reasoning settles the matter: the label rule clamps them
(`feedback.label`), the ledger holds them as they are. Every sample keeps its own reasoning.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import fsum

from constitutional.backends import Backend, Likelihood, Unanswered
from constitutional.feedback.judging.drawn import Drawn, cost, declines, draw, fault, no_text, one_opinion
from constitutional.feedback.judging.logprob import finite, read_options
from constitutional.feedback.judging.ways import Question, Told, Way
from constitutional.feedback.options import option_probability
from constitutional.records import Dialogue, JudgmentSample, assistant
from constitutional.templates import TemplatePack


def ask_cot(questions: Sequence[Question], backend: Backend, pack: TemplatePack, way: Way) -> list[Told]:
    """The mean of the opinions after `way.samples` reasonings; a sample that declines to judge is no opinion."""
    drawn = draw(questions, backend, way, pack.stop)
    asked = [
        concluded(question.dialogue, completion.text, pack.conclusion)
        for question, row in zip(questions, drawn, strict=True)
        for completion, _ in row
        if not isinstance(completion, Unanswered) and not declines(completion.text)
    ]
    read = iter(read_options(asked, backend, pack))
    return [_told(question, row, chain(read)) for question, row in zip(questions, drawn, strict=True)]


def concluded(dialogue: Dialogue, reasoning: str, conclusion: str) -> Dialogue:
    """The dialogue with a reasoning in the model's mouth, after the template's opening, and the conclusion behind."""
    opening, before = ("", dialogue)
    if dialogue[-1].role == "assistant":
        opening, before = dialogue[-1].content, dialogue[:-1]
    begun = reasoning.rstrip() if opening else reasoning.strip()
    return (*before, assistant(opening + begun + conclusion))


def _told(question: Question, drawn: Sequence[Drawn], read: chain[Likelihood | None]) -> Told:
    samples, prompt_tokens, unread = [], 0, []
    for completion, seed in drawn:
        if isinstance(completion, Unanswered):
            samples.append(no_text(completion, seed))
            continue
        text, finish = completion.text, completion.finish_reason
        if declines(text):
            samples.append(JudgmentSample(text=text, finish_reason=finish, outcome="refused", p_a=None, seed=seed))
            continue
        likelihood = next(read)
        if likelihood is None:
            samples.append(JudgmentSample(text=text, finish_reason=finish, outcome="error", p_a=None, seed=seed))
            continue
        prompt_tokens += likelihood.prompt_tokens
        outcome, p_first, mass = option_probability(likelihood.logprobs)
        if likelihood.fault is not None:
            outcome = "invalid"
            unread.append(likelihood.fault)
        samples.append(
            JudgmentSample(
                text=text,
                finish_reason=finish,
                outcome=outcome,
                p_a=question.turned(p_first),
                logprobs=finite(likelihood.logprobs),
                mass=mass,
                seed=seed,
            )
        )
    outcome, p_a = one_opinion(samples)
    masses = [sample.mass for sample in samples if sample.mass is not None]
    return Told(
        outcome,
        p_a,
        mass=fsum(masses) / len(masses) if masses else None,
        samples=tuple(samples),
        usage=cost(drawn, prompt_tokens),
        error=unread[0] if outcome == "invalid" and unread else fault(drawn, outcome),
    )
