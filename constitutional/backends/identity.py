"""What a model is called in records: its spec, a digest of its weights and the number type, never a folder's place.

Computed without opening the model, so that a finished run is recognised in seconds.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from constitutional.backends.specs import split_spec


def identify(spec: str, dtype: str) -> str:
    """The exact identity of the model a spec names; equal to the opened backend's `model`.

    Raises:
        ConfigError: unknown kind of spec or embedded name.
        BackendError: a scripted or openvino model that is not there.
    """
    kind, rest = split_spec(spec)
    if kind == "scripted":
        from constitutional.backends.scripted import ScriptedBackend

        return ScriptedBackend(rest).model
    if kind == "openvino":
        from constitutional.backends import openvino

        return str(openvino.identity(rest))
    if kind == "embedded":
        from constitutional.backends import embedded

        return f"embedded:{embedded.identity(rest)}/{dtype}"
    name = Path(rest).resolve().name if Path(rest).exists() else rest
    return f"local:{name}@{weights_digest(rest)}/{dtype}"


def weights_digest(source: str) -> str:
    """sha256 (first 16 hex digits) over a folder's safetensors and tokenizer; for a hub id, its commit."""
    folder = Path(source)
    if folder.is_dir():
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer.json")])
        stamps = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
        return _files_digest(stamps)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError):
        return "unknown"  # opening the model says what is wrong with it
    return str(getattr(config, "_commit_hash", None) or "unversioned")[:16]


@lru_cache(maxsize=64)
def _files_digest(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Digest of files; sizes and times are in the arguments so that a rewritten file is read again."""
    total = hashlib.sha256()
    for path, _, _ in stamps:
        total.update(os.path.basename(path).encode())  # noqa: PTH119
        with open(path, "rb") as stream:  # noqa: PTH123
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
