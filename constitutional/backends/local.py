"""A transformers model in this process: seeded batched generation, and log-probabilities with shared prefixes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from constitutional.backends import Likelihood
from constitutional.backends.cpu import prepare_process
from constitutional.backends.prefix_tree import Pack, pack_sequences
from constitutional.backends.tokens import (
    context_of,
    encode_continuation,
    encode_dialogue,
    first_line,
    load_tokenizer,
)
from constitutional.backends.upcast import compute_in_float32
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Completion, Dialogue, Sampling, seed_for

ROWS_PER_BATCH = 48
TOKENS_PER_BATCH = 16_384
"""Bounds of one generation batch: rows, and rows x (longest prompt + max_tokens), which bounds the cache's memory."""

TREE_NODES = 1_024
"""Most tokens in one judging forward: matrix products are at full speed, the dense mask still costs nothing."""

HEAD_ROWS = 128
"""Rows of logits in float32 held at once (128 x 152k vocabulary = 78 MB)."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LocalBackend:
    """Implements `constitutional.backends.Backend` on a causal language model folder (or hub id)."""

    def __init__(
        self, source: str | Path, *, name: str, model: str, dtype: str = "bfloat16", threads: int | None = None
    ) -> None:
        """Loads the model.

        Args:
            source: a folder with config, safetensors and tokenizer, or a hub id.
            name: the spec it was asked for by, used in messages.
            model: its identity, for records.
            dtype: what is computed in, "float32" or "bfloat16". 16-bit weights stay so in memory under float32.
            threads: torch CPU threads; torch's own choice when None.

        Raises:
            BackendError: not a usable model folder; says what is missing.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype '{dtype}' (known: {', '.join(DTYPES)})")
        prepare_process()
        if threads:
            torch.set_num_threads(threads)
        self.name = name
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = load_tokenizer(source, name)
        self._net = _load_network(source, name, DTYPES[dtype]).to(self.device)
        if dtype == "float32":
            compute_in_float32(self._net)
        self.context = context_of(self._net.config)
        # a given tree mask replaces a layer's sliding window, so such models get plain sequences and no mask of ours
        self._tree_nodes = TREE_NODES if _attends_fully(self._net.config) else 0
        self.model = model
        self._stop_ids = _stop_ids(self._net, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        self._pad = pad if pad is not None else self._stop_ids[0]

    def room(self, dialogue: Dialogue) -> int:
        """Tokens left in the context window after the dialogue."""
        return self.context - len(encode_dialogue(self.tokenizer, dialogue))

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        """One completion per dialogue, in order; length-sorted inside, each inner batch with a seed of its own."""
        prompts = [encode_dialogue(self.tokenizer, dialogue) for dialogue in batch]
        for prompt in prompts:
            self._check_room(len(prompt) + sampling.max_tokens)
        done: dict[int, Completion] = {}
        for number, rows in enumerate(_length_sorted(prompts, sampling.max_tokens)):
            started = time.perf_counter()
            outputs = self._generate_rows([prompts[r] for r in rows], sampling, seed_for(sampling.seed, number))
            seconds = (time.perf_counter() - started) / len(rows)
            for r, ids in zip(rows, outputs, strict=True):
                done[r] = self._completion(ids, len(prompts[r]), sampling, seconds)
        return [done[r] for r in range(len(prompts))]

    @torch.inference_mode()
    def _generate_rows(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self._pad)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        draw: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            draw = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        config = GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self._stop_ids,
            pad_token_id=self._pad,
            stop_strings=list(sampling.stop) or None,
            **draw,
        )
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            output = self._net.generate(
                ids.to(self.device),
                attention_mask=mask.to(self.device),
                generation_config=config,
                tokenizer=self.tokenizer if sampling.stop else None,
            )
        return [list(map(int, row)) for row in output[:, width:].tolist()]

    def _completion(self, ids: list[int], prompt_tokens: int, sampling: Sampling, seconds: float) -> Completion:
        end = next((i for i, token in enumerate(ids) if token in self._stop_ids), None)
        kept = ids if end is None else ids[:end]
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        cut = min((text.find(stop) for stop in sampling.stop if stop in text), default=-1)
        stopped = end is not None or cut >= 0
        return Completion(
            text=text[:cut] if cut >= 0 else text,
            model=self.model,
            sampling=sampling,
            finish_reason="stop" if stopped else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(kept),
            seconds=seconds,
        )

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        """Log-probability of every continuation of every dialogue; tokens that rows share are computed once.

        A continuation that does not fit the context gets NaN, and the rest of the batch is still answered.

        Raises:
            BackendError: a dialogue that does not fit even without a continuation (`room` is negative).
        """
        prompts = [encode_dialogue(self.tokenizer, dialogue) for dialogue in batch]
        options = [[encode_continuation(self.tokenizer, text) for text in texts] for texts in continuations]
        for prompt, row_options in zip(prompts, options, strict=True):
            self._check_room(len(prompt))
            # the last token is only predicted, never read; an option emptied here is left out of every pack
            row_options[:] = [ids if len(prompt) + len(ids) - 1 <= self.context else [] for ids in row_options]
        sums = [[0.0 if ids else math.nan for ids in row_options] for row_options in options]
        for pack in pack_sequences(prompts, options, self._tree_nodes):
            for target, value in zip(pack.targets, self._score(pack), strict=True):
                sums[target.row][target.option] += value
        return [Likelihood(logprobs=tuple(s), prompt_tokens=len(p)) for s, p in zip(sums, prompts, strict=True)]

    @torch.inference_mode()
    def _score(self, pack: Pack) -> list[float]:
        nodes = sorted({target.node for target in pack.targets})
        row_of = {node: i for i, node in enumerate(nodes)}
        logits = self._net(
            input_ids=torch.tensor([pack.tokens], device=self.device),
            position_ids=torch.tensor([pack.depth], device=self.device),
            attention_mask=self._tree_mask(pack),
            use_cache=False,
            logits_to_keep=torch.tensor(nodes, device=self.device),
        ).logits[0]
        rows = torch.tensor([row_of[target.node] for target in pack.targets], device=self.device)
        tokens = torch.tensor([target.token for target in pack.targets], device=self.device)
        normaliser = torch.cat([part.float().logsumexp(-1) for part in logits.split(HEAD_ROWS)])
        return [float(v) for v in (logits[rows, tokens].float() - normaliser[rows]).tolist()]

    def _tree_mask(self, pack: Pack) -> torch.Tensor | None:
        if self._tree_nodes == 0:
            return None
        size = len(pack.tokens)
        mask = torch.zeros((size, size), dtype=torch.bool)
        for node, parent in enumerate(pack.parent):
            if parent >= 0:
                mask[node] = mask[parent]
            mask[node, node] = True
        return mask[None, None].to(self.device)

    def _check_room(self, needed: int) -> None:
        if needed > self.context:
            raise BackendError(f"{needed} tokens do not fit the context of {self.context} tokens of {self.name}")


