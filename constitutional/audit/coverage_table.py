"""Coverage as a terminal table and lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from constitutional.audit.coverage import Coverage
from constitutional.display import printable
from constitutional.errors import shortened
from constitutional.records import Prompt
from constitutional.statistics import with_interval

SHOWN = 10
"""Prompts listed in the terminal; the JSON has them all."""


def coverage_table(found: Coverage) -> Table:
    """One row a principle; fits 100 columns."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("principle", overflow="fold", max_width=28)
    for name in ("prompts", "share, 95 %", "unread"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("applies when", overflow="fold")
    for row in found.principles:
        when = row.applies_when if row.applies_when is not None else "to all (no applies_when)"
        count, share = f"{row.applies.count}/{row.applies.n}", with_interval(row.applies)
        asked = row.applies_when is not None
        cells = (row.principle, count, share if asked else "", str(row.unusable) if asked else "", when)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def coverage_lines(found: Coverage) -> list[str]:
    """What stands under the table."""
    lines = [f"no prompt exercises: {ref}" for ref in found.unexercised]
    by_id = {prompt.id: prompt for prompt in found.prompts}
    lines += _listed("no principle applies to", [by_id[i] for i in found.uncovered])
    lines += _listed("not known (a verdict could not be read):", [by_id[i] for i in found.unknown])
    said = found.said_yes
    if said.n:
        lines.append(f"the judge said yes to {said.count} of {said.n} questions it answered readably")
        if said.count in (0, said.n):
            lines.append("a judge that always says the same does not read the case: do not trust this coverage")
    lines.append(f"judge {found.judge}, templates {found.templates}, constitution {found.constitution}")
    return [printable(line) for line in lines]


def _listed(title: str, prompts: Sequence[Prompt]) -> Iterator[str]:
    if prompts:
        yield f"{title} {len(prompts)} of the prompts:"
    for prompt in prompts[:SHOWN]:
        text = " ".join(prompt.messages[-1].content.split())
        yield f"  {prompt.id}  {shortened(text, 78)}"
    if len(prompts) > SHOWN:
        yield f"  and {len(prompts) - SHOWN} more (--json lists all)"
