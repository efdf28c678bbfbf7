"""A trial as a terminal table, with what each figure means under it."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from constitutional.audit.trial import Agreement, Trial
from constitutional.display import printable
from constitutional.statistics import Rate, with_interval

_LEGEND = {
    "pass rate": "tuning, gate: right answers in each split; pass rate: both together, with its 95 % interval",
    "unread": "unread: examples without a readable answer in both orders; they count as not right",
    "by its check": "by its check: code judges, as in a run, and no wording is asked; unread: what it scores alike,\n"
    "  says nothing of or fails on",
    "orders": "orders: same verdict whichever answer is read first, of the readable ones",
    "negated": "negated: opposite verdict under the negated request (gap: mean |p - (1 - p negated)|)",
    "paraphr.": "paraphr.: same verdict under the paraphrases",
    "cross": "cross: examples of other principles decided for their better answer. A principle that decides those\n"
    "  as well as its own is broad, or the judge does not read it; one far below keeps to its subject",
}


def trial_table(trial: Trial) -> Table:
    """One row a principle; fits 100 columns. Columns of what was not asked are left out."""
    table = Table(box=SIMPLE, padding=0, pad_edge=False, show_edge=False)
    table.add_column("principle", overflow="fold", max_width=26)
    shown = _columns(trial)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(trial.principles):
        name = f"{row.principle}\nby its check" if row.by_check else row.principle
        cells = (name, *(column[number] for column in shown.values()))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def trial_lines(trial: Trial) -> list[str]:
    """What stands under the table: principles without a row, the overall figure, the legend."""
    overall = trial.overall
    lines = [f"not tested: {item.principle} ({item.reason})" for item in trial.untested]
    coded = sum(row.right.n for row in trial.principles if row.by_check)
    lines.append(
        f"overall accuracy: {with_interval(overall)} of {overall.n}, all examples of all principles, both splits; "
        f"{trial.unusable} unread"
    )
    lines += [f"of these {coded} examples are judged by checks, not by the judge"] if coded else []
    lines.append(f"judge {trial.judge}, templates {trial.templates}, constitution {trial.constitution}")
    names = {*_columns(trial), *(["by its check"] if coded else [])}
    return [printable(line) for line in (*lines, *(text for name, text in _LEGEND.items() if name in names))]


def _columns(trial: Trial) -> dict[str, list[str]]:
    """The cells of each column that has any."""
    rows = trial.principles
    columns = {
        "tuning": [_count(row.by_split["tuning"]) for row in rows],
        "gate": [_count(row.by_split["gate"]) for row in rows],
        "pass rate": [with_interval(row.right) for row in rows],
        "unread": [str(row.unusable) for row in rows],
        "orders": [_share(None if row.by_check else row.orders) for row in rows],
        "negated": [_same(row.negation) for row in rows],
        "gap": [_gap(row.negation) for row in rows],
        "paraphr.": [_same(row.paraphrases) for row in rows],
        "cross": [_share(row.cross) for row in rows],
    }
    return {name: cells for name, cells in columns.items() if any(cells)}


def _count(value: Rate) -> str:
    return f"{value.count}/{value.n}" if value.n else ""


def _share(value: Rate | None) -> str:
    return f"{value.share:.2f}" if value is not None and value.n else ""


def _same(value: Agreement | None) -> str:
    return "" if value is None else _share(value.same)


def _gap(value: Agreement | None) -> str:
    return "" if value is None or value.mean_gap is None else f"{value.mean_gap:.2f}"
