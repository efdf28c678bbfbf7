"""The bodies of calls: what a dialogue and a way of drawing become on the wire."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from constitutional.backends.endpoint.address import Address
from constitutional.backends.tokens import is_raw_text
from constitutional.records import Dialogue, Sampling, assistant, digest

TOP = 20
"""Alternatives a token is asked for: the most that OpenAI gives, and vLLM without being told."""

STOPS = 4
"""Stop sequences a call may hold; the others are cut at on our side."""

TEMPLATE_TOKENS, TURN_TOKENS = 64, 16
"""What a chat template adds at most to a call (a system message of its own) and to each of its turns."""

CONTINUING = ("vllm", "sglang", "llamacpp")
"""Servers, by the `owned_by` of their models, that continue a last message of the assistant."""

PLAIN = "Hello"

_CONTROL = re.compile(
    r"<(?=[|｜][^<>]{0,60}[|｜]>)|<(?=/?(?:s|bos|eos|pad|unk|mask|start_of_turn|end_of_turn)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])|<(?=</?SYS>>)",
    re.IGNORECASE,
)


_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Request:
    """One call: its path under the base URL, and its body."""

    chat: bool
    body: dict[str, Any]

    @property
    def path(self) -> str:
        """As OpenAI's batch files name it, behind `/v1`."""
        return "/chat/completions" if self.chat else "/completions"

    @property
    def key(self) -> str:
        """Digest of the question: what resume looks up. The server is part of what asks (`calls`)."""
        return digest([self.path, self.body])

    def to_json(self) -> str:
        """Path and body as one JSON line, ASCII only."""
        return json.dumps({"path": self.path, "body": self.body})

    @property
    def size(self) -> int:
        """Bytes of text that the model reads."""
        texts = [m["content"] for m in self.body["messages"]] if self.chat else [self.body["prompt"]]
        return sum(len(text.encode()) for text in texts)

    @property
    def most_tokens(self) -> int:
        """The most tokens that the model may read: no token is less than a byte, and a chat template adds its own."""
        turns = len(self.body["messages"]) if self.chat else 0
        return self.size + TEMPLATE_TOKENS + TURN_TOKENS * turns


def harmless(text: str) -> str:
    """Text whose control tokens are none any more: a space is put behind the first character of each.

    Servers turn a message's text into tokens themselves, and some take `<|im_end|>` in it for the end of the turn. Half
    a surrogate pair, which UTF-8 has no form for, becomes the replacement character.
    """
    return _CONTROL.sub(lambda match: match[0] + " ", _HALF.sub("\ufffd", text))


def completion_request(
    address: Address, dialogue: Dialogue, sampling: Sampling, seed: int, owner: str
) -> tuple[Request, str]:
    """The call that draws an answer, and the words the answer must begin with (to be cut off), mostly none.

    A server that does not continue the assistant's turn is asked in words to begin as the dialogue's opening does.
    """
    body: dict[str, Any] = {
        "model": address.model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed & 0x7FFFFFFF,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop[:STOPS])
    if sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    if is_raw_text(dialogue):
        return Request(False, body | {"prompt": harmless(dialogue[0].content)}), ""
    opened = dialogue[-1].role == "assistant" and len(dialogue) > 1
    if not opened or owner in CONTINUING:
        return Request(True, body | _messages(dialogue, owner)), ""
    opening = dialogue[-1].content.strip()
    messages = _messages(dialogue[:-1], owner)["messages"]
    asked = f"\n\nBegin your reply with exactly these words: {opening}"
    messages[-1] = {"role": "user", "content": messages[-1]["content"] + harmless(asked)}
    return Request(True, body | {"messages": messages}), opening


def top_request(address: Address, dialogue: Dialogue, owner: str) -> Request:
    """The call that lists the likeliest next tokens."""
    body: dict[str, Any] = {"model": address.model, "max_tokens": 1, "temperature": 0.0}
    if is_raw_text(dialogue):
        return Request(False, body | {"prompt": harmless(dialogue[0].content), "logprobs": TOP})
    return Request(True, body | _messages(dialogue, owner) | {"logprobs": True, "top_logprobs": TOP})


def prompt_request(address: Address, dialogue: Dialogue, continuation: str, owner: str) -> Request | None:
    """The call that tells the log-probabilities of a continuation's own tokens; None where the server has none."""
    body: dict[str, Any] = {"model": address.model, "max_tokens": 1, "temperature": 0.0}
    opened = dialogue[-1].role == "assistant"
    last = (dialogue[-1].content if opened else "") + continuation
    if is_raw_text(dialogue):
        how = {"prompt_logprobs": 0} if owner == "vllm" else {"echo": True, "logprobs": 1}
        return Request(False, body | {"prompt": harmless(last)} | how)
    if owner != "vllm":
        return None
    said = (
        *(dialogue[:-1] if opened else dialogue),
        assistant(last),
    )
    return Request(True, body | _messages(said, owner) | {"prompt_logprobs": 0})


def without_item(request: Request) -> Request:
    """The same call with nothing of its item in it: whether a server answers calls of this kind at all."""
    if not request.chat:
        return Request(False, request.body | {"prompt": PLAIN})
    roles = [message["role"] for message in request.body["messages"]]
    kept = [*(["system"] if roles[0] == "system" else []), "user", *(["assistant"] if roles[-1] == "assistant" else [])]
    return Request(True, request.body | {"messages": [{"role": role, "content": PLAIN} for role in kept]})


def _messages(dialogue: Dialogue, owner: str) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": m.role, "content": harmless(m.content)} for m in dialogue]}
    if dialogue[-1].role == "assistant" and owner in ("vllm", "sglang"):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body
