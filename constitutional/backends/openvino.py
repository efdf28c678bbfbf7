"""Fast text generation on a CPU by a GGUF model or a model folder, through OpenVINO GenAI (extra `cpu`).

The engine only writes; it gives the log-probability of the token it chose and of no other, so it cannot judge. Prompts
are tokenised on our side, where control tokens in untrusted text are made harmless, and passed as token ids.

Equal calls give equal results, though the engine's prefix cache could tell of earlier ones (`openvino_engine.py`), and
every dialogue gets a seed of its own: the engine starts each request's generator from the seed alone, so that equal
dialogues in one batch would be answered alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from constitutional.activity import tell
from constitutional.backends import Likelihood
from constitutional.backends.catalog import CATALOG
from constitutional.backends.cpu import amx_works, fast_cpu_dtype
from constitutional.backends.embedded import fetched_file, folder_name, sha256_file
from constitutional.backends.identity import weights_digest
from constitutional.backends.openvino_engine import KV_CACHE_GB, KV_CACHE_TYPE, Engine
from constitutional.backends.openvino_model import FOLDER_TYPE, Prepared, prepare, prepare_folder
from constitutional.backends.tokens import completed, encode_batch, encode_dialogue
from constitutional.errors import BackendError
from constitutional.records import Completion, Dialogue, Sampling, seed_for

PACKAGE = "openvino-genai"
USABLE = 0.9
"""Share of the engine's cache that is planned for: its blocks are not all full."""
BLOCK = 32
"""Tokens a block of the engine's cache holds: a dialogue has blocks of its own."""


@dataclass(frozen=True)
class _Source:
    """What a name stands for."""

    path: Path
    called: str
    digest: str
    """Of the file, or of the folder's files that shape its answers, in hex."""

    @property
    def cited(self) -> str:
        """As records cite it; a folder with what its matrices are stored as for the engine."""
        if self.path.is_dir():
            return f"{self.called}@{self.digest}/{FOLDER_TYPE}"
        return f"{self.called}@sha256:{self.digest[:12]}"


def identity(name: str, dtype: str = "auto") -> str:
    """The model's identity without opening it: name, digest of its files, engine version, number types.

    Raises:
        ConfigError: no embedded name, no path that ends in `.gguf`, no folder.
        BackendError: the file or the package is missing, or a folder that is no model folder; the message holds the
            command that mends it.
    """
    return f"openvino:{_source(name).cited}/{_engine_identity(dtype)}"


def folder_engine(dtype: str) -> str:
    """The part of an identity that all model folders share: number types, and the engine with its version."""
    return f"{FOLDER_TYPE}/{_engine_identity(dtype)}"


def _engine_identity(dtype: str) -> str:
    return f"{PACKAGE}-{_engine_version()}/{_resolved(dtype)}/kv-{KV_CACHE_TYPE}"


def _resolved(dtype: str) -> str:
    return fast_cpu_dtype() if dtype == "auto" else dtype


def prepare_model(name: str) -> Prepared:
    """Translates a model for the engine, once; later calls find the translation. Errors are those of the backend."""
    source = _source(name)
    if source.path.is_dir():
        return prepare_folder(source.path, source.digest, _engine_version())
    ends = CATALOG[name].end_tokens if name in CATALOG else ()
    return prepare(source.path, source.digest, _engine_version(), ends)


