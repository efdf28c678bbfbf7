"""Preference-model scoring of 8 answers a prompt on SmolLM2-135M: shared beginnings once, against a forward a row.

    python benchmarks/pm_scoring.py [--prompts 6] [--answers 8] [--tokens 48 96] [--repeats 3]

Conversations and answers are those of hh-rlhf harmless pairs (multi-turn); answers are cut at `--tokens`, as rollouts
are. The head is random: what is measured is time, and that all ways give the same scores. Runs alternate; medians.
CPU time is the one to read where others use the machine, on one thread (OMP_NUM_THREADS=1): waiting threads spin.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from constitutional.backends.cpu import device
from constitutional.backends.embedded import converted_folder
from constitutional.errors import BackendError
from constitutional.prompts import load_pairs
from constitutional.records import assistant

DATA = Path(__file__).parents[2] / "shared" / "data" / "hh_harmless" / "test_first1312.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[48, 96])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not DATA.exists():
        print(f"skipped: {DATA.name} is not there")
        return
    try:
        folder = converted_folder("smollm2-135m")
    except BackendError as error:
        print(f"skipped: {error}")
        return
    import torch
    from transformers import AutoModelForSequenceClassification

    from constitutional.training import scoring
    from constitutional.training.tokens import dialogue_ids, open_tokenizer

    tokenizer = open_tokenizer(folder)
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=1, dtype=torch.float32)
    network.config.pad_token_id = pad = tokenizer.pad_token_id
    network = network.to(device()).eval()

    def alone(rows: list[list[int]]) -> list[float]:
        with torch.inference_mode():
            return [float(network(torch.tensor([ids], device=network.device)).logits) for ids in rows]

    def padded(rows: list[list[int]]) -> list[float]:
        found = scoring._score_padded(network, [tuple(ids) for ids in rows], pad, 4096)
        return [found[tuple(ids)] for ids in rows]

    def trees(rows: list[list[int]]) -> list[float]:
        return scoring.score_ids(network, rows, pad=pad)

    ways: dict[str, Callable[[list[list[int]]], list[float]]] = {"alone": alone, "padded": padded, "trees": trees}
    pairs = [pair for pair in load_pairs(str(DATA)) if not pair.flags]
    texts = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    for tokens in arguments.tokens:
        long = [t for text in texts if len(t := tokenizer(text, add_special_tokens=False)["input_ids"]) >= tokens]
        rows = []
        for i, pair in enumerate(pairs[: arguments.prompts]):
            answers = long[i * arguments.answers : (i + 1) * arguments.answers]
            cut = [tokenizer.decode(ids[:tokens]) for ids in answers]
            rows += [dialogue_ids(tokenizer, (*pair.messages, assistant(text))) for text in cut]
        read = sum(map(len, rows))
        share = scoring.distinct_share(sorted({tuple(ids) for ids in rows}))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        busy: dict[str, list[float]] = {name: [] for name in ways}
        scores: dict[str, list[float]] = {}
        for way in ways.values():
            way(rows[:2])  # first calls allocate
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                started, before = time.perf_counter(), time.process_time()
                scores[name] = way(rows)
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(time.process_time() - before)
        took = {name: statistics.median(times) for name, times in seconds.items()}
        worked = {name: statistics.median(times) for name, times in busy.items()}
        worst = max(abs(a - b) for way in ways for a, b in zip(scores["alone"], scores[way], strict=True))
        print(
            f"{len(rows)} rows: {arguments.answers} answers of {tokens} tokens a prompt, {read / len(rows):.0f} tokens "
            f"a row, {share:.0%} distinct; largest difference of a score {worst:.1e}"
        )
        for name, way in (("alone", "a forward a row"), ("padded", "padded batches"), ("trees", "shared once")):
            print(
                f"  {way:<16}{took[name]:8.2f} s wall {took[name] / took['trees']:6.2f}x"
                f"{worked[name]:10.2f} s CPU {worked[name] / worked['trees']:6.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
