"""Where a record comes from: its ancestry as a tree, each link checked against what the run stores."""

from __future__ import annotations

from pathlib import Path

from constitutional.audit.current import open_view
from constitutional.audit.index import build_index
from constitutional.audit.lineage import lineage
from constitutional.audit.trace_node import PROBLEM, TraceNode, problems
from constitutional.display import printable
from constitutional.errors import shortened

__all__ = ["PROBLEM", "TraceNode", "problems", "render_trace", "trace"]


def trace(path: Path, record_id: str) -> TraceNode:
    """The ancestry of any record of a run, down to principle id@version, templates, models, order, seed and prompt.

    Args:
        path: the run folder; nothing in it is locked or changed.
        record_id: an id, a judgment's key, the digest of a training or reward row, a step's key, or the beginning
            (at least 4 hex digits) of one of them.

    Raises:
        RunError: no run folder, a damaged file, no such record, or a beginning that fits several.
        LedgerError: the ledger cannot be read.
    """
    with open_view(path) as view:
        index = build_index(view)
        return lineage(index, index.find(record_id))


def render_trace(node: TraceNode, width: int = 160) -> str:
    """The tree as indented text, one line a fact and texts shortened to `width`, safe to print."""
    return "\n".join(_lines(node, "", width))


def _lines(node: TraceNode, indent: str, width: int) -> list[str]:
    lines = [indent + _short(f"{node.kind} {node.id}  {node.title}", width)]
    inner = indent + "  "
    lines += [f"{inner}{name}: {_short(value, width - len(name) - 2)}" for name, value in node.facts]
    for child in node.children:
        lines += _lines(child, inner, width)
    return lines


def _short(text: str, width: int) -> str:
    whole = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be printed
    line = printable(" ".join(whole.split()))
    return shortened(line, width, "…")