class OpenVinoBackend:
    """Implements `constitutional.backends.Backend` for generation."""

    def __init__(self, name: str, *, dtype: str = "auto", threads: int | None = None) -> None:
        """Opens the model; the first time it is also translated for the engine and kept in the cache.

        Args:
            name: an embedded model's name, the path of a GGUF file, or a model folder.
            dtype: what is computed in: "float32", "bfloat16", or "auto" for the one this processor is fast at.
            threads: CPU threads; the engine's own choice when None.

        Raises:
            ConfigError: no embedded name, no path that ends in `.gguf`, no folder.
            BackendError: the file or the package is missing, or the engine cannot read the model.
        """
        amx_works()
        self.model = identity(name, dtype)
        self._prepared = prepare_model(name)
        self._tokenizer = self._prepared.tokenizer()
        self._fits = int(KV_CACHE_GB * 2**30 * USABLE / self._prepared.kv_bytes)
        # of a dialogue that does not fit its cache the engine gives an empty answer, and says nothing
        self._context = min(self._prepared.context, self._fits)
        self._engine = Engine(self._prepared.folder, self.model, _resolved(dtype), threads)

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        """One completion per dialogue, in order; row i is drawn with a seed of (sampling.seed, i)."""
        room: dict[str, Any] = {"context": self._context, "name": self.model}
        prompts = encode_batch(self._tokenizer, batch, more=sampling.max_tokens, **room)
        done: list[Completion] = []

        def tell_call(finished: int, used: float) -> None:
            """Of tokens, too: texts that begin together end together, and nothing is finished for long."""
            tokens = round(used / self._prepared.kv_bytes)
            tell(len(done) + finished, len(prompts), f"texts written, {tokens} tokens at work")

        tell_call(0, 0)
        self._engine.open()
        for rows in _calls(prompts, sampling.max_tokens, self._fits):
            started = time.perf_counter()
            outputs = self._engine.write(
                [prompts[r] for r in rows],
                [self._config(sampling, r) for r in rows],
                tell_call,
            )
            seconds = (time.perf_counter() - started) / len(rows)
            told: dict[str, Any] = {"model": self.model, "sampling": sampling, "seconds": seconds}
            done.extend(
                completed(self._tokenizer, ids, self._prepared.stop_ids, prompt_tokens=len(prompts[r]), **told)
                for r, ids in zip(rows, outputs, strict=True)
            )
            tell_call(0, 0)
        return done

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        """Not to be had from this engine.

        Raises:
            BackendError: always; names the model to judge with.
        """
        raise BackendError(
            f"{PACKAGE} gives the log-probability of the token it chose and of no other: "
            "judge with `embedded:NAME` or `local:PATH` (`judge:` in the recipe), or with `mode: vote`"
        )

    def keep_dialogues(self) -> AbstractContextManager[None]:
        """Within it, what dialogues have in common with those of its earlier calls is not read again."""
        return self._engine.keeping()

    def room(self, dialogue: Dialogue) -> int:
        """Tokens left after the dialogue, in the context window or in the engine's cache, whichever is smaller."""
        return self._context - len(encode_dialogue(self._tokenizer, dialogue))

    def _config(self, sampling: Sampling, row: int) -> Any:
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = sampling.max_tokens
        config.apply_chat_template = False
        config.eos_token_id = self._prepared.stop_ids[0]
        config.stop_token_ids = set(self._prepared.stop_ids)
        config.repetition_penalty = sampling.repetition_penalty
        if sampling.stop:
            config.stop_strings = set(sampling.stop)
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = seed_for(sampling.seed, row)
        return config


def _source(name: str) -> _Source:
    path = Path(name)
    if name not in CATALOG and path.is_dir():
        return _Source(path, folder_name(path), weights_digest(name, f"openvino:{name}"))
    if "/" in name and not path.exists():
        raise BackendError(f"no such GGUF file or model folder: {path}")
    if name in CATALOG or not name.endswith(".gguf"):
        return _Source(fetched_file(name), name, CATALOG[name].sha256)
    if not path.is_file():
        raise BackendError(f"no such GGUF file: {path}")
    return _Source(path, path.name, sha256_file(path))


def _engine_version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        raise BackendError("openvino models need one more package: pip install 'constitutional[cpu]'") from None


def _calls(prompts: Sequence[Sequence[int]], max_tokens: int, most: int) -> Iterator[list[int]]:
    """Row numbers in order, cut into calls whose blocks hold at most so many tokens (one row at least)."""
    rows: list[int] = []
    total = 0
    for row, prompt in enumerate(prompts):
        size = -(-(len(prompt) + max_tokens) // BLOCK) * BLOCK
        if rows and total + size > most:
            yield rows
            rows, total = [], 0
        rows.append(row)
        total += size
    if rows:
        yield rows
