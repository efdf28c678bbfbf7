"""What a model is called in records: its spec, a digest of its files and the number type, never a folder's place.

Computed without opening the model, so that a finished run is recognised in seconds.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from constitutional.backends.cpu import resolved_dtype
from constitutional.backends.endpoint.address import parse_address
from constitutional.backends.folders import check_model_folder, is_hub_id
from constitutional.backends.specs import split_spec
from constitutional.errors import BackendError

SHAPING = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "chat_template.*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""The files of a model folder that shape what it answers: another template asks another question."""


def identify(spec: str, dtype: str) -> str:
    """The exact identity of the model a spec names; equal to the opened backend's `model`.

    Args:
        spec: as for `open_backend`.
        dtype: likewise; "auto" is resolved, so the identity says what is computed in.

    Raises:
        ConfigError: unknown kind of spec or embedded name.
        BackendError: a model that is not there, or a folder that is no model folder.
    """
    kind, rest = split_spec(spec)
    if kind == "scripted":
        from constitutional.backends.scripted import ScriptedBackend

        return ScriptedBackend(rest).model
    if kind == "openvino":
        from constitutional.backends import openvino

        return str(openvino.identity(rest, dtype))
    if kind == "openai":
        return parse_address(rest).identity
    dtype = resolved_dtype(dtype)
    if kind == "vllm":
        from constitutional.backends import vllm

        return vllm.identity(rest, dtype)
    if kind == "embedded":
        from constitutional.backends import embedded

        return f"embedded:{embedded.identity(rest)}/{dtype}"
    name = Path(rest).resolve().name if Path(rest).exists() else rest
    return f"local:{name}@{weights_digest(rest, spec)}/{dtype}"


def weights_digest(source: str, name: str) -> str:
    """sha256 (first 16 hex digits) over the files of a folder that shape its answers; for a hub id, its commit.

    Args:
        source: a model folder or a hub id.
        name: the spec it was asked for by, used in messages.

    Raises:
        BackendError: no model folder, and no model that the hub or its cache gives.
    """
    if not is_hub_id(source):
        check_model_folder(source, name)
        files = sorted({f for pattern in SHAPING for f in Path(source).glob(pattern) if f.is_file()})
        return _files_digest(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BackendError(
            f"{name}: '{source}' is not a model folder (no config.json), nor a model the hub gives: {reason}"
        ) from error
    return str(getattr(config, "_commit_hash", None) or "unversioned")[:16]


@lru_cache(maxsize=64)
def _files_digest(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Digest of files; sizes and times are in the arguments so that a rewritten file is read again."""
    total = hashlib.sha256()
    for path, _, _ in stamps:
        total.update(os.path.basename(path).encode() + b"\0")  # noqa: PTH119
        with open(path, "rb") as stream:  # noqa: PTH123
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
