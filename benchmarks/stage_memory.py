"""Peak memory of each stage of a whole recipe on SmolLM2-135M, which plays every role.

    python benchmarks/stage_memory.py [--set KEY=VALUE ...]

The quickstart at a small size: few prompts and steps, but the batches, answers and chunks of a real run, which make the
peak. RL is done twice, by PPO and by RLOO. Each peak is that of the whole process's resident memory during the stage,
mapped files included; beside it stands what the process held when the stage began. GPU memory is not in it.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from engine_cases import FORGETS_PEAK, forget_peak, memory_gb

from constitutional.backends.embedded import converted_folder
from constitutional.config import load_recipe
from constitutional.display import Plain
from constitutional.errors import BackendError
from constitutional.pipeline import run_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "examples" / "01_quickstart" / "recipe.yaml"
SMALL = (
    "name=stage-memory",
    "policy=embedded:smollm2-135m",
    "feedback=self",
    "judge=self",
    "chunk_size=16",
    "prompts.red_team={path: ../prompts/red_team.jsonl, limit: 16, heldout_limit: 4}",
    "prompts.helpful={path: ../prompts/helpful.jsonl, limit: 16, heldout_limit: 4}",
    "prompts.benign=null",
    "revise.candidates=1",
    "sft.drop_flagged=false",  # so that there is always something to train on
    "sft.helpful_ratio=1",
    "gate.examples_per_principle=1",
    "judging.limit=8",
    "evaluation.judge_limit=4",
)
# two updates each: Adam's state is there from the first one on, and the peak is in the second
RL = {
    "ppo": "rl={algorithm: ppo, steps: 2, max_tokens: 48, ppo: {epochs: 1}}",
    "rloo": "rl={algorithm: rloo, steps: 2, max_tokens: 48}",
}


@dataclass(frozen=True)
class Stage:
    """What one stage took. Memory in GB."""

    seconds: float
    before: float
    peak: float


class Peaks:
    """A display that measures from the beginning of a stage to that of the next."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self._shown = Plain()
        self._open: tuple[str, float, float] | None = None

    def stage(self, name: str) -> None:
        self.close()
        forget_peak()
        self._open = name, time.perf_counter(), memory_gb("VmRSS")
        self._shown.stage(name)

    def progress(self, done: int, total: int, note: str = "") -> None:
        self._shown.progress(done, total, note)

    def doing(self, text: str) -> None:
        self._shown.doing(text)

    def say(self, text: str) -> None:
        self._shown.say(text)

    def close(self) -> None:
        """Ends the stage that is open."""
        if self._open is not None:
            name, began, before = self._open
            self.stages[name] = Stage(time.perf_counter() - began, before, memory_gb())
            self._open = None


def measured(run: Path, algorithm: str, sets: list[str], until: str | None = None) -> dict[str, Stage]:
    """The stages that were done, none that was only looked up."""
    peaks = Peaks()
    recipe = load_recipe(RECIPE, [*SMALL, RL[algorithm], *sets])
    outcome = run_recipe(recipe, RECIPE, run, until=until, display=peaks)
    peaks.close()
    return {
        f"rl, {algorithm}" if step.name == "rl" else step.name: peaks.stages[step.name]
        for step in outcome.steps
        if not step.reused
    }


def weights_gb(folder: Path) -> float:
    """A model's weights in float32, in GB."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), "pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return 4 * count / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    arguments = parser.parse_args()
    if not FORGETS_PEAK.exists():
        print(f"skipped: {FORGETS_PEAK} is not there, a peak cannot be forgotten on {sys.platform}")
        return
    try:
        weights = weights_gb(converted_folder("smollm2-135m"))
    except BackendError as error:
        print(f"skipped: {error}")
        return
    print("the quickstart under " + " ".join(f"--set '{one}'" for one in (*SMALL, *arguments.set)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        found = measured(run, "ppo", arguments.set, until="rl")
        found |= measured(run, "rloo", arguments.set)
    print(f"weights in float32: {weights:.2f} GB")
    print("stage        seconds   before GB   peak GB   peak : weights")
    for name, one in found.items():
        print(f"{name:<10}{one.seconds:>10.1f}{one.before:>12.2f}{one.peak:>10.2f}{one.peak / weights:>17.1f}")


if __name__ == "__main__":
    main()
