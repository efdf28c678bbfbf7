"""Forward and backward of training batches: beginnings that rows share computed once, against padded batches.

    python benchmarks/shared_training.py [--batches 4] [--threads N]

SmolLM2-135M in float32, conversations of hh-rlhf's harmless pairs. `rows`: 16 questions with an answer of one turn, of
like length, as supervised fine-tuning reads them; `dialogues`: the same of whole conversations; `comparisons`: 4 pairs,
as a preference model reads them; `groups`: 2 questions with 4 answers of 48 tokens each, filled on the left, as RL
reads them. *Padded* is what TRL's trainers compute (the head on labelled positions only), *shared* the same call within
`sharing_prefixes`; both in turn, the sum over the batches, gradients compared at the first. Optimiser steps, which are
the same for both, are left out.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from engine_cases import DATA, machine, real_pairs

from constitutional.backends.cpu import prepare_process, use_threads
from constitutional.backends.embedded import converted_folder
from constitutional.errors import BackendError
from constitutional.prompts import HumanPair
from constitutional.records import assistant

ANSWER = 48
"""Tokens of an answer in a group."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if not DATA.exists():
        return print(f"skipped: {DATA.name} is not there")
    try:
        folder = str(converted_folder("smollm2-135m"))
    except BackendError as error:
        return print(f"skipped: {error}")
    prepare_process()
    use_threads(arguments.threads)
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging
    from trl.trainer.utils import add_fused_lm_head

    from constitutional.training.tokens import open_tokenizer

    logging.set_verbosity_error()  # it would report at length that there is no head yet
    tokenizer = open_tokenizer(folder)
    writer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    add_fused_lm_head(writer)
    torch.manual_seed(0)
    scorer = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).train()
    scorer.config.pad_token_id = tokenizer.pad_token_id
    print(machine())
    print(f"{'':<13}{'padded':>8}{'distinct':>10}{'share':>7}{'padded, s':>11}{'shared, s':>11}{'ratio':>7}  gradients")
    for kind, batches in cases(tokenizer, arguments.batches).items():
        print(f"{kind:<13}{compared(scorer if kind == 'comparisons' else writer, batches)}", flush=True)


def cases(tokenizer: Any, count: int) -> dict[str, list[dict[str, Any]]]:
    """Batches of each kind, spread over the data by length."""
    from constitutional.training.tokens import dialogue_ids

    def whole(pair: HumanPair, answer: str) -> list[int]:
        return list(dialogue_ids(tokenizer, (*pair.messages, assistant(answer))))

    def asked(pair: HumanPair) -> list[int]:
        return list(dialogue_ids(tokenizer, pair.messages, generation_prompt=True))

    pairs = [pair for pair in real_pairs(400) if len(whole(pair, pair.chosen)) <= 512]
    first = [pair for pair in pairs if len(pair.messages) == 1]
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, some in (("rows", first), ("dialogues", pairs)):
        rows = sorted(((asked(pair), whole(pair, pair.chosen)) for pair in some), key=lambda row: len(row[1]))
        found[kind] = [padded(batch, tokenizer.pad_token_id) for batch in spread(rows, 16, count)]
    sides = [[([], whole(pair, pair.chosen)), ([], whole(pair, pair.rejected))] for pair in pairs]
    found["comparisons"] = [
        padded(list(itertools.chain(*zip(*batch, strict=True))), tokenizer.pad_token_id, labels=False)
        for batch in spread(sides, 4, count)
    ]
    answers = [tokenizer.encode(pair.chosen, add_special_tokens=False)[:ANSWER] for pair in pairs]
    answers = [answer for answer in answers if len(answer) == ANSWER]
    groups = [
        [(asked(p), asked(p) + answers[(4 * i + k) % len(answers)]) for k in range(4)] for i, p in enumerate(pairs)
    ]
    found["groups"] = [
        padded(list(itertools.chain(*batch)), tokenizer.pad_token_id, left=True) for batch in spread(groups, 2, count)
    ]
    return found


def spread(items: Sequence[Any], size: int, count: int) -> Iterator[Sequence[Any]]:
    """So many runs of `size` items, at even distances."""
    step = (len(items) - size) // max(1, count - 1)
    return (items[i * step : i * step + size] for i in range(count))


def padded(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int, *, left: bool = False, labels: bool = True
) -> dict[str, Any]:
    """A batch of (prompt, whole) token ids as trainers lay it out; labels are what follows the prompt."""
    import torch

    width = max(len(whole) for _, whole in rows)
    ids = torch.full((len(rows), width), pad)
    mask, wanted = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, whole) in enumerate(rows):
        start = width - len(whole) if left else 0
        end = start + len(whole)
        ids[row, start:end], mask[row, start:end] = torch.tensor(whole), 1
        wanted[row, start + len(prompt) : end] = ids[row, start + len(prompt) : end]
    return {"input_ids": ids, "attention_mask": mask, **({"labels": wanted, "fused_lm_head": True} if labels else {})}


def compared(net: Any, batches: Sequence[dict[str, Any]]) -> str:
    """A line of the table: tokens, seconds of both ways, and how far gradients are apart."""
    from constitutional.training.fused_head import labelled_positions_only
    from constitutional.training.prefix_sharing import _rows, _trees, sharing_prefixes

    ways = {"padded": nullcontext, "shared": lambda: sharing_prefixes(net)}
    took = dict.fromkeys(ways, 0.0)
    apart = 0.0
    tokens = distinct = 0
    for number, batch in enumerate(batches):
        rows = _rows(net.config, batch["input_ids"], batch["attention_mask"], None) or []
        tokens += batch["input_ids"].numel()
        distinct += sum(len(pack.tokens) for pack, _ in _trees([ids for _, ids in rows]))
        gradients = {}
        for name, way in ways.items():
            for warm in (True, False) if number == 0 else (False,):
                net.zero_grad()
                started = time.perf_counter()
                with way(), labelled_positions_only():
                    output = net(**batch, use_cache=False)
                    loss = output.loss if "labels" in batch else _contrast(output.logits)
                    loss.backward()
                if not warm:
                    took[name] += time.perf_counter() - started
            if number == 0:
                gradients[name] = [p.grad.clone() for p in net.parameters()]
        if gradients:
            pairs = zip(gradients["padded"], gradients["shared"], strict=True)
            apart = max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)
    return (
        f"{tokens:>8,}{distinct:>10,}{distinct / tokens:>7.2f}{took['padded']:>11.1f}{took['shared']:>11.1f}"
        f"{took['padded'] / took['shared']:>7.2f}  {apart:.0e}"
    )


def _contrast(scores: Any) -> Any:
    import torch

    chosen, rejected = scores[:, 0].chunk(2)
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


if __name__ == "__main__":
    main()
