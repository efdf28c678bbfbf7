"""A GGUF file or a model folder translated for OpenVINO once, and kept with its tokenizer beside the other models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from constitutional.backends.embedded import cache_folder
from constitutional.backends.gguf_export import export_gguf
from constitutional.backends.tokens import context_of, generation_config, load_tokenizer, stop_ids
from constitutional.errors import BackendError

TRANSLATOR = 2  # raise it when the layout of the folder changes
MANIFEST = "translation.json"
FOLDER_TYPE = "f16"
"""What the matrices of a model folder are stored as: of the types the engine reads, the one that loses least."""

_Fill = Callable[[Path, Path], dict[str, Any]]
"""Puts a GGUF file at the first path and a tokenizer into the second; gives what the manifest says of the model."""


@dataclass(frozen=True)
class Prepared:
    """A folder the engine can open, and what has to be known of the model."""

    folder: Path
    context: int
    """Tokens the model was made for."""
    stop_ids: tuple[int, ...]
    """Tokens that end a turn; the first is the tokenizer's own."""
    kv_bytes: int
    """Bytes that keys and values of one token take, in 16 bits."""

    def tokenizer(self) -> Any:
        """The transformers tokenizer saved in the folder."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)


def prepare(source: Path, sha256: str, engine: str, end_tokens: Sequence[str]) -> Prepared:
    """Translates a GGUF file for the engine, or finds the translation made before.

    Args:
        source: the GGUF file.
        sha256: its digest; names the folder.
        engine: the engine's version; another version makes its own folder.
        end_tokens: tokens that end a turn besides the tokenizer's own.

    Raises:
        BackendError: the engine or transformers cannot read the file, or it cannot be kept.
    """
    return _prepared(sha256[:16], source.name, engine, partial(_take_file, source, end_tokens))


def prepare_folder(source: Path, digest: str, engine: str) -> Prepared:
    """Translates a model folder (config, safetensors, tokenizer), or finds the translation made before.

    Args:
        source: the folder; it is exported to GGUF on the way.
        digest: of the files that shape its answers; names the folder of the translation.
        engine: as for `prepare`.

    Raises:
        BackendError: a model that GGUF files of ours cannot say rightly, or as `prepare`.
    """
    return _prepared(f"{digest}-{FOLDER_TYPE}", source.name, engine, partial(_take_folder, source))


def translations() -> list[Path]:
    """The folders of all translations that are kept, of trained models, too."""
    return sorted(path.parent for path in (cache_folder() / "openvino").glob(f"*/{MANIFEST}"))


def _prepared(key: str, called: str, engine: str, fill: _Fill) -> Prepared:
    base = cache_folder() / "openvino"
    folder = base / f"{key}-{engine}-{TRANSLATOR}"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f"{folder.name}.lock"):
            if not (folder / MANIFEST).is_file():
                _translate(called, folder, fill)
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Prepared(folder, int(known["context"]), tuple(known["stop_ids"]), int(known["kv_bytes"]))
    except OSError as error:
        raise BackendError(f"{called} cannot be translated into {base}: {error.strerror or error}") from error


def _translate(called: str, folder: Path, fill: _Fill) -> None:
    """The manifest is written last and the folder renamed into place, so a folder with a manifest is whole."""
    work = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True)
    file = work / "model.gguf"
    try:
        known = fill(file, work)
        _save_engine_files(file, called)
        file.unlink()
        (work / MANIFEST).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # half a translation is as large as a whole one


def _take_folder(source: Path, file: Path, work: Path) -> dict[str, Any]:
    from transformers import AutoConfig

    export_gguf(source, file, FOLDER_TYPE)
    tokenizer = load_tokenizer(source, str(source))
    config = AutoConfig.from_pretrained(str(source))
    tokenizer.save_pretrained(work)
    stops = stop_ids(generation_config(str(source), config), tokenizer)  # as when the folder is opened in torch
    stops.sort(key=lambda one: one != tokenizer.eos_token_id)
    return {"context": context_of(config), "stop_ids": stops, "kv_bytes": _kv_bytes(config)}


def _kv_bytes(config: Any) -> int:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * 2 * int(config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width)


def _take_file(source: Path, end_tokens: Sequence[str], link: Path, work: Path) -> dict[str, Any]:
    link.symlink_to(source.resolve())  # the engine writes its files beside the GGUF it reads
    known = _save_tokenizer(link, work, end_tokens)
    _check_types(link)
    return known


def _save_tokenizer(link: Path, work: Path, end_tokens: Sequence[str]) -> dict[str, Any]:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise BackendError("reading GGUF needs one more package: pip install 'constitutional[gguf]'") from error
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(link.parent, gguf_file=link.name)
        config = AutoConfig.from_pretrained(link.parent, gguf_file=link.name)
    except (ValueError, RuntimeError, KeyError) as error:
        raise BackendError(
            f"{link.resolve().name}: no usable tokenizer: {' '.join(str(error).split())[:200]}"
        ) from error
    tokenizer.save_pretrained(work)
    ids = [tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(token) for token in end_tokens)]
    stop_ids = list(dict.fromkeys(int(i) for i in ids if i is not None))
    if not stop_ids:
        raise BackendError(f"{link.resolve().name} names no end-of-sequence token")
    return {"context": context_of(config), "stop_ids": stop_ids, "kv_bytes": _kv_bytes(config)}


def _check_types(link: Path) -> None:
    """Release 2026.4 says of such a file only "Unsupported quantization type", after having read all of it."""
    import gguf

    tensors = gguf.GGUFReader(link).tensors
    if any(len(one.shape) > 1 and one.tensor_type == gguf.GGMLQuantizationType.F32 for one in tensors):
        raise BackendError(
            f"{link.resolve().name}: the engine reads no matrices in f32: export the model with `--type f16`"
        )


def _save_engine_files(file: Path, called: str) -> None:
    import openvino_genai

    try:
        openvino_genai.LLMPipeline(file, "CPU", enable_save_ov_model=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise BackendError(f"the engine cannot read {called}: {reason}") from error
    if not (file.parent / "openvino_model.xml").is_file():
        raise BackendError(f"the engine saved no translation of {called}")
