"""A backend that answers from a YAML file: every test of logic runs on it, offline and in milliseconds.

    context: 100000          # window in tokens; a token is a word here
    delay: 0.02              # seconds a call takes, and how much it varies (seeded, 0.5 = from half to one and a half)
    jitter: 0.5
    default: "I would rather not help with that."
    fail: ["boom"]           # a call with one of these texts in it raises a retryable error
    rules:                   # generate: the first rule that fits answers
      - contains: "critique"         # found in the last user turn (the whole text where there is none)
        anywhere: "lock"             # found anywhere in the dialogue
        reply: ["The answer is harmful.", "The answer ({n}) is unkind."]
        finish: length               # stop (default) or length
    likelihood:              # loglikelihood: the first rule that fits
      - contains: "harmful"
        logprobs: {A: -0.1, B: -2.5} # continuations, without surrounding spaces
      - keyword: "sorry"             # the option whose response holds the word gets p; both or none: half each
        p: 0.9
        mass: 0.8                    # what all continuations get together (default 1)
        markers: ["1:", "2:"]         # where the responses begin, if not at lines like `(A)` or `Response A`
      - prefer_option: "A"           # a judge with a position bias
        p: 0.7
    no_logprobs: false       # true: loglikelihood raises, as a server without log-probabilities does

A reply list is drawn from by a hash of the dialogue and the sampling seed (at temperature 0 of the dialogue alone), and
`{n}` is a number below 1000 drawn the same way. Equal dialogues in one batch draw apart, as with a real model. Where no
likelihood rule fits, every word costs log(number of continuations): no preference.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from constitutional.backends import Likelihood
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Completion, Dialogue, FinishReason, Record, Sampling, seed_for, short_digest
from constitutional.yamlfile import load_model

Probability = Annotated[float, Field(gt=0, lt=1)]

_LINE = r"(?m)^[ \t#*]*(?:(?i:response|answer|option|reply)[ \t]+[\[(]?{0}\b|[\[(]{0}[\])]|{0}[:.)])"
_MARKERS = (re.compile(_LINE.format("A")), re.compile(_LINE.format("B")))


class Rule(Record):
    """When to say what."""

    contains: str | None = None
    anywhere: str | None = None
    reply: str | Annotated[tuple[str, ...], Field(min_length=1)]
    finish: FinishReason = "stop"


class LikelihoodRule(Record):
    """When to prefer what; exactly one of `logprobs`, `keyword` and `prefer_option`."""

    contains: str | None = None
    anywhere: str | None = None
    logprobs: dict[str, Annotated[float, Field(le=0)]] | None = None
    keyword: str | None = None
    prefer_option: Literal["A", "B"] | None = None
    p: Probability = 0.9
    mass: Annotated[float, Field(gt=0, le=1)] = 1.0
    markers: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.logprobs, self.keyword, self.prefer_option)) != 1:
            raise ValueError("give exactly one of logprobs, keyword, prefer_option")
        return self


class Script(Record):
    """The file."""

    context: Annotated[int, Field(gt=0)] = 100_000
    delay: Annotated[float, Field(ge=0)] = 0.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    default: str = "I would rather not help with that."
    fail: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    likelihood: tuple[LikelihoodRule, ...] = ()
    no_logprobs: bool = False


class ScriptedBackend:
    """A `Backend` that follows a script file."""

    def __init__(self, path: str | Path) -> None:
        """Reads the script.

        Raises:
            ConfigError: the file cannot be read or holds something else.
        """
        file = Path(path)
        self.script = load_model(file, Script, ConfigError)
        self.model = f"scripted:{short_digest(self.script.model_dump(mode='json'))}"

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        """One completion per dialogue, by the first rule that fits."""
        started = time.monotonic()
        texts = [_text(dialogue) for dialogue in batch]
        self._call(texts)
        seen: Counter[str] = Counter()
        drawn: list[tuple[str, str, FinishReason]] = []
        for dialogue, text in zip(batch, texts, strict=True):
            seed = seed_for(sampling.seed, text, seen[text]) if sampling.temperature > 0 else seed_for(0, text)
            seen[text] += 1
            drawn.append((text, *_cut(*self._reply(dialogue, text, seed), sampling)))
        seconds = (time.monotonic() - started) / max(1, len(batch))
        return [
            Completion(
                text=reply,
                model=self.model,
                sampling=sampling,
                finish_reason=finish,
                prompt_tokens=_words(text),
                completion_tokens=_words(reply),
                seconds=seconds,
            )
            for text, reply, finish in drawn
        ]

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        """Log-probabilities by the first likelihood rule that fits.

        Raises:
            BackendError: the script says so, or a `logprobs` rule has no value for a continuation.
        """
        if self.script.no_logprobs:
            raise BackendError("this model gives no log-probabilities: judge with `mode: vote` or use another judge")
        texts = [_text(dialogue) for dialogue in batch]
        self._call(texts)
        return [
            Likelihood(logprobs=self._logprobs(dialogue, text, options), prompt_tokens=_words(text))
            for dialogue, text, options in zip(batch, texts, continuations, strict=True)
        ]

    def room(self, dialogue: Dialogue) -> int:
        """Words left in the script's `context`."""
        return self.script.context - _words(_text(dialogue))

    def _call(self, texts: list[str]) -> None:
        """What every call does first: take its time, and fail where the script says so."""
        if self.script.delay:
            unit = seed_for(0, "jitter", *texts) / 2**63
            time.sleep(self.script.delay * (1 + self.script.jitter * (2 * unit - 1)))
        for needle in self.script.fail:
            if any(needle in text for text in texts):
                raise BackendError(f"scripted failure on {needle!r}", retryable=True)

    def _reply(self, dialogue: Dialogue, text: str, seed: int) -> tuple[str, FinishReason]:
        rule = next((r for r in self.script.rules if _fits(r, dialogue, text)), None)
        replies = (
            (self.script.default,) if rule is None else (rule.reply,) if isinstance(rule.reply, str) else rule.reply
        )
        reply = replies[seed_for(seed, "reply") % len(replies)]
        return reply.replace("{n}", str(seed_for(seed, "n") % 1000)), rule.finish if rule else "stop"

    def _logprobs(self, dialogue: Dialogue, text: str, options: Sequence[str]) -> tuple[float, ...]:
        rule = next((r for r in self.script.likelihood if _fits(r, dialogue, text)), None)
        if rule is None:
            return tuple(-_words(option) * math.log(max(2, len(options))) for option in options)
        names = [option.strip() for option in options]
        if rule.logprobs is not None:
            missing = [name for name in names if name not in rule.logprobs]
            if missing:
                raise BackendError(f"the script's rule gives no log-probability for {missing[0]!r}")
            return tuple(rule.logprobs[name] for name in names)
        favoured = rule.prefer_option or _holder(rule.keyword or "", text, rule.markers)
        letters = [name.strip("()[]:. ") for name in names]
        if favoured not in letters or len(letters) < 2:
            return (math.log(rule.mass / len(letters)),) * len(letters)
        rest = (1 - rule.p) / (len(letters) - 1)
        return tuple(math.log(rule.mass * (rule.p if letter == favoured else rest)) for letter in letters)


