"""How the data steps spread over workers, and how much one writer can put away.

    python benchmarks/scale_out.py [--prompts 400] [--delay 0.05] [--seconds 15]

First a run on Ray with 1 and with 2 workers, on a scripted model whose every call takes `delay` seconds. Start-up (Ray,
and workers that open the recipe) is told apart: the clock of a ratio is that of the steps after `revise`, in which the
workers start. Linear is half of one worker's time for two; "Ray costs" is one worker's time over that of this process.

Then 64 simulated workers with seeded delays hand chunks of 256 judgments (16 principles, both orders, 8 pairs: the
default chunk) to the real driver: `parallel.Crew`, the stage's own commit, the ledger, fsync included. What they offer
a second is raised until the writer is the bottleneck; answers come pickled, as from Ray.
"""

from __future__ import annotations

import argparse
import heapq
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
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


def seconds(outcome: RunOutcome) -> dict[str, float]:
    return {step.name: step.result.manifest.seconds for step in outcome.steps}


def on_ray(folder: Path, prompts: int, delay: float) -> None:
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


class Simulated:
    """Implements `constitutional.parallel.Workers`: chunks that are done after a seeded delay, in real time."""

    def __init__(self, count: int, delay: float) -> None:
        self.count, self.delay, self.draw, self.waited = count, delay, random.Random(0), 0.0
        self.free = [0.0] * count
        self.due: list[tuple[float, int]] = []
        self.tasks: dict[int, bytes] = {}

    def start(self, number: int) -> Hashable:
        return self._ticket(time.perf_counter(), b"")

    def _ticket(self, when: float, answer: bytes) -> int:
        ticket = len(self.tasks)
        self.tasks[ticket] = answer
        heapq.heappush(self.due, (when, ticket))
        return ticket

    def submit(self, number: int, task: bytes) -> Hashable:
        begin = max(self.free[number], time.perf_counter())
        self.free[number] = begin + self.delay * self.draw.uniform(0.5, 1.5)
        return self._ticket(self.free[number], task)

    def wait(self, tickets: Sequence[Hashable], seconds: float) -> Collection[Hashable]:
        begun = time.perf_counter()
        if seconds and self.due and self.due[0][0] > begun:
            time.sleep(min(seconds, self.due[0][0] - begun))
        self.waited += time.perf_counter() - begun
        now, done = time.perf_counter(), []
        while self.due and self.due[0][0] <= now:
            done.append(heapq.heappop(self.due)[1])
        return done

    def answer(self, ticket: Hashable) -> Made | None:
        said = self.tasks[int(str(ticket))]
        return pickle.loads(said) if said else None


class SimulatedEngine:
    """As `RayEngine`, without Ray."""

    def __init__(self, workers: Simulated, answers: Sequence[bytes]) -> None:
        self.workers, self.answers = workers, answers

    def enter(self, step: str, number: int, done: Mapping[str, StageResult]) -> None:
        pass

    def make(self, stage: StageName, chunks: Chunks, missing: Sequence[int]) -> Iterator[tuple[int, Made]]:
        def prepare(index: int) -> bytes:
            assert chunks.known is not None and not chunks.known(chunks.of(index))
            return self.answers[index]

        yield from Crew(self.workers).in_order(missing, prepare)


def commit(folder: Path, judgments: Sequence[Judgment], offered: float) -> tuple[float, float]:
    """(judgments a second, share of the time the driver was at work) when so many a second are offered."""
    cut = [judgments[i : i + CHUNK] for i in range(0, len(judgments), CHUNK)]
    answers = [pickle.dumps(Made(tuple(chunk), {})) for chunk in cut]
    workers = Simulated(WORKERS, CHUNK * WORKERS / offered if offered else 0.0)
    with open_run(folder) as run, open_ledger(run.ledger_path) as ledger:
        run.engine = SimulatedEngine(workers, answers)
        stage = run.stage(6, "judge", {})
        begun = time.perf_counter()
        stage.run_chunks(
            range(len(cut)),
            lambda chunk, index: [],
            chunk_size=1,
            output_type=Judgment,
            before_commit=ledger.append,
            known=lambda chunk: list(ledger.judgments([f"c{chunk[0]}"])),
        )
        took = time.perf_counter() - begun
        assert ledger.count() == len(judgments)
    return len(judgments) / took, 1 - workers.waited / took


def simulation(folder: Path, most: float) -> None:
    print(f"{WORKERS} workers, {CHUNK} judgments a chunk; what they offer, and what one writer puts away")
    print(f"{'offered/s':>10}{'stored/s':>10}{'share':>8}{'driver busy':>13}")
    for offered in (1000, 2500, 5000, 0):
        # the first chunks come after a whole delay, so a rate is only reached over many of them
        count = int(max(30_000, (offered or 10_000) * most)) // CHUNK * CHUNK
        rate, busy = commit(folder / f"at{offered}", made(count), offered)
        begun = CHUNK * WORKERS / offered if offered else 0.0  # seconds until the first worker can have answered, about
        steady = count / (count / rate - begun / 2)
        shown = (
            f"{offered:>10,}{rate:>10,.0f}{steady / offered:>8.2f}"
            if offered
            else f"{'no end':>10}{rate:>10,.0f}{'':>8}"
        )
        print(f"{shown}{busy:>12.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--only", choices=("ray", "simulation"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "simulation":
            on_ray(Path(folder) / "ray", arguments.prompts, arguments.delay)
        if arguments.only != "ray":
            simulation(Path(folder) / "simulation", arguments.seconds)


if __name__ == "__main__":
    main()
