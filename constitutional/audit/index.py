"""Every record of a run by its id: what a trace looks up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from constitutional.audit.current import STEP_NAMES, RunView
from constitutional.errors import RunError
from constitutional.evaluation.answers import EvaluatedAnswer
from constitutional.feedback.gate import Labelled
from constitutional.records import (
    Answer,
    Comparison,
    Judgment,
    Preference,
    Prompt,
    Record,
    Revision,
    short_digest,
)
from constitutional.runs import StageResult
from constitutional.training.rows import PreferenceRow, RewardRow, SftRow

KINDS: dict[type[object], str] = {
    Prompt: "prompt",
    Revision: "revision",
    Answer: "answer",
    Comparison: "comparison",
    Labelled: "labelled comparison",
    Judgment: "judgment",
    Preference: "preference",
    SftRow: "sft row",
    PreferenceRow: "preference row",
    RewardRow: "reward row",
    EvaluatedAnswer: "evaluated answer",
    StageResult: "step",
}
"""What a trace calls each type."""

_FILES: tuple[tuple[str, str, type[Record]], ...] = (
    ("revise", "data.jsonl", Revision),
    ("helpful", "data.jsonl", Answer),
    ("sample", "data.jsonl", Comparison),
    ("gate", "labelled.jsonl", Labelled),
    ("gate", "data.jsonl", Judgment),
    ("judge", "data.jsonl", Judgment),
    ("label", "comparisons.jsonl", Comparison),
    ("label", "data.jsonl", Preference),
    ("sft", "rows.jsonl", SftRow),
    ("pm", "comparisons.jsonl", Comparison),
    ("pm", "preferences.jsonl", Preference),
    ("pm", "rows.jsonl", PreferenceRow),
    ("pm", "heldout.jsonl", PreferenceRow),
    ("rl", "rewards.jsonl", RewardRow),
    ("rl", "comparisons.jsonl", Comparison),
    ("rl", "preferences.jsonl", Preference),
    ("rl", "rows.jsonl", PreferenceRow),
    ("answers", "data.jsonl", EvaluatedAnswer),
    ("evaluate", "data.jsonl", Judgment),
    ("evaluate", "comparisons.jsonl", Comparison),
)
_LEAST = 4
_SHOWN = 12


@dataclass(frozen=True)
class Entry:
    """One record and where in the run it stands (`file:line`); `uses` are the records that were made from it."""

    id: str
    record: Record | StageResult
    places: list[str] = field(default_factory=list)
    uses: list[Entry] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What a trace calls it."""
        return KINDS[type(self.record)]


@dataclass(frozen=True)
class Index:
    """The records of a run by id. A judgment can also be looked up by its key."""

    view: RunView
    entries: dict[str, Entry]

    def get(self, record_id: str) -> Entry | None:
        """The record with exactly that id; a judgment that is in no current step comes from the ledger."""
        found = self.entries.get(record_id)
        if found is None and self.view.ledger is not None:
            judgment = self.view.ledger.by_id(record_id) or self.view.ledger.lookup([record_id]).get(record_id)
            return None if judgment is None else Entry(judgment.id, judgment, ["ledger.sqlite"])
        return found

    def find(self, prefix: str) -> Entry:
        """The record whose id, or key, begins with `prefix`.

        Raises:
            RunError: too short or no id, unknown, or the beginning of several ids, which it lists.
        """
        wanted = prefix.strip().lower()
        if not re.fullmatch(rf"[0-9a-f]{{{_LEAST},64}}", wanted):
            raise RunError(f"{prefix[:80]!a} is no id: expected at least {_LEAST} hex digits, as the report shows them")
        matches = [e for e in self.entries.values() if e.id.startswith(wanted) or _key(e.record).startswith(wanted)]
        if len(matches) > 1:
            listed = ", ".join(f"{e.id} ({e.kind})" for e in matches[:_SHOWN])
            more = f" and {len(matches) - _SHOWN} more" if len(matches) > _SHOWN else ""
            raise RunError(f"'{wanted}' begins {len(matches)} ids: {listed}{more}; give more digits")
        found = matches[0] if matches else self.get(wanted)
        if found is None:
            steps = ", ".join(self.view.folders) or "none"
            raise RunError(
                f"no record '{wanted}' in {self.view.path} (finished steps: {steps}); ids stand in the report and in "
                "the id field of each stage's data.jsonl"
            )
        return found


def build_index(view: RunView) -> Index:
    """Reads every current file of a run.

    Raises:
        RunError: a damaged file.
    """
    entries: dict[str, Entry] = {}
    for number, prompt in enumerate(view.prompts.values(), start=1):
        _add(entries, prompt, f"prompts.jsonl:{number}")
    for name in STEP_NAMES:
        if (result := view.step(name)) is not None:
            entries[result.key] = Entry(result.key, result, [view.folders[name]])
    for step, file, record_type in _FILES:
        for number, record in enumerate(view.rows(step, file, record_type), start=1):
            _add(entries, record, f"{step}/{file}:{number}")
    for entry in list(entries.values()):
        for parent in dict.fromkeys(_parents(entry.record)):
            if parent in entries and entries[parent] is not entry:
                entries[parent].uses.append(entry)
    return Index(view, entries)


def record_id(record: Record) -> str:
    """A record's own id; the digest of its JSON for rows, which have none; the comparison's for a labelled one."""
    if isinstance(record, Labelled):
        return record.comparison.id
    own = getattr(record, "id", None)
    return own if isinstance(own, str) else short_digest(record.model_dump(mode="json"))


def _add(entries: dict[str, Entry], record: Record, place: str) -> None:
    entry = entries.setdefault(record_id(record), Entry(record_id(record), record))
    entry.places.append(place)


def _parents(record: Record | StageResult) -> Iterator[str]:
    """Ids of the records that a record was made from."""
    match record:
        case Revision() | Answer():
            yield record.prompt_id
        case Comparison():
            yield from (record.prompt_id, *record.parents)
        case Judgment():
            yield record.comparison_id
        case Preference():
            yield from (record.comparison_id, *record.judgment_ids)
        case SftRow():
            yield record.source_id
        case PreferenceRow():
            yield record.preference_id
        case RewardRow() | EvaluatedAnswer():
            yield record.prompt_id


def _key(record: Record | StageResult) -> str:
    return record.key if isinstance(record, Judgment) else ""
