"""Batch files: calls as OpenAI's batch jsonl, to be answered by somebody's offline service, and the answers read back.

A line is `{"custom_id": KEY, "method": "POST", "url": "/v1/chat/completions", "body": {...}}`; an answer's line holds
`custom_id` and `response.body` (OpenAI's service and `vllm run-batch` write it so). A file is for one model and one
path, as these services want it. Answers pass the same checks as those of live calls.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from constitutional.atomic import cannot_write, write_atomic
from constitutional.backends.endpoint.answers import parse, read_answer
from constitutional.backends.endpoint.calls import Calls
from constitutional.backends.endpoint.faults import Garbage, Rejected
from constitutional.errors import DataError, one_line
from constitutional.records import Record, short_digest

MOST_LINES = 50_000
"""Calls a file; OpenAI takes no more."""


class BatchRead(Record):
    """What a file of answers brought: answers kept, and by reason what could not be used."""

    kept: int
    unused: dict[str, int]


def write_batches(calls: Calls, folder: Path) -> tuple[tuple[Path, int], ...]:
    """Writes every waiting call; returns the files with the number of their calls.

    Raises:
        RunError: a file cannot be written.
    """
    by_kind: dict[tuple[str, str], list[str]] = {}
    for model, key, text in calls.noted(waiting=True):
        request = json.loads(text)
        line = {"custom_id": key, "method": "POST", "url": f"/v1{request['path']}", "body": request["body"]}
        by_kind.setdefault((model, request["path"]), []).append(json.dumps(line) + "\n")
    written = []
    for (model, path), lines in by_kind.items():
        for start in range(0, len(lines), MOST_LINES):
            part = lines[start : start + MOST_LINES]
            # named by content: the files of an earlier wave stay what they are
            file = folder / f"calls-{short_digest([model, path, part])}.jsonl"
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(folder, error) from error
            write_atomic(file, "".join(part))
            written.append((file, len(part)))
    return tuple(written)


def read_batch(calls: Calls, path: Path) -> BatchRead:
    """Keeps the answers in a file; calls that it does not answer go on waiting. Reading it twice is reading it once.

    Raises:
        DataError: the file cannot be read, or a line is no answer to a call of this run; named as file:line.
    """
    asked = {key: (model, json.loads(text)) for model, key, text in calls.noted(waiting=False)}
    kept, unused = 0, Counter[str]()
    for number, line in _lines(path):
        try:
            found = parse(line)
        except Garbage as garbage:  # one answer that holds NaN must not keep the others out
            if number == 1 and not line.lstrip().startswith(b"{"):
                raise DataError(f"{path}:{number}: not a line of a batch file") from None
            unused[str(garbage).partition(" (")[0]] += 1
            continue
        key = found.get("custom_id")
        if not isinstance(key, str) or key not in asked:
            raise DataError(
                f"{path}:{number}: custom_id '{one_line(str(key))[:80]}' is no call of this run's batch files"
            )
        model, request = asked[key]
        response = found.get("response")
        body = response.get("body") if isinstance(response, dict) else None
        if not isinstance(body, dict) or "choices" not in body:
            unused["not answered"] += 1
            continue
        try:
            answer = read_answer(body, chat=request["path"] == "/chat/completions", asked=request["body"])
        except (Garbage, Rejected) as error:
            unused[str(error)] += 1
            continue
        calls.keep(model, key, answer, (answer.prompt_tokens, answer.completion_tokens), 0.0)
        kept += 1
    return BatchRead(kept=kept, unused=dict(sorted(unused.items())))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
