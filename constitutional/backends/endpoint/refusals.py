"""What a server says where it does not answer, live and in batch files: is it the account, or is it the item?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from constitutional.backends.endpoint.faults import Rejected
from constitutional.errors import one_line, shortened

TOO_LONG = (
    "context_length",
    "context length",
    "maximum context",
    "too long",
    "max_model_len",
    "exceed_context",
    "exceeds the available context",
)
FILTERED = ("content_filter", "content management")

ACCOUNT = (402, 407)
"""Statuses by which a service wants money, or a proxy on the way a password."""

OF_ITEMS = (400, 422)
"""Statuses of a request that is wrong in itself; some services say so of an empty account."""

_SPENT = r"(insufficient[_ ](quota|balance|credit)|billing[_ ]hard[_ ]limit|credit balance)"
_UNPAID = re.compile(rf"\b{_SPENT}")
_UNPAID_FIRST = re.compile(rf"(\S+_\S+ )*(error: )?(your )?{_SPENT}")
"""What a message begins with, behind its code and type: further on a server may repeat an item that speaks of money."""
_UNPAID_CODE = re.compile(r"\b(insufficient_quota|billing_\w+)")
_WAIT = re.compile(r"\bretry in\b")


def said(body: object, text: str = "") -> str:
    """What a server says of an error, as it says it: its code, its type and its message.

    OpenAI and vLLM put them into an `error` of its own, or do not; Gemini puts that into a list.

    Args:
        body: the parsed body.
        text: what to take where the body has no message.
    """
    told = body[0] if isinstance(body, list) and body else body
    inner = told.get("error") if isinstance(told, Mapping) else None
    told = inner if isinstance(inner, Mapping) else told
    found = dict(told) if isinstance(told, Mapping) else {}
    words = [found[name] for name in ("code", "type") if isinstance(found.get(name), str)]
    message = found.get("message")
    return " ".join(" ".join(dict.fromkeys([*words, message if isinstance(message, str) else text])).split())


def brief(text: str) -> str:
    """A line of it, no longer than a record wants to hold."""
    return shortened(one_line(text), 200)


def is_unpaid(status: int, told: str, *, asks_to_wait: bool = False) -> bool:
    """Whether the account, and no call, is what a service refuses: its money is spent, or a proxy wants a password.

    A rate limit may speak of the plan and of billing, too: where the service asks to wait, only a code says otherwise.
    """
    if status in ACCOUNT:
        return True
    low = brief(told).lower()
    if not 400 <= status < 500 or any(sign in low for sign in (*TOO_LONG, *FILTERED)):
        return False
    if status == 429 and (asks_to_wait or _WAIT.search(told.lower())):
        return _UNPAID_CODE.search(low) is not None
    if status in OF_ITEMS:
        return _UNPAID_FIRST.match(low) is not None
    return _UNPAID.search(low) is not None or (status == 429 and _UNPAID_CODE.search(low) is not None)


def rejection(told: str, status: int, who: str, shown: str | None = None) -> Rejected:
    """Why a request that would be rejected again is rejected; a record keeps it, so no host may be named in it.

    Args:
        told: what the server says.
        status: the status it says it with.
        who: `the server` or `the service`.
        shown: what it says, fit to be kept; the same where None.
    """
    low = brief(told).lower()
    kept = brief(told) if shown is None else shown
    too_long = any(sign in low for sign in TOO_LONG)
    filtered = any(sign in low for sign in FILTERED)
    kind = "too_long" if too_long else "content_filter" if filtered else "rejected"
    found = Rejected(kind, f"{who} says {status}: {kept}" if kind == "rejected" else kept)
    found.billed = (0, 0)
    return found
