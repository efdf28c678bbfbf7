"""How the data steps spread over workers, and how much one writer can put away.

    python benchmarks/scale_out.py [--prompts 400] [--delay 0.05] [--seconds 60] [--check]

First a run on Ray with 1 and with 2 workers, on a scripted model whose every call takes `delay` seconds. Start-up (Ray,
and workers that open the recipe) is told apart: the clock of a ratio is that of the steps after `revise`, in which the
workers start. Linear is half of one worker's time for two; "Ray costs" is one worker's time over that of this process.

Then 64 simulated workers with seeded delays hand chunks of 256 judgments (16 principles, both orders, 8 pairs: the
default chunk) to the real driver: `parallel.Crew`, the stage's own commit, the ledger, fsync included. "offered" is
what they could make a second; answers come pickled, as from Ray. "stored/s" is the rate between a quarter and three
quarters of all chunks, where neither the start nor the last chunks, for which most workers have nothing to do, count;
"of ideal" beside it is against the same part of the same hand-out of chunks on a clock on which nothing but the delays
takes time, "whole" of all chunks.
"""

from __future__ import annotations

import argparse
import heapq
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from engine_cases import verdict
from ledger import made
from recipes import write_recipe

from constitutional.config import load_recipe
from constitutional.ledger import open_ledger
from constitutional.parallel import Crew
from constitutional.pipeline import RunOutcome, run_recipe
from constitutional.pipeline.ray_engine import RayChoice, open_ray
from constitutional.records import Judgment
from constitutional.runs import StageResult, open_run
from constitutional.runs.engine import Chunks, Made, StageName

STEPS = ("helpful", "sample", "judge")
CHUNK, WORKERS = 256, 64
Bar = tuple[str, float, str, float]


def seconds(outcome: RunOutcome) -> dict[str, float]:
    return {step.name: step.result.manifest.seconds for step in outcome.steps}


def on_ray(folder: Path, prompts: int, delay: float) -> list[Bar]:
    recipe = write_recipe(folder / "in", delay=delay, prompts=prompts)
    model = folder / "in" / "model.yaml"
    model.write_text(model.read_text().replace("jitter: 1.0", "jitter: 0.5"))
    sets = ["stages=[revise, helpful, sample, judge]", "revise.rounds=1", "revise.candidates=1"]
    loaded = load_recipe(recipe, [*sets, "prompts.red_team.limit=100000", "prompts.helpful.limit=100000"])
    took = {"this process": seconds(run_recipe(loaded, recipe, folder / "here"))}
    for workers in (1, 2):
        engine = partial(open_ray, RayChoice(workers=workers))
        took[f"ray, {workers}"] = seconds(run_recipe(loaded, recipe, folder / f"ray{workers}", engine=engine))
    print(f"{'':<14}{'revise':>9}" + "".join(f"{name:>9}" for name in STEPS) + f"{'sum':>9}   (sum: without revise)")
    sums = {name: sum(found[step] for step in STEPS) for name, found in took.items()}
    for name, found in took.items():
        print(f"{name:<14}" + "".join(f"{found[s]:>9.2f}" for s in ("revise", *STEPS)) + f"{sums[name]:>9.2f}")
    linear = sums["ray, 1"] / 2 / sums["ray, 2"]
    print(
        f"2 workers: {linear:.2f} of linear; Ray costs {sums['ray, 1'] / sums['this process'] - 1:+.1%} with one worker"
    )
    started = took["ray, 1"]["revise"] - took["this process"]["revise"]
    print(f"start-up of Ray and one worker: {started:.1f} s, once a run\n")
    return [("2 workers, of linear", linear, ">=", 0.9)]


def delay_of(index: int, mean: float) -> float:
    """Seconds a chunk takes, from half to one and a half of the mean."""
    return mean * random.Random(index).uniform(0.5, 1.5)


def steady(done: Sequence[float]) -> float:
    """Judgments a second between a quarter and three quarters of all chunks."""
    first, last = len(done) // 4, 3 * len(done) // 4
    return (last - first) * CHUNK / (done[last] - done[first])


