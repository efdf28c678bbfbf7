"""A real HTTP server that speaks the completions protocol, answers from a script, and fails as it is told to.

A fault is drawn from a hash of the request and of how often it was asked, so that it does not depend on timing.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

from api_tokens import DRAWN, echoed, prompt_logprobs, rows_of
from recipes import MODEL

from constitutional.backends.scripted import ScriptedBackend
from constitutional.errors import BackendError
from constitutional.records import Message, Sampling, digest, seed_for

TRANSPORT = (
    "429",
    "429_after",
    "429_date",
    "500",
    "502",
    "503",
    "529",
    "reset_before",
    "reset_after",
    "cut",
    "stall",
    "drip",
)
GARBAGE = ("html", "broken_json", "no_choices", "null_content", "wrong_schema", "charset", "nan", "no_logprobs", "huge")
FAULTS = (*TRANSPORT, *GARBAGE)
REASONS = {400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests", 500: "Internal Server Error"}


class Server:
    """Listens on a free port of this machine while the `with` block lasts."""

    def __init__(self, script: Path, *, owner: str = "vllm", latency: float = 0.0, key: str | None = None) -> None:
        self.path, self.script, self.owner, self.latency = script, ScriptedBackend(script), owner, latency
        self.key = key
        self.share, self.kinds, self.salt = 0.0, FAULTS, 0
        self.always: tuple[str, str] | None = None
        """A fault, and the text in a request that always meets it."""
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.planted: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.usage = True
        self.places, self.cuts = 0, []
        """Bodies are cut at so many places in turn, if not at a hash's; (where, of how many bytes) they were."""
        self.busy = self.most_busy = self.connections = 0
        self.too_early = 0
        self.hold = self.expected = self.lonely = 0
        """Calls are answered only while `hold` are under way, of `expected` in all; `lonely` ones gave up waiting."""
        self._not_before: dict[str, float] = {}

    def __enter__(self):
        self._loop, self._gate = asyncio.new_event_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda loop, context: None)  # connections that end with the test
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *error):
        async def end():
            self._server.close()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def forget(self) -> None:
        for counter in (self.asked, self.answered, self.planted):
            counter.clear()
        self.bodies.clear()
        self.most_busy = self.too_early = 0
        self.hold = self.expected = self.lonely = 0

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def _one(self, reader, writer) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        path = head[0].split()[1].removeprefix("/v1")
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            said = f"Incorrect API key provided: {headers.get('authorization')}"
            return await self._send(writer, 401, _error(said, "invalid_api_key"))
        if path == "/models":
            listed = {"data": [{"id": "m", "owned_by": self.owner}]}
            return await self._send(writer, 200, json.dumps(listed).encode())
        body = json.loads(raw)
        key = digest([path, body])
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            return await self._answer(writer, path, body, key)
        finally:
            self.busy -= 1

    async def _answer(self, writer, path, body, key) -> bool:
        self.too_early += time.time() < self._not_before.pop(key, 0.0)
        self.asked[key] += 1
        self.bodies.append(body)
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.hold:
            await self._together()
        fault = self._fault(key, body)
        if fault:
            self.planted[fault] += 1
            return await self._fail(fault, writer, path, body, key)
        self.answered[key] += 1
        return await self._send(writer, 200, json.dumps(self.reply(path, body)).encode())

    async def _together(self) -> None:
        """Waits until `hold` calls are under way, or as many as there still are to answer."""
        gate = self._gate
        if self.busy >= min(self.hold, self.expected - sum(self.answered.values())):
            self._gate = asyncio.Event()
            gate.set()
            return
        try:
            await asyncio.wait_for(gate.wait(), 100)
        except TimeoutError:
            self.lonely += 1

    def _fault(self, key, body) -> str | None:
        if self.always and self.always[1] in json.dumps(body):
            return self.always[0]
        draw = seed_for(self.salt, key, self.asked[key]) / 2**63
        if draw >= self.share:
            return None
        kind = seed_for(self.salt, "kind", key, self.asked[key])
        found = self.kinds[kind % len(self.kinds)]
        return (
            "502" if found in ("stall", "drip") and kind // 1000 % 8 else found
        )  # slow ones are rare: each costs a timeout

    async def _fail(self, fault, writer, path, body, key) -> bool:
        good = json.dumps(self.reply(path, body)).encode()
        if fault.isdigit() and fault not in ("200",):
            return await self._send(writer, int(fault), _error("planted", ""))
        if fault == "429_after":
            self._not_before[key] = time.time() + 0.2
            return await self._send(writer, 429, _error("planted", ""), {"Retry-After": "0.2"})
        if fault == "429_date":
            then = math.floor(time.time()) + 1
            self._not_before[key] = then - 0.01
            return await self._send(writer, 429, _error("planted", ""), {"Retry-After": formatdate(then, usegmt=True)})
        if fault == "401":
            return await self._send(writer, 401, _error("planted", ""))
        if fault == "reset_before":
            writer.transport.abort()
            return False
        if fault == "stall":
            await asyncio.sleep(30)
            return False
        if fault in ("reset_after", "cut", "drip"):
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(good)}\r\n\r\n".encode()
            sent = 0 if fault == "reset_after" else seed_for(self.salt, key, "cut") % len(good)
            if fault == "cut" and self.places:  # from the first byte to the last but one
                sent = len(self.cuts) % self.places * (len(good) - 1) // (self.places - 1)
                self.cuts.append((sent, len(good)))
            writer.write(head + (b"" if fault == "drip" else good[:sent]))
            await writer.drain()
            for byte in good if fault == "drip" else b"":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.1)
            writer.transport.abort() if fault == "reset_after" else writer.close()
            return False
        reply = self.reply(path, body)
        choice = reply["choices"][0]
        if fault == "filtered":
            choice["finish_reason"] = "content_filter"
        if fault == "no_choices":
            reply["choices"] = []
        if fault == "null_content":
            choice.update(text=None, message={"role": "assistant", "content": None})
        if fault == "wrong_schema":
            reply = {"object": "list", "choices": {"message": "A"}}
        if fault == "nan" and choice.get("logprobs"):
            _spoil(choice["logprobs"], math.nan)
        elif fault == "no_logprobs" and choice.get("logprobs"):
            choice["logprobs"] = None
        elif fault in ("nan", "no_logprobs"):
            choice["finish_reason"] = None
        spoiled = json.dumps(reply).encode()
        if fault == "html":
            spoiled = b"<html><body>502 Bad Gateway. The answer is A.</body></html>"
        if fault == "broken_json":
            spoiled = good[: len(good) // 2]
        if fault == "charset":
            spoiled = json.dumps(reply).replace("assistant", "\xe9ssistant").encode("latin-1") + b"\xff"
        if fault == "huge":
            spoiled = good[:-1] + b" " * (9 << 20) + b"}"
        return await self._send(writer, 200, spoiled)

    async def _send(self, writer, status, body, headers=None) -> bool:
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'X')}", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()
        return True

    def reply(self, path, body) -> dict:
        """The right answer to a request."""
        if path == "/chat/completions":
            dialogue = tuple(Message(role=m["role"], content=m["content"]) for m in body["messages"])
        else:
            dialogue = (Message(role="assistant", content=body["prompt"]),)
        choice: dict = {"index": 0, "finish_reason": "stop"}
        text, used, more = "A", 1, {}
        if body.get("echo"):
            drawn = DRAWN[seed_for(0, body["prompt"]) % len(DRAWN)]
            choice["logprobs"] = echoed(rows_of(self.script, dialogue), drawn)
            text = body["prompt"] + drawn
        elif "prompt_logprobs" in body:  # of a dialogue at its top, of a text in its choice
            told = {"prompt_logprobs": prompt_logprobs(rows_of(self.script, dialogue))}
            more, choice = (told, choice) if path == "/chat/completions" else ({}, choice | told)
        elif body.get("logprobs") and path == "/completions" and body["prompt"].endswith("The answer is:"):
            rows = {" (": -0.03, " the": -5.0, "\n": -6.0}
            choice["logprobs"] = {"tokens": [" ("], "token_logprobs": [-0.03], "top_logprobs": [rows]}
        elif body.get("logprobs"):
            options = (" A", " B")
            if any("Yes or No" in m.content for m in dialogue):
                options = (" Yes", " No")
            try:
                told = self.script.loglikelihood([dialogue], [options])[0].logprobs
            except BackendError:  # a text without two answers, which the script has no rule for
                told = (math.log(0.4),) * 2
            rows = [*zip(options, told, strict=True), (" the", -9.0), ("\n", -11.0)]
            if path == "/chat/completions":
                listed = [{"token": t, "logprob": v, "bytes": None} for t, v in rows]
                choice["logprobs"] = {"content": [{"token": " A", "logprob": told[0], "top_logprobs": listed}]}
            else:
                choice["logprobs"] = {"tokens": [" A"], "token_logprobs": [told[0]], "top_logprobs": [dict(rows)]}
        else:
            sampling = Sampling(
                temperature=body["temperature"], max_tokens=body["max_tokens"], seed=body.get("seed", 0)
            )
            done = self.script.generate([dialogue], sampling)[0]
            text, used = done.text, done.completion_tokens
            marker = "Begin your reply with exactly these words: "
            if marker in dialogue[-1].content:
                text = dialogue[-1].content.partition(marker)[2] + text
            choice["finish_reason"] = done.finish_reason
        choice |= {"message": {"role": "assistant", "content": text}} if path == "/chat/completions" else {"text": text}
        read = sum(len(m.content.split()) for m in dialogue)
        usage = {"prompt_tokens": read, "completion_tokens": used, "total_tokens": read + used}
        said = {"model": "m-2026", "system_fingerprint": "fp_1", "choices": [choice], **more}
        return said | {"usage": usage} if self.usage else said


@contextmanager
def scripted_server(folder: Path) -> Iterator[Server]:
    """A server that plays the model of the small recipe, whose script is written to the folder."""
    (folder / "model.yaml").write_text(MODEL.format(delay=0))
    with Server(folder / "model.yaml") as server:
        yield server


def without_keys(monkeypatch) -> None:
    """Whoever runs the tests may have a key for a real server, and its address, in the environment."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def with_short_pauses(monkeypatch) -> None:
    """Hardly a pause before a call is tried again; no keys either."""
    monkeypatch.setattr("constitutional.backends.endpoint.asking.FIRST_PAUSE", 0.02)
    without_keys(monkeypatch)


def _spoil(logprobs, value) -> None:
    if "content" in logprobs:
        logprobs["content"][0]["top_logprobs"][0]["logprob"] = value
    else:
        logprobs["top_logprobs"][0][" A"] = value


def _error(message, code) -> bytes:
    return json.dumps({"error": {"message": message, "code": code}}).encode()
