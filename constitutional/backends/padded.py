"""Generation by transformers itself, in padded batches: for models whose layers do not attend to everything before.

A mask of ours would widen a layer's sliding window, so such models cannot be written in slots (`decoding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from constitutional.activity import tell
from constitutional.records import Sampling, seed_for

ROWS_PER_BATCH = 48
TOKENS_PER_BATCH = 16_384
"""Bounds of one batch: rows, and rows x (longest prompt + max_tokens), which bounds the cache's memory."""


def generate_padded(
    net: Any, tokenizer: Any, prompts: Sequence[list[int]], sampling: Sampling, stop_ids: Sequence[int]
) -> list[list[int]]:
    """Token ids written after each prompt, in order, padding included; length-sorted, one seed per inner batch."""
    written: dict[int, list[int]] = {}
    tell(0, len(prompts), "texts written")
    for number, rows in enumerate(_length_sorted(prompts, sampling.max_tokens)):
        seed = seed_for(sampling.seed, number)
        outputs = _generate(net, tokenizer, [prompts[r] for r in rows], sampling, stop_ids, seed)
        written.update(zip(rows, outputs, strict=True))
        tell(len(written), len(prompts), "texts written")
    return [written[row] for row in range(len(prompts))]


@torch.inference_mode()
def _generate(
    net: Any, tokenizer: Any, prompts: list[list[int]], sampling: Sampling, stop_ids: Sequence[int], seed: int
) -> list[list[int]]:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
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
        eos_token_id=list(stop_ids),
        pad_token_id=pad,
        stop_strings=list(sampling.stop) or None,
        **draw,
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        output = net.generate(
            ids.to(net.device),
            attention_mask=mask.to(net.device),
            generation_config=config,
            tokenizer=tokenizer if sampling.stop else None,
        )
    return [list(map(int, row)) for row in output[:, width:].tolist()]


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
