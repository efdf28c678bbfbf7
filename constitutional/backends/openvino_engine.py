"""The engine of OpenVINO GenAI, kept so that what it writes depends on nothing that was asked before.

Its cache of prompts' beginnings cannot be emptied, and text computed over cached blocks differs, by rounding, from the
same text computed afresh (measured with release 2026.4). So the cache is off, save while dialogues are to be kept: then
an engine of its own, opened empty, has it on. A step that enters `keeping` once a chunk makes the same bytes of a
chunk whatever chunks came before it, in this process or in one that was killed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from constitutional.errors import BackendError

T = TypeVar("T")

KV_CACHE_GB = 1
KV_CACHE_TYPE = "float16"
"""Of keys and values. The engine's own choice, 8 bits, is both coarser and slower here (docs/LOG.md)."""
PRECISIONS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass
class _Opened:
    """One opening. A call that was interrupted ends in the opening it began in, and leaves a later one alone."""

    caching: bool
    pipe: Any = None


class Engine:
    """Token ids in, token ids out. Opened when first asked: by then it is known whether dialogues are kept."""

    def __init__(self, folder: Path, name: str, dtype: str, threads: int | None) -> None:
        """Remembers how to open the engine.

        Args:
            folder: the translated model.
            name: the model's identity, for errors.
            dtype: "float32" or "bfloat16".
            threads: CPU threads; the engine's own choice when None.
        """
        self._folder, self._name, self._dtype, self._threads = folder, name, dtype, threads
        self._opened = _Opened(caching=False)
        self._busy = threading.Lock()  # held by a call that was interrupted until the engine has really ended it

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Within it the engine keeps what it has read and written; it begins with nothing."""
        if self._opened.caching:
            yield
            return
        self._opened = _Opened(caching=True)
        try:
            yield
        finally:
            self._opened = _Opened(caching=False)

    def open(self) -> None:
        """Opens the engine, if it is not open.

        Raises:
            BackendError: it cannot open the model.
        """
        opened = self._opened
        with self._busy:  # in this thread: opened in one that then ends, it sometimes runs on one processor only
            if opened.pipe is None:
                opened.pipe = open_engine(self._folder, self._dtype, self._threads, caching=opened.caching)

    def write(
        self, prompts: Sequence[Sequence[int]], configs: Sequence[Any], tell: Callable[[int, float], object]
    ) -> list[list[int]]:
        """What the open engine writes to each prompt, in order, end tokens left out.

        Args:
            prompts: token ids.
            configs: an `openvino_genai.GenerationConfig` each.
            tell: called from time to time with how many prompts are answered, and the bytes of the cache that what was
                read and written of the others takes.

        Raises:
            BackendError: the engine fails at the prompts.
        """
        import numpy
        import openvino  # type: ignore[import-untyped,unused-ignore]

        pipe = self._opened.pipe
        tensors = [openvino.Tensor(numpy.array([ids], dtype=numpy.int64)) for ids in prompts]

        def work() -> Any:
            try:
                with self._busy:
                    return pipe.generate(tensors, list(configs))
            except RuntimeError as error:
                raise BackendError(f"{self._name}: {_last_line(error)}", retryable=True) from error

        def waiting() -> None:
            known = pipe.get_metrics()
            if known.requests:  # 0 until the first step has begun
                used = known.cache_usage / 100 * known.kv_cache_size_in_bytes
                tell(len(prompts) - min(known.requests, len(prompts)), used)

        results = _interruptible(work, waiting)
        return [[int(token) for token in result.m_generation_ids[0]] for result in results]


def open_engine(folder: Path, dtype: str, threads: int | None, *, caching: bool) -> Any:
    """An `openvino_genai.ContinuousBatchingPipeline`, with or without its cache of prompts' beginnings.

    Raises:
        BackendError: the engine cannot open the folder.
    """
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = caching
    scheduler.cache_size = KV_CACHE_GB
    # the engine's own choice is bfloat16 wherever the processor knows it, which without AMX is 2.6 times as slow
    properties: dict[str, str | int] = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
        "KV_CACHE_PRECISION": PRECISIONS[KV_CACHE_TYPE],
    }
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    try:
        return openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
    except RuntimeError as error:
        raise BackendError(f"the engine cannot open {folder.name}: {_last_line(error)}") from error


def _interruptible(work: Callable[[], T], waiting: Callable[[], object] = lambda: None) -> T:
    """Runs a blocking engine call in a thread, so that Python can act on Ctrl-C and SIGTERM in the meantime.

    The engine itself cannot be stopped: an interrupted call goes on in its thread until the batch is done.
    `waiting` is called in this thread again and again while the work goes on.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        if thread.is_alive():
            waiting()
    if errors:
        raise errors[0]
    return results[0]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
