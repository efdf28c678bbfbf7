"""Tasks handed to workers that die, in a simulation that decides who answers when and who dies."""

import random
from collections.abc import Collection, Hashable, Sequence

import pytest

from constitutional import parallel
from constitutional.errors import RunError
from constitutional.parallel import AHEAD, WINDOW, Crew, WorkerLostError


class Simulated:
    """Workers that square numbers; `dies(number, task, times)` says who dies at which task (-1: at its start)."""

    def __init__(self, count: int, draw: random.Random, dies=lambda number, task, times: False) -> None:
        self.count, self.draw, self.dies = count, draw, dies
        self.queues: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        self.said: dict[int, object] = {}
        self.tickets, self.starts, self.times, self.begun = 0, 0, {}, []

    def ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    def start(self, number: int) -> Hashable:
        self.queues[number] = [(ticket := self.ticket(), -1)]
        self.starts += 1
        return ticket

    def submit(self, number: int, task: int) -> Hashable:
        self.queues[number].append((ticket := self.ticket(), task))
        self.begun.append(task)
        assert len(self.queues[number]) <= AHEAD
        return ticket

    def wait(self, tickets: Sequence[Hashable], seconds: float) -> Collection[Hashable]:
        busy = [n for n, queue in enumerate(self.queues) if queue]
        if busy and (seconds or self.draw.random() < 0.5):
            self.step(self.draw.choice(busy))
        return [ticket for ticket in tickets if ticket in self.said]

    def step(self, number: int) -> None:
        """A worker comes to the end of what it is at, or to its own."""
        ticket, task = self.queues[number][0]
        self.times[task] = self.times.get(task, 0) + 1
        if self.dies(number, task, self.times[task]):
            for lost, _ in self.queues[number]:
                self.said[lost] = WorkerLostError("killed")
            self.queues[number] = []
            return
        self.queues[number].pop(0)
        self.said[ticket] = ValueError(f"bad {task}") if task == 1000 else task * task

    def answer(self, ticket: int) -> int:
        said = self.said[ticket]
        if isinstance(said, Exception):
            raise said
        return said


@pytest.mark.parametrize("seed", range(30))
def test_answers_come_in_order_whoever_is_first_and_whoever_dies(seed: int) -> None:
    draw = random.Random(seed)
    count, tasks = draw.randint(1, 6), [3 * i for i in range(draw.randint(0, 80))]
    killed = [0]

    def dies(number: int, task: int, times: int) -> bool:
        killed[0] += (found := draw.random() < 0.1 and times < parallel.DEATHS)
        return found

    workers = Simulated(count, draw, dies)
    crew, given, prepared = Crew(workers), [], []

    def prepare(task: int) -> int:
        prepared.append(task)
        assert tasks.index(task) < len(given) + WINDOW * count + 1
        return task

    for task, answer in crew.in_order(tasks, prepare):
        given.append((task, answer))
    assert given == [(task, task * task) for task in tasks]
    assert set(prepared) == set(tasks) and len(prepared) - len(tasks) <= AHEAD * killed[0]
    again = list(crew.in_order([7, 5], lambda task: task))  # the same workers, later, for another stage
    assert again == [(7, 49), (5, 25)]
    assert workers.starts <= count + killed[0] + 2 or not tasks


def test_a_task_that_is_the_end_of_three_workers_is_named_and_the_ones_before_it_are_given() -> None:
    workers = Simulated(2, random.Random(1), lambda number, task, times: task == 12)
    given = []
    with pytest.raises(RunError, match="chunk 12: 3 workers died at it"):
        for task, _ in Crew(workers).in_order(range(40), lambda task: task, "chunk {}".format):
            given.append(task)
    assert given == list(range(len(given))) and len(given) <= 12


def test_what_a_task_raises_is_raised_in_its_turn() -> None:
    tasks, given = [*range(9), 1000, *range(20, 60)], []
    with pytest.raises(ValueError, match="bad 1000"):
        for task, _ in Crew(Simulated(4, random.Random(2))).in_order(tasks, lambda task: task):
            given.append(task)
    assert given == list(range(9))


def test_a_worker_that_never_lives_is_given_up_and_the_others_do_its_work() -> None:
    said: list[str] = []
    workers = Simulated(3, random.Random(3), lambda number, task, times: number == 1 and task == -1)
    found = list(Crew(workers, said.append).in_order(range(30), lambda task: task))
    assert [task for task, _ in found] == list(range(30))
    assert len(said) <= 1 and all("given up" in line for line in said)
    with pytest.raises(RunError, match="no worker lives until it is ready: killed"):
        list(Crew(Simulated(2, random.Random(4), lambda *_: True)).in_order([1], lambda task: task))


def test_it_is_said_once_when_no_worker_comes() -> None:
    said: list[str] = []

    class Late(Simulated):
        waits = 0

        def wait(self, tickets: Sequence[Hashable], seconds: float) -> Collection[Hashable]:
            self.waits += 1
            return [] if self.waits < 2 * parallel.PATIENCE else super().wait(tickets, seconds)

    assert len(list(Crew(Late(2, random.Random(5)), said.append).in_order(range(4), lambda task: task))) == 4
    assert said == ["still waiting for the first of 2 workers: are there free processors?"]
