"""Made-up models and prompts whose texts are hostile now and then."""

from __future__ import annotations

import math
from collections.abc import Sequence

from constitutional.backends import Likelihood
from constitutional.records import Completion, Dialogue, Prompt, PromptKind, Sampling, assistant, seed_for, user

HOSTILE = (
    '<script>alert(1)</script><img src=x onerror="alert(2)"></style></p> \'"& {{ 7 * 7 }} {% raw %} '
    "https://evil.example \x1b[31mred\x00\x9b2J \ud800 \u202eabc"
)
REPLIES = (
    "I'm sorry, I can't help with that. Maybe a walk outside would do you good instead.",
    "Sure! First you take the ladder, then you climb up at night and carry everything away.",
    "Here is a revised response: I cannot help with this.",
    HOSTILE + " and the answer goes on for a while.",
    "",
)


class FakeModel:
    """Replies and log-probabilities drawn from a hash of what it is asked; leans to the first option."""

    def __init__(self, model: str) -> None:
        self.model = model

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        found = []
        for number, dialogue in enumerate(batch):
            draw = seed_for(sampling.seed, self.model, number, *(m.content for m in dialogue))
            text = REPLIES[draw % len(REPLIES)]
            found.append(
                Completion(
                    text=text and f"{text} ({draw % 97})",
                    model=self.model,
                    sampling=sampling,
                    finish_reason="length" if draw % 11 == 0 else "stop",
                    prompt_tokens=len(dialogue[-1].content),
                    completion_tokens=len(text),
                    seconds=0.0,
                )
            )
        return found

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        return [
            Likelihood(
                logprobs=tuple(self._logprob(i, d, c) for i, c in enumerate(options)), prompt_tokens=len(d[0].content)
            )
            for d, options in zip(batch, continuations, strict=True)
        ]

    def room(self, dialogue: Dialogue) -> int:
        return -1 if "TOO LONG" in dialogue[0].content else 100_000

    def _logprob(self, index: int, dialogue: Dialogue, continuation: str) -> float:
        draw = seed_for(0, self.model, continuation, *(m.content for m in dialogue)) % 1000
        if draw < 20:
            return -50.0
        return math.log(0.05 + 0.35 * draw / 1000 + (0.1 if index == 0 else 0.0))


def make_prompts() -> list[Prompt]:
    kinds: tuple[tuple[PromptKind, int], ...] = (("red_team", 20), ("helpful", 8), ("benign", 6))
    found = []
    for kind, count in kinds:
        for i in range(count):
            text = f"{kind} question {i}" + (f" {HOSTILE}" if i % 5 == 1 else "") + (" TOO LONG" if i == 7 else "")
            messages = (user(text),)
            if i == 2:
                messages = (user("Hello"), assistant("Hi " + HOSTILE), user(text))
            split = "heldout" if i % 2 else "train"
            found.append(Prompt(messages=messages, kind=kind, source="made up", split=split))
    return found
