"""Checks that turn TRL's silent no-ops and quiet damage into one `TrainingError` that names the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from constitutional.errors import TrainingError

OnLog = Callable[[dict[str, Any]], None]

FIRST_STEP_KL = 1e-3
"""Largest mean KL (nats per token) at step 1, where policy and reference are the same model: rounding only."""


class StepWatch(TrainerCallback):  # type: ignore[misc]
    """Relays every log with its `step` of `steps`, keeps the figures, and stops on a figure that is not a number."""

    def __init__(self, on_log: OnLog | None = None, *, kl_expected: bool = False) -> None:
        self.history: list[dict[str, Any]] = []
        self._on_log = on_log
        self._kl_expected = kl_expected
        self._resumed = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A training that goes on from a checkpoint has figures already; they were relayed when they were new."""
        self._resumed = bool(state.global_step)
        self.history = [{"steps": int(state.max_steps), **entry} for entry in state.log_history]

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Called by the trainer with each set of figures.

        Raises:
            TrainingError: a loss, gradient norm or reward is NaN or infinite, or KL is not zero at step 1.
        """
        self.record(int(state.global_step), int(state.max_steps), logs or {})

    def record(self, step: int, steps: int, figures: Mapping[str, Any]) -> None:
        """Keeps and relays the figures of one step of `steps`.

        Raises:
            TrainingError: as `on_log`.
        """
        entry = {"step": step, "steps": steps, **figures}
        for name in ("loss", "grad_norm", "reward", "kl", "train_loss"):
            value = entry.get(name)
            if value is not None and not math.isfinite(float(value)):
                raise TrainingError(f"{name} is {float(value)} at step {entry['step']}; nothing was saved")
        if self._kl_expected and entry["step"] == 1 and "loss" in entry:
            kl = entry.get("kl")
            if kl is None or abs(float(kl)) > FIRST_STEP_KL:
                raise TrainingError(f"KL to the reference is {kl} at step 1, where it must be 0: another model is used")
        self.history.append(entry)
        if self._on_log is not None:
            self._on_log(entry)

    @property
    def train_loss(self) -> float:
        """The mean loss over all steps. The trainer's own leaves out those before an interruption."""
        losses = self.values("loss")
        return sum(losses) / len(losses) if self._resumed else self.values("train_loss")[-1]

    def values(self, name: str) -> list[float]:
        """The logged values of one figure, in order."""
        return [float(entry[name]) for entry in self.history if entry.get(name) is not None]


class WeightWatch:
    """Remembers a model's trainable weights by a checksum each, to tell training from a no-op.

    Weights that lie in parts over processes are put together, one at a time: every process must look at them then.
    Before they are shared out only the leader may hold them (`fsdp_cpu_ram_efficient_loading`), and only it compares.
    DeepSpeed keeps them in the number type it computes in; that rounding alone makes them others than before.
    """

    def __init__(self, model: Any) -> None:
        self.trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if not self.trainable:
            raise TrainingError("the model has no trainable parameters: nothing would be learned")
        self._before = self._checksums(model)

    def check(self, model: Any, *, steps: int) -> None:
        """Refuses a run that took no step, moved no weight or left a weight that is not a number.

        Raises:
            TrainingError: which of these, and after how many steps.
        """
        if steps == 0:
            raise TrainingError("training ended without a single step")
        after = self._checksums(model)
        broken = next((name for name, value in after.items() if not math.isfinite(value)), None)
        if broken is not None:
            raise TrainingError(f"weight {broken} is not finite after step {steps}; nothing was saved")
        if self._before and after == self._before:
            raise TrainingError(f"no weight changed in {steps} steps (learning rate or every gradient is zero)")

    @staticmethod
    @torch.no_grad()
    def _checksums(model: Any) -> dict[str, float]:
        # The sum of squares beside the sum: a step of +x here and -x there must not cancel.
        sums = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not parameter.is_meta:
                with _whole(parameter) as p:
                    sums[name] = float(p.double().sum() + 3 * p.double().square().sum())
        return sums


@torch.no_grad()
def require_finite(model: Any, step: int) -> None:
    """Refuses a model to go on from that is damaged.

    Raises:
        TrainingError: the first weight that is NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with _whole(parameter) as p:
                finite = bool(torch.isfinite(p).all())
            if not finite:
                raise TrainingError(f"weight {name} is not finite after step {step}; nothing was saved")


@contextmanager
def _whole(parameter: Tensor) -> Iterator[Tensor]:
    """The whole of a weight, also where every process holds a part of it."""
    if hasattr(parameter, "ds_id"):  # ZeRO stage 3; its size is 0 here until it is gathered
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([parameter]):
            yield parameter
    else:
        yield parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter  # of FSDP2


def require_unique_names(names: Sequence[str]) -> None:
    """Refuses reward functions that share a name: TRL averages their figures into one without a word.

    Raises:
        TrainingError: the name used twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise TrainingError(f"two reward functions are called '{name}': their figures would be averaged")


def require_rows(kept: int, given: int, what: str, max_length: int) -> None:
    """Refuses to train on nothing.

    Raises:
        TrainingError: no row is left, and why.
    """
    if not given:
        raise TrainingError(f"no {what} to train on")
    if not kept:
        raise TrainingError(f"all {given} {what} are longer than {max_length} tokens: nothing is left to train on")
