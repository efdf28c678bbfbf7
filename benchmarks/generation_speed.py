"""Answering a batch of prompts: our slots against transformers' padded `generate`, same model, prompts and sampling.

    python benchmarks/generation_speed.py [--rows 32 64 104] [--max-tokens 64]

Both run in this process, in turn, each once to warm up; tokens/s counts written tokens only. The padded baseline is
given all rows in one batch, which is kind to it: it needs no second pass for a remainder.
"""

import argparse
import time

from constitutional.backends import open_backend
from constitutional.backends.decoding import decode
from constitutional.backends.padded import _generate
from constitutional.backends.tokens import encode_dialogue
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
    prompts = [
        encode_dialogue(backend.tokenizer, prompt.messages)
        for path, kind in PROMPTS
        for prompt in load_prompts(path, kind)
    ]
    sampling = Sampling(temperature=0.2, top_p=0.9, repetition_penalty=1.1, max_tokens=args.max_tokens, seed=1)
    stops = set(backend._stop_ids)

    def padded(rows: list[list[int]]) -> int:
        written = _generate(backend._net, backend.tokenizer, rows, sampling, sorted(stops), 1)
        return sum(next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids)) for ids in written)

    def slots(rows: list[list[int]]) -> int:
        return sum(map(len, decode(backend._net, rows, sampling, lambda ids: ids[-1] in stops)))

    print(f"{backend.model}, up to {args.max_tokens} tokens")
    print(f"{'rows':>5} {'padded tokens/s':>16} {'slots tokens/s':>15} {'ratio':>6}")
    for count in args.rows:
        rows = prompts[:count]
        speed = {}
        for name, run in (("padded", padded), ("slots", slots)):
            run(rows[:4])
            started = time.perf_counter()
            speed[name] = run(rows) / (time.perf_counter() - started)
        print(f"{count:>5} {speed['padded']:>16.0f} {speed['slots']:>15.0f} {speed['slots'] / speed['padded']:>6.2f}")


if __name__ == "__main__":
    main()
