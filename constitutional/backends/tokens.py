"""Dialogues to token ids, with control tokens in untrusted text made harmless."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from constitutional.backends.folders import check_model_folder, is_hub_id
from constitutional.errors import BackendError
from constitutional.records import Completion, Dialogue, Sampling


def is_raw_text(dialogue: Dialogue) -> bool:
    """True for a dialogue that is nothing but one assistant message: text to continue, no chat markup."""
    return len(dialogue) == 1 and dialogue[0].role == "assistant"


@cache
def require_harmless_text() -> None:
    """Refuses a transformers whose chat templates cannot tell text from control tokens.

    Before release 5.20 the demand for it is handed on to the template, which ignores it without a word.

    Raises:
        BackendError: names the release that can.
    """
    found = version("transformers")
    numbers = [int(part) for part in re.findall(r"\d+", found)[:2]]
    if numbers < [5, 20]:
        raise BackendError(
            f"transformers {found} takes control tokens in untrusted text for its own: release 5.20 or later is needed"
        )


def encode_dialogue(tokenizer: Any, dialogue: Dialogue) -> list[int]:
    """Token ids of a dialogue, ready for the model to continue.

    A trailing assistant message is left open (a prefill); otherwise the assistant's turn is opened. Strings such as
    `<|im_end|>` inside a message are encoded as plain text and never as the control token.

    Raises:
        BackendError: a chat dialogue and a tokenizer without a chat template, or a template that refuses the dialogue;
            or as `require_harmless_text`.
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
    require_harmless_text()
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


def encode_batch(
    tokenizer: Any, batch: Sequence[Dialogue], *, context: int, name: str, more: int = 0
) -> list[list[int]]:
    """Token ids of dialogues that leave room for `more` tokens in the context.

    Raises:
        BackendError: one does not, or as `encode_dialogue`; `name` is what the model is called in it.
    """
    prompts = [encode_dialogue(tokenizer, dialogue) for dialogue in batch]
    for prompt in prompts:
        if len(prompt) + more > context:
            raise BackendError(f"{len(prompt) + more} tokens do not fit the context of {context} tokens of {name}")
    return prompts


def encode_continuation(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a continuation, on its own: no start token, no control tokens."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if not ids:
        raise BackendError("a continuation whose log-probability is asked for has no tokens")
    return list(ids)


def load_tokenizer(source: str | Path, name: str) -> Any:
    """The tokenizer of a model folder or hub id; no weights are read.

    Args:
        source: the folder, or the id.
        name: the spec it was asked for by, used in messages.

    Raises:
        BackendError: not a usable model folder; says what is missing.
    """
    from transformers import AutoTokenizer

    if not is_hub_id(source):
        check_model_folder(source, name)
    try:
        return AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise BackendError(f"{name}: cannot load the tokenizer: {first_line(error)}") from error


def completed(
    tokenizer: Any,
    ids: Sequence[int],
    stop_ids: Collection[int],
    *,
    model: str,
    sampling: Sampling,
    prompt_tokens: int,
    seconds: float,
) -> Completion:
    """What a model wrote, up to its end-of-sequence token or the first stop text."""
    end = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    kept = list(ids if end is None else ids[:end])
    text = tokenizer.decode(kept, skip_special_tokens=True)
    cut = min((text.find(stop) for stop in sampling.stop if stop in text), default=-1)
    stopped = end is not None or cut >= 0 or len(ids) < sampling.max_tokens
    return Completion(
        text=text[:cut] if cut >= 0 else text,
        model=model,
        sampling=sampling,
        finish_reason="stop" if stopped else "length",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(kept),
        seconds=seconds,
    )


def stop_ids(generation_config: Any, tokenizer: Any) -> list[int]:
    """The tokens any of which ends an answer, in rising order.

    Raises:
        BackendError: the model names none.
    """
    configured = generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    stops = {i for i in (*ids, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None}
    if not stops:
        raise BackendError("the model names no end-of-sequence token")
    return sorted(stops)


def generation_config(source: str, config: Any) -> Any:
    """A model's settings of generation, made from its configuration where it has no file of them."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:
        return GenerationConfig.from_model_config(config)


def context_of(config: Any) -> int:
    """The context window in tokens that a model's configuration states; 2048 where it states none."""
    return int(getattr(config, "max_position_embeddings", 2048))


def first_line(error: Exception) -> str:
    """What an error says first: libraries add pages of advice."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
