"""From dialogues to token ids, in one place, so that a stage trains on exactly what the next one scores.

Rows are tokenised here and handed to TRL as ids: control tokens in untrusted text are encoded as plain text, which
TRL's own preparation of rows does not do, and nothing is truncated or dropped without being counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from constitutional.backends.tokens import require_harmless_text
from constitutional.errors import ConfigError
from constitutional.records import Dialogue

IGNORED = -100
"""The label of a position that carries no loss."""


def open_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a saved, merged model folder, padding on the right.

    Raises:
        ConfigError: not a model folder, an unmerged adapter, no tokenizer, or no chat template.
        BackendError: as `require_harmless_text`.
    """
    require_harmless_text()
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such model folder")
    if (path / "adapter_config.json").exists():
        raise ConfigError(f"{path}: holds a LoRA adapter, not a model; merge it into its base model first")
    if not (path / "config.json").exists():
        raise ConfigError(f"{path}: not a model folder (no config.json)")
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        raise ConfigError(f"{path}: model folder without a tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    if tokenizer.chat_template is None:
        raise ConfigError(f"{path}: tokenizer without a chat template")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def dialogue_ids(
    tokenizer: Any, dialogue: Dialogue, *, generation_prompt: bool = False, open_end: bool = False
) -> list[int]:
    """Token ids of a dialogue under the tokenizer's chat template; control tokens inside a message stay plain text.

    With `open_end` the last message is left open: no end-of-turn token follows it.
    """
    messages = [{"role": message.role, "content": message.content} for message in dialogue]
    encoded = tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=generation_prompt,
        continue_final_message=open_end,
        tokenize=True,
        return_dict=True,
        sanitize_control_tokens=True,
    )
    return list(encoded["input_ids"])


def completion_labels(prompt_ids: Sequence[int], full_ids: Sequence[int]) -> list[int]:
    """Labels that put the loss on what follows the prompt.

    The completion begins where the two sequences part, as in TRL, because a template may render the prompt alone a
    little differently.
    """
    shared = 0
    while shared < min(len(prompt_ids), len(full_ids)) and prompt_ids[shared] == full_ids[shared]:
        shared += 1
    return [IGNORED] * shared + list(full_ids[shared:])


class ControlTokens:
    """Counts a tokenizer's control tokens written out in untrusted text."""

    def __init__(self, tokenizer: Any) -> None:
        names = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        longest_first = sorted(names, key=lambda name: (-len(name), name))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def count(self, texts: Iterable[str]) -> int:
        """How often a control token is spelled out in `texts`."""
        return sum(len(self._pattern.findall(text)) for text in texts)
