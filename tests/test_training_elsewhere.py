"""Every trainer on a device that is not the processor: it ends with the weights it ends with on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pretend_device import NAME
from rl_tasks import PROMPTS, SMALL, letters_source
from safetensors.torch import load_file
from test_preference_model import planted
from test_sft import ROWS
from tiny_model import save_tiny_model
from tiny_scorer import save_tiny_scorer

from constitutional.settings import PpoSettings
from constitutional.training import best_of_n, probe, scorer
from constitutional.training.best_of_n import train_best_of_n
from constitutional.training.dpo import train_dpo
from constitutional.training.ppo import stage
from constitutional.training.preference_model import train_preference_model
from constitutional.training.rewards import by_preference_model
from constitutional.training.rl import train_rl
from constitutional.training.scorer import PreferenceModel
from constitutional.training.sft import train_sft

TRL = {
    "bf16": False,
    "learning_rate": 1e-3,
    "num_train_epochs": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_pin_memory": False,
}
LORA = {"r": 4, "alpha": 8, "target_modules": "all-linear"}

Train = Callable[[Path, Path, Path, dict[str, Any]], object]
"""Trains the model of one folder, with the preference model of another, into a third, under TRL's settings."""


def ppo(**settings: Any) -> Train:
    def train(model: Path, pm: Path, output: Path, trl: dict[str, Any]) -> object:
        asked = PpoSettings(learning_rate=1e-3, **settings)
        rewards = [letters_source(), by_preference_model(PreferenceModel(pm))]
        more: dict[str, Any] = {"rewards": rewards, "settings": asked, "output": output, "preference_model": pm}
        return stage.train_ppo(PROMPTS, policy=model, **SMALL, **more)

    return train


def online(algorithm: str) -> Train:
    def train(model: Path, pm: Path, output: Path, trl: dict[str, Any]) -> object:
        rewards = [by_preference_model(PreferenceModel(pm))]
        fields = {
            key: value
            for key, value in trl.items()
            if key in ("bf16", "learning_rate", "use_cpu", "dataloader_pin_memory")
        }
        return train_rl(PROMPTS, policy=model, rewards=rewards, output=output, algorithm=algorithm, trl=fields, **SMALL)

    return train


def best(model: Path, pm: Path, output: Path, trl: dict[str, Any]) -> object:
    drawn = {key: SMALL[key] for key in ("generations", "max_tokens", "temperature", "seed")}
    return train_best_of_n(PROMPTS, policy=model, rewards=[letters_source()], output=output, trl=trl, **drawn)


def sft(model: Path, pm: Path, output: Path, trl: dict[str, Any]) -> object:
    return train_sft(ROWS, model=model, output=output, seed=0, trl=trl)


def adapters(model: Path, pm: Path, output: Path, trl: dict[str, Any]) -> object:
    return train_sft(ROWS, model=model, output=output, seed=0, trl=trl, lora=LORA)


def preference_model(head: str) -> Train:
    def train(model: Path, pm: Path, output: Path, trl: dict[str, Any]) -> object:
        more: dict[str, Any] = {"head": head, "trl": trl}
        return train_preference_model(planted(24), planted(8, seed=1), model=model, output=output, seed=0, **more)

    return train


def dpo(model: Path, pm: Path, output: Path, trl: dict[str, Any]) -> object:
    return train_dpo(planted(16), policy=model, output=output, beta=0.1, labels="soft", seed=0, trl=trl)


TRAININGS: dict[str, Train] = {
    "sft": sft,
    "sft, adapters": adapters,
    "preference model": preference_model("zero"),
    "preference model, fitted head": preference_model("probe"),
    "dpo": dpo,
    "best of n": best,
    "rloo": online("rloo"),
    "grpo": online("grpo"),
    "ppo": ppo(critic="preference_model"),
    "ppo, one head": ppo(critic="head", whiten_rewards=True),
}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def move() -> None:
        def accelerator() -> Accelerator:
            AcceleratorState._reset_state(reset_partial_state=True)
            return Accelerator()

        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", NAME)
        monkeypatch.setattr(stage, "_accelerator", accelerator)
        for module in (best_of_n, probe, scorer):
            monkeypatch.setattr(module, "device", lambda: NAME)

    return move


@pytest.mark.parametrize("name", TRAININGS)
def test_ends_as_on_the_processor(name: str, elsewhere: Callable[[], None], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    model, pm = save_tiny_model(tmp_path / "model"), save_tiny_scorer(tmp_path / "pm")
    TRAININGS[name](model, pm, tmp_path / "here", TRL | {"use_cpu": True})
    elsewhere()
    try:
        with torch.autograd.set_multithreading_enabled(False):  # the device has no threads of its own
            TRAININGS[name](model, pm, tmp_path / "there", TRL | {"use_cpu": False})
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    here, there, start = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "here", tmp_path / "there", model)
    )
    assert here.keys() == there.keys()
    for key, weights in here.items():
        torch.testing.assert_close(there[key], weights, atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(weights, start[key]) for key, weights in here.items() if key in start)
