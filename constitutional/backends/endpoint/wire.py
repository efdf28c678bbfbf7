"""One attempt: a body sent through the openai SDK, which is told not to retry, and the bytes that came back.

The whole attempt has one time limit, so that a server which sends a byte a second holds nobody up, and a size limit.
What the server said in an error is freed of the key before anybody sees it; a good body is, once it is parsed: a short
key may be a word of it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any

from constitutional.backends.endpoint.address import Address, api_key, is_environments, key_hint, redacted, secrets
from constitutional.backends.endpoint.faults import Fault, Garbage, Rejected, no_logprobs
from constitutional.backends.endpoint.refusals import TOO_LONG, brief, is_unpaid, rejection, said
from constitutional.backends.endpoint.requests import Request
from constitutional.errors import BackendError

MAX_BODY = 8 << 20  # bytes: a thousand times the longest answer
OVERLOADED = (429, 503, 529)
GATEWAY = (502, 504)
"""What stands in front of a server says that it is not there, or not yet."""
NO_LIST = (401, 403, 501)
PASSING = (408, 409, 425, *OVERLOADED)
NEEDS = "models behind an API need the extra `api`: pip install 'constitutional[api]'"

Meaning = Callable[[Any, Address], Exception]
"""What an error of the SDK means, of the server at an address."""


def require_extra() -> None:
    """Says at once what a run would need later.

    Raises:
        BackendError: a package of the extra `api` is missing.
    """
    for package in ("openai", "tenacity", "aiolimiter"):
        if find_spec(package) is None:
            raise BackendError(f"{NEEDS} ({package} is missing)")


def open_client(address: Address, connections: int) -> Any:
    """A client of the SDK that retries nothing and holds this server's key only.

    The SDK reads headers of its own from the environment (`OPENAI_CUSTOM_HEADERS`), often a gateway's secrets: they go
    where OPENAI_API_KEY may go, and never in our key's place.

    Raises:
        BackendError: the SDK is missing.
        ConfigError: the key cannot be one.
    """
    require_extra()
    import httpx2
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    key = api_key(address)
    ours = {"Authorization": f"Bearer {key}"} if key else {}  # said outright, it wins over the environment's
    client = AsyncOpenAI(
        api_key=key or "none",
        base_url=address.base_url,
        max_retries=0,
        timeout=None,  # ours is around the whole attempt
        default_headers=ours,
        http_client=DefaultAsyncHttpxClient(limits=limits, timeout=None),
    )
    if not is_environments(address):
        client._custom_headers = ours  # no argument keeps the SDK from adding them
    if address.host != "api.openai.com":
        client.organization = client.project = None  # the environment's are OpenAI's business
    return client


async def send(client: Any, address: Address, request: Request, seconds: float) -> bytes:
    """The body of the answer, whole within so many seconds.

    Raises:
        Fault, Garbage, Rejected: what went wrong with this attempt.
        BackendError: what no further attempt, and no other call, can mend.
    """
    rest = {name: value for name, value in request.body.items() if name not in ("model", "messages", "prompt")}
    model = request.body["model"]
    if request.chat:
        create = client.chat.completions.with_streaming_response.create
        opened = create(model=model, messages=request.body["messages"], extra_body=rest)
    else:
        opened = client.completions.with_streaming_response.create(
            model=model, prompt=request.body["prompt"], extra_body=rest
        )
    return await _received(opened, address, seconds)


async def models(client: Any, address: Address, seconds: float) -> bytes:
    """The server's list of models. Raises as `send`, and Rejected where the server has none for us.

    A key need not be allowed to list models: a bad one fails at the next call, which says so. A server that is
    overloaded, still loads its model, or is not there behind its gateway, is waited for: what made it decides how all
    else is asked.
    """
    return await _received(client.models.with_streaming_response.list(), address, seconds, _unlisted)


async def _received(opened: Any, address: Address, seconds: float, meaning: Meaning | None = None) -> bytes:
    import httpx2
    import openai

    body = bytearray()
    try:
        async with asyncio.timeout(seconds), opened as response:
            async for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_BODY:
                    raise Garbage(f"the answer is longer than {MAX_BODY} bytes")
    except openai.APIStatusError as error:
        raise (meaning or _refused)(error, address) from None
    except TimeoutError:
        raise Fault(f"no whole answer within {seconds:g} s") from None
    except (openai.APIConnectionError, httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        cause = error.__cause__ or error
        reason = brief(redacted(str(cause) or type(cause).__name__, secrets(address)))
        raise Fault(f"{address.host} cannot be reached, or broke off: {reason}") from None
    return bytes(body)


def _refused(error: Any, address: Address) -> Exception:
    """What an HTTP status other than 200 means; it is judged by what the server says, and shown without secrets."""
    status, headers = error.status_code, error.response.headers
    told = said(error.body, error.response.text)
    low, shown = brief(told).lower(), brief(redacted(told, secrets(address)))
    place = f"{address.host} says {status}: {shown}"
    pause = retry_after(headers)
    if is_unpaid(status, told, asks_to_wait=pause > 0):
        mend = "the proxy on the way lets us through" if status == 407 else "the account has credit"
        return BackendError(f"{place}; resume when {mend}", retryable=True)
    if status in PASSING or status >= 500:
        return Fault(place, overloaded=status in OVERLOADED, retry_after=pause)
    if status == 401:
        return BackendError(f"{place}; {key_hint(address)}", retryable=True)
    if status == 403:
        return BackendError(f"{place}; the key may not use {address.model}: {key_hint(address)}", retryable=True)
    if status in (404, 405):
        return BackendError(f"{place}; is '{address.model}' the model's name, and {address.host} the base URL's host?")
    if "logprob" in low and not any(sign in low for sign in TOO_LONG):
        return no_logprobs(f"openai:{address.model}")
    return rejection(told, status, "the server", shown)


def _unlisted(error: Any, address: Address) -> Exception:
    """What it means that a server gives no list of models: only a few attempts are worth a server's own fault."""
    status = error.status_code
    if status in NO_LIST:
        return Rejected("no_list", f"{address.host} gives no list of models: {status}")
    if status >= 500 and status not in (*OVERLOADED, *GATEWAY):
        return Garbage(f"{address.host} gives no list of models: {status}")
    return _refused(error, address)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds a server asks to be left alone, from `Retry-After` (seconds or a date) or `retry-after-ms`; 0 if none."""
    exact, told = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    seconds = exact / 1000 if exact is not None else _number(told)
    if seconds is None and told is not None:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            seconds = None
    return max(0.0, seconds or 0.0)


def _number(text: str | None) -> float | None:
    """The number a header holds; None where it holds none."""
    try:
        found = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None
