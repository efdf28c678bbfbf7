"""A recipe whose trainings are real and small: scripted words, a tiny policy; sft, pm and ppo of a few steps each."""

from __future__ import annotations

from pathlib import Path

from recipes import write_recipe
from tiny_model import save_tiny_model

from constitutional.config import load_recipe
from constitutional.settings import Recipe

SETS = (
    "stages=[revise, helpful, sft, sample, gate, judge, label, pm, rl]",
    "policy=local:policy",
    "feedback=scripted:model.yaml",
    "dtype=float32",
    "checkpoint_every=2",
    "sampling.policy={temperature: 1.0, max_tokens: 6}",
    "revise={rounds: 1}",
    "sample={revisions: true}",
    "gate={fallback: provenance}",
    # six rows: whole steps only, as processes that share out a part of one fill it up
    "sft={helpful_ratio: 0, drop_flagged: false, trl: {max_steps: 2, learning_rate: 0.01, bf16: false, "
    "per_device_train_batch_size: 1, gradient_accumulation_steps: 2}}",
    "pm={heldout: 0.3, trl: {max_steps: 3, learning_rate: 0.01, bf16: false, per_device_train_batch_size: 2, "
    "gradient_accumulation_steps: 2}}",
    "rl={algorithm: ppo, steps: 3, generations: 2, prompts_per_step: 2, max_tokens: 4, "
    "ppo: {learning_rate: 0.001, epochs: 1}}",
)


def write_training_recipe(folder: Path) -> Path:
    """Writes the recipe with all it names; returns the recipe file."""
    recipe = write_recipe(folder, prompts=9)
    save_tiny_model(folder / "policy", context=512)
    return recipe


def training_recipe(file: Path, *sets: str) -> Recipe:
    """The recipe of a file written by `write_training_recipe`, under its settings."""
    return load_recipe(file, [*SETS, *sets])
