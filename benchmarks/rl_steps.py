"""Where a step of PPO (ours) and of GRPO (TRL's) spends its time: generation, scoring, training.

    python benchmarks/rl_steps.py [--steps 3] [--epochs 4 1] [--prompts-per-step 4] [--generations 4] [--max-tokens 64]

SmolLM2-135M, full fine-tune, against a preference model of its size with a random head; the same prompts, sizes and
seed for both. The first step warms up and is not counted. *Training* is the rest of a step: log-probabilities under the
policy and its reference, PPO's critic, the updates. PPO goes over a batch `--epochs` times, GRPO once. CPU time is the
one to read where others use the machine, on one thread (OMP_NUM_THREADS=1): waiting threads spin.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from engine_cases import machine

from constitutional.backends.embedded import converted_folder
from constitutional.backends.memory import release_memory
from constitutional.errors import BackendError
from constitutional.prompts import load_prompts

PROMPTS = Path(__file__).parents[1] / "examples" / "prompts" / "red_team.jsonl"
KL, TEMPERATURE, SEED = 0.05, 1.0, 0


class Steps:
    """What each step took, a pair of seconds (by the clock, of the processor) a part, and the tokens it drew."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Any]] = defaultdict(list)
        self.tokens: list[int] = []
        self._began, self._spent, self._drawn = now(), defaultdict[str, Any](lambda: np.zeros(2)), 0

    def timed(self, part: str, work: Callable[..., Any], count: Callable[[Any], int] = lambda _: 0) -> Any:
        """`work`, its time noted; `count` tells how many tokens it drew from what it returns."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            began = now()
            result = work(*args, **kwargs)
            self._spent[part] += now() - began
            self._drawn += count(result)
            return result

        return noted

    def on_log(self, figures: dict[str, Any]) -> None:
        """Ends a step: both algorithms log once, at its end."""
        if "loss" not in figures:  # TRL's last word, on the run as a whole
            return
        whole = now() - self._began
        generation, scoring = self._spent["generation"], self._spent["scoring"]
        for name, took in (
            ("generation", generation),
            ("scoring", scoring),
            ("training", whole - generation - scoring),
            ("step", whole),
        ):
            self.parts[name].append(took)
        self.tokens.append(self._drawn)
        self._began, self._drawn = now(), 0
        self._spent.clear()

    def mean(self, part: str) -> Any:
        """Of the steps after the first."""
        return np.mean(self.parts[part][1:], axis=0)


def now() -> Any:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def random_preference_model(policy: Path, folder: Path) -> Path:
    """The policy's network under a head of random numbers."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from constitutional.training.folders import save_merged
    from constitutional.training.tokens import open_tokenizer

    torch.manual_seed(SEED)
    network = AutoModelForSequenceClassification.from_pretrained(str(policy), num_labels=1, dtype=torch.float32)
    save_merged(network, open_tokenizer(policy), folder)
    return folder


def measured(algorithm: str, epochs: int, policy: Path, scorer: Path, sizes: dict[str, int]) -> Steps:
    """Trains for one step more than is counted."""
    from trl import GRPOTrainer

    from constitutional.settings import PpoSettings
    from constitutional.training.ppo import stage
    from constitutional.training.rewards import by_preference_model
    from constitutional.training.rl import train_rl
    from constitutional.training.scorer import PreferenceModel

    steps = Steps()
    source = by_preference_model(PreferenceModel(scorer))
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            **sizes,
            "prompts": load_prompts(str(PROMPTS), "red_team", limit=sizes["steps"] * sizes["prompts_per_step"]),
            "policy": policy,
            "rewards": [replace(source, score=steps.timed("scoring", source.score))],
            "output": Path(folder) / "policy",
            "kl": KL,
            "temperature": TEMPERATURE,
            "seed": SEED,
            "on_log": steps.on_log,
        }
        if algorithm == "ppo":
            draw = steps.timed("generation", stage.draw, lambda drawn: sum(map(len, drawn.answers)))
            with patch.object(stage, "draw", draw):
                stage.train_ppo(preference_model=scorer, settings=PpoSettings(epochs=epochs), **common)
        else:
            generate = steps.timed("generation", GRPOTrainer._generate, lambda found: sum(map(len, found[1])))
            with patch.object(GRPOTrainer, "_generate", lambda *given: generate(*given)):
                train_rl(algorithm="grpo", **common)
    assert len(steps.tokens) == sizes["steps"]
    release_memory()
    return steps


def table(found: dict[str, Steps]) -> None:
    print("algorithm        part          s a step    CPU s   share   CPU share   to grpo   CPU to grpo")
    for name, steps in found.items():
        whole = steps.mean("step")
        for part in steps.parts:
            took = steps.mean(part)
            share, ratio = took / whole, took / found["grpo"].mean(part)
            print(
                f"{name:<17}{part:<11}{took[0]:>11.2f}{took[1]:>9.2f}{share[0]:>8.0%}{share[1]:>12.0%}"
                f"{ratio[0]:>10.2f}{ratio[1]:>14.2f}"
            )
    for name, steps in found.items():
        tokens, times = float(np.mean(steps.tokens[1:])), [took[0] for took in steps.parts["step"][1:]]
        rate = tokens / steps.mean("generation")
        print(
            f"{name}: {tokens:.0f} tokens a step, {rate[0]:.1f} generated a second, {rate[1]:.1f} a CPU second; "
            f"steps of {min(times):.2f} to {max(times):.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="that are counted")
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 1], help="of PPO over a batch; each is a run")
    parser.add_argument("--prompts-per-step", type=int, default=4)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    try:
        policy = converted_folder("smollm2-135m")
    except BackendError as error:
        print(f"skipped: {error}")
        return
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # of the policy's network it would report at length that there is no head
    sizes = {
        "steps": arguments.steps + 1,
        "prompts_per_step": arguments.prompts_per_step,
        "generations": arguments.generations,
        "max_tokens": arguments.max_tokens,
    }
    print(
        f"{machine()}; {arguments.steps} steps after one; a step: {arguments.prompts_per_step} prompts x "
        f"{arguments.generations} answers of at most {arguments.max_tokens} tokens; kl {KL}, temperature "
        f"{TEMPERATURE}, seed {SEED}, else the defaults of both",
        flush=True,
    )
    runs = {f"ppo, {n} epoch{'s' * (n != 1)}": ("ppo", n) for n in arguments.epochs} | {"grpo": ("grpo", 1)}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        scorer = random_preference_model(policy, Path(folder) / "pm")
        for name, (algorithm, epochs) in runs.items():
            found[name] = measured(algorithm, epochs, policy, scorer, sizes)
    table(found)


if __name__ == "__main__":
    main()
