"""Pages from templates: one HTML file without script, all text from data escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from constitutional.audit.audit_view import ShownAudit, audit_values
from constitutional.audit.wording import FILTERS, clean
from constitutional.runs import write_atomic

AUDIT_SECTIONS = (
    ("principles", "Principles"),
    ("accuracy", "Against labels"),
    ("conflicts", "Conflicts"),
    ("influence", "Influence"),
    ("judges", "Judges"),
    ("slices", "Parts"),
    ("contested", "Contested comparisons"),
    ("method", "How sure"),
)
"""Section ids of an audit and what the page's links call them."""


def write_audit_page(path: Path, found: ShownAudit) -> None:
    """Writes an audit as a page of its own. Raises RunError where it cannot be written."""
    write_atomic(path, drawn("audit.html.j2", audit_values(found), AUDIT_SECTIONS))


def drawn(template: str, values: Mapping[str, Any], sections: Sequence[tuple[str, str]]) -> str:
    """A page, its links going to those of the sections that it turns out to have."""
    body = _environment().get_template(template)
    shown = body.render(values, sections=sections)
    present = [section for section in sections if f'<section id="{section[0]}"' in shown]
    return body.render(values, sections=present)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=clean,
        trim_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment
