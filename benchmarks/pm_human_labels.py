"""A preference model from human labels: hh-rlhf harmless pairs, held-out accuracy with its interval.

    python benchmarks/pm_human_labels.py [--train 160] [--test 100] [--max-length 320]

Beside it stands what needs no model: "the shorter answer wins". Pairs longer than the limit are counted, not cut.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from constitutional.backends.embedded import converted_folder
from constitutional.errors import BackendError
from constitutional.prompts import HumanPair, load_pairs
from constitutional.statistics import wilson
from constitutional.training.rows import PreferenceRow

DATA = Path(__file__).parents[2] / "shared" / "data" / "hh_harmless" / "test_first1312.jsonl.gz"


def row(pair: HumanPair, index: int) -> PreferenceRow:
    return PreferenceRow(
        messages=pair.messages,
        chosen=pair.chosen,
        rejected=pair.rejected,
        probability=1.0,
        preference_id=f"{index:016x}",
        comparison_id=f"{index:016x}",
        source="human",
        principles=(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=160)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--max-length", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not DATA.exists():
        print(f"skipped: {DATA.name} is not there")
        return
    try:
        model = converted_folder("smollm2-135m")
    except BackendError as error:
        print(f"skipped: {error}")
        return
    pairs = [pair for pair in load_pairs(str(DATA)) if not pair.flags]
    words = [sum(len(m.content.split()) for m in p.messages) + len(p.chosen.split()) for p in pairs]
    short = [p for p, n in zip(pairs, words, strict=True) if n * 1.5 < arguments.max_length]
    test = [row(p, i) for i, p in enumerate(short[-arguments.test :])]
    train = [row(p, 10_000 + i) for i, p in enumerate(short[: arguments.train])]
    from constitutional.training.preference_model import train_preference_model

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = train_preference_model(
            train,
            test,
            model=model,
            output=Path(folder) / "pm",
            seed=arguments.seed,
            trl={"max_length": arguments.max_length},
            on_log=lambda log: print({k: v for k, v in log.items() if k in ("step", "steps", "loss")}, flush=True),
        )
    held = result.heldout
    shorter = sum(len(r.chosen) < len(r.rejected) for r in test)
    interval = wilson(shorter, len(test))
    print(f"{len(train)} training pairs, {held.n} held out, {time.perf_counter() - started:.0f} s")
    print(f"preference model   {held.accuracy:.3f} [{held.interval.low:.3f}, {held.interval.high:.3f}]")
    print(f"shorter answer     {shorter / len(test):.3f} [{interval.low:.3f}, {interval.high:.3f}]")
    print(f"calibration error  {held.calibration_error:.3f}")


if __name__ == "__main__":
    main()
