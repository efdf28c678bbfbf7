"""What was judged: the comparisons of run folders as columns, and the labels they carry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from constitutional.audit.current import STEP_NAMES, RunView, open_view
from constitutional.audit.measures.columns import Reader, Texts
from constitutional.audit.measures.labels import Labels
from constitutional.audit.measures.records import RunSource
from constitutional.errors import DataError, RunError
from constitutional.ledger import GENESIS
from constitutional.runs import StageResult, load_result
from constitutional.runs.logs import read_rows

EARLIER = "earlier"
"""The step of comparisons that only a superseded build of the run has."""

JUDGED_BY = {"sample": "judge"}
"""The step that judges what another step made; elsewhere it is the same step."""

LABELS = "labels.jsonl"
"""Labels that a step keeps: JSON lines of `{comparison_id, preferred, source}`."""

_FILES = ("labelled.jsonl", "comparisons.jsonl", "data.jsonl")
ATTRIBUTES = ("run", "step", "origin", "kind", "source", "split", "a_model", "b_model")
"""What every comparison is known by, besides the tags of its prompt and of principles."""


@dataclass
class Comparisons:
    """The comparisons that were judged, by their number; `attributes` hold one text each, None where unknown."""

    prompt: list[int] = field(default_factory=list)
    log_ratio: list[float] = field(default_factory=list)
    """log((characters of a + 1) / (characters of b + 1))."""
    attributes: dict[str, list[str | None]] = field(default_factory=lambda: {name: [] for name in ATTRIBUTES})
    tags: list[tuple[str, ...]] = field(default_factory=list)


@dataclass
class Corpus:
    """Everything an audit reads."""

    reader: Reader = field(default_factory=Reader)
    prompts: Texts = field(default_factory=Texts)
    comparisons: Comparisons = field(default_factory=Comparisons)
    place: dict[int, int] = field(default_factory=dict)
    """Where a comparison that the ledger names stands in `comparisons`."""
    labels: Labels = field(default_factory=Labels)
    views: list[RunView] = field(default_factory=list)
    sources: list[RunSource] = field(default_factory=list)


def load_corpus(runs: Sequence[Path], labels: Sequence[Path] = ()) -> Corpus:
    """Reads run folders, and files of labels beside them.

    Args:
        runs: run folders. A judgment that several of them hold counts once.
        labels: JSON-lines files of `{comparison_id, preferred, source}`.

    Raises:
        RunError: a path is no run folder, or a file of it is damaged.
        LedgerError: a ledger cannot be read.
        DataError: a file of labels that cannot be used, or the same run twice.
    """
    if len({path.resolve() for path in runs}) < len(runs):
        raise DataError("the same run folder twice")
    names = _names(runs)
    corpus = Corpus()
    for path, name in zip(runs, names, strict=True):
        with open_view(path) as view:
            corpus.views.append(view)
            ledger = view.ledger
            count = corpus.reader.read(ledger.payloads(), str(ledger.path)) if ledger is not None else 0
            corpus.sources.append(
                RunSource(
                    name=name,
                    constitution=view.constitution.ref,
                    constitution_digest=view.constitution.digest,
                    judgments=count,
                    ledger_head=ledger.head if ledger is not None else GENESIS,
                    seconds=_seconds(view),
                )
            )
    for view, name in zip(corpus.views, names, strict=True):
        _read_steps(corpus, view, name)
    for file in labels:
        corpus.labels.read_file(file, corpus.reader.comparisons.numbers)
    return corpus


def corpus_of(view: RunView, beside: Iterable[str]) -> Corpus:
    """The corpus of one open run with more judgments beside its own, as canonical JSON. Raises as `load_corpus`."""
    corpus = Corpus(views=[view])
    if view.ledger is not None:
        corpus.reader.read(view.ledger.payloads(), str(view.ledger.path))
    corpus.reader.read(beside, "judgments beside the run")
    _read_steps(corpus, view, view.path.resolve().name)
    return corpus


def _read_steps(corpus: Corpus, view: RunView, run: str) -> None:
    _read_comparisons(corpus, view, run)
    for name in view.folders:
        result = view.step(name)
        if result is None or LABELS not in result.manifest.outputs:
            continue
        path = result.folder / LABELS
        if path.stat().st_size:  # pairs without a label are no fault
            corpus.labels.read_file(path, corpus.reader.comparisons.numbers)


def _names(runs: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in runs]
    return [
        n if names.count(n) == 1 else f"{path.resolve().parent.name}/{n}" for path, n in zip(runs, names, strict=True)
    ]


def _seconds(view: RunView) -> dict[str, float]:
    """Wall time of the steps that judged, as their manifests have it."""
    found = {name: view.step(name) for name in ("gate", "judge", "evaluate")}
    return {name: result.manifest.seconds for name, result in found.items() if result is not None}


def comparison_rows(view: RunView) -> Iterator[tuple[str, Path, int, dict[str, Any]]]:
    """Step, file, line and row of every comparison and labelled comparison of a run, those of current builds first.

    Raises:
        RunError: a file is damaged.
    """
    current = {view.path / folder for folder in view.folders.values()}
    builds = [(name, result) for name in STEP_NAMES if (result := view.step(name)) is not None]
    for folder in sorted((view.path / "stages").glob("*/*")):
        if folder not in current and (result := load_result(folder)) is not None:
            builds.append((EARLIER, result))
    for step, result in builds:
        for path, number, row in _rows(result):
            yield step, path, number, row


def _read_comparisons(corpus: Corpus, view: RunView, run: str) -> None:
    for step, path, number, row in comparison_rows(view):
        if "comparison" in row:
            comparison = row["comparison"]
            if isinstance(comparison, dict):
                _add(corpus, view, run, step, path, number, comparison)
                _label(corpus, path, number, row, comparison)
        else:
            _add(corpus, view, run, JUDGED_BY.get(step, step), path, number, row)


def _rows(result: StageResult) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """The rows of a step's files that hold comparisons, which the first row of a file tells."""
    for name in _FILES:
        if name in result.manifest.outputs:
            path = result.folder / name
            for number, row in read_rows(path):
                if number == 1 and not ({"a", "b", "messages", "origin"} <= row.keys() or "comparison" in row):
                    break
                yield path, number, row


