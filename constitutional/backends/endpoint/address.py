"""Where a served model is, what records call it, and where its key comes from: the environment and nowhere else."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from constitutional.errors import ConfigError, one_line

EXAMPLE = "openai:MODEL@BASE_URL, such as openai:my-model@http://127.0.0.1:8000/v1"
OPENAI_HOST = "api.openai.com"

TELLING = 16
"""Characters from which on a key is no word: shorter ones, such as `x` or `token`, stand in honest answers."""

HEADERS = "OPENAI_CUSTOM_HEADERS"
"""Of the environment: what the SDK adds to its calls, a line each."""


@dataclass(frozen=True)
class Address:
    """A model and the base URL of its server, without a slash at its end."""

    model: str
    base_url: str

    @property
    def identity(self) -> str:
        """What records call it: the model's name and a digest of the base URL."""
        return f"openai:{self.model}@{hashlib.sha256(self.base_url.encode()).hexdigest()[:8]}"

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.base_url).netloc.lower()


def parse_address(rest: str) -> Address:
    """What stands behind `openai:`, taken apart.

    Raises:
        ConfigError: no model, no http(s) URL, or a URL that holds more than a place: a user name, a password, a query.
            The URL is not repeated then, for it may hold a secret.
    """
    model, at, url = rest.rpartition("@")
    if "://" in model:
        raise ConfigError(f"openai: a base URL must not hold a user name or a password: keys come from the {_WHERE}")
    parts = _parts(url) if re.match(r"https?://[^/?#\s]", url) else None
    if not at or not model or parts is None or not parts.hostname or not url.isprintable() or " " in rest:
        raise ConfigError(f"unknown model spec: expected {EXAMPLE}")
    if parts.query or parts.fragment:
        raise ConfigError(f"openai: a base URL must not hold a query: keys come from the {_WHERE}")
    try:
        parts.port  # noqa: B018
    except ValueError:
        raise ConfigError(f"openai: the base URL's port is no port: expected {EXAMPLE}") from None
    if not model.isprintable():
        raise ConfigError(f"openai: a model's name must be printable: '{one_line(model)}'")
    return Address(model, url.rstrip("/"))


def _parts(url: str) -> SplitResult | None:
    """A URL taken apart; None where it cannot be, as with half a pair of brackets."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


_WHERE = "environment (CONSTITUTIONAL_KEY_HOST)"


def key_variable(address: Address) -> str:
    """The environment variable that holds the key for one server, named after its host and port."""
    return "CONSTITUTIONAL_KEY_" + re.sub(r"[^A-Z0-9]", "_", address.host.upper())


def is_environments(address: Address) -> bool:
    """Whether what the environment holds for OpenAI's client may go to a server: OpenAI's, or `OPENAI_BASE_URL`'s."""
    named = _parts(os.environ.get("OPENAI_BASE_URL", ""))
    return address.host in (OPENAI_HOST, named.netloc.lower() if named else "")


def api_key(address: Address) -> str | None:
    """The key for a server; None where there is none, as most servers of one's own need none.

    `OPENAI_API_KEY` is sent to OpenAI and to the host that `OPENAI_BASE_URL` names, and to no other: a recipe of a
    stranger cannot have it sent elsewhere.

    Raises:
        ConfigError: a header cannot hold the key. It is not repeated.
    """
    variable = key_variable(address)
    if not os.environ.get(variable) and is_environments(address):
        variable = "OPENAI_API_KEY"
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise ConfigError(f"{variable} is no key: it holds a line break, a blank or a character that no key has")
    return key or None


def secrets(address: Address) -> tuple[str, ...]:
    """What a call carries and nothing may show: the key, and of the environment's headers what is no word."""
    key, headers = api_key(address), os.environ.get(HEADERS, "") if is_environments(address) else ""
    values = " ".join(line.partition(":")[2] for line in headers.splitlines())
    return (*([key] if key else ()), *(word for word in values.split() if len(word) >= TELLING))


def telling_secrets(address: Address) -> tuple[str, ...]:
    """Those of them so long that a text that holds one can only repeat it; a shorter key may be a word of it."""
    return tuple(secret for secret in secrets(address) if len(secret) >= TELLING)


def key_hint(address: Address) -> str:
    """Which variable to set."""
    also = " (or OPENAI_API_KEY)" if address.host == OPENAI_HOST else ""
    return f"set {key_variable(address)}{also}"


def redacted(text: str, hidden: Iterable[str]) -> str:
    """The text without a call's secrets: a server may repeat what it was sent, and what it says is kept and shown."""
    for secret in hidden:
        text = text.replace(secret, "[key]")
    return text
