"""GGUF to dense safetensors, once, so that transformers and TRL see an ordinary model folder.

transformers marks a model read from GGUF as quantised even when its weights are dense: it can then neither be saved
nor trained. Taking the mark off before saving is the whole trick; the copy reloads with identical logits.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import shutil
from pathlib import Path
from typing import Any

from constitutional.backends.catalog import EmbeddedModel
from constitutional.backends.routes import Progress
from constitutional.errors import BackendError

CONVERTER = 1  # raise it when the conversion changes: folders made by another version are converted anew
MANIFEST = "conversion.json"
WEIGHTS = "model.safetensors"


def converted(folder: Path, model: EmbeddedModel) -> bool:
    """True when `folder` holds a finished conversion of exactly this model by this converter."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        size = (folder / WEIGHTS).stat().st_size
    except (OSError, ValueError):
        return False
    expected = {"converter": CONVERTER, "source_sha256": model.sha256, "dtype": model.dtype, "weights_bytes": size}
    return isinstance(manifest, dict) and {k: manifest.get(k) for k in expected} == expected


def convert_file(source: Path, folder: Path, model: EmbeddedModel, progress: Progress) -> Path:
    """Writes the dense copy of a verified GGUF file; a finished one is kept as it is.

    The manifest is written last and the folder is renamed into place, so a folder with a manifest is whole.

    Args:
        source: the GGUF file, already verified.
        folder: where the copy shall stand.
        model: the catalog entry: dtype and end tokens.
        progress: called with ("convert", steps done, steps).

    Raises:
        BackendError: the `gguf` package is missing, or the file cannot be read as this model.
    """
    if converted(folder, model):
        return folder
    work = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True)
    versions = _write_dense(source, work, model, progress)
    manifest = {
        "converter": CONVERTER,
        "source_sha256": model.sha256,
        "dtype": model.dtype,
        "weights_bytes": (work / WEIGHTS).stat().st_size,
        "versions": versions,
    }
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    work.rename(folder)
    progress("convert", 3, 3)
    return folder


def _write_dense(source: Path, out: Path, model: EmbeddedModel, progress: Progress) -> dict[str, str]:
    try:
        import gguf
    except ImportError as error:
        raise BackendError("converting GGUF needs one more package: pip install 'constitutional[gguf]'") from error
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    quiet = contextlib.redirect_stderr(io.StringIO())  # one of the bars cannot be switched off
    try:
        progress("convert", 0, 3)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        with quiet:
            lm: Any = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=getattr(torch, model.dtype)
            )
        progress("convert", 1, 3)
        ends = [tokenizer.convert_tokens_to_ids(token) for token in model.end_tokens]
        _unmark_quantised(lm)
        lm.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends if len(ends) > 1 else ends[0],
            pad_token_id=tokenizer.pad_token_id,
        )
        lm.save_pretrained(out, max_shard_size="100GB")
        tokenizer.save_pretrained(out)
        progress("convert", 2, 3)
    except (ValueError, RuntimeError, KeyError, ImportError) as error:
        raise BackendError(f"{source.name} cannot be converted: {' '.join(str(error).split())[:300]}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    del lm
    gc.collect()
    return {"transformers": transformers.__version__, "torch": torch.__version__, "gguf": _version(gguf)}


def _unmark_quantised(lm: Any) -> None:
    """Tells transformers that the weights are dense, and names the class TRL has to load."""
    lm.hf_quantizer = None
    for attribute in ("is_quantized", "quantization_method"):
        lm.__dict__.pop(attribute, None)
    if hasattr(lm.config, "quantization_config"):
        del lm.config.quantization_config
    lm.config.architectures = [type(lm).__name__]


def _version(module: Any) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(module.__name__)
    except PackageNotFoundError:
        return "unknown"
