"""Products of few rows: weights times rows (`backends/narrow.py`) against rows times weights, as torch's layers do it.

    python benchmarks/few_rows.py [--rows 2 8 32 128] [--threads N]

One pass over float32 matrices of the sizes of an embedded model's layers and head; milliseconds, the best of several.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForCausalLM

from constitutional.backends.embedded import converted_folder
from constitutional.backends.narrow import product

REPEATS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="an embedded model")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = AutoConfig.from_pretrained(converted_folder(arguments.model))
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config)
    shapes = [module.weight.shape for module in net.modules() if isinstance(module, torch.nn.Linear)]
    weights = [torch.randn(shape) for shape in shapes]
    print(f"{arguments.model}, {len(weights)} products, {torch.get_num_threads()} threads; ms")
    print(f"{'rows':>5}{'rows x weights':>18}{'weights x rows':>18}{'ratio':>8}")
    for rows in arguments.rows:
        values = {width: torch.randn(rows, width) for width in {shape[1] for shape in shapes}}

        def run(multiply: Callable[..., torch.Tensor], values: dict[int, torch.Tensor] = values) -> None:
            for weight in weights:
                multiply(values[weight.shape[1]], weight, None)

        plain, turned = best(lambda: run(linear)), best(lambda: run(product))
        print(f"{rows:>5}{plain:>18.1f}{turned:>18.1f}{plain / turned:>8.2f}", flush=True)


def best(work: Callable[[], None]) -> float:
    """Milliseconds of the fastest of `REPEATS` runs."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - began))
    return min(found)


if __name__ == "__main__":
    main()
