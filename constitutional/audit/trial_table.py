"""A trial as a terminal table, with what each figure means under it."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from constitutional.audit.trial import Agreement, PrincipleRow, Trial
from constitutional.display import printable
from constitutional.statistics import Rate

_LEGEND = (
    "tuning, gate: right answers in each split; pass rate: both together, with its 95 % interval",
    "unread: examples without a readable answer in both orders; they count as not right",
    "orders: same verdict whichever answer is read first, of the readable ones",
    "negated: opposite verdict under the negated request (gap: mean |p - (1 - p negated)|)",
    "paraphr.: same verdict under the paraphrases",
    "cross: examples of other principles decided for their better answer. A principle that decides those",
    "  as well as its own is broad, or the judge does not read it; one far below keeps to its subject",
)


def trial_table(trial: Trial) -> Table:
    """One row a principle; fits 100 columns."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("principle", overflow="ellipsis", no_wrap=True, max_width=28)
    for name in ("tuning", "gate", "pass rate, 95 %", "unread", "orders", "negated", "gap", "paraphr.", "cross"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in trial.principles:
        table.add_row(*(Text(printable(cell)) for cell in _cells(row)))
    return table


def trial_lines(trial: Trial) -> list[str]:
    """What stands under the table: principles without a row, the overall figure, the legend."""
    overall = trial.overall
    lines = [f"not tested: {item.principle} ({item.reason})" for item in trial.untested]
    lines.append(
        f"overall accuracy: {with_interval(overall)} of {overall.n}, all examples of all principles, both splits; "
        f"{trial.unusable} unread"
    )
    lines.append(f"judge {trial.judge}, templates {trial.templates}, constitution {trial.constitution}")
    return [printable(line) for line in (*lines, *_LEGEND)]


def with_interval(value: Rate) -> str:
    """`0.75 [0.30, 0.95]`."""
    return f"{value.share:.2f} [{value.interval.low:.2f}, {value.interval.high:.2f}]"


def _cells(row: PrincipleRow) -> tuple[str, ...]:
    return (
        row.principle,
        _count(row.by_split["tuning"]),
        _count(row.by_split["gate"]),
        with_interval(row.right),
        str(row.unusable),
        _share(row.orders),
        _same(row.negation),
        "" if row.negation is None or row.negation.mean_gap is None else f"{row.negation.mean_gap:.2f}",
        _same(row.paraphrases),
        _share(row.cross),
    )


def _count(value: Rate) -> str:
    return f"{value.count}/{value.n}" if value.n else ""


def _share(value: Rate | None) -> str:
    return f"{value.share:.2f}" if value is not None and value.n else ""


def _same(value: Agreement | None) -> str:
    return "" if value is None else _share(value.same)
