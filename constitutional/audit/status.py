"""How far a run is: its steps with counts, failures, time and tokens, the ledger, and who is at work on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field

from constitutional.audit.current import STEP_NAMES, RunView, open_view
from constitutional.display import clock, printable
from constitutional.evaluation.answers import EvaluatedAnswer
from constitutional.records import Answer, Judgment, Record, Revision, Usage
from constitutional.runs import holder as lock_holder
from constitutional.training.rows import RlResult

State = Literal["done", "running", "unfinished", "absent", "left out"]

_ASKING: dict[str, type[Record]] = {
    "revise": Revision,
    "helpful": Answer,
    "gate": Judgment,
    "judge": Judgment,
    "answers": EvaluatedAnswer,
    "evaluate": Judgment,
}


class StepStatus(Record):
    """One step. `tokens` is None where its records do not say what they cost; `seconds` where it is not done.

    `left out` is a step the recipe does not have; `unfinished` one that has begun and that nobody is at work on.
    """

    name: str
    state: State
    key: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    failures: dict[str, int] = Field(default_factory=dict)
    seconds: float | None = None
    tokens: Usage | None = None
    chunks: tuple[int, int] | None = None
    """Chunks done and chunks in all, of a step that has begun."""


class RunStatus(Record):
    """A run at one moment."""

    run: str
    steps: tuple[StepStatus, ...]
    seconds: float
    tokens: Usage
    uncounted: bool
    """Whether `sample` asked a model: what its records say is no part of `tokens`."""
    failures: int
    peak_memory_mb: float | None
    """Most memory a process held that worked on the run, model files it had mapped included."""
    judgments: int | None
    head: str | None
    holder: str | None
    watch: str | None = None
    """Why the watch ended RL before its last step."""


def status(path: Path) -> RunStatus:
    """Reads how far a run is; the run may be at work meanwhile.

    Raises:
        RunError: `path` is no run folder, or a file in it is damaged.
        LedgerError: the ledger cannot be read.
    """
    with open_view(path) as view:
        holder = lock_holder(path)
        steps = step_statuses(view, running=holder is not None)
        trained = view.figures("rl", "result.json", RlResult)
        costs = [step.tokens for step in steps if step.tokens is not None]
        return RunStatus(
            run=path.resolve().name,
            steps=steps,
            seconds=sum(step.seconds or 0.0 for step in steps),
            tokens=total_tokens(costs),
            uncounted=view.step("sample") is not None and view.recipe.get("sample", {}).get("pairs") is None,
            failures=sum(sum(step.failures.values()) for step in steps),
            peak_memory_mb=_peak_memory(path / "events.jsonl"),
            judgments=view.ledger.count() if view.ledger else None,
            head=view.ledger.head if view.ledger else None,
            holder=holder,
            watch=trained.watch.end if trained is not None and trained.watch is not None else None,
        )


def step_statuses(view: RunView, *, running: bool = False) -> tuple[StepStatus, ...]:
    """Every step in order; `running` says whether a process holds the run."""
    return tuple(_step_status(view, name, running) for name in STEP_NAMES)


def total_tokens(costs: Sequence[Usage]) -> Usage:
    """The sum of what several calls cost."""
    return Usage(
        prompt_tokens=sum(cost.prompt_tokens for cost in costs),
        completion_tokens=sum(cost.completion_tokens for cost in costs),
    )


def render_status(status: RunStatus) -> str:
    """The status as a plain text table, safe to print."""
    rows = [("step", "state", "counts", "failures", "time", "tokens in", "tokens out")]
    for step in status.steps:
        counts = f"{step.chunks[0]} of {step.chunks[1]} chunks" if step.chunks else _pairs(step.counts)
        time = "" if step.seconds is None else clock(step.seconds)
        tokens = (
            ("", "") if step.tokens is None else (f"{step.tokens.prompt_tokens}", f"{step.tokens.completion_tokens}")
        )
        rows.append((step.name, step.state, counts, _pairs(step.failures), time, *tokens))
    total = status.tokens
    sums = (clock(status.seconds), f"{total.prompt_tokens}", f"{total.completion_tokens}")
    rows.append(("total", "", "", f"{status.failures}" if status.failures else "", *sums))
    widths = [max(len(row[i]) for row in rows) for i in range(7)]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 4 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(0, f"run {status.run}")
    if status.uncounted:
        lines.append("tokens: without those of sample, whose records do not keep them")
    if status.peak_memory_mb is not None:
        lines.append(f"peak memory: {status.peak_memory_mb / 1000:.1f} GB")
    if status.judgments is not None:
        lines.append(f"ledger: {status.judgments} judgments, head {status.head}")
    if status.watch is not None:
        lines.append(f"rl {status.watch}")
    lines.append(f"in use by {status.holder}" if status.holder else "not in use")
    return printable("\n".join(line.rstrip() for line in lines))


def _step_status(view: RunView, name: str, running: bool) -> StepStatus:
    result = view.step(name)
    if result is not None:
        manifest = result.manifest
        return StepStatus(
            name=name,
            state="done",
            key=result.key,
            counts=manifest.counts,
            failures=dict(sorted(manifest.failures.items())),
            seconds=manifest.seconds,
            tokens=_tokens(view, name),
        )
    begun = _begun(view, name)
    if begun is not None:
        return StepStatus(name=name, state="running" if running else "unfinished", chunks=_chunks(begun))
    wanted = view.recipe.get("stages")
    return StepStatus(name=name, state="absent" if wanted is None or name in wanted else "left out")


def _tokens(view: RunView, name: str) -> Usage | None:
    if name not in _ASKING:
        return None
    found: list[Usage] = []
    for record in view.rows(name, "data.jsonl", _ASKING[name]):
        if isinstance(record, Revision):
            found += [record.initial_usage, *(step.usage for step in record.rounds)]
        elif isinstance(record, Answer | Judgment | EvaluatedAnswer):
            found.append(record.usage)
    return total_tokens(found)


def _peak_memory(events: Path) -> float | None:
    found = []
    with suppress(OSError):
        for line in events.read_text("utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line cut by a crash, or an event of another kind
                found.append(float(json.loads(line)["peak_memory_mb"]))
    return max(found, default=None)


def _begun(view: RunView, name: str) -> Path | None:
    """The folder of an attempt that has not come to its end; the latest when there are several."""
    notes = (view.path / "stages").glob(f"[0-9][0-9]-{name}/*/started.json")
    begun = [note for note in notes if not (note.parent / "manifest.json").exists()]
    return max(begun, key=lambda note: note.stat().st_mtime).parent if begun else None


def _chunks(folder: Path) -> tuple[int, int] | None:
    try:
        plan = json.loads((folder / "chunks" / "plan.json").read_bytes())
        total = -(-int(plan["items"]) // int(plan["chunk_size"]))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
    return len(list((folder / "chunks").glob("[0-9]*.jsonl"))), total


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
