"""What a model reads: the token ids of a dialogue, taken apart into text and control tokens; no weights are loaded."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from constitutional.backends.specs import split_spec
from constitutional.backends.tokens import context_of, encode_continuation, encode_dialogue, first_line, load_tokenizer
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Dialogue


@dataclass(frozen=True)
class Piece:
    """A stretch of what is read: text, or one control token."""

    text: str
    control: bool


@dataclass(frozen=True)
class Reading:
    """What a model reads of a dialogue; the pieces' texts, joined, are the decoded ids."""

    ids: tuple[int, ...]
    pieces: tuple[Piece, ...]
    lookalikes: dict[str, int]
    """Control tokens that are spelled out in the text, where they are text and nothing else, and how often."""


@dataclass(frozen=True)
class Reader:
    """A model's tokenizer and context window (tokens)."""

    tokenizer: Any
    context: int

    def read(self, dialogue: Dialogue) -> Reading:
        """The very ids that a backend on this model sends for a dialogue.

        Raises:
            BackendError: as the backend: no chat template, or one that refuses the dialogue; or the tokens cannot be
                told apart in the decoded text.
        """
        ids = encode_dialogue(self.tokenizer, dialogue)
        controls = {i: token.content for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        bounds = sorted({0, len(ids)} | {at + side for at, i in enumerate(ids) if i in controls for side in (0, 1)})
        pieces, told = [], ""
        for start, end in pairwise(bounds):
            whole = self._decoded(ids[:end])  # of the whole beginning: some tokenizers decode a part differently
            if not whole.startswith(told):
                raise BackendError("the model's tokenizer does not decode its tokens one after another")
            pieces.append(Piece(whole.removeprefix(told), ids[start] in controls))
            told = whole
        names = sorted(set(controls.values()), key=lambda name: (-len(name), name))
        found = re.compile("|".join(map(re.escape, names)) or "(?!)")
        spelled = Counter(name for piece in pieces if not piece.control for name in found.findall(piece.text))
        return Reading(tuple(ids), tuple(pieces), dict(spelled))

    def option_tokens(self, option: str) -> int:
        """Tokens of a continuation that a judge's probability is asked for."""
        return len(encode_continuation(self.tokenizer, option))

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def open_reader(spec: str) -> Reader:
    """Opens the tokenizer of a model.

    Args:
        spec: `local:PATH_OR_HUB_ID`, `embedded:NAME` or `openvino:NAME` (translated before).

    Raises:
        ConfigError: no such kind, or one without a tokenizer.
        BackendError: the model is missing or cannot be used; the message holds the command that mends it.
    """
    kind, rest = split_spec(spec)
    if kind == "scripted":
        raise ConfigError(f"{spec}: a script has no tokenizer: name a model, or ask for the plain messages")
    if kind == "openvino":
        from constitutional.backends.openvino import prepare_model

        prepared = prepare_model(rest)
        return Reader(prepared.tokenizer(), prepared.context)
    source: str | Path = rest
    if kind == "embedded":
        from constitutional.backends.embedded import converted_folder

        source = converted_folder(rest)
    tokenizer = load_tokenizer(source, spec)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BackendError(f"{spec}: cannot read the configuration: {first_line(error)}") from error
    return Reader(tokenizer, context_of(config))
