"""Models behind two verbs: `generate` and `loglikelihood`, batch in, batch out, order kept.

A model is named by a spec string (`local:PATH_OR_HUB_ID`, `embedded:NAME`, `openvino:NAME_OR_PATH`,
`vllm:PATH_OR_HUB_ID`, `openai:MODEL@BASE_URL`, `scripted:FILE`); `open_backend` turns the spec into a live backend and
imports the heavy library only then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pydantic import JsonValue

from constitutional.backends.specs import split_spec
from constitutional.records import Completion, Dialogue, Record, Sampling
from constitutional.settings import EndpointSettings

if TYPE_CHECKING:
    from constitutional.backends.endpoint.calls import Calls


class Likelihood(Record):
    """Summed log-probabilities (nats) of some continuations of one dialogue, and the dialogue's length in tokens."""

    logprobs: tuple[float, ...]
    prompt_tokens: int
    fault: str | None = None
    """Why there are none, where what came back from a server is no answer; all of `logprobs` are NaN then."""
    note: Mapping[str, JsonValue] | None = None
    """What a judgment should keep of how they came about: what a server says of itself, what it left unsaid."""


class Unanswered(Record):
    """An item a model did not answer, though it answers others: `too_long`, `content_filter`, `invalid_answer` ..."""

    kind: str
    message: str


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


class Separable(Protocol):
    """A backend that tells which items of a batch it did not answer; others raise for the whole batch."""

    def generate_each(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion | Unanswered]:
        """One completion, or the reason why there is none, per dialogue, in order."""
        ...


def generate_each(backend: Backend, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion | Unanswered]:
    """As `generate`, with the reason in the place of an item that was not answered where the backend can tell."""
    if hasattr(backend, "generate_each"):
        return cast(Separable, backend).generate_each(batch, sampling)
    return list(backend.generate(batch, sampling))


class Keeping(Protocol):
    """A backend that can go on from dialogues of its earlier calls without reading them again."""

    def keep_dialogues(self) -> AbstractContextManager[None]:
        """While it is entered, dialogues are kept, within a bound of memory; afterwards they are forgotten."""
        ...


@contextmanager
def kept_dialogues(*backends: Backend) -> Iterator[None]:
    """While it is entered, backends that can keep dialogues do: a next turn reads what is new in it and no more.

    Answers are those given without, up to rounding. What is kept depends on the calls within and on nothing before, so
    a stage that is run again from its start gives the same text.
    """
    with ExitStack() as entered:
        for backend in backends:
            if hasattr(backend, "keep_dialogues"):
                entered.enter_context(cast(Keeping, backend).keep_dialogues())
        yield


def open_backend(
    spec: str,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    endpoint: EndpointSettings | None = None,
    calls: Calls | None = None,
) -> Backend:
    """Opens the model a spec names.

    Args:
        spec: `local:PATH_OR_HUB_ID`, `embedded:NAME`, `openvino:NAME_OR_PATH`, `vllm:PATH_OR_HUB_ID`,
            `openai:MODEL@BASE_URL` or `scripted:FILE`.
        dtype: what the model computes in: "float32", "bfloat16", or "auto" for the one
            this machine is fast at.
        threads: CPU threads; when None the engine's own choice, of torch as `cpu.use_threads` says.
        endpoint: how a server is called.
        calls: where a server's answers are kept; in memory when None.

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
    if kind == "openai":
        from constitutional.backends.endpoint.backend import EndpointBackend

        return EndpointBackend(rest, endpoint or EndpointSettings(), calls)
    from constitutional.backends.cpu import resolved_dtype

    if kind == "vllm":
        from constitutional.backends.vllm import VllmBackend

        return VllmBackend(rest, dtype=resolved_dtype(dtype))
    from constitutional.backends.identity import identify
    from constitutional.backends.local import LocalBackend
    from constitutional.backends.vllm import close_idle

    close_idle()
    source: str | Path = rest
    if kind == "embedded":
        from constitutional.backends.embedded import converted_folder

        source = converted_folder(rest)
    dtype = resolved_dtype(dtype)
    return LocalBackend(source, name=spec, model=identify(spec, dtype), dtype=dtype, threads=threads)
