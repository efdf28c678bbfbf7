"""Rows a second that the ledger takes, in batches, beside plain SQLite with the same durability and no chain.

    python benchmarks/ledger.py [--rows 100000] [--batch 1000]

Plain SQLite is `executemany` of the same finished rows into a table without triggers and without the ledger's look-up
of each key: what the canonical JSON, the chain, the append-only triggers and resume cost is the ratio. Judgments are
made before the clock starts. A batch is a transaction, durable when it returns. CPU time is told beside wall time: on a
machine that does other things, too, they differ.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from pathlib import Path

from constitutional.ledger import open_ledger, open_ledger_read_only
from constitutional.records import Judgment, Usage, digest


def made(rows: int) -> list[Judgment]:
    """Judgments as a judge's: 16 principles, both orders."""
    return [
        Judgment(
            key=digest(["benchmark", i]),
            comparison_id=f"{i // 32:016x}",
            principle=f"principle-{i // 2 % 16}@1.0.0",
            principle_digest="d" * 16,
            template_digest="t" * 16,
            judge="embedded:judge@0123456789abcdef",
            mode="logprob",
            order="ab" if i % 2 == 0 else "ba",
            outcome="preference",
            p_a=(i % 997) / 997,
            logprobs=(-0.5 - i % 7, -1.25 - i % 5),
            mass=0.9,
            usage=Usage(prompt_tokens=300),
            seed=7,
        )
        for i in range(rows)
    ]


def append(path: Path, judgments: list[Judgment], batch: int) -> tuple[float, float]:
    with open_ledger(path) as ledger:
        begun, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(judgments), batch):
            ledger.append(judgments[start : start + batch])
        return time.perf_counter() - begun, time.process_time() - cpu


def plain(path: Path, source: Path, batch: int) -> tuple[float, float]:
    """The same rows, finished, into a table with the same columns and indexes."""
    connection = sqlite3.connect(source)
    rows = connection.execute("SELECT * FROM judgments ORDER BY seq").fetchall()
    schema = [
        sql
        for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND type != 'trigger'")
    ]
    connection.close()
    copy = sqlite3.connect(path, isolation_level=None)
    copy.execute("PRAGMA journal_mode=WAL")
    copy.execute("PRAGMA synchronous=FULL")
    for sql in schema:
        copy.execute(sql)
    insert = f"INSERT INTO judgments VALUES ({','.join('?' * len(rows[0]))})"
    begun, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(rows), batch):
        copy.execute("BEGIN")
        copy.executemany(insert, rows[start : start + batch])
        copy.execute("COMMIT")
    seconds = time.perf_counter() - begun, time.process_time() - cpu
    copy.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1000)
    arguments = parser.parse_args()
    judgments = made(arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        ledger, copy = Path(folder) / "ledger.sqlite", Path(folder) / "plain.sqlite"
        taken, taken_cpu = append(ledger, judgments, arguments.batch)
        baseline, baseline_cpu = plain(copy, ledger, arguments.batch)
        with open_ledger_read_only(ledger) as opened:
            begun = time.perf_counter()
            problems = opened.verify()
            verified = time.perf_counter() - begun
    rate, of = arguments.rows / taken, arguments.rows / baseline
    print(f"{arguments.rows} judgments in batches of {arguments.batch}, one transaction a batch")
    print(f"ledger append:     {rate:>9,.0f} rows/s  ({taken:.1f} s, CPU {taken_cpu:.1f} s)")
    print(f"plain executemany: {of:>9,.0f} rows/s  ({baseline:.1f} s, CPU {baseline_cpu:.1f} s)")
    print(f"the ledger takes {taken / baseline:.1f} times as long, CPU {taken_cpu / baseline_cpu:.1f} times")
    print(f"verify:            {arguments.rows / verified:>9,.0f} rows/s, {len(problems)} problems")


if __name__ == "__main__":
    main()
