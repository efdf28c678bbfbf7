"""RL on a tiny random model with rewards whose optimum is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_model import save_tiny_model

from constitutional.checks import Check
from constitutional.records import Prompt, user
from constitutional.training.rewards import RewardSource, by_check

ASKED = "digits@1.0.0"


def prompt(text: str) -> Prompt:
    return Prompt(messages=(user(text),), kind="red_team", source="test", split="train")


def digits(conversation: object, response: str) -> float:
    """The share of the answer that is digits: 1 at best, and only where nothing else is said.

    No token of the tiny model is half right: of the letter a, where " a" is a token, too, one run in ten settled for it
    (a half) and never found "a".
    """
    return sum(character in "0123456789" for character in response) / len(response)


def digits_source(weight: float = 1.0) -> RewardSource:
    return by_check(ASKED, Check("digits", digits, "check:digits"), weight)


def letters(conversation: object, response: str) -> float:
    """The share of the answer that is small letters: never alike for all answers of an untrained policy."""
    return sum("a" <= character <= "z" for character in response) / len(response)


def letters_source(weight: float = 1.0) -> RewardSource:
    return by_check("letters@1.0.0", Check("letters", letters, "check:letters"), weight)


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
