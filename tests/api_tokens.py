"""What servers tell of a prompt's own tokens, from the likelihoods of a script: `echo` and vLLM's `prompt_logprobs`."""

from __future__ import annotations

import re

from constitutional.backends import Backend
from constitutional.records import Dialogue, Message

OPTIONS = (" (A)", " (B)")
SHARES = (0.5, 0.3, 0.2)
"""Of an option's log-probability: what its three tokens get."""

DRAWN = ("\n", " Human", ")", " (A)")
"""What is drawn behind a prompt, in turn: white space, and tokens that look like the end of an option."""

Row = tuple[str, float]


def rows_of(script: Backend, dialogue: Dialogue) -> list[Row]:
    """The tokens of a dialogue's last message with their log-probabilities; the first has none."""
    text = dialogue[-1].content
    rows = [(token, -1.0 - 0.01 * len(token)) for token in re.findall(r"\s?\w+|\s?[^\w\s]|\s", text)]
    if text.endswith(OPTIONS):
        option = text[-len(OPTIONS[0]) :]
        asked = (*dialogue[:-1], Message(role=dialogue[-1].role, content=text.removesuffix(option)))
        told = script.loglikelihood([asked], [OPTIONS])[0].logprobs[OPTIONS.index(option)]
        rows[-3:] = [(token, share * told) for (token, _), share in zip(rows[-3:], SHARES, strict=True)]
    assert "".join(token for token, _ in rows) == text
    return rows


def echoed(rows: list[Row], drawn: str) -> dict:
    """`logprobs` of a completion with `echo`: the prompt's tokens, and then what was drawn."""
    tokens = [token for token, _ in rows] + [drawn]
    offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    values = [None, *(value for _, value in rows[1:]), -0.7]
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}


def prompt_logprobs(rows: list[Row]) -> list:
    """As vLLM lists them: nothing of the first token, and of each other its id, rank and text."""
    told = [{str(i): {"logprob": v, "rank": 1, "decoded_token": t}} for i, (t, v) in enumerate(rows)]
    return [None, *told[1:]]
