"""Models behind two verbs: `generate` and `loglikelihood`, batch in, batch out, order kept.

A model is named by a spec string (`local:PATH_OR_HUB_ID`, `embedded:NAME`, `openvino:NAME`, `scripted:FILE`); `open_backend`
turns the spec into a live backend and imports the heavy library only then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from constitutional.errors import ConfigError, nearest
from constitutional.records import Completion, Dialogue, Record, Sampling

KINDS = ("local", "embedded", "openvino", "scripted")


class Likelihood(Record):
    """Summed log-probabilities (nats) of some continuations of one dialogue, and the dialogue's length in tokens."""

    logprobs: tuple[float, ...]
    prompt_tokens: int


class Backend(Protocol):
    """What every stage needs of a model.

    A dialogue that consists of nothing but one assistant message is raw text to be continued (base models, no chat
    template). Text in a dialogue is untrusted: control tokens in it never act as control tokens.
    """

    model: str
    """Exact identity, weights digest and engine settings included; goes into every record made with the model."""

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        """One completion per dialogue, in order. Equal arguments give equal results."""
        ...

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        """For each dialogue, the log-probability of each of its continuations, whatever their length.

        Raises:
            BackendError: the engine gives no log-probabilities.
        """
        ...

    def room(self, dialogue: Dialogue) -> int:
        """Tokens left in the context window after the dialogue; negative when it does not fit."""
        ...


def split_spec(spec: str) -> tuple[str, str]:
    """`kind:rest` taken apart.

    Raises:
        ConfigError: no such kind, with the nearest one.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in KINDS or not colon or not rest:
        raise ConfigError(f"unknown model spec '{spec}': expected KIND:NAME{nearest(kind, KINDS)}")
    return kind, rest


def open_backend(spec: str, *, dtype: str = "bfloat16", threads: int | None = None) -> Backend:
    """Opens the model a spec names.

    Args:
        spec: `local:PATH_OR_HUB_ID`, `embedded:NAME`, `openvino:NAME` or `scripted:FILE`.
        dtype: torch dtype of `local` and `embedded` models: "float32" or "bfloat16".
        threads: CPU threads; the engine's own choice when None.

    Raises:
        ConfigError: unknown kind of spec.
        BackendError: the model is missing or cannot be used; the message holds the command that mends it.
    """
    kind, rest = split_spec(spec)
    if kind == "scripted":
        from constitutional.backends.scripted import ScriptedBackend

        return ScriptedBackend(rest)
    if kind == "openvino":
        from constitutional.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(rest, threads=threads)
    from constitutional.backends.local import LocalBackend

    if kind == "embedded":
        from constitutional.backends.embedded import converted_folder

        return LocalBackend(converted_folder(rest), name=spec, dtype=dtype, threads=threads)
    return LocalBackend(rest, name=spec, dtype=dtype, threads=threads)
