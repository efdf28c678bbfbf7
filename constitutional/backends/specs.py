"""Model specs: `KIND:NAME` strings, and how each model's text is drawn unless the recipe says otherwise."""

from __future__ import annotations

from constitutional.backends.endpoint.address import parse_address
from constitutional.errors import ConfigError, nearest
from constitutional.records import Sampling

KINDS = ("local", "embedded", "openvino", "openai", "vllm", "scripted")

# chosen by reading transcripts (docs/LOG.md): a 135M model is incoherent from temperature 0.5 on
_DEFAULTS = {
    "smollm2-135m": Sampling(temperature=0.2, top_p=0.9, repetition_penalty=1.1, max_tokens=96),
    "qwen2.5-coder-1.5b": Sampling(temperature=0.7, top_p=0.8, repetition_penalty=1.05, max_tokens=96),
}


def split_spec(spec: str) -> tuple[str, str]:
    """`kind:rest` taken apart.

    Raises:
        ConfigError: no such kind, with the nearest one.
    """
    kind, colon, rest = spec.partition(":")
    if kind == "openai":
        parse_address(rest)  # an error of its own that does not repeat the text: it may hold a secret
    if kind in KINDS and not rest:  # also of a kind without its colon
        raise ConfigError(f"unknown model spec '{spec}': expected {kind}:NAME")
    if kind not in KINDS:  # a bare name is near to a kind by chance only
        hint = nearest(kind, KINDS) if colon else f" (known: {', '.join(KINDS)})"
        raise ConfigError(f"unknown model spec '{spec}': expected KIND:NAME{hint}")
    return kind, rest


def default_sampling(spec: str) -> Sampling:
    """How the model's text is drawn by default: its own setting for embedded models, temperature 1 for others."""
    kind, rest = split_spec(spec)
    if kind == "scripted":
        return Sampling(temperature=0.0, max_tokens=96)
    return _DEFAULTS.get(rest, Sampling(temperature=1.0, max_tokens=128))
