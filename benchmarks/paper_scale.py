"""What the paper's data steps cost: tokens measured on real text, GPU hours by a stated model of the hardware.

    python benchmarks/paper_scale.py [--pairs 200] [--usd 3.5]

182,831 prompts, an answer and four critiques and revisions each, two answers to compare, 16 principles in both orders
(Bai et al. 2022). Measured: the tokens of prompts, of the paper's own published critiques and revisions, and of every
question the template packs ask about real pairs, alone and with what they share counted once (a tree of tokens, which
is what a prefix cache or a tree-shaped mask computes). Assumed, and printed: what a GPU does. The result stands in
docs/scaling.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tokenizers import Tokenizer

from constitutional.backends.embedded import converted_folder
from constitutional.constitution import load_constitution
from constitutional.feedback.judge import questions
from constitutional.interop.pairs import read_pairs
from constitutional.interop.paper_samples import PaperRound, PaperSample, read_paper_samples
from constitutional.prompts import load_prompts
from constitutional.records import Dialogue, user
from constitutional.templates import TemplatePack, load_pack

DATA = Path(__file__).parents[1].parent / "shared" / "data"
PROMPTS, ROUNDS, PRINCIPLES, DRAWS = 182_831, 4, 16, 2


@dataclass(frozen=True)
class Gpu:
    """One device, from its data sheet, and the shares of it that are assumed to be reached."""

    name: str = "H200"
    bytes_s: float = 4.8e12
    bf16: float = 989e12
    fp8: float = 1979e12
    memory: float = 141e9
    matrix_share: float = 0.45
    memory_share: float = 0.7


@dataclass(frozen=True)
class Model:
    """What a transformer costs: parameters, bytes of weights each, key-value bytes a token of context."""

    name: str
    parameters: float
    weight_bytes: float
    kv_bytes: float

    def read(self, gpu: Gpu) -> float:
        """Prompt tokens a second on one GPU: bound by matrix products."""
        peak = gpu.fp8 if self.weight_bytes == 1 else gpu.bf16
        return peak * gpu.matrix_share / (2 * self.parameters)

    def write(self, gpu: Gpu, context: float) -> tuple[float, int]:
        """Tokens written a second, and rows at once: every step reads all weights, and each row's context."""
        weights = self.parameters * self.weight_bytes
        rows = min(256, int((0.9 * gpu.memory - weights) / (context * self.kv_bytes)))
        step = (weights + rows * context * self.kv_bytes) / (gpu.bytes_s * gpu.memory_share)
        return rows / max(step, rows / self.read(gpu)), rows


# Llama-3.1's shapes: layers x key-value heads x 128 x 2 (key, value) x 2 bytes; 70B in 8-bit weights, to fit one GPU
SMALL = Model("8B bf16", 8.03e9, 2, 32 * 8 * 128 * 2 * 2)
LARGE = Model("70B fp8", 70.6e9, 1, 80 * 8 * 128 * 2 * 2)


class Counter:
    """Tokens of dialogues as SmolLM2 reads them."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(str(converted_folder("smollm2-135m") / "tokenizer.json"))

    def ids(self, dialogue: Dialogue) -> list[int]:
        if len(dialogue) == 1 and dialogue[0].role == "assistant":
            return self.text(dialogue[0].content)
        opened = dialogue[-1].role == "assistant"
        closed = dialogue[:-1] if opened else dialogue
        text = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in closed)
        return self.text(text + "<|im_start|>assistant\n" + (dialogue[-1].content if opened else ""))

    def text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def tree(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens of sequences, a beginning they share counted once."""
    total, before = 0, list[int]()
    for ids in sorted(map(list, sequences)):  # neighbours in this order share the most
        shared = next((i for i, (one, other) in enumerate(zip(ids, before, strict=False)) if one != other), None)
        total += len(ids) - (min(len(ids), len(before)) if shared is None else shared)
        before = ids
    return total


def judging(count: Counter, pack: TemplatePack, pairs: int) -> tuple[float, float, float]:
    """Tokens a judgment: each question alone; shared among the principles of an order; shared among all of a pair."""
    principles = [p for p in load_constitution("harmlessness").principles if p.comparison_request][:PRINCIPLES]
    assert len(principles) == PRINCIPLES
    found = read_pairs(str(DATA / "hh_harmless" / "test_first1312.jsonl.gz"), kind="red_team", limit=pairs)
    alone, by_order, by_pair = [], [], []
    for comparison in found.comparisons:
        asked = questions([comparison], [principles], pack=pack, judge_model="count")
        ids = {order: [count.ids(q.dialogue) for q in asked if q.order == order] for order in ("ab", "ba")}
        every = ids["ab"] + ids["ba"]
        alone.append(sum(map(len, every)) / len(every))
        by_order.append(sum(tree(one) for one in ids.values()) / len(every))
        by_pair.append(tree(every) / len(every))
    return fmean(alone), fmean(by_order), fmean(by_pair)