class Simulated:
    """Implements `constitutional.parallel.Workers`: chunks that are done after a delay, by the clock it is given."""

    def __init__(
        self,
        mean: float,
        answers: Sequence[bytes],
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.count, self.mean, self.answers, self.waited = WORKERS, mean, answers, 0.0
        self.now, self.sleep = now, sleep
        self.free = [0.0] * WORKERS
        self.due: list[tuple[float, int, int]] = []
        self.tickets = 0

    def start(self, number: int) -> Hashable:
        return self._ticket(self.now(), -1)

    def _ticket(self, when: float, index: int) -> tuple[int, int]:
        self.tickets += 1
        heapq.heappush(self.due, (when, self.tickets, index))
        return self.tickets, index

    def submit(self, number: int, task: int) -> Hashable:
        self.free[number] = max(self.free[number], self.now()) + delay_of(task, self.mean)
        return self._ticket(self.free[number], task)

    def wait(self, tickets: Sequence[Hashable], seconds: float) -> Collection[Hashable]:
        begun = self.now()
        if seconds and self.due and self.due[0][0] > begun:
            self.sleep(min(seconds, self.due[0][0] - begun))
            self.waited += self.now() - begun
        now, done = self.now(), []
        while self.due and self.due[0][0] <= now:
            done.append(heapq.heappop(self.due)[1:])
        return done

    def answer(self, ticket: tuple[int, int]) -> Made | None:
        return pickle.loads(self.answers[ticket[1]]) if ticket[1] >= 0 else None


def ideal(chunks: int, mean: float) -> list[float]:
    """When each chunk, and all before it, are done where chunks are handed out as they are and nothing else costs."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    workers = Simulated(mean, [pickle.dumps(None)] * chunks, lambda: clock[0], sleep)
    return [clock[0] for _ in Crew(workers).in_order(range(chunks), lambda index: index)]


class SimulatedEngine:
    """As `RayEngine`, without Ray."""

    def __init__(self, workers: Simulated) -> None:
        self.workers = workers
        self.stored: list[float] = []
        """When each chunk was, by the clock."""

    def enter(self, step: str, number: int, done: Mapping[str, StageResult]) -> None:
        pass

    def make(self, stage: StageName, chunks: Chunks, missing: Sequence[int]) -> Iterator[tuple[int, Made]]:
        def prepare(index: int) -> int:
            assert chunks.known is not None and not chunks.known(chunks.of(index))
            return index

        for found in Crew(self.workers).in_order(missing, prepare):
            yield found  # the stage asks for the next one when it has stored this one
            self.stored.append(time.perf_counter())


def commit(folder: Path, judgments: Sequence[Judgment], mean: float) -> tuple[float, float, float, float]:
    """Seconds until all chunks are stored, those in which the driver only waited, its CPU seconds, and its rate."""
    cut = [tuple(judgments[i : i + CHUNK]) for i in range(0, len(judgments), CHUNK)]
    workers = Simulated(mean, [pickle.dumps(Made(chunk, {})) for chunk in cut])
    with open_run(folder) as run, open_ledger(run.ledger_path) as ledger:
        run.engine = engine = SimulatedEngine(workers)
        stage = run.stage(6, "judge", {})
        begun, cpu = time.perf_counter(), time.process_time()
        stage.run_chunks(
            range(len(cut)),
            lambda chunk, index: [],
            chunk_size=1,
            output_type=Judgment,
            before_commit=ledger.append,
            known=lambda chunk: list(ledger.judgments([f"c{chunk[0]}"])),
        )
        took = time.perf_counter() - begun
        busy = time.process_time() - cpu
        assert ledger.count() == len(judgments) and len(engine.stored) == len(cut)
    return took, workers.waited, busy, steady(engine.stored)


def simulation(folder: Path, most: float) -> list[Bar]:
    print(f"{WORKERS} workers, {CHUNK} judgments a chunk; ideal: the same workers and a driver that takes no time")
    columns = ("offered/s", "stored/s", "of ideal", "whole, s", "of ideal")
    print("".join(f"{name:>10}" for name in columns) + f"{'driver busy':>13}{'its CPU':>9}")
    rates = (2500, 5000)
    judgments = made(int(max(rates) * most) // CHUNK * CHUNK)
    bars: list[Bar] = []
    for offered in rates:
        chosen, mean = judgments[: int(offered * most) // CHUNK * CHUNK], CHUNK * WORKERS / offered
        best = ideal(len(chosen) // CHUNK, mean)
        took, waited, cpu, rate = commit(folder / f"at{offered}", chosen, mean)
        share = rate / steady(best)
        bars.append((f"stored a second of {offered:,} offered, of ideal", share, ">=", 0.95))
        whole = f"{took:>10.1f}{best[-1] / took:>10.2f}"
        print(f"{offered:>10,}{rate:>10,.0f}{share:>10.2f}{whole}{1 - waited / took:>13.0%}{cpu / took:>9.0%}")
    took, _, cpu, rate = commit(folder / "at once", judgments, 0.0)
    print(f"without delays the driver stores {len(judgments) / took:,.0f} judgments/s ({cpu / took:.0%} CPU)")
    return [*bars, ("judgments stored a second without delays", len(judgments) / took, ">=", 5000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=60.0, help="that the workers offer judgments")
    parser.add_argument("--only", choices=("ray", "simulation"))
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    arguments = parser.parse_args()
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "simulation":
            bars += on_ray(Path(folder) / "ray", arguments.prompts, arguments.delay)
        if arguments.only != "ray":
            bars += simulation(Path(folder) / "simulation", arguments.seconds)
    verdict(bars, arguments.check)


if __name__ == "__main__":
    main()
