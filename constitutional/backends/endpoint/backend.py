"""The backend behind `openai:MODEL@BASE_URL`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from constitutional.backends import Likelihood, Unanswered
from constitutional.backends.endpoint.address import parse_address
from constitutional.backends.endpoint.answers import Answered
from constitutional.backends.endpoint.calls import Calls, load_prices
from constitutional.backends.endpoint.options import LONG, Read, read_tail, read_top
from constitutional.backends.endpoint.requests import (
    CONTINUING,
    Request,
    completion_request,
    prompt_request,
    top_request,
)
from constitutional.backends.endpoint.server import Server
from constitutional.backends.tokens import is_raw_text
from constitutional.errors import BackendError
from constitutional.records import Completion, Dialogue, FinishReason, Sampling, seed_for
from constitutional.settings import EndpointSettings

UNKNOWN_ROOM = 10**9
"""Tokens left in a context window of unknown size: the server itself says what is too long, and cuts nothing."""

Place = tuple[int, int]
"""An item of a batch, and one of its options."""

PROBES = 8
"""Questions put one by one until one is answered: the first ones may be such that no server would."""


class EndpointBackend:
    """Implements `constitutional.backends.Backend` over HTTP; `generate_each` tells failed items apart."""

    def __init__(self, rest: str, settings: EndpointSettings, calls: Calls | None = None) -> None:
        """Sends nothing yet.

        Args:
            rest: `MODEL@BASE_URL`.
            settings: limits and patience.
            calls: where answers are kept and looked up; in memory when None.

        Raises:
            ConfigError: no model or URL; a budget, and no price for the model.
            BackendError: the extra `api` is missing.
        """
        self.address = parse_address(rest)
        self.model = self.address.identity
        prices = load_prices(Path(settings.prices) if settings.prices else None)
        self._server = Server(self.address, settings, calls or Calls(None), prices.get(self.address.model))
        self._listed = set[tuple[str, ...]]()
        """Sets of options of which one was seen as a first token: the others are taken to be single tokens, too."""
        self._letters = False
        """Whether that one was a single character, as of all options that are no longer."""

    def close(self) -> None:
        """Closes all connections."""
        self._server.close()

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        """One completion per dialogue, in order. A server's draws are its own: a seed is sent, and may be ignored.

        Raises:
            BackendError: an item was not answered (`generate_each` says which), or as `generate_each`.
        """
        found = []
        for one in self.generate_each(batch, sampling):
            if isinstance(one, Unanswered):
                raise BackendError(f"{self.model}: {one.message}")
            found.append(one)
        return found

    def generate_each(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion | Unanswered]:
        """As `generate`, with what the server would not or could not answer in its place.

        Raises:
            BackendError: the server cannot be reached within the patience (retryable), or refuses all.
            BudgetError: the budget may not be enough.
        """
        owner = self._server.owner() if batch else ""
        seen: Counter[Dialogue] = Counter()
        asked: list[tuple[Request, str]] = []
        for dialogue in batch:
            seed = seed_for(sampling.seed, "endpoint", seen[dialogue])  # equal dialogues in one batch are drawn apart
            seen[dialogue] += 1
            asked.append(completion_request(self.address, dialogue, sampling, seed, owner))
        answers = self._server.ask([request for request, _ in asked])
        return [self._completion(a, opening, sampling) for a, (_, opening) in zip(answers, asked, strict=True)]

    def _completion(
        self, found: tuple[Answered | Unanswered, float], opening: str, sampling: Sampling
    ) -> Completion | Unanswered:
        answer, seconds = found
        if isinstance(answer, Unanswered):
            return answer
        text = answer.text
        if opening:
            if not text.lstrip().startswith(opening):
                return Unanswered(kind="no_opening", message=f"the answer does not begin as asked: {opening}")
            text = text.lstrip()[len(opening) :]
        places = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
        finish: FinishReason = "stop" if places else answer.finish
        return Completion(
            text=text[: min(places)] if places else text,
            model=self.model,
            sampling=sampling,
            finish_reason=finish,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            seconds=seconds,
        )

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        """Log-probabilities of continuations, in nats, read as `endpoint.options` says.

        Options of one token are read from the likeliest first tokens; what is not listed gets its upper bound, and the
        note says how much the list left over. Longer ones are read token by token where the server tells of a prompt's
        tokens: vLLM by `prompt_logprobs`, others by `echo`, which only raw text has. Where it does not, and options
        were listed before, they keep their upper bound, too.

        Raises:
            BackendError: the server gives no log-probabilities (names mode `vote`), or none of such options; else as
                `generate_each`.
        """
        if not batch:
            return []
        owner = self._server.owner()
        short = [i for i, options in enumerate(continuations) if all(len(option) <= LONG for option in options)]
        requests = [top_request(self.address, batch[i], owner) for i in short]
        for request in requests[:PROBES]:
            if self._server.gave_logprobs or self._server.offline:
                break
            self._server.ask([request])  # alone: a server without log-probabilities is not asked a thousand times
        tops = dict(zip(short, self._server.ask(requests), strict=True))
        reads: dict[int, Read] = {}
        for i, (answer, _) in tops.items():
            if isinstance(answer, Answered):
                reads[i] = read_top(answer.top, continuations[i])
        wanted = [(i, n) for i in range(len(batch)) for n in _by_tokens(i, continuations[i], tops, reads)]
        asked = [tuple(options) for options in continuations]
        for i, read in reads.items():
            if seen := [option for n, option in enumerate(asked[i]) if n not in read.unlisted]:
                self._listed.add(asked[i])
                self._letters |= any(map(_is_letter, seen))
        known = {options for options in asked if self._letters and all(map(_is_letter, options))} | self._listed
        bounded = {i for i in reads if asked[i] in known}
        tails = self._tails(wanted, batch, continuations, bounded, owner)
        return [
            self._likelihood(i, d, c, tops, reads, tails)
            for i, (d, c) in enumerate(zip(batch, continuations, strict=True))
        ]

    def _tails(
        self,
        wanted: Sequence[Place],
        batch: Sequence[Dialogue],
        continuations: Sequence[Sequence[str]],
        bounded: Collection[int],
        owner: str,
    ) -> dict[Place, tuple[float, Answered] | Unanswered]:
        """Log-probabilities of continuations from their own tokens, where the server tells of a prompt's tokens.

        Where it does not, the items in `bounded` are left out: their options keep what first tokens say.
        """
        requests: dict[Place, Request] = {}
        for i, n in wanted:
            continuation = continuations[i][n]
            request = prompt_request(self.address, batch[i], continuation, owner)
            if request is not None:
                requests[i, n] = request
            elif i not in bounded:
                raise BackendError(
                    f"{self.model}: {continuation.strip()!r} is more than one token there, and the server tells "
                    "nothing of a prompt's tokens: use a template pack with options of one letter, or `mode: vote`"
                )
        found: dict[Place, tuple[float, Answered] | Unanswered] = {}
        for place, (answer, _) in zip(requests, self._server.ask(list(requests.values())), strict=True):
            if isinstance(answer, Unanswered):
                found[place] = answer
                continue
            total = read_tail(answer.prompt, continuations[place[0]][place[1]])
            fault = "no token begins where the option does"
            found[place] = Unanswered(kind="invalid_answer", message=fault) if total is None else (total, answer)
        return found

    def _likelihood(
        self,
        i: int,
        dialogue: Dialogue,
        options: Sequence[str],
        tops: Mapping[int, tuple[Answered | Unanswered, float]],
        reads: Mapping[int, Read],
        tails: Mapping[Place, tuple[float, Answered] | Unanswered],
    ) -> Likelihood:
        parts = [tails[i, n] for n in range(len(options)) if (i, n) in tails]
        answers = [tops[i][0]] if i in tops else []
        answers += [part if isinstance(part, Unanswered) else part[1] for part in parts]
        for answer in answers:
            if isinstance(answer, Unanswered):
                fault = None if answer.kind == "too_long" else f"{answer.kind}: {answer.message}"
                return Likelihood(logprobs=(math.nan,) * len(options), prompt_tokens=0, fault=fault)
        said = [answer for answer in answers if isinstance(answer, Answered)]
        logprobs = list(reads[i].logprobs) if i in reads else [math.nan] * len(options)
        for n in range(len(options)):
            if not isinstance(part := tails.get((i, n)), Unanswered) and part is not None:
                logprobs[n] = part[0]
        note: dict[str, JsonValue] = {"model": said[0].served, "fingerprint": said[0].fingerprint}
        if i in reads:
            unlisted: list[JsonValue] = [options[n].strip() for n in reads[i].unlisted if (i, n) not in tails]
            # mode `score` reads which grades were not listed
            note |= {"missing_mass": round(reads[i].missing, 6)} | ({"unlisted": unlisted} if unlisted else {})
        if dialogue[-1].role == "assistant" and not is_raw_text(dialogue):
            note["opening"] = "continued" if self._server.owner() in CONTINUING else "as a turn"
        tokens = sum(answer.prompt_tokens for answer in said)
        return Likelihood(logprobs=tuple(logprobs), prompt_tokens=tokens, note=note)

    def room(self, dialogue: Dialogue) -> int:
        """A very large number: the server says itself what is too long, which is then the item's failure."""
        return UNKNOWN_ROOM


def _is_letter(option: str) -> bool:
    return len(option.strip()) == 1


def _by_tokens(
    i: int, options: Sequence[str], tops: Mapping[int, tuple[Answered | Unanswered, float]], reads: Mapping[int, Read]
) -> Sequence[int]:
    """The options of an item that are to be read token by token."""
    if i in reads:
        return reads[i].split
    return () if i in tops else range(len(options))
