"""What every training run shares: a fresh output folder, a quiet terminal, a model saved whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from transformers import PrinterCallback
from transformers.utils import logging as transformers_logging

from constitutional.atomic import cannot_write
from constitutional.backends.cpu import prepare_process
from constitutional.errors import ConfigError, TrainingError
from constitutional.processes import leads, wait_for_all
from constitutional.training.checkpoints import Checkpoints, newest
from constitutional.training.folders import replacing, save_merged
from constitutional.training.fused_head import labelled_positions_only
from constitutional.training.guards import WeightWatch
from constitutional.training.launches import ADAPTERS
from constitutional.training.prefix_sharing import sharing_prefixes
from constitutional.training.resuming import Keeper, SharedOrder, quiet
from constitutional.training.rewards import Rewards


@contextmanager
def training_session(output: str | Path) -> Iterator[Path]:
    """A folder that replaces `output` when training ends well; no progress bars of other libraries in between.

    Yields:
        The folder to train in and save to.
    """
    prepare_process()
    bars = transformers_logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with replacing(output) as folder, labelled_positions_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of one library about another, between progress lines
            yield folder
    finally:
        if bars[0]:
            transformers_logging.enable_progress_bar()
        if bars[1]:
            datasets.enable_progress_bars()


def train(
    trainer: Any, checkpoints: Checkpoints | None = None, reward: Rewards | None = None
) -> tuple[int, WeightWatch]:
    """Runs a trainer, printing nothing, and refuses a run that trained nothing.

    Args:
        trainer: a TRL trainer.
        checkpoints: what to go on from where it was interrupted, and what to write; nothing when None.
        reward: whose rows a checkpoint keeps, too.

    Returns:
        Optimiser steps taken, and the watch that holds the number of trainable parameters.

    Raises:
        ConfigError: adapters on weights that are shared out over processes: nothing could merge them.
        TrainingError: nothing is trainable, no step was taken, no rollout had a reward, or no weight changed or one is
            not finite.
    """
    if in_parts(trainer) and hasattr(trainer.model, "merge_and_unload"):
        raise ConfigError(f"lora: {ADAPTERS}")
    trainer.remove_callback(PrinterCallback)  # prints every log; ours go to `on_log`
    weights = WeightWatch(trainer.model)
    trainer.add_callback(SharedOrder())
    found = newest(checkpoints)
    if checkpoints is not None:
        trainer.add_callback(Keeper(trainer, checkpoints, reward, found))
    shared = sharing_prefixes(trainer.model, getattr(trainer, "ref_model", None))
    with naming_the_last(checkpoints), quiet("transformers.trainer"), shared:
        trainer.train(resume_from_checkpoint=str(found.folder) if found is not None else None)
    if reward is not None:
        reward.require_any()
    steps = int(trainer.state.global_step)
    weights.check(trainer.model, steps=steps)
    return steps, weights


@contextmanager
def naming_the_last(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Adds to an error that stops a training which checkpoint is left of it."""
    try:
        yield
    except OSError as error:  # a full disk while the trainer writes one
        if checkpoints is None:
            raise
        raise cannot_write(checkpoints.folder, error) from error
    except TrainingError as error:
        found = newest(checkpoints)
        if found is None:
            raise
        raise TrainingError(f"{error}; the checkpoint of step {found.step} is kept") from error


def in_parts(trainer: Any) -> bool:
    """Whether the weights are shared out over processes (FSDP, DeepSpeed)."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def bare_model(trainer: Any) -> Any:
    """The trained network in evaluation mode, without the mixed-precision wrapper.

    One whose weights lie in parts stays as it is: only a call of its outermost module puts them together.
    """
    if in_parts(trainer):
        return trainer.model.eval()
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()


def save(trainer: Any, tokenizer: Any, folder: Path) -> None:
    """Saves the trained network as one merged model folder, which stands for every process on return."""
    if in_parts(trainer):
        whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # every process gives its part
        if leads():
            network = bare_model(trainer)
            for name, source in network.all_tied_weights_keys.items():  # put together, each is a tensor of its own
                whole[name] = whole[source]
            network.save_pretrained(str(folder), state_dict=whole)
            tokenizer.save_pretrained(str(folder))
    elif leads():
        save_merged(bare_model(trainer), tokenizer, folder)
    wait_for_all()
