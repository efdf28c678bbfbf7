"""Whether a run's ledger is whole: its own chain, and against what the finished steps recorded."""

from __future__ import annotations

from pathlib import Path

from constitutional.audit.current import open_view
from constitutional.errors import LedgerError, RunError
from constitutional.ledger import open_ledger_read_only
from constitutional.ledger.file import ledger_in
from constitutional.records import Record
from constitutional.runs import StageResult
from constitutional.runs.logs import read_rows
from constitutional.runs.manifest import DATA, finished_results

_JUDGING = ("gate", "judge", "evaluate")


class LedgerCheck(Record):
    """What was found. `rows` and `head` are None of a ledger that cannot be opened."""

    ledger: str
    rows: int | None
    head: str | None
    problems: tuple[str, ...]
    remedies: tuple[str, ...]
    """Where judgments that are gone still stand."""


def check_ledger_of(path: Path) -> LedgerCheck:
    """Verifies a ledger file, or the one of a run folder.

    Of a run, the heads its steps recorded must be in the chain, and every judgment that a finished step made must be in
    the ledger: those that are not are counted, with the file that still holds them.

    Raises:
        LedgerError: there is no ledger.
        RunError: the run folder is damaged.
    """
    file = ledger_in(path)
    finished = list[StageResult]()
    if path.is_dir():
        open_view(path)  # a folder that is no run, or a damaged one, is told of
        finished = finished_results(path)  # any of them may be found again, current or not
    heads = [result.manifest.ledger_head for result in finished if result.manifest.ledger_head]
    rows, head, problems, stored = None, None, list[str](), set[str]()
    try:
        with open_ledger_read_only(file) as ledger:
            problems = ledger.verify(heads)
            rows, head, stored = ledger.count(), ledger.head, ledger.ids()
    except LedgerError as error:
        problems.append(str(error))
    remedies: list[str] = []
    for result in finished:
        if result.manifest.stage in _JUDGING:
            made = _made(result)
            missing = len(made - stored)
            if missing:
                step = f"step '{result.manifest.stage}'"
                problems.append(f"{file}: {missing} of the {len(made)} judgments of {step} are not in it")
                remedies.append(f"the judgments of {step} still stand in {result.folder / DATA}")
    if rows is None and not remedies:
        remedies.append("recover it from an export (`constitutional ledger export`) or a copy of the run")
    return LedgerCheck(ledger=str(file), rows=rows, head=head, problems=tuple(problems), remedies=tuple(remedies))


def _made(result: StageResult) -> set[str]:
    """The ids of the judgments a step made; none where its own file is damaged, which `status` and `report` tell."""
    try:
        return {str(row.get("id")) for _, row in read_rows(result.folder / DATA)}
    except RunError:
        return set()
