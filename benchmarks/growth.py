"""How the time and memory of judging grow: with principles, and with comparisons.

    python benchmarks/growth.py [--scale 20] [--threads 1] [--check]

Real pairs of hh-rlhf's harmless test set are judged in both orders, in chunks as a run judges them: 4, then 16 under
1, 4, 16 and 64 principles, then 100, 400 and 1,600 under one. `--scale` divides the numbers of comparisons. *New
tokens* are those that must be computed once; CPU time a token and the peak should not grow. The peak is that of the
process during each row, the model's weights included; what earlier rows left is given back before.

The bars: neither grows by more than a tenth from the first row of a kind to the last. In comparisons every row does the
same work, more or less often. In principles a token has more to attend to, as questions stand at the end of what all of
them share; and memory is bounded by the largest tree, at most the token budget, so that the bar there compares a budget
that is hardly used with a full one. Among four times the comparisons there are longer conversations, and the first row
is nearer to a fair one: nearer only, since a tree ends where little is shared and one principle never fills the budget.
"""

from __future__ import annotations

import argparse
from typing import Any

from engine_cases import DATA, forget_peak, memory_gb, real_pairs, some_principles, timed, verdict

from constitutional.backends import open_backend
from constitutional.backends.memory import release_memory
from constitutional.backends.prefix_tree import pack_sequences
from constitutional.backends.tokens import encode_continuation, encode_dialogue
from constitutional.errors import BackendError
from constitutional.feedback.judge import judge, questions
from constitutional.records import Comparison
from constitutional.templates import load_pack

CHUNK = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--principles", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--comparisons", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    arguments = parser.parse_args()
    if not DATA.exists():
        print(f"skipped: {DATA.name} is not there")
        return verdict([], arguments.check)
    try:
        backend = open_backend(arguments.model, dtype=arguments.dtype, threads=arguments.threads)
    except BackendError as error:
        print(f"skipped: {error}")
        return verdict([], arguments.check)
    few = max(1, round(arguments.comparisons[0] / arguments.scale / 25))
    kinds = {
        f"principles, {count} comparisons": [(count, principles) for principles in arguments.principles]
        for count in (few, 4 * few)
    }
    kinds["comparisons"] = [(max(1, round(count / arguments.scale)), 1) for count in arguments.comparisons]
    measured(backend, 1, 1)  # the first call allocates
    print(f"{backend.model}, chunks of {CHUNK} comparisons, trees of at most {backend._tree_nodes} tokens")
    print("comparisons  principles  new tokens  computed  largest tree  wall s   CPU s  CPU ms a new token  peak GB")
    bars = []
    for what, sizes in kinds.items():
        rows = [printed(backend, *size) for size in sizes]
        for name, first, last in zip(("CPU time a new token", "peak memory"), rows[0], rows[-1], strict=True):
            if len(rows) > 1:
                bars.append((f"{name}, most {what}, over fewest", last / first, "<=", 1.1))
    verdict(bars, arguments.check)


def printed(backend: Any, count: int, principles: int) -> tuple[float, float]:
    """Prints a row; returns its processor milliseconds a new token and its peak memory in GB."""
    needed, computed, wall, busy, peak = measured(backend, count, principles)
    each = 1000 * busy / needed
    print(
        f"{count:>11}{principles:>12}{needed:>12}{sum(computed):>10}{max(computed):>14}{wall:>8.1f}{busy:>8.1f}"
        f"{each:>20.3f}{peak:>9.3f}",
        flush=True,
    )
    return each, peak


def measured(backend: Any, count: int, principles: int) -> tuple[int, list[int], float, float, float]:
    """New tokens, tokens of each tree, seconds, processor seconds, and peak memory in GB."""
    pack, asked = load_pack("chat-question-last"), some_principles(principles)
    comparisons = [
        Comparison(prompt_id=f"{i:016x}", messages=pair.messages, a=pair.chosen, b=pair.rejected, origin="human")
        for i, pair in enumerate(real_pairs(count))
    ]
    chunks = [comparisons[start : start + CHUNK] for start in range(0, count, CHUNK)]
    computed: list[int] = []
    forward = backend._net.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        computed.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    def work() -> None:
        for chunk in chunks:
            answers = list(judge(chunk, assigned=[asked] * len(chunk), backend=backend, pack=pack, seed=0))
            assert len(answers) == 2 * len(asked) * len(chunk)

    options = [encode_continuation(backend.tokenizer, option) for option in pack.options]
    needed = 0
    for chunk in chunks:
        rows = questions(chunk, [asked] * len(chunk), pack=pack, judge_model=backend.model)
        prompts = [encode_dialogue(backend.tokenizer, row.dialogue) for row in rows]
        needed += sum(len(one.tokens) for one in pack_sequences(prompts, [options] * len(prompts), 2**60))
    release_memory()
    forget_peak()
    backend._net.forward = counting
    try:
        wall, busy = timed(work)
    finally:
        del backend._net.forward
    return needed, computed, wall, busy, memory_gb()


if __name__ == "__main__":
    main()
