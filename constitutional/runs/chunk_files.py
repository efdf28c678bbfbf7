"""The chunks of an unfinished stage as files: how they are named, what a line is, and how they become one file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from constitutional.atomic import atomic_file, write_atomic
from constitutional.errors import RunError
from constitutional.records import Failure, Record
from constitutional.runs.logs import json_bytes, read_rows
from constitutional.runs.manifest import DATA, FAILURES

CHUNKS, STARTED, PLAN = "chunks", "started.json", "plan.json"


class Plan(NamedTuple):
    """How a stage's input is cut."""

    items: int
    chunk_size: int

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.items // self.chunk_size)

    def to_bytes(self) -> bytes:
        """As it stands beside the chunks."""
        return json_bytes(self._asdict()) + b"\n"


def read_plan(chunks: Path) -> Plan:
    """The plan of a folder of chunks.

    Raises:
        RunError: there is none that can be read.
    """
    _, plan = next(read_rows(chunks / PLAN))
    return Plan(int(str(plan["items"])), int(str(plan["chunk_size"])))


def chunk_file(chunks: Path, index: int) -> Path:
    """The file of a chunk."""
    return chunks / f"{index:06d}.jsonl"


def chunk_line(item: Record, output_type: type[Record]) -> bytes:
    """A record or failure as a line of a chunk's file.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(item, output_type | Failure):
        raise TypeError(f"a stage of {output_type.__name__} records gave a {type(item).__name__}")
    return json_bytes({"failure" if isinstance(item, Failure) else "record": item.model_dump(mode="json")}) + b"\n"


def merge_chunks(folder: Path) -> tuple[int, Counter[str]]:
    """Writes the chunks in order to the merged files; gives the number of records, and of failures by kind."""
    chunks = folder / CHUNKS
    records, failures, failed = 0, Counter[str](), list[bytes]()
    with atomic_file(folder / DATA) as data:
        for index in range(read_plan(chunks).chunks):
            path = chunk_file(chunks, index)
            for number, row in read_rows(path):
                match row:
                    case {"record": dict() as record}:
                        data.write(json_bytes(record) + b"\n")
                        records += 1
                    case {"failure": {"kind": str(kind)} as failure}:
                        failed.append(json_bytes(failure) + b"\n")
                        failures[kind] += 1
                    case _:
                        raise RunError(f"{path}:{number}: damaged line: neither a record nor a failure")
    write_atomic(folder / FAILURES, b"".join(failed))
    return records, failures
