"""Processes that tests kill from outside: `python run_harness.py job|append|hold|traffic RUN_FOLDER [NUMBER]`."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from constitutional.errors import RunError
from constitutional.ledger import open_ledger, open_ledger_read_only
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


def tell(text: str) -> None:
    """One line, whole, from whichever of several processes."""
    os.write(1, (text + "\n").encode())


def append(folder: Path) -> None:
    """For each line read: a process, whose number is told, that appends batches for ever and tells the rows after each
    commit; then, when it was killed, `dead`. Forked, so that forty of them cost the imports once."""
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            with open_ledger(folder / "ledger.sqlite") as ledger:
                rows = ledger.count()
                tell(f"pid {os.getpid()}")
                while True:
                    rows += ledger.append([judgment(f"{rows + i}") for i in range(BATCH)])
                    tell(str(rows))
        os.waitpid(child, 0)
        tell("dead")


def hold(folder: Path) -> None:
    """For each line read: eight processes that open one run folder at the same moment and tell how that went and how
    long it took; the one that gets it holds it till it is killed. Then `dead`."""
    for number, _ in enumerate(sys.stdin):
        ready, go = os.pipe()
        children = []
        for _ in range(8):
            child = os.fork()
            if not child:
                os.close(go)
                os.read(ready, 1)  # ends for all of them at once, when the parent closes the other end
                begun = time.monotonic()
                try:
                    with open_run(folder / str(number)):
                        tell(f"{os.getpid()} won {socket.gethostname()}")
                        time.sleep(600)
                except RunError as error:
                    tell(f"{os.getpid()} lost {time.monotonic() - begun} {error}")
                os._exit(0)
            children.append(child)
        os.close(go)
        for child in children:
            os.waitpid(child, 0)
        os.close(ready)
        tell("dead")


def traffic(folder: Path, seconds: float) -> None:
    """One process appends batches without a pause and four look things up; each of these tells, as JSON, how many reads
    it made and the 99th percentile of their seconds, of the busy ledger and of one nobody writes to."""
    children = []
    open_ledger(folder / "ledger.sqlite").close()
    until = time.monotonic() + seconds
    for number in range(5):
        child = os.fork()
        if not child:
            if number:
                read_until(folder, until, random.Random(number))
            else:
                with open_ledger(folder / "ledger.sqlite") as ledger:
                    batch = 0
                    while time.monotonic() < until:
                        ledger.append([judgment(f"{batch}-{i}", comparison_id=f"b{batch}") for i in range(8)])
                        batch += 1
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    tell(json.dumps({"codes": codes}))


def read_until(folder: Path, until: float, draw: random.Random) -> None:
    took: dict[str, list[float]] = {"ledger": [], "quiet": []}
    wrong: list[str] = []
    newest = 0
    while time.monotonic() < until:
        for name, times in took.items():
            begun = time.perf_counter()
            try:
                with open_ledger_read_only(folder / f"{name}.sqlite") as ledger:
                    found = list(ledger.judgments([f"b{draw.randint(0, newest)}"]))
                    if found and ledger.by_id(found[0].id) != found[0]:
                        wrong.append("a row is not itself")
                    if len(found) not in (0, 8):
                        wrong.append(f"{len(found)} of 8 rows of a batch")
                    newest += name == "ledger" and bool(found)
            except Exception as error:
                wrong.append(repr(error))
            times.append(time.perf_counter() - begun)
        time.sleep(0.005)  # a page that is looked at asks a few times a second
    # a few numbers: a line longer than a pipe holds would be cut up by those of the other readers
    p99 = {name: sorted(times)[int(0.99 * len(times))] for name, times in took.items()}
    tell(json.dumps({**p99, "reads": len(took["ledger"]), "wrong": wrong}))


if __name__ == "__main__":
    print("ready", flush=True)
    mode, run_folder = sys.argv[1], Path(sys.argv[2])
    if mode in ("job", "traffic"):
        {"job": job, "traffic": traffic}[mode](run_folder, float(sys.argv[3]))
    else:
        {"append": append, "hold": hold}[mode](run_folder)
