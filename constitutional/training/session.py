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

from constitutional.backends.cpu import prepare_process
from constitutional.training.folders import replacing, save_merged
from constitutional.training.fused_head import labelled_positions_only
from constitutional.training.guards import WeightWatch


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


def train(trainer: Any) -> tuple[int, WeightWatch]:
    """Runs a trainer, printing nothing, and refuses a run that trained nothing.

    Returns:
        Optimiser steps taken, and the watch that holds the number of trainable parameters.

    Raises:
        TrainingError: nothing is trainable, no step was taken, or no weight changed or one is not finite.
    """
    trainer.remove_callback(PrinterCallback)  # prints every log; ours go to `on_log`
    weights = WeightWatch(trainer.model)
    trainer.train()
    steps = int(trainer.state.global_step)
    weights.check(trainer.model, steps=steps)
    return steps, weights


def bare_model(trainer: Any) -> Any:
    """The trained network without the mixed-precision wrapper, in evaluation mode."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()


def save(trainer: Any, tokenizer: Any, folder: Path) -> None:
    """Saves the trained network as one merged model folder."""
    save_merged(bare_model(trainer), tokenizer, folder)
