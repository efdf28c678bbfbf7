"""Models behind two verbs: `generate` and `loglikelihood`, batch in, batch out, order kept.

A model is named by a spec string (`local:PATH_OR_HUB_ID`, `embedded:NAME`, `openvino:NAME`, `scripted:FILE`);
`open_backend` turns the spec into a live backend and imports the heavy library only then.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from constitutional.backends.specs import split_spec
from constitutional.records import Completion, Dialogue, Record, Sampling


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

        NaN stands for a continuation that does not fit the context window: an error, never a value.

        Raises:
            BackendError: the engine gives no log-probabilities.
        """
        ...

    def room(self, dialogue: Dialogue) -> int:
        """Tokens left in the context window after the dialogue; negative when it does not fit."""
        ...


def open_backend(spec: str, *, dtype: str = "auto", threads: int | None = None) -> Backend:
    """Opens the model a spec names.

    Args:
        spec: `local:PATH_OR_HUB_ID`, `embedded:NAME`, `openvino:NAME` or `scripted:FILE`.
        dtype: what the model computes in: "float32", "bfloat16", or "auto" for the one
            this machine is fast at.
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

        return OpenVinoBackend(rest, dtype=dtype, threads=threads)
    from constitutional.backends.cpu import resolved_dtype
    from constitutional.backends.identity import identify
    from constitutional.backends.local import LocalBackend

    source: str | Path = rest
    if kind == "embedded":
        from constitutional.backends.embedded import converted_folder

        source = converted_folder(rest)
    dtype = resolved_dtype(dtype)
    return LocalBackend(source, name=spec, model=identify(spec, dtype), dtype=dtype, threads=threads)
