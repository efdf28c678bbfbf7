"""Judging real pairs: our packed trees against plain length-sorted batches, same model, questions and number type.

    python benchmarks/judge_speed.py [--model embedded:smollm2-135m] [--pairs 4] [--dtypes float32 bfloat16] [--check]

Every pair of hh-rlhf's harmless test set is judged under all principles in both orders. *Plain* is what one would write
with transformers: left-padded batches of like length, `logits_to_keep=1`, one forward a judgment; it gets its token ids
ready made, we read dialogues. Both run in this process, in turn.

`tokens` are those computed, against those that must be computed once (distinct beginnings of all questions). `of matrix
rate` counts the multiplications of the linear layers on the latter only, against what `torch` reaches here on nothing
but products of the model's own shapes, measured between the runs. `CPU` stands for processor seconds, which jobs beside
this one disturb less than the clock. The bars are for layouts whose question comes last; `chat` shares too little.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from engine_cases import (
    DATA,
    batches,
    left_padded,
    machine,
    matrices,
    matrix_rate,
    questions,
    real_pairs,
    some_principles,
    timed,
    verdict,
)

from constitutional.backends import open_backend
from constitutional.backends.prefix_tree import pack_sequences
from constitutional.backends.tokens import encode_continuation, encode_dialogue
from constitutional.errors import BackendError
from constitutional.templates import load_pack

LAYOUTS = ("chat-question-last", "transcript", "chat")
SHARING = LAYOUTS[:2]
Bar = tuple[str, float, str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--principles", type=int, default=16)
    parser.add_argument("--plain-tokens", type=int, default=4096, help="padded tokens in one plain batch")
    parser.add_argument("--plain-share", type=int, default=1, help="time the plain way on every so manieth question")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    arguments = parser.parse_args()
    if not DATA.exists():
        print(f"skipped: {DATA.name} is not there")
        return verdict([], arguments.check)
    bars: list[Bar] = []
    for dtype in arguments.dtypes:
        try:
            backend = open_backend(arguments.model, dtype=dtype, threads=arguments.threads)
        except BackendError as error:
            print(f"skipped: {error}")
            return verdict([], arguments.check)
        for layout in arguments.layouts:
            bars += compare(backend, dtype, layout, arguments)
        del backend
    verdict(bars, arguments.check)


def compare(backend: Any, dtype: str, layout: str, arguments: argparse.Namespace) -> list[Bar]:
    """Prints what was measured; gives the layout's bars."""
    import torch

    pack = load_pack(layout)
    asked = questions(real_pairs(arguments.pairs), some_principles(arguments.principles), pack)
    prompts = [encode_dialogue(backend.tokenizer, dialogue) for dialogue in asked]
    options = [encode_continuation(backend.tokenizer, option) for option in pack.options]
    common = next(i for i, (a, b) in enumerate(zip(*options, strict=False)) if a != b)
    # options that begin alike are told apart by the first token that differs: one forward is enough for plain too
    rows = [prompt + options[0][:common] for prompt in prompts][:: arguments.plain_share]
    answers: dict[str, list[Any]] = {}

    @torch.inference_mode()
    def plain() -> None:
        found: dict[int, Any] = {}
        for batch in batches(rows, arguments.plain_tokens):
            inputs = left_padded([rows[i] for i in batch], backend.tokenizer.pad_token_id or 0, backend._net.device)
            logits = backend._net(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float().log_softmax(-1)
            found.update(zip(batch, logits[:, [option[common] for option in options]].tolist(), strict=True))
        answers["plain"] = [found[i] for i in range(len(rows))]

    def ours() -> None:
        answers["ours"] = backend.loglikelihood(asked, [pack.options] * len(asked))

    backend.loglikelihood(asked[:1], [pack.options])
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    rates = []
    for _ in range(arguments.repeats):
        rates.append(matrix_rate(backend._net, dtype))
        seconds["ours"].append(timed(ours))
        rates.append(matrix_rate(backend._net, dtype))
        seconds["plain"].append(timed(plain))
    (our_wall, our_busy), (plain_wall, plain_busy) = (
        tuple(statistics.median(values) for values in zip(*seconds[way], strict=True)) for way in ("ours", "plain")
    )
    needed = sum(len(p.tokens) for p in pack_sequences(prompts, [[*map(list, options)]] * len(prompts), 2**60))
    computed = sum(
        len(p.tokens) for p in pack_sequences(prompts, [[*map(list, options)]] * len(prompts), backend._tree_nodes)
    )
    work = 2 * needed * sum(w.numel() for w in matrices(backend._net)) / 1e9
    wall_rate, busy_rate = (max(values) for values in zip(*rates, strict=True))
    print(
        f"{machine()}; {backend.model}, {layout}: {len(asked)} judgments, "
        f"{sum(map(len, rows)) / len(rows):.0f} tokens each"
    )
    speeds = (len(asked) / our_wall, len(asked) / our_busy, len(rows) / plain_wall, len(rows) / plain_busy)
    print(f"  judgments/s   ours {speeds[0]:7.2f}   plain {speeds[2]:7.2f}   ratio {speeds[0] / speeds[2]:5.2f}")
    print(f"  a CPU second  ours {speeds[1]:7.2f}   plain {speeds[3]:7.2f}   ratio {speeds[1] / speeds[3]:5.2f}")
    print(f"  tokens        needed {needed}   computed {computed}   plain {sum(map(len, prompts))}")
    print(
        f"  of matrix rate  {work / our_wall / wall_rate:.0%} of {wall_rate:.0f} GFLOP/s by the clock, "
        f"{work / our_busy / busy_rate:.0%} of {busy_rate:.0f} by CPU"
    )
    name = f"{dtype}, {layout}"
    bars = [(f"{name}: judgments/s against plain", speeds[0] / speeds[2], ">=", 4.0)]
    bars.append((f"{name}: share of the matrix rate", work / our_wall / wall_rate, ">=", 0.5))
    bars = bars if layout in SHARING else []
    if dtype == "float32":
        worst = largest_difference(backend, prompts, options, answers["ours"])
        print(f"  greatest difference from a forward of each alone: {worst:.1e}", flush=True)
        bars.append((f"{name}: difference from a plain forward", worst, "<=", 1e-4))
    return bars


def largest_difference(backend: Any, prompts: list[list[int]], options: list[list[int]], ours: list[Any]) -> float:
    """Of log-probabilities, over every 16th question: one forward a question and option, no mask, no cache."""
    import torch

    worst = 0.0
    with torch.inference_mode():
        for prompt, found in list(zip(prompts, ours, strict=True))[::16]:
            for ids, value in zip(options, found.logprobs, strict=True):
                row = torch.tensor([prompt + ids], device=backend._net.device)
                logits = backend._net(row, use_cache=False, logits_to_keep=len(ids) + 1).logits
                wanted = logits[0, :-1].float().log_softmax(-1).gather(1, row[0, -len(ids) :, None]).sum()
                worst = max(worst, abs(float(wanted) - value))
    return worst


if __name__ == "__main__":
    main()
