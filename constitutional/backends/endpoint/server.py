"""A server that is called: one event loop in a thread of its own, its connections, and what is known of the server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from constitutional.activity import tell
from constitutional.backends import Unanswered
from constitutional.backends.endpoint import wire
from constitutional.backends.endpoint.address import Address, telling_secrets
from constitutional.backends.endpoint.answers import Answered, billed, parse, read_answer
from constitutional.backends.endpoint.asking import Asker, Halted
from constitutional.backends.endpoint.calls import Calls, Price
from constitutional.backends.endpoint.faults import Fault, Garbage, NoLogprobs, Rejected, no_logprobs
from constitutional.backends.endpoint.requests import Request, without_item
from constitutional.errors import BackendError, ConfigError, PendingError
from constitutional.settings import EndpointSettings

T = TypeVar("T")
Found = tuple[Answered | Unanswered, float]
"""An answer, or why there is none, and the seconds it took."""

BYTES_A_TOKEN = 3.0
"""For the tokens a minute, where it counts not to guess too low: English text has about four, Chinese three."""


@dataclass
class _Progress:
    """Calls of the present `ask` that have come to an end, and all of them."""

    made: int = 0
    wanted: int = 0

    def say(self, more: str = "") -> None:
        tell(self.made, self.wanted, f"calls done{more}")

    def trouble(self, fault: Fault) -> None:
        """A server that is not there is waited for, as long as the patience lasts; first for its list of models."""
        if self.wanted:
            self.say(f"; no answer: {fault}")
        else:
            tell(0, 1, f"lists of models; no answer: {fault}")


class Server:
    """Calls one server for one model."""

    def __init__(self, address: Address, settings: EndpointSettings, calls: Calls, price: Price | None) -> None:
        if calls.budget is not None and price is None:
            raise ConfigError(f"budget: no price is known for '{address.model}': put it into a file (endpoint.prices)")
        self._address, self._settings, self._calls, self._price = address, settings, calls, price
        self._identity = address.identity
        self._progress = _Progress()
        self._asker = Asker(settings, self._progress.trouble)
        self._client = wire.open_client(address, settings.concurrency)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_live, args=(self._loop,), name="endpoint", daemon=True).start()
        self._end = weakref.finalize(self, _end, self._loop, self._client)
        self._owner: str | None = None
        self.gave_logprobs = False
        self._answered = False
        self._rejected: dict[str, Unanswered] = {}
        """Not asked again while this lives; a resumed run may find the server mended."""

    def close(self) -> None:
        """Ends the thread and closes its connections; a second call does nothing."""
        self._end()

    @property
    def offline(self) -> bool:
        """Whether calls are noted for batch files instead of being made."""
        return self._calls.offline

    def owner(self) -> str:
        """Who made the server, as its list of models says (`vllm` ...); empty where it does not say.

        Asked once; not at all where calls go to batch files, which anybody may answer.
        """
        if self.offline:
            return ""
        if self._owner is None:
            self._owner = self._run(self._find_owner())
        return self._owner

    async def _find_owner(self) -> str:
        async def once(seconds: float) -> dict[str, Any]:
            return parse(await wire.models(self._client, self._address, seconds), telling_secrets(self._address))

        try:
            listed = await self._asker.ask(once, 0)
            rows = [row for row in listed.get("data", []) if isinstance(row, dict)]
        except (Garbage, Rejected, TypeError):
            return ""
        except BackendError as error:
            if error.retryable:
                raise
            return ""  # no such list: a server may do without
        named = [row for row in rows if row.get("id") == self._address.model] or rows[:1]
        owner = named[0].get("owned_by") if named else None
        return owner if isinstance(owner, str) else ""

    def ask(self, requests: Sequence[Request]) -> list[Found]:
        """The answers, in order; equal requests are asked once, and what was answered before is not asked again.

        Raises:
            BackendError: the server cannot be reached within the patience, or refuses us.
            BudgetError: the budget may not be enough. All answers that came are kept in either case.
            PendingError: calls were noted for a batch file.
        """
        found = self._found(requests)
        said = [a.message for a, _ in found.values() if isinstance(a, Unanswered) and a.kind == "rejected"]
        if said and len(said) == len(found) and not self._answered:
            self._blame(requests[0], said[0])
        return [found[request.key] for request in requests]

    def _found(self, requests: Sequence[Request]) -> dict[str, Found]:
        by_key = {request.key: request for request in requests}
        known = self._calls.refused(self._identity, by_key) | self._calls.find(self._identity, by_key)
        known |= {key: self._rejected[key] for key in by_key if key in self._rejected}
        found: dict[str, Found] = {key: (answer, 0.0) for key, answer in known.items()}
        self._note(found)
        fresh = {key: request for key, request in by_key.items() if key not in found}
        if fresh and self._calls.offline:
            self._calls.wait_for(self._identity, {key: request.to_json() for key, request in fresh.items()})
            raise PendingError(f"{len(fresh)} calls wait for a batch file")
        if fresh:
            made = self._run(self._all(fresh))
            self._note(made)
            found |= made
        return found

    def _blame(self, request: Request, said: str) -> None:
        """Where all were rejected, and nothing was ever answered: is it the items, or is every call of this kind?"""
        if self.offline:
            return  # such rejections are not even read from a batch file
        ((answer, _),) = self._found([without_item(request)]).values()
        if isinstance(answer, Unanswered) and answer.kind == "rejected":
            raise BackendError(f"every request is rejected: {said}")

    def _note(self, found: dict[str, Found]) -> None:
        answers = [answer for answer, _ in found.values() if isinstance(answer, Answered)]
        self._answered = self._answered or bool(answers)
        self.gave_logprobs = self.gave_logprobs or any(answer.top or answer.prompt for answer in answers)

    async def _all(self, requests: dict[str, Request]) -> dict[str, Found]:
        """Makes all calls; when one ends the run, those under way come to their end first, and are kept."""
        self._asker.halted.clear()
        progress = self._progress
        progress.made, progress.wanted = 0, len(requests)
        progress.say()

        def ended(task: asyncio.Task[Found]) -> None:
            if not task.cancelled() and task.exception() is None:
                progress.made += 1
                progress.say()

        tasks = [asyncio.create_task(self._one(key, request)) for key, request in requests.items()]
        for task in tasks:
            task.add_done_callback(ended)
        try:
            done = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:  # the caller was interrupted
            for task in tasks:
                task.cancel()
            raise
        errors = [one for one in done if isinstance(one, BaseException) and not isinstance(one, Halted)]
        if errors:
            raise errors[0]
        return {key: one for key, one in zip(requests, done, strict=True) if not isinstance(one, BaseException)}

    async def _one(self, key: str, request: Request) -> Found:
        most = int(request.body["max_tokens"])
        worst = self._price.of(request.most_tokens, most) if self._price else 0.0

        async def once(seconds: float) -> Answered:
            try:
                body = await wire.send(self._client, self._address, request, seconds)
                told = parse(body, telling_secrets(self._address))
                answer = read_answer(told, chat=request.chat, asked=request.body)
                self._keep(key, answer, billed(told), worst)
                return answer
            except (Garbage, Rejected) as fault:
                self._keep(None, None, fault.billed, worst)
                raise
            finally:
                self._calls.release(worst)

        started = time.monotonic()
        try:
            tokens = int(request.size / BYTES_A_TOKEN) + most
            answer = await self._asker.ask(once, tokens, lambda: self._calls.reserve(worst))
            return answer, time.monotonic() - started
        except Rejected as error:
            self._rejected[key] = Unanswered(kind=error.kind, message=str(error))
            return self._rejected[key], time.monotonic() - started
        except Garbage as error:
            if isinstance(error, NoLogprobs) and not self.gave_logprobs:
                self._asker.halt()
                raise no_logprobs(self._identity) from None
            return Unanswered(kind="invalid_answer", message=str(error)), time.monotonic() - started
        except BaseException:
            self._asker.halt()
            raise

    def _keep(self, key: str | None, answer: Answered | None, told: tuple[int, int] | None, worst: float) -> None:
        """Keeps an answer, or that there was none, and its cost: the most it can be where the server does not tell."""
        usd = 0.0 if self._price is None else worst if told is None else self._price.of(*told)
        tokens = (answer.prompt_tokens, answer.completion_tokens) if answer else told or (0, 0)
        if answer or any(tokens) or usd:
            self._calls.keep(self._identity, key, answer, tokens, usd)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _live(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """Closes the connections and ends the loop; at the end of the process the thread goes with it."""
    if loop.is_closed():
        return

    async def last() -> None:
        current = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await client.close()

    with contextlib.suppress(TimeoutError, RuntimeError):  # the thread is a daemon: nobody waits for it longer
        asyncio.run_coroutine_threadsafe(last(), loop).result(5)
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
