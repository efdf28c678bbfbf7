"""What the demo's models have to multiply, and how long that takes at this machine's own rate of products.

    python benchmarks/demo_limit.py [RUN] [--until STEP]

RUN is a finished run of examples/01_quickstart on this machine, runs/quickstart as `make demo` leaves it by default;
its manifests say how long each step took. The recipe is run again in a temporary folder, and the products of linear
layers are counted on the way: of torch by its own counter, training, padding and what is computed again included; of
the `openvino:` model two operations a weight for each token that a step has to read once or writes, the head's for
what it writes. Attention is left out. The times of that run mean nothing, so other jobs may run beside it.

The rate is that of products of 512 tokens with the matrices of the judge, in float32 on all cores, with nothing between
them, measured at the end: let nothing else run then. No run is faster than it where nothing multiplies in fewer bits,
as openvino does on processors that have units for it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from engine_cases import matrices, matrix_rate
from torch.utils.flop_counter import FlopCounterMode

from constitutional.backends import open_backend, openvino
from constitutional.backends.openvino import OpenVinoBackend
from constitutional.backends.tokens import encode_dialogue
from constitutional.config import load_recipe
from constitutional.display import Plain
from constitutional.errors import BackendError
from constitutional.pipeline import run_recipe
from constitutional.pipeline.steps import STEPS
from constitutional.records import Completion, Dialogue, Sampling
from constitutional.runs import StageResult, load_result

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "examples" / "01_quickstart" / "recipe.yaml"


def linear_layers() -> FlopCounterMode:
    """Torch's counter without attention, and with a product in place that it does not know: TRL's fused head has it."""

    def added(total: Any, a: Sequence[int], b: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    def nothing(*_: Any, out_shape: Any = None, **__: Any) -> int:
        return 0

    aten = torch.ops.aten
    attention = (aten.bmm, aten.baddbmm, *(op for op in known_attention() if op is not None))
    return FlopCounterMode(display=False, custom_mapping={aten.addmm_: added} | dict.fromkeys(attention, nothing))


def known_attention() -> list[Any]:
    """The attention that torch's counter knows; which one a processor takes is no matter then."""
    from torch.utils.flop_counter import flop_registry

    return [op for op in flop_registry if "attention" in str(op)]


class Counting(OpenVinoBackend):
    """Counts the tokens that a step has to compute at least, and those that it wrote."""

    beginnings: set[bytes] = set()  # noqa: RUF012 - of all instances
    read = written = 0

    def generate(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Completion]:
        done = super().generate(batch, sampling)
        for dialogue, completion in zip(batch, done, strict=True):
            begun = b""
            for token in encode_dialogue(self._tokenizer, dialogue):
                begun = hashlib.blake2b(begun + token.to_bytes(4)).digest()
                Counting.beginnings.add(begun)
            Counting.read += max(0, completion.completion_tokens - 1)  # the last one is never read
            Counting.written += completion.completion_tokens
        return done

    @classmethod
    def begin(cls) -> None:
        """Forgets what was counted."""
        cls.beginnings, cls.read, cls.written = set(), 0, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=ROOT / "runs" / "quickstart")
    parser.add_argument("--until", choices=STEPS, default=list(STEPS)[-1], help="the last step to count")
    arguments = parser.parse_args()
    if not (arguments.run / "current.json").is_file():
        return print(f"skipped: no run at {arguments.run}: make demo first")
    named = json.loads((arguments.run / "current.json").read_text())
    results = {name: load_result(arguments.run / place) for name, place in named.items()}
    steps = list(STEPS)[: list(STEPS).index(arguments.until) + 1]
    finished = {name: results[name] for name in steps if results.get(name) is not None}
    try:
        model = open_backend(load_recipe(RECIPE).judge, dtype="float32")._net  # type: ignore[attr-defined]
    except BackendError as error:
        return print(f"skipped: {error}")
    weights, head = sum(matrix.numel() for matrix in matrices(model)), model.lm_head.weight.numel()
    multiplied = counted(finished, weights, head)
    rate = max(matrix_rate(model, "float32", tokens=512)[0] for _ in range(3))
    print(f"products at {rate:.0f} GFLOP/s\n{'step':<10}{'TFLOP':>8}{'at that rate, s':>17}{'took, s':>9}{'share':>7}")
    took = {name: result.manifest.seconds for name, result in finished.items()}
    for name, work in [*multiplied.items(), ("all", sum(multiplied.values()))]:
        seconds, least = took.get(name, sum(took.values())), work / rate / 1e9
        print(f"{name:<10}{work / 1e12:>8.1f}{least:>17.0f}{seconds:>9.0f}{least / seconds:>7.0%}")


def counted(finished: dict[str, StageResult], weights: int, head: int) -> dict[str, float]:
    """Floating-point operations of every step, where a token of the openvino model meets `weights`, or `head`, too."""
    openvino.OpenVinoBackend = Counting  # type: ignore[misc]
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in finished:
            Counting.begin()
            with linear_layers() as counter:
                outcome = run_recipe(load_recipe(RECIPE), RECIPE, Path(folder) / "run", until=name, display=Plain())
            tokens = len(Counting.beginnings) + Counting.read
            found[name] = counter.get_total_flops() + 2.0 * (weights * tokens + head * Counting.written)
            same = outcome.steps[-1].result.key == finished[name].key
            print(f"{name}: {found[name] / 1e12:.1f} TFLOP{'' if same else ', of another run than RUN'}", flush=True)
    return found


if __name__ == "__main__":
    main()
