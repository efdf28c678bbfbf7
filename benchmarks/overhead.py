"""What the pipeline itself costs of a run: files, ledger, digests, keys, report; the models are taken out.

    python benchmarks/overhead.py [RUN] [--recipe examples/01_quickstart/recipe.yaml] [--check]

RUN is a finished run of the recipe, runs/quickstart as `make demo` leaves it when not given; its manifests say how long
each step took.
The data steps are done again in a temporary folder with a stand-in for every model that answers at once with the texts
and log-probabilities that RUN's models gave; everything else is the real thing: chunks, commits with fsync, stage keys
with the models' digests, the ledger's check at the start, the report at the end. Steps that train cannot be done
without training: of them the digests of what they saved are taken anew, which is what the pipeline adds to them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine_cases import verdict

from constitutional.backends import Backend, Likelihood
from constitutional.backends.identity import identify
from constitutional.config import load_recipe
from constitutional.pipeline import run_recipe
from constitutional.pipeline.context import Context
from constitutional.records import Answer, Comparison, Completion, Dialogue, Judgment, Revision, Sampling
from constitutional.runs import StageResult, load_result
from constitutional.runs.logs import file_digest

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("revise", "helpful", "sample", "gate", "judge", "label", "answers", "evaluate")
TRAINING = ("sft", "pm", "rl")


class StandIn:
    """A backend that takes no time and says what was said before."""

    def __init__(self, model: str, texts: Iterator[str], logprobs: Iterator[tuple[float, ...]]) -> None:
        self.model, self._texts, self._logprobs = model, texts, logprobs

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        return [
            Completion(
                text=next(self._texts),
                model=self.model,
                sampling=sampling,
                finish_reason="stop",
                prompt_tokens=100,
                completion_tokens=40,
                seconds=0.0,
            )
            for _ in batch
        ]

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        return [Likelihood(logprobs=next(self._logprobs), prompt_tokens=100) for _ in continuations]

    def room(self, dialogue: Dialogue) -> int:
        return 100_000


def recorded(results: dict[str, StageResult]) -> tuple[list[str], list[tuple[float, ...]]]:
    """Texts and log-probabilities of a run's models."""
    revisions = results["revise"].records(Revision)
    texts = [text for r in revisions for step in r.rounds for text in (step.critique, step.revision) if text]
    texts += [answer.text for answer in results["helpful"].records(Answer) if answer.text]
    texts += [text for c in results["sample"].records(Comparison) for text in (c.a, c.b)]
    judged = [*results["gate"].records(Judgment), *results["judge"].records(Judgment)]
    return texts, [judgment.logprobs for judgment in judged if len(judgment.logprobs) == 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=ROOT / "runs" / "quickstart")
    parser.add_argument("--recipe", type=Path, default=ROOT / "examples" / "01_quickstart" / "recipe.yaml")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    arguments = parser.parse_args()
    if not (arguments.run / "current.json").is_file():
        print(f"skipped: no run at {arguments.run}: make demo first")
        return verdict([], arguments.check)
    named = json.loads((arguments.run / "current.json").read_text())
    found = {name: load_result(arguments.run / place) for name, place in named.items()}
    results = {name: result for name, result in found.items() if result is not None}
    recipe = load_recipe(arguments.recipe, [f"stages=[{', '.join(STEPS)}]"])
    texts, logprobs = recorded(results)

    def stand_in(context: Context, spec: str) -> Backend:
        return StandIn(identify(spec, context.recipe.dtype), itertools.cycle(texts), itertools.cycle(logprobs))

    Context.open_spec = stand_in  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        begun, cpu = time.perf_counter(), time.process_time()
        outcome = run_recipe(recipe, arguments.recipe, Path(folder) / "run")
        whole, whole_cpu = time.perf_counter() - begun, time.process_time() - cpu
    ours = {step.name: step.result.manifest.seconds for step in outcome.steps}
    ours["answers"] *= len({"base", "sft", "rl"} & {"base", *results})  # the stand-ins have one system, not three
    for name in TRAINING:
        if name in results:
            begun = time.perf_counter()
            for file in results[name].manifest.outputs:
                file_digest(results[name].folder / file)
            ours[name] = time.perf_counter() - begun
    ours["start, lock, report"] = whole - sum(step.result.manifest.seconds for step in outcome.steps)
    total = sum(result.manifest.seconds for result in results.values())
    print(f"{'step':<22}{'run, s':>10}{'ours, s':>10}{'share':>9}")
    for name, took in ours.items():
        recorded_seconds = results[name].manifest.seconds if name in results else None
        if recorded_seconds is None:
            print(f"{name:<22}{'':>10}{took:>10.2f}")
        else:
            print(f"{name:<22}{recorded_seconds:>10.1f}{took:>10.2f}{took / max(recorded_seconds, 1e-9):>9.1%}")
    share = sum(ours.values()) / total
    print(f"{'all':<22}{total:>10.1f}{sum(ours.values()):>10.2f}{share:>9.2%}")
    print(f"the replay took {whole:.1f} s, {whole_cpu:.1f} s of them CPU time")
    verdict([("share of the run's time", share, "<=", 0.03)], arguments.check)


if __name__ == "__main__":
    main()
