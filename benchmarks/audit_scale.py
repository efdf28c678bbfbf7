"""Seconds and memory of a full audit of synthetic runs of 0.1, 0.3 and 1 million judgments, and of their ledgers.

    python benchmarks/audit_scale.py [--millions 0.1 0.3 1] [--keep FOLDER]

Sixteen principles, two comparisons a prompt, both orders; a judge that leans to the answer read first and to the longer
one, fails now and then, and has labels on one comparison in five. Each run is a real run folder (stages, ledger, hash
chain), and each audit is the real command in a process of its own, with JSON and Parquet written.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from constitutional.constitution import load_constitution
from constitutional.ledger import open_ledger
from constitutional.records import Comparison, Judgment, Prompt, Usage, short_digest, user
from constitutional.runs import open_run, write_atomic
from constitutional.settings import PromptSettings, PromptSource, Recipe

PRINCIPLES = load_constitution("harmlessness").principles[:16]
JUDGE = "synthetic:judge"
RECIPE = Recipe(
    name="synthetic",
    constitution="harmlessness",
    policy="local:policy",
    prompts=PromptSettings(red_team=PromptSource(path="red.jsonl"), helpful=PromptSource(path="helpful.jsonl")),
)
CHUNK = 250


def judged(comparison: Comparison, rng: random.Random) -> Iterator[Judgment]:
    better, longer = rng.gauss(0, 1), math.log((len(comparison.a) + 1) / (len(comparison.b) + 1))
    for principle in PRINCIPLES:
        own = better + rng.gauss(0, 1) + 0.4 * longer
        for order, lean in (("ab", 0.3), ("ba", -0.3)):
            p = 1 / (1 + math.exp(-own - lean - rng.gauss(0, 0.3)))
            unread = rng.random() < 0.01
            yield Judgment(
                key=short_digest([comparison.id, principle.ref, order]),
                comparison_id=comparison.id,
                principle=principle.ref,
                principle_digest=principle.digest,
                template_digest="0" * 16,
                judge=JUDGE,
                mode="logprob",
                order=order,
                outcome="invalid" if unread else "preference",
                p_a=None if unread else p,
                logprobs=() if unread else (math.log(p), math.log(1 - p)),
                mass=0.001 if unread else 0.98,
                usage=Usage(prompt_tokens=150),
                seed=0,
            )


def make(folder: Path, judgments: int) -> tuple[int, float]:
    """Writes a run of about so many judgments; returns how many, and the seconds spent in the ledger's appends."""
    rng = random.Random(0)
    count = max(2, judgments // (2 * len(PRINCIPLES)))
    prompts = [
        Prompt(messages=(user(f"question {i}"),), kind="red_team", source="made", split="train")
        for i in range((count + 1) // 2)
    ]
    comparisons = [
        Comparison(
            prompt_id=prompts[i // 2].id,
            messages=prompts[i // 2].messages,
            a=f"{i} " + "word " * rng.randint(5, 60),
            b=f"{i} " + "word " * rng.randint(5, 60),
            origin="sampled",
        )
        for i in range(count)
    ]
    spent = 0.0
    with open_run(folder) as run, open_ledger(run.ledger_path) as ledger:
        write_atomic(folder / "run.yaml", yaml.safe_dump(RECIPE.model_dump(mode="json")))
        write_atomic(folder / "lock.json", "{}")
        write_atomic(folder / "constitution.json", load_constitution("harmlessness").to_json() + "\n")
        write_atomic(folder / "prompts.jsonl", "".join(p.to_json() + "\n" for p in prompts))
        sample = run.stage(4, "sample", {"seed": 0})
        sample.run_chunks(comparisons, lambda chunk, _: chunk, chunk_size=len(comparisons), output_type=Comparison)
        done = {"sample": sample.finish()}
        stage = run.stage(6, "judge", {"seed": 0}, done)

        def append(batch: Sequence[Judgment]) -> None:
            nonlocal spent
            started = time.perf_counter()
            ledger.append(batch)
            spent += time.perf_counter() - started

        def work(chunk: Sequence[Comparison], index: int) -> Iterator[Judgment]:
            return (j for c in chunk for j in judged(c, random.Random(c.id)))

        stage.run_chunks(comparisons, work, chunk_size=CHUNK, output_type=Judgment, before_commit=append)
        done["judge"] = stage.finish(ledger_head=ledger.head)
        current = {name: result.folder.relative_to(folder).as_posix() for name, result in done.items()}
        write_atomic(folder / "current.json", json.dumps(current))
        rows = ledger.count()
    labels = [
        {"comparison_id": c.id, "preferred": rng.choice("ab"), "source": "people"}
        for c in comparisons
        if one_in_five(c)
    ]
    write_atomic(folder / "labels.jsonl", "".join(json.dumps(row) + "\n" for row in labels))
    return rows, spent


def one_in_five(comparison: Comparison) -> bool:
    return int(comparison.id[:4], 16) % 5 == 0


def audit(folder: Path) -> tuple[float, float, float]:
    """Wall and processor seconds, and peak GB, of the audit in a process of its own."""
    command = [sys.executable, __file__, "--audit", str(folder)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu, peak = map(float, done.stdout.split()[-2:])
    return time.perf_counter() - started, cpu, peak


def audit_here(folder: Path) -> None:
    """The command itself, its JSON thrown away; prints the processor seconds and the peak GB of this process."""
    from contextlib import redirect_stdout
    from io import StringIO

    from constitutional.cli.auditing import runs_command

    with redirect_stdout(StringIO()):
        runs_command(
            [folder], as_json=True, parquet=folder / "parquet", labels=[folder / "labels.jsonl"], by=["longer"]
        )
    print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--keep", type=Path, help="where the runs are written, and kept")
    parser.add_argument("--audit", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.audit is not None:
        audit_here(arguments.audit)
        return
    print(
        f"{'judgments':>10} {'ledger rows/s':>14} {'audit s':>9} {'cpu s':>7} {'cpu µs each':>12} {'GB':>6}", flush=True
    )
    with tempfile.TemporaryDirectory() as temporary:
        for millions in arguments.millions:
            folder = (arguments.keep or Path(temporary)) / f"run-{millions:g}m"
            if not (folder / "labels.jsonl").exists():
                rows, spent = make(folder, round(millions * 1e6))
                speed = f"{rows / spent:.0f}"
            else:
                speed = "(kept)"
                with open_ledger(folder / "ledger.sqlite") as ledger:
                    rows = ledger.count()
            seconds, cpu, peak = audit(folder)
            each = 1e6 * cpu / rows
            print(f"{rows:>10} {speed:>14} {seconds:>9.1f} {cpu:>7.1f} {each:>12.1f} {peak:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
