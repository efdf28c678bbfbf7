"""Processes that tests kill from outside: `python run_harness.py job|append|hold RUN_FOLDER [SLEEP_MS]`."""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from constitutional.errors import RunError
from constitutional.ledger import open_ledger
from constitutional.records import Answer, Failure, Judgment, Usage, seed_for, short_digest
from constitutional.runs import open_run

ITEMS, SEED, BATCH = 40, 11, 16


def judgment(question: str, p_a: float | None = 0.5, **changes: object) -> Judgment:
    fields: dict[str, object] = {
        "key": short_digest(question),
        "comparison_id": f"c-{question}",
        "principle": "kind@1.0.0",
        "principle_digest": "d" * 16,
        "template_digest": "t" * 16,
        "judge": "scripted:x",
        "mode": "logprob",
        "order": "ab",
        "outcome": "preference",
        "p_a": p_a,
        "logprobs": (-0.5, -1.25),
        "mass": 0.75,
        "usage": Usage(prompt_tokens=3),
        "seed": 7,
    }
    return Judgment.model_validate(fields | changes)


def small_ledger(file: Path) -> Path:
    """Writes a ledger of 12 rows, two a comparison, and closes it."""
    with open_ledger(file) as ledger:
        for i in range(0, 12, 2):
            batch = [
                judgment(f"q{i + k}", (i + k) / 12, comparison_id=f"c{i // 2}", principle=f"p{i % 4}@1.0.0")
                for k in (0, 1)
            ]
            ledger.append(batch)
    return file


def job(folder: Path, sleep_ms: float) -> None:
    """Two chunked stages, the second with judgments in the ledger; sleeps differ from run to run, results do not."""
    pauses = random.Random(time.time_ns())

    def pause() -> None:
        time.sleep(pauses.random() * sleep_ms / 1000)

    def answer(items: Sequence[int], chunk: int) -> Iterable[Answer | Failure]:
        for item in items:
            pause()
            if item % 7 == 3:
                yield Failure(item_id=str(item), stage="sample", kind="empty", message="nothing said")
                continue
            text = f"{item}\u2028{seed_for(SEED, 'sample', chunk)}"
            yield Answer(prompt_id=str(item), model="m", text=text, finish_reason="stop", seed=SEED, usage=Usage())

    def judge(items: Sequence[Answer], chunk: int) -> Iterable[Judgment]:
        for item in items:
            pause()
            p_a = random.Random(seed_for(SEED, item.id)).random()
            for order in ("ab", "ba"):
                yield judgment(f"{item.id}-{order}", p_a, comparison_id=item.id, order=order)

    with open_run(folder) as run, open_ledger(run.ledger_path) as ledger:
        run.event("start")
        first = run.stage(1, "sample", {"seed": SEED})
        first.run_chunks(list(range(ITEMS)), answer, chunk_size=4, output_type=Answer)
        sampled = first.finish()
        pause()
        second = run.stage(2, "judge", {"seed": SEED}, {"sample": sampled})
        second.run_chunks(
            sampled.records(Answer), judge, chunk_size=3, output_type=Judgment, before_commit=ledger.append
        )
        pause()
        second.finish({"items": ITEMS}, ledger_head=ledger.head)
        run.event("done")


def append(folder: Path) -> None:
    """Appends batches for ever; prints the number of rows after each commit."""
    with open_ledger(folder / "ledger.sqlite") as ledger:
        rows = ledger.count()
        while True:
            rows += ledger.append([judgment(f"{rows + i}") for i in range(BATCH)])
            print(rows, flush=True)


def hold(folder: Path) -> None:
    """Waits for a line, opens the run folder, says how that went and how long it took, and holds it till input ends."""
    sys.stdin.readline()
    begun = time.monotonic()
    try:
        with open_run(folder):
            print("won", socket.gethostname(), flush=True)
            sys.stdin.readline()
    except RunError as error:
        print(time.monotonic() - begun, error, flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    mode, run_folder = sys.argv[1], Path(sys.argv[2])
    if mode == "job":
        job(run_folder, float(sys.argv[3]))
    else:
        {"append": append, "hold": hold}[mode](run_folder)
