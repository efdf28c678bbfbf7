"""A tokenizer's vocabulary, merges, special tokens and chat template, as a GGUF file holds them."""

from __future__ import annotations

import json
from typing import Any

from constitutional.errors import BackendError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's kinds of tokens

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_WORDS + r"\p{N}" + _OTHERS: "qwen2", _WORDS + r"\p{N}{1,3}" + _OTHERS: "llama-bpe"}
"""Patterns that text is split by before it is tokenised, and llama.cpp's names of them."""


def write_tokenizer(writer: Any, tokenizer: Any, size: int) -> None:
    """Adds a byte-level BPE tokenizer to a GGUF file.

    Args:
        writer: a `gguf.GGUFWriter`.
        tokenizer: a fast transformers tokenizer.
        size: rows of the model's embedding; ids without a token are marked as unused.

    Raises:
        BackendError: another kind of tokenizer, one that splits text in a way llama.cpp has no name for, or more tokens
            than the embedding has rows.
    """
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    model, splitting = whole["model"], _splitting(whole.get("pre_tokenizer"))
    # llama.cpp leaves out the composing of letters and accents (NFC) that qwen2 asks for; typed text is composed
    composed = (whole.get("normalizer") or {"type": "NFC"})["type"] == "NFC"
    if model.get("type") != "BPE" or model.get("byte_fallback") or splitting is None or not composed:
        raise BackendError("only byte-level BPE tokenizers that llama.cpp knows can be exported to GGUF")
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    added = {one["content"]: one for one in whole["added_tokens"]}
    for text, number in tokenizer.get_vocab().items():
        if number >= size:
            raise BackendError(f"the tokenizer's token {number} has no row in the model's embedding of {size}")
        special = added.get(text)
        kinds[number] = NORMAL if special is None else CONTROL if special["special"] else USER_DEFINED
        tokens[number] = text
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    for name, add in (
        ("bos_token_id", writer.add_bos_token_id),
        ("eos_token_id", writer.add_eos_token_id),
        ("unk_token_id", writer.add_unk_token_id),
        ("pad_token_id", writer.add_pad_token_id),
    ):
        if getattr(tokenizer, name) is not None:
            add(getattr(tokenizer, name))
    writer.add_add_bos_token(bool(getattr(tokenizer, "add_bos_token", False)))
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _splitting(steps: dict[str, Any] | None) -> str | None:
    """llama.cpp's name for what a tokenizer does before its merges; None where it has none."""
    parts = steps.get("pretokenizers", []) if steps and steps["type"] == "Sequence" else [steps or {}]
    kinds = [part.get("type") for part in parts]
    if any(part.get("add_prefix_space") for part in parts):
        return None
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        return _SPLITS.get(parts[0]["pattern"].get("Regex", ""))
    return None
