"""What TRL's trainers need to be killed and go on bit for bit: when to write, and what they do not keep themselves."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from transformers import TrainerCallback

from constitutional.atomic import write_atomic
from constitutional.processes import leads, processes, rank
from constitutional.training.checkpoints import Checkpoint, Checkpoints, keep
from constitutional.training.guards import require_finite
from constitutional.training.rewards import Rewards
from constitutional.training.rows import RewardRow

REWARDS = "rewards.jsonl"


class Keeper(TrainerCallback):  # type: ignore[misc]
    """Asks a trainer for checkpoints, completes what it wrote, and gives back what it would not find again.

    The order of rows in an epoch may be drawn from torch's global stream when the epoch begins. The trainer restores
    that stream as it was at the checkpoint, after the order is drawn, so in any epoch but the first it would go on in
    another order: the state at the beginning of the epoch is kept too.
    """

    def __init__(
        self, trainer: Any, checkpoints: Checkpoints, reward: Rewards | None, resumed: Checkpoint | None
    ) -> None:
        """Readies the callback.

        Args:
            trainer: a TRL trainer, not yet training.
            checkpoints: where to and how often.
            reward: whose rows are kept along, where there is one.
            resumed: what the training goes on from.
        """
        self._trainer, self._checkpoints, self._reward, self._resumed = trainer, checkpoints, reward, resumed
        self._epoch = torch.get_rng_state()
        args = trainer.args
        generation = getattr(args, "steps_per_generation", None) or args.gradient_accumulation_steps
        updates = generation * getattr(args, "num_iterations", 1)
        # between two draws of rollouts, those that are left to learn from are in no checkpoint
        rounds = args.gradient_accumulation_steps
        self._window = math.lcm(updates, rounds) // rounds
        if resumed is not None and reward is not None:
            restore_rewards(resumed.folder / REWARDS, reward)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Goes on counting tokens where the checkpoint stopped."""
        counted = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        if self._resumed is not None and counted and hasattr(self._trainer, "_total_train_tokens"):
            self._trainer._total_train_tokens = int(counted[-1])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the epoch's order is drawn."""
        if self._resumed is not None:
            kept = (self._resumed.folder / _name()).read_bytes()
            torch.set_rng_state(torch.frombuffer(bytearray(kept), dtype=torch.uint8))
            self._resumed = None
        self._epoch = torch.get_rng_state()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Asks for a checkpoint where one is due."""
        # where an epoch begins the trainer restores each process's own stream, and the order would not be shared
        apart = processes() > 1 and grouped(args) and _between_epochs(state)
        if self._checkpoints.due(state.global_step, state.max_steps, self._window) and not apart:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Completes the checkpoint the trainer has just written.

        Raises:
            TrainingError: a weight is not finite; the checkpoint before stands.
        """
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        require_finite(self._trainer.model, state.global_step)
        begun = torch.get_rng_state() if _between_epochs(state) else self._epoch
        write_atomic(written / _name(), begun.numpy().tobytes())
        if leads():
            (Path(args.output_dir) / "README.md").unlink(missing_ok=True)  # TRL's card of the model: ours says more
            if self._reward is not None:
                write_rewards(written / REWARDS, self._reward)
        keep(written, self._checkpoints, state.global_step)


class SharedOrder(TrainerCallback):  # type: ignore[misc]
    """Rows grouped by length are shuffled by each process's own stream: all take the leading one's for an epoch."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the epoch's order is drawn."""
        if processes() > 1 and grouped(args):
            torch.set_rng_state(broadcast(torch.get_rng_state().to(args.device)).cpu())


def grouped(args: Any) -> bool:
    """Whether an epoch's order is drawn from torch's global stream."""
    return bool(args.train_sampling_strategy == "group_by_length")


def _between_epochs(state: Any) -> bool:
    """Whether the step that is done was the last one of its epoch."""
    return float(state.epoch).is_integer()


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keeps a library from warning of what is in order: tied weights stand in a checkpoint once."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def write_rewards(path: Path, reward: Rewards) -> None:
    """Keeps what was rewarded so far, a line a batch."""
    lines = (json.dumps([row.model_dump(mode="json") for row in batch]) + "\n" for batch in reward.batches)
    write_atomic(path, "".join(lines))


def restore_rewards(path: Path, reward: Rewards) -> None:
    """Counts, and tells of, what was rewarded before."""
    for line in path.read_text("ascii").splitlines():
        reward.note([RewardRow.model_validate(row) for row in json.loads(line)])


def _name() -> str:
    return f"epoch-{rank()}.rng"
