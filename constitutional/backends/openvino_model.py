"""A GGUF file translated for OpenVINO once, with its tokenizer, and kept in the cache beside the other models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from constitutional.backends.embedded import cache_folder
from constitutional.errors import BackendError

TRANSLATOR = 1  # raise it when the layout of the folder changes
MANIFEST = "translation.json"


@dataclass(frozen=True)
class Prepared:
    """A folder the engine can open, and what has to be known of the model."""

    folder: Path
    context: int
    """Tokens the model was made for."""
    stop_ids: tuple[int, ...]
    """Tokens that end a turn; the first is the tokenizer's own."""

    def tokenizer(self) -> Any:
        """The transformers tokenizer saved in the folder."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)


def prepare(source: Path, sha256: str, engine: str, end_tokens: Sequence[str]) -> Prepared:
    """Translates a GGUF file for the engine, or finds the translation made before.

    The manifest is written last and the folder renamed into place, so a folder with a manifest is whole.

    Args:
        source: the GGUF file.
        sha256: its digest; names the folder.
        engine: the engine's version; another version makes its own folder.
        end_tokens: tokens that end a turn besides the tokenizer's own.

    Raises:
        BackendError: the engine or transformers cannot read the file, or it cannot be kept.
    """
    base = cache_folder() / "openvino"
    folder = base / f"{sha256[:16]}-{engine}-{TRANSLATOR}"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f"{folder.name}.lock"):
            if not (folder / MANIFEST).is_file():
                _translate(source, folder, end_tokens)
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Prepared(folder, int(known["context"]), tuple(known["stop_ids"]))
    except OSError as error:
        raise BackendError(f"{source.name} cannot be translated into {base}: {error.strerror or error}") from error


def _translate(source: Path, folder: Path, end_tokens: Sequence[str]) -> None:
    work = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True)
    link = work / "model.gguf"
    link.symlink_to(source.resolve())  # the engine writes its files beside the GGUF it reads
    known = _save_tokenizer(link, work, end_tokens)
    _check_types(link)
    _save_engine_files(link)
    link.unlink()
    (work / MANIFEST).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    work.rename(folder)


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
    return {"context": int(getattr(config, "max_position_embeddings", 2048)), "stop_ids": stop_ids}


def _check_types(link: Path) -> None:
    """Release 2026.4 says of such a file only "Unsupported quantization type", after having read all of it."""
    import gguf

    tensors = gguf.GGUFReader(link).tensors
    if any(len(one.shape) > 1 and one.tensor_type == gguf.GGMLQuantizationType.F32 for one in tensors):
        raise BackendError(
            f"{link.resolve().name}: the engine reads no matrices in f32: export the model with `--type f16`"
        )


def _save_engine_files(link: Path) -> None:
    import openvino_genai

    try:
        openvino_genai.LLMPipeline(link, "CPU", enable_save_ov_model=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise BackendError(f"the engine cannot read {link.resolve().name}: {reason}") from error
    if not (link.parent / "openvino_model.xml").is_file():
        raise BackendError(f"the engine saved no translation of {link.resolve().name}")
