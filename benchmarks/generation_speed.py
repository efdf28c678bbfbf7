"""Answering a batch of prompts: our slots, and openvino from the same folder, against transformers' padded `generate`.

    python benchmarks/generation_speed.py [--rows 32 64 104] [--max-tokens 64]

Same model, prompts and sampling. All run in this process, in turn, each once to warm up; tokens/s counts written tokens
only. The padded baseline is given all rows in one batch, which is kind to it: it needs no second pass for a remainder.
`openvino` is what `policy_engine: openvino` writes with: the folder's weights in 16 bits.
"""

import argparse
import time

from constitutional.backends import open_backend
from constitutional.backends.decoding import decode
from constitutional.backends.padded import _generate
from constitutional.backends.tokens import encode_dialogue
from constitutional.pipeline.weights import through_openvino
from constitutional.prompts import load_prompts
from constitutional.records import Sampling

PROMPTS = [("examples/prompts/red_team.jsonl", "red_team"), ("examples/prompts/helpful.jsonl", "helpful")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32, 64, 104])
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    backend = open_backend(args.model)
    other = open_backend(through_openvino(args.model))
    dialogues = [prompt.messages for path, kind in PROMPTS for prompt in load_prompts(path, kind)]
    prompts = [encode_dialogue(backend.tokenizer, dialogue) for dialogue in dialogues]
    sampling = Sampling(temperature=0.2, top_p=0.9, repetition_penalty=1.1, max_tokens=args.max_tokens, seed=1)
    stops = set(backend._stop_ids)

    def padded(count: int) -> int:
        written = _generate(backend._net, backend.tokenizer, prompts[:count], sampling, sorted(stops), 1)
        return sum(next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids)) for ids in written)

    def slots(count: int) -> int:
        return sum(map(len, decode(backend._net, prompts[:count], sampling, lambda ids: ids[-1] in stops)))

    def openvino(count: int) -> int:
        written = other.generate(dialogues[:count], sampling)
        return sum(one.completion_tokens + (one.finish_reason == "stop") for one in written)

    print(f"{backend.model}, up to {args.max_tokens} tokens")
    print("tokens/s" + "".join(f"{title:>12}" for title in ("rows", "padded", "slots", "ratio", "openvino", "ratio")))
    for count in args.rows:
        speed = {}
        for run in (padded, slots, openvino):
            run(4)
            started = time.perf_counter()
            speed[run] = run(count) / (time.perf_counter() - started)
        plain, ours, theirs = speed.values()
        print(
            f"{'':8}{count:>12}{plain:>12.0f}{ours:>12.0f}{ours / plain:>12.2f}{theirs:>12.0f}{theirs / plain:>12.2f}"
        )


if __name__ == "__main__":
    main()