def _length_sorted(prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Row numbers in batches, longest first, bounded by ROWS_PER_BATCH and TOKENS_PER_BATCH."""
    batches: list[list[int]] = []
    width = 0
    for row in sorted(range(len(prompts)), key=lambda r: -len(prompts[r])):
        rows = batches[-1] if batches else None
        if rows is None or len(rows) == ROWS_PER_BATCH or (len(rows) + 1) * width > TOKENS_PER_BATCH:
            width = len(prompts[row]) + max_tokens
            batches.append([row])
        else:
            rows.append(row)
    return batches


def _load_network(source: str | Path, name: str, dtype: torch.dtype) -> Any:
    try:
        net = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype="auto" if dtype == torch.float32 else dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(f"{name}: cannot load the model: {first_line(error)}") from error
    return net.eval()


def _attends_fully(config: Any) -> bool:
    """Whether every layer attends to all earlier tokens; older families name a window but no kinds of layers."""
    kinds = getattr(config, "layer_types", None)
    return set(kinds) == {"full_attention"} if kinds else getattr(config, "sliding_window", None) is None


def _stop_ids(net: Any, tokenizer: Any) -> list[int]:
    configured = net.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    stops = {i for i in (*ids, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None}
    if not stops:
        raise BackendError("the model names no end-of-sequence token")
    return sorted(stops)
