"""The estimate of a recipe as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from constitutional.pipeline.estimate import A_SECOND, FIRST_TOKEN, Load


def render_estimate(loads: Sequence[Load]) -> str:
    """The estimate as a text table, the sum below."""
    rows = [("step", "role", "model", "calls", "tokens in", "tokens out", "US$", "time")]
    rows += [(one.step, one.role, one.model, *_figures(one)) for one in loads]
    known = [one.usd for one in loads if one.usd is not None]
    total = Load(
        step="total",
        role="",
        model="",
        calls=sum(one.calls for one in loads),
        prompt_tokens=sum(one.prompt_tokens for one in loads),
        completion_tokens=sum(one.completion_tokens for one in loads),
        usd=math.fsum(known) if known else None,
        seconds=math.fsum(one.seconds or 0 for one in loads) if any(one.seconds is not None for one in loads) else None,
    )
    rows.append(("total", "", "", *_figures(total)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(widths[i]) if i < 3 else cell.rjust(widths[i]) for i, cell in enumerate(row))
        for row in rows
    ]
    unpriced = sorted({one.model for one in loads if one.usd is None and one.model.startswith("openai:")})
    notes = [
        "at most: every draft drawn, every principle asked, every answer as long as it may be; a token is 4 characters",
        "of servers: no call repeated; options such as '(A)' or '10' read token by token, such as 'A' or 'Yes' not",
        f"time of servers: {FIRST_TOKEN:g} s a call and {A_SECOND:g} tokens a second, in the limits of `endpoint:`",
    ]
    if unpriced:
        notes.append(f"no price is known of {', '.join(unpriced)} (endpoint.prices)")
    return "\n".join([line.rstrip() for line in lines] + notes)


def _figures(one: Load) -> tuple[str, str, str, str, str]:
    seconds = None if one.seconds is None else int(one.seconds)
    time = "-" if seconds is None else f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    usd = "-" if one.usd is None else f"{one.usd:.2f}"
    return f"{one.calls}", f"{one.prompt_tokens}", f"{one.completion_tokens}", usd, time
