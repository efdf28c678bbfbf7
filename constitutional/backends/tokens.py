"""Dialogues to token ids, with control tokens in untrusted text made harmless."""

from __future__ import annotations

from typing import Any

from constitutional.errors import BackendError
from constitutional.records import Dialogue


def is_raw_text(dialogue: Dialogue) -> bool:
    """True for a dialogue that is nothing but one assistant message: text to continue, no chat markup."""
    return len(dialogue) == 1 and dialogue[0].role == "assistant"


def encode_dialogue(tokenizer: Any, dialogue: Dialogue) -> list[int]:
    """Token ids of a dialogue, ready for the model to continue.

    A trailing assistant message is left open (a prefill); otherwise the assistant's turn is opened. Strings such as
    `<|im_end|>` inside a message are encoded as plain text and never as the control token.

    Raises:
        BackendError: a chat dialogue and a tokenizer without a chat template, or a template that refuses the dialogue.
    """
    if is_raw_text(dialogue):
        ids = tokenizer(dialogue[0].content, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        start = [tokenizer.bos_token_id] if getattr(tokenizer, "add_bos_token", False) else []
        return [*start, *ids] or [tokenizer.bos_token_id or tokenizer.eos_token_id]
    if not tokenizer.chat_template:
        raise BackendError(
            "the model's tokenizer has no chat template: use a base-model template pack (templates: transcript) "
            "or add a chat_template to the model folder"
        )
    prefill = dialogue[-1].role == "assistant"
    try:
        encoded = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in dialogue],
            tokenize=True,
            return_dict=True,
            sanitize_control_tokens=True,
            add_generation_prompt=not prefill,
            continue_final_message=prefill,
        )
    except Exception as error:  # jinja2's raise_exception and TypeError alike: the model's own template said no
        raise BackendError(f"the model's chat template refused a dialogue: {error}") from error
    return list(encoded["input_ids"])


def encode_continuation(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a continuation, on its own: no start token, no control tokens."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if not ids:
        raise BackendError("a continuation whose log-probability is asked for has no tokens")
    return list(ids)
