"""RL on a tiny random model with rewards whose optimum is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_model import save_tiny_model

from constitutional.checks import Check
from constitutional.records import Prompt, user
from constitutional.training.rewards import RewardSource, by_check

ASKED = "letters@1.0.0"


def prompt(text: str) -> Prompt:
    return Prompt(messages=(user(text),), kind="red_team", source="test", split="train")


def letters(conversation: object, response: str) -> float:
    """The share of the answer that is the letter a: 1 at best, and only where nothing else is said."""
    return response.count("a") / len(response)


def letters_source(weight: float = 1.0) -> RewardSource:
    return by_check(ASKED, Check("letters", letters, "check:letters"), weight)


PROMPTS = [prompt(f"How {i}?") for i in range(6)]


def policy_folder(folder: Path) -> Path:
    return save_tiny_model(folder / "policy")


SMALL: dict[str, Any] = {
    "steps": 2,
    "kl": 0.05,
    "generations": 4,
    "prompts_per_step": 2,
    "max_tokens": 6,
    "temperature": 1.0,
    "seed": 0,
}
