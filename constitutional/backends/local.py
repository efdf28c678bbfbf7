"""A transformers model in this process: seeded batched generation, and log-probabilities with shared prefixes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from constitutional.activity import tell
from constitutional.backends import Likelihood
from constitutional.backends.cpu import device, prepare_process, use_threads
from constitutional.backends.decoding import decode
from constitutional.backends.kept import KeptDialogues
from constitutional.backends.memory import trim_memory
from constitutional.backends.padded import generate_padded
from constitutional.backends.pieces import feed_in_pieces
from constitutional.backends.prefix_tree import Pack, pack_sequences
from constitutional.backends.tokens import (
    completed,
    context_of,
    encode_batch,
    encode_continuation,
    encode_dialogue,
    first_line,
    load_tokenizer,
    stop_ids,
)
from constitutional.backends.tree_attention import attend_in_blocks, block_mask
from constitutional.backends.tree_layers import read_in_pieces
from constitutional.backends.tree_mask import attends_fully, tree_mask
from constitutional.backends.upcast import compute_in_float32
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Completion, Dialogue, Sampling

TREE_NODES = {"cpu": 4_096, "cuda": 1_024}
"""Most tokens in one judging forward. On a CPU attention is computed in blocks and the bound is one of memory; on a GPU
the mask is dense, and still costs nothing at this size."""

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
            threads: torch CPU threads, of the whole process; as `use_threads` chooses when None.

        Raises:
            BackendError: not a usable model folder; says what is missing.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype '{dtype}' (known: {', '.join(DTYPES)})")
        prepare_process()
        use_threads(threads)
        self.name = name
        self.device = device()
        self.tokenizer = load_tokenizer(source, name)
        self._net = _load_network(source, name, DTYPES[dtype]).to(self.device)
        if dtype == "float32":
            compute_in_float32(self._net)
        self.context = context_of(self._net.config)
        # a given tree mask replaces a layer's sliding window, so such models get plain sequences and no mask of ours
        self._tree_nodes = TREE_NODES[self.device] if attends_fully(self._net) else 0
        if self.device == "cpu":
            feed_in_pieces(self._net)
            if self._tree_nodes:
                attend_in_blocks(self._net)
                read_in_pieces(self._net)
        self.model = model
        self._stop_ids = stop_ids(self._net.generation_config, self.tokenizer)
        self._kept: KeptDialogues | None = None

    def room(self, dialogue: Dialogue) -> int:
        """Tokens left in the context window after the dialogue."""
        return self.context - len(encode_dialogue(self.tokenizer, dialogue))

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        """One completion per dialogue, in order; each draws from a random stream of its own."""
        prompts = self._encoded(batch, more=sampling.max_tokens)
        started = time.perf_counter()
        if self._tree_nodes:
            written = decode(self._net, prompts, sampling, partial(self._finished, sampling.stop), self._kept)
        else:
            written = generate_padded(self._net, self.tokenizer, prompts, sampling, self._stop_ids)
        seconds = (time.perf_counter() - started) / max(1, len(prompts))
        told: dict[str, Any] = {"model": self.model, "sampling": sampling, "seconds": seconds}
        return [
            completed(self.tokenizer, ids, self._stop_ids, prompt_tokens=len(prompt), **told)
            for ids, prompt in zip(written, prompts, strict=True)
        ]

    def _encoded(self, batch: Sequence[Dialogue], more: int = 0) -> list[list[int]]:
        return encode_batch(self.tokenizer, batch, context=self.context, name=self.name, more=more)

    @contextmanager
    def keep_dialogues(self) -> Iterator[None]:
        """Within it, a dialogue that continues one of an earlier call is read from where that one ended."""
        outer, self._kept = self._kept, self._kept or KeptDialogues()
        try:
            yield
        finally:
            self._kept = outer

    def _finished(self, stop: Sequence[str], ids: list[int]) -> bool:
        if ids[-1] in self._stop_ids or not stop:
            return ids[-1] in self._stop_ids
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return any(string in text for string in stop)

    def loglikelihood(self, batch: Sequence[Dialogue], continuations: Sequence[Sequence[str]]) -> list[Likelihood]:
        """Log-probability of every continuation of every dialogue; tokens that rows share are computed once.

        A continuation that does not fit the context gets NaN, and the rest of the batch is still answered.

        Raises:
            BackendError: a dialogue that does not fit even without a continuation (`room` is negative).
        """
        prompts = self._encoded(batch)
        options = [[encode_continuation(self.tokenizer, text) for text in texts] for texts in continuations]
        for prompt, row_options in zip(prompts, options, strict=True):
            # the last token is only predicted, never read; an option emptied here is left out of every pack
            row_options[:] = [ids if len(prompt) + len(ids) - 1 <= self.context else [] for ids in row_options]
        sums = [[0.0 if ids else math.nan for ids in row_options] for row_options in options]
        read: set[int] = set()
        tell(0, len(batch), "questions read")
        for pack in pack_sequences(prompts, options, self._tree_nodes):
            for target, value in zip(pack.targets, self._score(pack), strict=True):
                sums[target.row][target.option] += value
            read.update(target.row for target in pack.targets)
            tell(len(read), len(batch), "questions read")
            if self.device == "cpu":
                trim_memory()
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
        if not self._tree_nodes:
            return None
        return block_mask(pack.parent) if self.device == "cpu" else tree_mask(pack.parent).to(self.device)


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
