"""Batch files: calls as OpenAI's batch jsonl, to be answered by somebody's offline service, and the answers read back.

A line is `{"custom_id": KEY, "method": "POST", "url": "/v1/chat/completions", "body": {...}}`; an answer's line holds
`custom_id` and `response.body` (OpenAI's service and `vllm run-batch` write it so). A file is for one model and one
path, as these services want it. Answers pass the same checks as those of live calls; what a service rejects for good
(too long, filtered, malformed) is the item's failure, as it would be live.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from constitutional.atomic import cannot_write, write_atomic
from constitutional.backends import Unanswered
from constitutional.backends.endpoint.answers import Answered, parse, read_answer
from constitutional.backends.endpoint.calls import Calls
from constitutional.backends.endpoint.faults import Garbage, Rejected
from constitutional.backends.endpoint.refusals import is_unpaid, rejection, said
from constitutional.backends.endpoint.wire import PASSING
from constitutional.errors import DataError, one_line
from constitutional.records import Record, short_digest

MOST_LINES = 50_000
"""Calls a file; OpenAI takes no more."""

MOST_BYTES = 200 * 10**6
"""Bytes a file; OpenAI takes no more."""

NO_CALL = (401, 402, 403, 404, 405, 407)
"""Statuses that say nothing of a call: the key, the account or the name of the model is wrong."""


class BatchRead(Record):
    """What a file of answers brought: answers kept, calls rejected for good, and by reason what could not be used."""

    kept: int
    rejected: int
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
        for part in _parts(lines):
            # named by content: the files of an earlier wave stay what they are
            file = folder / f"calls-{short_digest([model, path, part])}.jsonl"
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(folder, error) from error
            write_atomic(file, "".join(part))
            written.append((file, len(part)))
    return tuple(written)


def _parts(lines: list[str]) -> Iterator[list[str]]:
    """The lines in files that a service takes; a line of more bytes than a file may have is a file alone."""
    part: list[str] = []
    size = 0
    for line in lines:  # ASCII: as many bytes as characters
        if part and (len(part) == MOST_LINES or size + len(line) > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part


def read_batch(calls: Calls, path: Path) -> BatchRead:
    """Keeps the answers in a file; calls that it does not answer go on waiting. Reading it twice is reading it once.

    Raises:
        DataError: the file cannot be read, or a line is no answer to a call of this run; named as file:line.
    """
    asked = {key: (model, json.loads(text)) for model, key, text in calls.noted(waiting=False)}
    kept, unused = 0, Counter[str]()
    refused: defaultdict[str, list[tuple[str, Unanswered]]] = defaultdict(list)
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
        try:
            answer = _answer(found, request)
        except Rejected as no:
            refused[model].append((key, Unanswered(kind=no.kind, message=str(no))))
            continue
        except Garbage as error:
            unused[str(error)] += 1
            continue
        calls.keep(model, key, answer, (answer.prompt_tokens, answer.completion_tokens), 0.0)
        kept += 1
    rejected = 0
    for model, items in refused.items():
        answers = calls.count(model)
        for key, why in items:
            if why.kind == "rejected" and not answers:  # then it may be every call, and not this one
                unused[f"{why.message}; no call to this model was answered yet"] += 1
            else:
                calls.refuse(model, key, why)
                rejected += 1
    return BatchRead(kept=kept, rejected=rejected, unused=dict(sorted(unused.items())))


def _answer(found: dict[str, Any], request: dict[str, Any]) -> Answered:
    """The answer in a line. Raises Rejected: there will be none; Garbage: it is none, and may be asked again."""
    response = found.get("response")
    response = response if isinstance(response, dict) else {}
    body, status = response.get("body"), response.get("status_code")
    if isinstance(body, dict) and "choices" in body:
        return read_answer(body, chat=request["path"] == "/chat/completions", asked=request["body"])
    if isinstance(status, int) and 400 <= status < 500 and status not in (*PASSING, *NO_CALL):
        told = said(body) or said(found.get("error"))
        if not is_unpaid(status, told):
            raise rejection(told, status, "the service")
    raise Garbage("not answered")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                told = line.removeprefix(BOM_UTF8) if number == 1 else line  # editors of Windows put it there
                if told.strip():
                    yield number, told
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
