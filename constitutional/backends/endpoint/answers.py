"""What counts as an answer. Everything a server sends passes here before it may become a text or a judgment.

Bodies are parsed here and not by the client library, which lets HTML, empty choices and NaN through.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from constitutional.backends.endpoint.address import redacted
from constitutional.backends.endpoint.faults import Garbage, NoLogprobs, Rejected
from constitutional.records import FinishReason, Record

Tokens = tuple[tuple[str, float], ...]
"""Tokens, as text, with their log-probabilities in nats."""

_USAGE = ("prompt_tokens", "completion_tokens")
_SLACK = 0.02  # listed probabilities may sum to this much above one: servers round


class Answered(Record):
    """A valid answer, as `calls.sqlite` keeps it."""

    text: str
    finish: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    top: Tokens = ()
    """The likeliest first tokens."""
    prompt: Tokens = ()
    """The last tokens of the prompt."""
    served: str | None = None
    """What the server calls the model that answered."""
    fingerprint: str | None = None


def parse(body: bytes, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON object in a body, its texts freed of a call's secrets; names stay, so that it is read as sent.

    Raises:
        Garbage: HTML, cut or broken JSON, NaN, another charset, not an object.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse)
        value = _freed(value, hidden) if hidden else value
    except UnicodeDecodeError:
        raise Garbage("the answer is not UTF-8") from None
    except (ValueError, RecursionError):
        what = "HTML" if body.lstrip()[:1] == b"<" else "not whole JSON"
        raise Garbage(f"the answer is {what} ({len(body)} bytes)") from None
    if not isinstance(value, dict):
        raise Garbage("the answer is not a JSON object")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _freed(value: Any, hidden: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return redacted(value, hidden)
    if isinstance(value, list):
        return [_freed(one, hidden) for one in value]
    return {name: _freed(one, hidden) for name, one in value.items()} if isinstance(value, dict) else value


def read_answer(found: dict[str, Any], *, chat: bool, asked: Mapping[str, Any]) -> Answered:
    """The answer in a body.

    Args:
        found: the parsed body.
        chat: whether it answers `/chat/completions`, else `/completions`.
        asked: the request's body: what it asks for must be there.

    Raises:
        Garbage: the body is not a whole answer to this request.
        Rejected: the server's filter took the answer away.
    """
    try:
        return _read(found, chat, asked, _tokens(found))
    except (Garbage, Rejected) as fault:
        fault.billed = billed(found)
        raise


def _read(found: dict[str, Any], chat: bool, asked: Mapping[str, Any], usage: tuple[int, int]) -> Answered:
    choices = found.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Garbage("the answer has no choice" if not choices else "the answer has not one choice")
    choice = choices[0]
    finish = choice.get("finish_reason")
    if finish == "content_filter":
        raise Rejected("content_filter", "the server's content filter took the answer away")
    if finish not in ("stop", "length"):
        raise Garbage("the answer does not say why it ended")
    text = choice.get("text")
    if chat:
        message = choice.get("message")
        message = message if isinstance(message, dict) else {}
        text = message.get("content")
        text = message.get("refusal") if text is None else text
    if not isinstance(text, str):
        raise Garbage("the answer has no text")
    wants_top, wants_prompt = bool(asked.get("logprobs")) and not asked.get("echo"), "prompt_logprobs" in asked
    tail = _echoed(found, choice) if asked.get("echo") else _prompt(found, choice) if wants_prompt else ()
    return Answered(
        text=text,
        finish=finish,
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
        top=_top(choice, chat) if wants_top else (),
        prompt=tail,
        served=_name(found.get("model")),
        fingerprint=_name(found.get("system_fingerprint")),
    )


def _name(value: object) -> str | None:
    return value[:200] if isinstance(value, str) and value else None


def billed(found: dict[str, Any]) -> tuple[int, int] | None:
    """Tokens read and tokens drawn, as the server says; None where it does not say both."""
    usage = found.get("usage")
    counts = [_count(usage.get(name)) for name in _USAGE] if isinstance(usage, dict) else []
    return (counts[0], counts[1]) if counts and counts[0] and counts[1] is not None else None


def _tokens(found: dict[str, Any]) -> tuple[int, int]:
    """The same, with zero for what is not said."""
    usage = found.get("usage")
    read, drawn = (_count(usage.get(name) or 0) if isinstance(usage, dict) else None for name in _USAGE)
    return (0, 0) if read is None or drawn is None else (read, drawn)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None


def _top(choice: dict[str, Any], chat: bool) -> Tokens:
    """The first token's likeliest alternatives, that they make a distribution checked.

    llama.cpp's `/completions` tells of them in the form of chats.
    """
    given = choice.get("logprobs")
    if given is None:
        raise NoLogprobs("the answer has no log-probabilities")
    try:
        if chat or "content" in given:
            rows = [(row["token"], row["logprob"]) for row in given["content"][0]["top_logprobs"]]
        else:
            rows = list(given["top_logprobs"][0].items())
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Garbage("the answer's log-probabilities are not in the form of the protocol") from None
    if not rows:
        raise NoLogprobs("the answer lists no log-probabilities")
    tokens = tuple((str(token), _logprob(value)) for token, value in rows)
    if math.fsum(math.exp(value) for _, value in tokens) > 1 + _SLACK:
        raise Garbage("the answer's log-probabilities are of no distribution")
    return tokens


def _logprob(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > _SLACK:
        raise Garbage("a log-probability in the answer is no number below zero")
    return min(float(value), 0.0)


def _echoed(found: dict[str, Any], choice: dict[str, Any]) -> Tokens:
    """The tokens of an echoed prompt; the first has no log-probability and is left out.

    Behind the prompt stands what was drawn: as many tokens as the server says, one (as asked for) where it does not.
    """
    given = choice.get("logprobs")
    if given is None:
        raise NoLogprobs("the answer has no log-probabilities")
    told = billed(found)
    drawn = told[1] if told else 1
    try:
        pairs = list(zip(given["tokens"], given["token_logprobs"], strict=True))
        return tuple((str(token), _logprob(value)) for token, value in pairs[1 : len(pairs) - drawn])
    except (KeyError, TypeError, ValueError):
        raise Garbage("the echoed prompt is not in the form of the protocol") from None


def _prompt(found: dict[str, Any], choice: dict[str, Any]) -> Tokens:
    """The tokens of `prompt_logprobs`, each of which may come with likelier ones; the first is left out."""
    rows = found.get("prompt_logprobs") or choice.get("prompt_logprobs")
    if rows is None:
        raise NoLogprobs("the answer has no log-probabilities of its prompt")
    try:
        # the prompt's own token comes first, whatever its rank
        own = [next(iter(row.values())) for row in rows[1:]]
        return tuple((str(one["decoded_token"]), _logprob(one["logprob"])) for one in own)
    except (KeyError, TypeError, AttributeError, StopIteration):
        raise Garbage("the prompt's log-probabilities are not in the form of the protocol") from None
