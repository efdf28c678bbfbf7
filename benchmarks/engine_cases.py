"""What the engine's benchmarks ask, and the machine's own rates they are held against."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from constitutional.constitution import load_constitution
from constitutional.principles import Principle
from constitutional.prompts import HumanPair, load_pairs
from constitutional.records import Dialogue
from constitutional.templates import TemplatePack

DATA = Path(__file__).parents[2] / "shared" / "data" / "hh_harmless" / "test_first1312.jsonl.gz"


def some_principles(count: int) -> list[Principle]:
    """Shipped principles with a comparison_request, the first ones again under other words where there are too few."""
    found = [
        principle
        for name in ("harmlessness", "helpful_honest", "young_learners")
        for principle in load_constitution(name).principles
        if principle.comparison_request
    ]
    return [
        principle
        if i < len(found)
        else principle.model_copy(
            update={
                "comparison_request": f"Looked at for the {i // len(found) + 1}th time: {principle.comparison_request}"
            }
        )
        for i, principle in ((i, found[i % len(found)]) for i in range(count))
    ]


def real_pairs(count: int) -> list[HumanPair]:
    """The first so many whole pairs of hh-rlhf's harmless test set, again from the start where there are too few."""
    pairs = [pair for pair in load_pairs(str(DATA), 1312) if not pair.flags]
    return [pairs[i % len(pairs)] for i in range(count)]


def questions(pairs: Sequence[HumanPair], principles: Sequence[Principle], pack: TemplatePack) -> list[Dialogue]:
    """Every pair under every principle in both orders."""
    return [
        pack.render(
            "judge",
            principle.few_shots,
            conversation=pair.messages,
            a=a,
            b=b,
            comparison_request=principle.comparison_request or "",
        ).dialogue
        for pair in pairs
        for principle in principles
        for a, b in ((pair.chosen, pair.rejected), (pair.rejected, pair.chosen))
    ]


def batches(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Row numbers, longest first, as many at a time as padded tokens allow."""
    batch: list[int] = []
    for row in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
        if batch and (len(batch) + 1) * len(rows[batch[0]]) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> dict[str, Any]:
    """Input ids and attention mask, as transformers' own examples pad for generation."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def matrices(net: Any) -> list[Any]:
    """The weights of every linear layer but the head."""
    import torch

    return [module.weight for module in net.base_model.modules() if isinstance(module, torch.nn.Linear)]


def network_as_shipped(spec: str, like: Any) -> Any:
    """A model's network as transformers opens it, with nothing of ours in it: what ours is held against.

    Args:
        spec: `embedded:NAME` or `local:FOLDER`.
        like: the network of it that we opened, for the type of number and the device.
    """
    from transformers import AutoModelForCausalLM

    from constitutional.backends.embedded import converted_folder

    kind, _, name = spec.partition(":")
    folder = converted_folder(name) if kind == "embedded" else name
    return AutoModelForCausalLM.from_pretrained(folder, dtype=like.dtype).to(like.device).eval()


def machine() -> str:
    """What is computed on."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor, until a GPU has done what it was asked for, too."""
    import torch

    def finished() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    finished()
    wall, busy = time.perf_counter(), time.process_time()
    work()
    finished()
    return time.perf_counter() - wall, time.process_time() - busy


def verdict(bars: Sequence[tuple[str, float, str, float]], check: bool) -> None:
    """Prints what was measured beside what was asked for.

    Args:
        bars: what, measured, `>=` or `<=`, wanted.
        check: end the program with 1 where one is missed, or there is none: nothing was measured.
    """
    missed = 0
    for what, measured, sign, wanted in bars:
        met = measured >= wanted if sign == ">=" else measured <= wanted
        missed += not met
        print(f"bar: {what}: {measured:.4g}, wanted {sign} {wanted:g}: {'met' if met else 'MISSED'}", flush=True)
    if check and (missed or not bars):
        raise SystemExit(1)


FORGETS_PEAK = Path("/proc/self/clear_refs")
"""Linux's own file for it; other systems have none."""


def forget_peak() -> None:
    """Forgets the process's peak of resident memory so far."""
    FORGETS_PEAK.write_text("5")


def memory_gb(field: str = "VmHWM") -> float:
    """The process's resident memory in GB (10^9 bytes): the peak since `forget_peak`, or with `VmRSS` that of now."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e9


def matrix_rate(net: Any, dtype: str, tokens: int = 1024, repeats: int = 9) -> tuple[float, float]:
    """GFLOP/s at which a network's device multiplies by its first layer's matrices, by the clock and a CPU second."""
    import torch

    kind = getattr(torch, dtype)
    shapes = [m.weight.shape for m in net.base_model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
    weights = [torch.randn(shape, dtype=kind, device=net.device) for shape in shapes]
    inputs = {shape[1]: torch.randn(tokens, shape[1], dtype=kind, device=net.device) for shape in shapes}

    def product() -> None:
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    with torch.inference_mode():
        product()
        found = [timed(product) for _ in range(repeats)]
    work = 2 * tokens * sum(w.numel() for w in weights) / 1e9
    return work / min(wall for wall, _ in found), work / min(busy for _, busy in found)


def memory_rate(device: Any, megabytes: int = 512, repeats: int = 5) -> float:
    """GB/s at which a device reads its memory, by the clock: the sum of an array that fits no cache twice over."""
    import torch

    array = torch.ones(megabytes * 2**18, dtype=torch.float32, device=device)
    array.sum()
    return array.numel() * 4 / min(timed(array.sum)[0] for _ in range(repeats)) / 1e9