def _add(corpus: Corpus, view: RunView, run: str, step: str, path: Path, number: int, row: dict[str, Any]) -> None:
    """Takes a comparison that the ledgers name and that was not seen before; the current builds are read first."""
    try:
        judged = corpus.reader.comparisons.numbers.get(row["id"])
        if judged is None or judged in corpus.place:
            return
        prompt = view.prompts.get(row["prompt_id"])
        ratio = math.log((len(row["a"]) + 1) / (len(row["b"]) + 1))
        known = {
            "run": run,
            "step": step,
            "origin": row["origin"],
            "kind": prompt.kind if prompt else None,
            "source": prompt.source if prompt else None,
            "split": prompt.split if prompt else None,
            "a_model": row.get("a_model"),
            "b_model": row.get("b_model"),
        }
        prompt_number = corpus.prompts.number(row["prompt_id"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}:{number}: damaged line: no comparison: {error}") from error
    corpus.place[judged] = len(corpus.comparisons.prompt)
    corpus.comparisons.prompt.append(prompt_number)
    corpus.comparisons.log_ratio.append(ratio)
    for name, value in known.items():
        corpus.comparisons.attributes[name].append(value)
    corpus.comparisons.tags.append(prompt.tags if prompt else ())


def _label(corpus: Corpus, path: Path, number: int, row: dict[str, Any], comparison: dict[str, Any]) -> None:
    """The label of a labelled comparison, whose better answer is `a`: an author's is only of the principles named."""
    judged = corpus.reader.comparisons.numbers.get(str(comparison.get("id")))
    if judged is None:
        return
    source, principles = row.get("source"), row.get("principles")
    if not isinstance(source, str) or not isinstance(principles, list):
        raise RunError(f"{path}:{number}: damaged line: no labelled comparison")
    for principle in principles if source == "examples" else [None]:
        corpus.labels.add(judged, principle, 1, source)
