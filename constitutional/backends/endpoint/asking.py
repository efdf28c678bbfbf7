"""The one policy under which calls are made: how many at once, how many a minute, and when to ask again.

The SDK retries nothing. An attempt that brought no answer is made again after a random, growing pause, never earlier
than the server's Retry-After, until a call has taken `patience` seconds of sending and pausing (time in the queue does
not count; the last attempt is cut short); then the run stops, resumably. Garbage is asked for `GARBAGE` times at most.

Requests a minute are spread evenly: what one second may hold goes at once, and no minute has more than were allowed. Of
tokens a minute may have one call more than was allowed.

The number of calls at once is halved when the server says that it is overloaded, and grows again by one a round of good
answers. Calls that were under way at a cut do not cut again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from constitutional.backends.endpoint.faults import Fault, Garbage
from constitutional.backends.endpoint.wire import require_extra
from constitutional.errors import BackendError
from constitutional.settings import EndpointSettings

T = TypeVar("T")

GARBAGE = 6
"""Attempts that may bring garbage before it is the item's failure."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds: about the first pause, and no pause is longer unless the server asks for it."""

MOMENT = 0.02
"""Seconds after which a call that was not admitted asks again."""

SHORTEST = 0.01
"""Seconds that an attempt has at least, however little patience is left."""


class Halted(Exception):
    """Another call has ended the run; this one was not made."""


class Slots:
    """How many calls may be under way at once."""

    def __init__(self, most: int) -> None:
        self.most, self.limit, self.busy = most, float(most), 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._cut = 0.0

    async def take(self) -> None:
        """Waits for a slot."""
        while self.busy >= int(self.limit):
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        self.busy += 1

    def give(self) -> None:
        """Gives a slot back."""
        self.busy -= 1
        self.wake()

    def wake(self, *, every: bool = False) -> None:
        """Lets waiting calls look again: as many as there is room for."""
        room = len(self._waiting) if every else int(self.limit) - self.busy
        while self._waiting and room > 0:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1

    def overloaded(self, began: float) -> None:
        """Halves the limit, unless the call began before the last cut."""
        if began >= self._cut:
            self.limit, self._cut = max(1.0, self.limit / 2), time.monotonic()

    def went_well(self) -> None:
        """Lets the limit grow."""
        self.limit = min(float(self.most), self.limit + 1 / self.limit)


class Asker:
    """The policy and its state for one server; lives in one event loop."""

    def __init__(self, settings: EndpointSettings, trouble: Callable[[Fault], object] = lambda fault: None) -> None:
        """Prepares the limits.

        Args:
            settings: the limits.
            trouble: is told of each attempt that ended in a Fault.

        Raises:
            BackendError: the extra `api` is missing.
        """
        require_extra()

        self.settings, self.slots, self.halted = settings, Slots(settings.concurrency), asyncio.Event()
        self._trouble = trouble
        self._limiters: list[tuple[Any, bool]] = []
        for most, of_tokens in ((settings.requests_per_minute, False), (settings.tokens_per_minute, True)):
            if most is not None:
                self._limiters.append((_limiter(most), of_tokens))
        self._queue = asyncio.Lock()

    def halt(self) -> None:
        """Ends what waits; what is under way may come to its end."""
        self.halted.set()
        self.slots.wake(every=True)

    async def ask(
        self, attempt: Callable[[float], Awaitable[T]], tokens: int, admit: Callable[[], bool] = lambda: True
    ) -> T:
        """Makes a call until it is answered.

        Args:
            attempt: sends once, within the seconds it is given.
            tokens: what a call is counted as against the tokens a minute.
            admit: whether an attempt may be made now; asked again after a moment if not.

        Raises:
            Garbage: nothing but garbage came.
            BackendError: the patience is at its end (retryable), or what `attempt` raises.
            Halted: another call ended the run.
        """
        import tenacity

        spent, garbage = 0.0, 0

        async def once() -> T:
            nonlocal spent, garbage
            began = await self._slot(tokens, admit)
            left = self.settings.patience - spent
            try:
                found = await attempt(max(SHORTEST, min(self.settings.timeout, left)))
                self.slots.went_well()
                return found
            except Fault as fault:
                if fault.overloaded:
                    self.slots.overloaded(began)
                self._trouble(fault)
                raise
            except Garbage:
                garbage += 1
                raise
            finally:
                spent += time.monotonic() - began
                self.slots.give()

        async def pause(seconds: float) -> None:
            nonlocal spent
            spent += seconds
            await self._sleep(seconds)

        def stop(state: Any) -> bool:
            return bool(garbage >= GARBAGE or spent + state.upcoming_sleep > self.settings.patience)

        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((Fault, Garbage)),
            wait=_pause,
            stop=stop,
            sleep=pause,
            reraise=True,
        )
        try:
            answer: T = await policy(once)
            return answer
        except Garbage as error:
            if garbage >= GARBAGE:
                raise
            raise self._given_up(error) from None
        except Fault as error:
            raise self._given_up(error) from None

    def _given_up(self, error: Exception) -> BackendError:
        wanted = getattr(error, "retry_after", 0.0)
        asks = f" (it asks to wait {wanted:.0f} s)" if wanted else ""
        patience = f"within endpoint.patience ({self.settings.patience:g} s)"
        return BackendError(f"no answer {patience}: {error}{asks}", retryable=True)

    async def _slot(self, tokens: int, admit: Callable[[], bool]) -> float:
        """Waits for a slot, and only then for the rate: leave that waited for a slot would be no rate any more."""
        await self.slots.take()
        try:
            if self._limiters and not self.halted.is_set():
                await self._leave(tokens)
            while not self.halted.is_set():
                if admit():
                    return time.monotonic()
                await asyncio.sleep(MOMENT)
            raise Halted
        except BaseException:
            self.slots.give()
            raise

    async def _leave(self, tokens: int) -> None:
        """Waits until the rates allow a call, not beyond the end of the run."""
        leave = asyncio.ensure_future(self._limited(tokens))
        halted = asyncio.ensure_future(self.halted.wait())
        try:
            await asyncio.wait((leave, halted), return_when=asyncio.FIRST_COMPLETED)
            if leave.done():
                leave.result()
        finally:
            leave.cancel()
            halted.cancel()

    async def _limited(self, tokens: int) -> None:
        async with self._queue:  # in order: a limiter lets the smallest amount go first, and long calls would starve
            for limiter, of_tokens in self._limiters:
                left = float(tokens) if of_tokens else 1.0
                while left > 0:  # a call may be larger than what goes at once
                    await limiter.acquire(part := min(left, limiter.max_rate))
                    left -= part

    async def _sleep(self, seconds: float) -> None:
        """Pauses, not beyond the end of the run."""
        try:
            await asyncio.wait_for(self.halted.wait(), seconds)
        except TimeoutError:
            return
        raise Halted


def _limiter(most: float) -> Any:
    """A limit a minute, of which a second's share may go at once; what that adds to a minute is taken off the rate."""
    import aiolimiter

    at_once = max(1.0, most // 60)
    return aiolimiter.AsyncLimiter(at_once, 60 * at_once / (most - at_once + 1))


def _pause(state: Any) -> float:
    """Between half and the whole of a pause that doubles, and never less than the server asks for."""
    doubled = min(state.attempt_number - 1, 30)  # a patience of days has attempts beyond what a float holds
    whole = min(LONGEST_PAUSE, FIRST_PAUSE * 2**doubled)
    fault = state.outcome.exception()
    return float(max(getattr(fault, "retry_after", 0.0), whole * random.uniform(0.5, 1.0)))
