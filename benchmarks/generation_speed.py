"""Answering a batch of prompts: our slots, and openvino from the same folder, against transformers' padded `generate`.

    python benchmarks/generation_speed.py [--rows 32 64 104] [--max-tokens 64] [--engines padded slots openvino]
    python benchmarks/generation_speed.py --engines padded slots continuous     # on a GPU

Same model, prompts and sampling. All run in this process, in turn, each once on most rows to warm up; tokens/s counts
written tokens only. The padded baseline is given all rows in one batch, which is kind to it: it needs no second pass
for a remainder. `openvino` is what `policy_engine: openvino` writes with: the folder's weights in 16 bits. `continuous`
is transformers' own continuous batching, its cache made in the warm-up; it knows no repetition penalty, so `--penalty
1` makes the texts comparable. Prompts are repeated where there are too few.

`of limit` is the least time that the engine's texts could take on this device as a share of the time they took: the
larger of that of multiplying, and that of reading weights once a step and keys and values before each token, at rates
measured in this process (`critique_revise.limit`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

from critique_revise import limit
from engine_cases import machine, matrix_rate, memory_rate, network_as_shipped, timed

from constitutional.backends import open_backend
from constitutional.backends.cpu import resolved_dtype
from constitutional.backends.decoding import decode
from constitutional.backends.padded import _generate
from constitutional.backends.tokens import encode_dialogue
from constitutional.pipeline.weights import through_openvino
from constitutional.prompts import load_prompts
from constitutional.records import Dialogue, Sampling

PROMPTS = [("examples/prompts/red_team.jsonl", "red_team"), ("examples/prompts/helpful.jsonl", "helpful")]

Written = list[int]
"""How many tokens were written to each prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32, 64, 104])
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--penalty", type=float, default=1.1, help="of repetition")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["padded", "slots", "openvino"])
    arguments = parser.parse_args()
    draw = {"temperature": 0.2, "top_p": 0.9, "seed": 1}
    sampling = Sampling(repetition_penalty=arguments.penalty, max_tokens=arguments.max_tokens, **draw)
    backend = open_backend(arguments.model)
    ways = {name: ENGINES[name](arguments.model, backend, sampling) for name in arguments.engines}
    asked = [prompt.messages for path, kind in PROMPTS for prompt in load_prompts(path, kind)]
    rates = matrix_rate(backend._net, resolved_dtype("auto"))[0], memory_rate(backend._net.device)
    print(f"{machine()}: {rates[0]:.0f} GFLOP/s, {rates[1]:.0f} GB/s; {backend.model}, {sampling.max_tokens} tokens")
    print(f"{'rows':>5}  {'engine':<12}{'tokens/s':>10}{'x ' + arguments.engines[0]:>12}{'of limit':>10}")
    dialogues = list(islice(cycle(asked), max(arguments.rows)))
    for write in ways.values():
        write(dialogues)
    for count in arguments.rows:
        prompts = [encode_dialogue(backend.tokenizer, dialogue) for dialogue in dialogues[:count]]
        first = 0.0
        for name, write in ways.items():
            written: Written = []
            took, _ = timed(lambda: written.extend(write(dialogues[:count])))  # noqa: B023 - called at once
            speed = sum(written) / took
            first = first or speed
            turn = [(len(prompt), tokens) for prompt, tokens in zip(prompts, written, strict=True)]
            share = limit(backend, [turn], *rates) / took
            print(f"{count:>5}  {name:<12}{speed:>10.0f}{speed / first:>12.2f}{share:>10.0%}", flush=True)


def padded(model: str, backend: Any, sampling: Sampling) -> Callable[[Sequence[Dialogue]], Written]:
    stops, net = set(backend._stop_ids), network_as_shipped(model, backend._net)

    def write(dialogues: Sequence[Dialogue]) -> Written:
        prompts = [encode_dialogue(backend.tokenizer, dialogue) for dialogue in dialogues]
        written = _generate(net, backend.tokenizer, prompts, sampling, sorted(stops), 1)
        return [next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids)) for ids in written]

    return write


def slots(model: str, backend: Any, sampling: Sampling) -> Callable[[Sequence[Dialogue]], Written]:
    stops = set(backend._stop_ids)

    def write(dialogues: Sequence[Dialogue]) -> Written:
        prompts = [encode_dialogue(backend.tokenizer, dialogue) for dialogue in dialogues]
        return [len(ids) for ids in decode(backend._net, prompts, sampling, lambda ids: ids[-1] in stops)]

    return write


def openvino(model: str, backend: Any, sampling: Sampling) -> Callable[[Sequence[Dialogue]], Written]:
    other = open_backend(through_openvino(model))

    def write(dialogues: Sequence[Dialogue]) -> Written:
        written = other.generate(dialogues, sampling)
        return [one.completion_tokens + (one.finish_reason == "stop") for one in written]

    return write


def continuous(model: str, backend: Any, sampling: Sampling) -> Callable[[Sequence[Dialogue]], Written]:
    from transformers import GenerationConfig

    net = open_backend(model)._net  # type: ignore[attr-defined]
    net.set_attn_implementation("sdpa")
    config = GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        eos_token_id=sorted(backend._stop_ids),
        pad_token_id=backend.tokenizer.pad_token_id,
    )

    def write(dialogues: Sequence[Dialogue]) -> Written:
        prompts = [encode_dialogue(backend.tokenizer, dialogue) for dialogue in dialogues]
        written = net.generate_batch(prompts, generation_config=config, persistent_manager=True)
        assert len(written) == len(prompts)
        return [len(one.generated_tokens) for one in written.values()]

    return write


ENGINES = {"padded": padded, "slots": slots, "openvino": openvino, "continuous": continuous}


if __name__ == "__main__":
    main()
