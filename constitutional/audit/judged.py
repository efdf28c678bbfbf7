"""What a run folder says of comparisons and revisions, for other formats to hold (interop/)."""

from __future__ import annotations

from pathlib import Path

from constitutional.audit.current import open_view
from constitutional.errors import RunError
from constitutional.feedback.label import label
from constitutional.interop.judged import Judged
from constitutional.interop.paper_samples import paper_row, revision_samples
from constitutional.records import Comparison, HumanLabel, Judgment, Preference, Revision, canonical_json


def read_judged(run_folder: Path) -> Judged:
    """The current comparisons of a run, their labels, judgments and soft labels.

    The soft labels are those of the run's own `label` step; without one, the mean over the principles.

    Raises:
        RunError: it is no run folder, is damaged, or nothing in it was judged.
    """
    with open_view(run_folder) as view:
        judgments = view.rows("judge", "data.jsonl", Judgment)
        asked = {judgment.comparison_id for judgment in judgments}
        found = {c.id: c for c in view.rows("sample", "data.jsonl", Comparison) if c.id in asked}
        preferences = view.rows("label", "data.jsonl", Preference)
        found.update((c.id, c) for c in view.rows("label", "comparisons.jsonl", Comparison))
        if not found:
            raise RunError(f"{run_folder}: nothing was judged in it: run `judge-pairs` or the step `judge` first")
        comparisons = tuple(found.values())
        if not preferences:
            preferences = list(label(comparisons, judgments, principles=view.constitution.principles))
        labels = [one for one in view.rows("sample", "labels.jsonl", HumanLabel) if one.comparison_id in found]
        step = view.step("judge")
        return Judged(
            name=view.path.resolve().name,
            constitution=view.constitution,
            comparisons=comparisons,
            labels=tuple(labels),
            judgments=tuple(judgments),
            preferences=tuple(preferences),
            made=step.manifest.ended[:19] + "Z" if step else "",
        )


def read_revision_samples(run_folder: Path) -> tuple[str, list[str]]:
    """The revisions of a run as JSON lines of the paper's samples, and a line for each thing they do not hold.

    Raises:
        RunError: it is no run folder, is damaged, or nothing in it was revised.
    """
    with open_view(run_folder) as view:
        revisions = view.rows("revise", "data.jsonl", Revision)
        if not revisions:
            raise RunError(f"{run_folder}: nothing was revised in it")
        principles = [p for text in reversed(view.texts) for p in text.constitution.principles]
        samples, lost = revision_samples(revisions, view.prompts, principles)
    lines = [canonical_json(paper_row(sample)) + "\n" for sample in samples]
    return "".join(lines).encode("utf-8", "backslashreplace").decode(), lost
