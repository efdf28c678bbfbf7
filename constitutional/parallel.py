"""Work handed to processes that may die, taken back in order.

What runs where is decided here, and how a worker is reached elsewhere. A worker has at most `AHEAD` tasks, so that it
never waits for the next one; results are given in the order of the tasks, and no task is begun that is more than
`WINDOW` a worker ahead of the next to give. A task whose worker died is handed out again: the first of a worker's tasks
is the one it was at, and one that was at the death of `DEATHS` workers ends the work.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from constitutional.errors import RunError

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
R = TypeVar("R")

AHEAD, WINDOW, DEATHS = 2, 8, 3
PATIENCE = 30.0
"""Seconds without a single worker after which it is said."""


class WorkerLostError(Exception):
    """The process that was to answer is gone, or cannot be reached."""


class Workers(Protocol[T_contra, R_co]):
    """Processes that do tasks, numbered from 0. A ticket stands for an answer that is to come."""

    count: int

    def start(self, number: int) -> Hashable:
        """Starts a worker, in the place of the one before it; the ticket is answered when it is ready."""
        ...

    def submit(self, number: int, task: T_contra) -> Hashable:
        """Hands a task to a worker, which does its tasks in turn."""
        ...

    def wait(self, tickets: Sequence[Hashable], seconds: float) -> Collection[Hashable]:
        """Those that are answered or never will be; waits so long for the first."""
        ...

    def answer(self, ticket: Any) -> R_co:
        """What a ticket stands for.

        Raises:
            WorkerLostError: there will be none.
            Exception: what the work itself raised.
        """
        ...


class Crew(Generic[T, R]):
    """Workers, and what each of them is at; started at the first task."""

    def __init__(self, workers: Workers[T, R], say: Callable[[str], None] = lambda text: None) -> None:
        """`say` is told what becomes of workers."""
        self._workers, self._say = workers, say
        self._queues: list[deque[tuple[int, Hashable]]] = [deque() for _ in range(workers.count)]
        self._starting: dict[int, Hashable] = {}
        self._given_up: set[int] = set()
        self._begun, self._alone = False, 0.0
        self._died_starting = 0

    def in_order(
        self, tasks: Sequence[int], prepare: Callable[[int], T], name: Callable[[int], str] = "task {}".format
    ) -> Iterator[tuple[int, R]]:
        """Has tasks done and gives each with its answer, in the order of the tasks.

        Args:
            tasks: numbers, each once.
            prepare: what a worker is handed; called when a task is handed out.
            name: how a task is called in messages.

        Raises:
            RunError: a task was the end of `DEATHS` workers, or no worker lives long enough to begin.
            Exception: what a task itself raised, when the tasks before it are given.
        """
        if tasks and not self._begun:
            self._begun = True
            for number in range(self._workers.count):
                self._start(number)
        waiting, ready = list(range(len(tasks))), dict[int, R | Exception]()
        deaths: Counter[int] = Counter()
        for place, task in enumerate(tasks):
            end = place + WINDOW * self._workers.count
            while True:
                while waiting and waiting[0] < end and (free := self._free()) is not None:
                    at = heapq.heappop(waiting)
                    self._queues[free].append((at, self._workers.submit(free, prepare(tasks[at]))))
                # also when this one is here: others came while the last was put away, and their workers shall not wait
                ready.update(self._collect(0.0 if place in ready else 1.0, waiting, deaths))
                at, times = max(deaths.items(), key=lambda item: item[1], default=(0, 0))
                if times >= DEATHS:
                    raise RunError(f"{name(tasks[at])}: {times} workers died at it, one after another")
                if place in ready:
                    break
            answer = ready.pop(place)
            if isinstance(answer, Exception):
                raise answer
            yield task, answer

    def _start(self, number: int) -> None:
        self._starting[number] = self._workers.start(number)

    def _free(self) -> int | None:
        """The worker with the fewest tasks that may have one more."""
        able = [(len(q), n) for n, q in enumerate(self._queues) if self._lives(n) and len(q) < AHEAD]
        return min(able)[1] if able else None

    def _lives(self, number: int) -> bool:
        return number not in self._starting and number not in self._given_up

    def _collect(self, seconds: float, waiting: list[int], deaths: Counter[int]) -> Iterator[tuple[int, R | Exception]]:
        """What has come, by place; waits so long for something. Tasks of dead workers wait again."""
        owner = {ticket: n for n, queue in enumerate(self._queues) for _, ticket in queue}
        owner |= {ticket: n for n, ticket in self._starting.items()}
        come = set(self._workers.wait(list(owner), seconds))
        self._tell_when_alone(0.0 if come else seconds)
        for number in sorted({owner[ticket] for ticket in come}):
            if number in self._starting:
                self._started(number)
                continue
            queue = self._queues[number]
            try:
                yield from self._answers(queue, come)
            except WorkerLostError as error:
                deaths[queue[0][0]] += 1
                for place, _ in queue:
                    heapq.heappush(waiting, place)
                queue.clear()
                self._say(f"a worker is lost, another one takes its place: {error}")
                self._start(number)

    def _answers(self, queue: deque[tuple[int, Hashable]], come: set[Hashable]) -> Iterator[tuple[int, R | Exception]]:
        """A worker's answers in its order; when only a later ticket failed, the first is still asked for."""
        while queue:
            place, ticket = queue[0]
            try:
                answer: R | Exception = self._workers.answer(ticket)
            except WorkerLostError:
                raise
            except Exception as error:  # of the work itself: raised in its turn, as if it had been done here
                answer = error
            queue.popleft()
            yield place, answer
            if queue and queue[0][1] not in come:
                return

    def _started(self, number: int) -> None:
        ticket = self._starting.pop(number)
        try:
            self._workers.answer(ticket)
            self._died_starting = 0
        except WorkerLostError as error:
            self._died_starting += 1
            if self._died_starting < DEATHS:
                self._start(number)
                return
            self._given_up.add(number)
            if len(self._given_up) == len(self._queues):
                raise RunError(f"no worker lives until it is ready: {error}") from error
            self._say(f"a worker is given up: it died before it was ready, {self._died_starting} times: {error}")

    def _tell_when_alone(self, seconds: float) -> None:
        before = self._alone
        self._alone = 0.0 if any(self._lives(n) for n in range(len(self._queues))) else before + seconds
        if before < PATIENCE <= self._alone:
            self._say(f"still waiting for the first of {len(self._queues)} workers: are there free processors?")