def _fits(rule: Rule | LikelihoodRule, dialogue: Dialogue, text: str) -> bool:
    last = next((m.content for m in reversed(dialogue) if m.role == "user"), text)
    return (rule.contains is None or rule.contains in last) and (rule.anywhere is None or rule.anywhere in text)


def _holder(keyword: str, text: str, markers: tuple[str, str] | None) -> str | None:
    """The letter of the one response that holds the keyword; None when both or neither do."""
    if markers is not None:
        b = text.rfind(markers[1])
        a = text.rfind(markers[0], 0, max(b, 0))
    else:
        b = max((m.start() for m in _MARKERS[1].finditer(text)), default=-1)
        a = max((m.start() for m in _MARKERS[0].finditer(text, 0, max(b, 0))), default=-1)
    if a < 0 or b < 0:
        raise BackendError("the script's keyword rule found no two responses: give it `markers`")
    in_a, in_b = keyword in text[a:b], keyword in text[b:]
    return None if in_a == in_b else "A" if in_a else "B"


def _cut(reply: str, finish: FinishReason, sampling: Sampling) -> tuple[str, FinishReason]:
    """A reply as an engine would give it: ended by the first stop text and by the token limit."""
    stops = [place for stop in sampling.stop if (place := reply.find(stop)) >= 0]
    if stops:
        reply, finish = reply[: min(stops)], "stop"
    if _words(reply) > sampling.max_tokens:
        ends = [match.end() for match in re.finditer(r"\S+", reply)]
        reply, finish = reply[: ends[sampling.max_tokens - 1]], "length"
    return reply, finish


def _text(dialogue: Dialogue) -> str:
    return "\n\n".join(message.content for message in dialogue)


def _words(text: str) -> int:
    return len(text.split())