def writing(count: Counter, pack: TemplatePack) -> dict[str, float]:
    """Mean tokens: of prompts; of the answers, critiques and revisions the paper published; of what asks for them."""
    prompts = load_prompts(str(DATA / "prompts" / "harmless_train_clean.jsonl.gz"), "red_team", limit=2000)
    samples = [s for s in read_paper_samples(str(DATA / "cai_paper" / "samples_with_pm_scores.jsonl.gz")) if s.initial]
    rounds = [(s, r) for s in samples for r in s.rounds]
    size: Callable[[str], int] = lambda text: len(count.text(text))  # noqa: E731

    def asked(template: str, sample: PaperSample, one: PaperRound) -> list[int]:
        values = {
            "conversation": (user(sample.prompt),),
            "answer": sample.initial or "",
            "critique_request": one.critique_request,
            "critique": one.critique,
            "revision_request": one.revision_request,
        }
        wanted = {name: value for name, value in values.items() if name in pack.required(template)}
        return count.ids(pack.render(template, **wanted).dialogue)

    critiques, revisions = ([asked(name, s, r) for s, r in rounds] for name in ("critique", "revise"))
    written = [count.text(r.critique) for _, r in rounds]
    kept = [question + said for question, said in zip(critiques, written, strict=True)]  # what a cache then holds
    read = tree([*kept, *revisions]) - sum(map(len, written))
    return {
        "prompt": fmean(len(count.ids(p.messages)) for p in prompts),
        "answer": fmean(size(s.initial or "") for s in samples),
        "critique": fmean(size(r.critique) for _, r in rounds),
        "revision": fmean(size(r.revision) for _, r in rounds),
        "asked to criticise": fmean(map(len, critiques)),
        "asked to revise": fmean(map(len, revisions)),
        "of these both not read before": read / len(rounds),
    }


@dataclass(frozen=True)
class Load:
    """One step's tokens, with what they share counted once, and who reads and writes them."""

    name: str
    model: Model
    read: float
    written: float
    context: float


def loads(size: dict[str, float], judged: float, feedback: Model) -> list[Load]:
    turns = size["of these both not read before"]
    said = size["critique"] + size["revision"]
    longest = size["asked to revise"] + size["revision"]
    return [
        Load("answer", SMALL, PROMPTS * size["prompt"], PROMPTS * size["answer"], size["prompt"] + size["answer"]),
        Load("critique, revise", feedback, PROMPTS * ROUNDS * turns, PROMPTS * ROUNDS * said, longest),
        Load(
            "sample",
            SMALL,
            PROMPTS * size["prompt"],
            PROMPTS * DRAWS * size["answer"],
            size["prompt"] + size["answer"],
        ),
        Load("judge", feedback, PROMPTS * PRINCIPLES * 2 * judged, 0.0, 1.0),
    ]


def table(gpu: Gpu, size: dict[str, float], judged: dict[str, tuple[float, float, float]], usd: float) -> None:
    for feedback in (SMALL, LARGE):
        print(f"\nfeedback model {feedback.name}, policy {SMALL.name}; {PROMPTS:,} prompts")
        print(f"{'step':<34}{'read, M':>10}{'written, M':>12}{'GPU hours':>11}{'8 GPUs, h':>11}  bound by")
        total = 0.0
        for load in loads(size, judged["transcript"][1], feedback):
            rate, rows = load.model.write(gpu, load.context)
            reading, writing_ = load.read / load.model.read(gpu) / 3600, load.written / rate / 3600
            total += reading + writing_
            by = "matrix products" if reading >= writing_ else f"memory bandwidth, {rows} rows at once"
            line = f"{load.read / 1e6:>10,.0f}{load.written / 1e6:>12,.0f}{reading + writing_:>11.1f}"
            print(f"{load.name + ' (' + load.model.name + ')':<34}{line}{(reading + writing_) / 8:>11.1f}  {by}")
        print(f"{'sum':<56}{total:>11.1f}{total / 8:>11.1f}  US$ {total * usd:,.0f}")
        for name, (alone, by_order, _) in judged.items():
            hours = [each * PROMPTS * PRINCIPLES * 2 / feedback.read(gpu) / 3600 for each in (alone, by_order)]
            print(f"judging with the pack {name}: {hours[0]:.1f} GPU hours alone, {hours[1]:.1f} shared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--usd", type=float, default=3.5, help="US dollars a GPU hour")
    arguments = parser.parse_args()
    if not DATA.exists():
        print("skipped: the real data is not there")
        return
    count, gpu = Counter(), Gpu()
    print(f"tokens of a judgment, {arguments.pairs} pairs x {PRINCIPLES} principles x 2 orders")
    print(f"{'pack':<20}{'alone':>8}{'shared in an order':>20}{'shared in a pair':>18}")
    judged = {}
    for name in ("chat", "chat-question-last", "transcript"):
        judged[name] = judging(count, load_pack(name), arguments.pairs)
        alone, by_order, by_pair = judged[name]
        print(f"{name:<20}{alone:>8.0f}{by_order:>20.1f}{by_pair:>18.1f}")
    size = writing(count, load_pack("transcript"))
    print("\nmean tokens: " + ", ".join(f"{name} {value:.0f}" for name, value in size.items()))
    print(
        f"\nassumed of one {gpu.name}: {gpu.bf16 / 1e12:.0f} TFLOP/s bf16, {gpu.fp8 / 1e12:.0f} fp8, of which "
        f"{gpu.matrix_share:.0%} are reached; {gpu.bytes_s / 1e12} TB/s, of which {gpu.memory_share:.0%}; "
        f"US$ {arguments.usd} an hour"
    )
    for model in (SMALL, LARGE):
        rate, rows = model.write(gpu, 600)
        print(
            f"so {model.name} reads {model.read(gpu):,.0f} tokens/s, writes {rate:,.0f} with {rows} rows of 600 tokens"
        )
    table(gpu, size, judged, arguments.usd)


if __name__ == "__main__":
    main()
