"""A model folder as one GGUF file, for llama.cpp, Ollama and openvino-genai: weights, tokenizer and chat template.

Llama (SmolLM2 among them) and Qwen2 are written. What such a file cannot say of a model (another activation, scaled
rotary positions, a sliding window, a tokenizer that is no byte-level BPE) is refused, not left out. Tensors are read,
turned and written one by one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from constitutional.backends.folders import check_model_folder
from constitutional.backends.gguf_tokenizer import write_tokenizer
from constitutional.backends.tokens import load_tokenizer
from constitutional.errors import BackendError, ConfigError, nearest

TYPES = {"f32": ("F32", "ALL_F32"), "f16": ("F16", "MOSTLY_F16"), "q8_0": ("Q8_0", "MOSTLY_Q8_0")}
"""What matrices can be stored as, by gguf's names of the type and of such files. Vectors are always float32."""

Progress = Callable[[int, int], None]
"""Called with tensors written, of how many."""

_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export_gguf(folder: Path, out: Path, kind: str = "f32", progress: Progress | None = None) -> None:
    """Writes a whole (merged) model folder as a GGUF file; the file gets its name when it is complete.

    Args:
        folder: config, safetensors and tokenizer.
        out: the file to write; one that is there is replaced.
        kind: what matrices are stored as, one of `TYPES`: `f32` loses nothing, `q8_0` takes a quarter of its room.
        progress: called after each tensor.

    Raises:
        ConfigError: unknown kind.
        BackendError: no model folder, or one whose model the file could not say rightly; the `gguf` package is missing.
    """
    if kind not in TYPES:
        raise ConfigError(f"unknown type '{kind}'{nearest(kind, TYPES)} (known: {', '.join(TYPES)})")
    config = check_exportable(folder)
    import gguf

    part = out.with_name(out.name + ".part")
    try:
        with ExitStack() as open_files:
            tensors = _tensors(folder, open_files)
            out.parent.mkdir(parents=True, exist_ok=True)
            writer = gguf.GGUFWriter(part, config["model_type"])
            _write_config(writer, config, folder.resolve().name, getattr(gguf.LlamaFileType, TYPES[kind][1]))
            write_tokenizer(writer, load_tokenizer(folder, str(folder)), config["vocab_size"])
            _write_tensors(writer, tensors, config, kind, progress)
            writer.close()
        part.replace(out)
    except OSError as error:
        raise BackendError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def check_exportable(folder: Path) -> dict[str, Any]:
    """The configuration of a model folder that can be exported.

    Raises:
        BackendError: no model folder, or one whose model the file could not say rightly; the `gguf` package is missing.
    """
    check_model_folder(folder, str(folder))
    if find_spec("gguf") is None:
        raise BackendError("writing GGUF needs one more package: pip install 'constitutional[gguf]'")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    problems = {
        f"model type '{config.get('model_type')}' (llama and qwen2 can)": config.get("model_type")
        not in ("llama", "qwen2"),
        f"activation '{config.get('hidden_act')}'": config.get("hidden_act") != "silu",
        "scaled rotary positions": rope.get("rope_type", rope.get("type", "default")) != "default",
        "a sliding window": bool(config.get("use_sliding_window")),
    }
    for problem, found in problems.items():
        if found:
            raise BackendError(f"{folder}: a model with {problem} cannot be exported to GGUF")
    return config


def _write_config(writer: Any, config: dict[str, Any], name: str, file_type: int) -> None:
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    width = config.get("head_dim") or hidden // heads
    rope = config.get("rope_parameters") or {}
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0))
    writer.add_rope_dimension_count(width)
    if width * heads != hidden:
        writer.add_key_length(width)
        writer.add_value_length(width)


def _tensors(folder: Path, open_files: ExitStack) -> dict[str, Any]:
    """Open safetensors by GGUF name: (file, its name there).

    Raises:
        BackendError: a tensor that no such model has: a score head, an adapter.
    """
    from safetensors import safe_open

    found = {}
    for path in _weight_files(folder):
        stored = open_files.enter_context(safe_open(path, framework="pt"))
        for name in stored.keys():  # noqa: SIM118
            layer = _LAYER.fullmatch(name)
            known = f"blk.{layer[1]}.{_PARTS[layer[2]]}.{layer[3]}" if layer and layer[2] in _PARTS else None
            if (target := _WHOLE.get(name) or known) is None:
                raise BackendError(f"{folder}: tensor '{name}' is of no whole language model: nothing exported")
            found[target] = (stored, name)
    return found


def _weight_files(folder: Path) -> list[Path]:
    """The files transformers would load: one whole one, else those the index names; others may be left from before."""
    if (whole := folder / "model.safetensors").is_file():
        return [whole]
    if (index := folder / "model.safetensors.index.json").is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / Path(name).name for name in sorted(names)]
    return sorted(folder.glob("*.safetensors"))


def _write_tensors(
    writer: Any, tensors: dict[str, Any], config: dict[str, Any], kind: str, progress: Progress | None
) -> None:
    import gguf
    import numpy as np

    if config.get("tie_word_embeddings"):
        tensors.pop("output.weight", None)
    shapes = {name: tuple(stored.get_slice(own).get_shape()) for name, (stored, own) in tensors.items()}
    types = {name: _type(shape, kind) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        numbers = {"F32": "float32", "F16": "float16"}.get(types[name].name, "uint8")
        stored_shape = gguf.quant_shape_to_byte_shape(shape, types[name]) if numbers == "uint8" else shape
        dtype = np.dtype(numbers)
        writer.add_tensor_info(name, stored_shape, dtype, math.prod(stored_shape) * dtype.itemsize, types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, name in enumerate(shapes, start=1):
        stored, own = tensors[name]
        values = stored.get_tensor(own).float().numpy()
        if config["model_type"] == "llama" and ".attn_q." in name:
            values = _interleaved(values, config["num_attention_heads"])
        if config["model_type"] == "llama" and ".attn_k." in name:
            values = _interleaved(values, config.get("num_key_value_heads") or config["num_attention_heads"])
        writer.write_tensor_data(gguf.quantize(values, types[name]))
        if progress is not None:
            progress(done, len(shapes))


def _type(shape: tuple[int, ...], kind: str) -> Any:
    from gguf import GGMLQuantizationType as Type

    if len(shape) == 1:
        return Type.F32
    return getattr(Type, TYPES[kind][0]) if kind != "q8_0" or shape[-1] % 32 == 0 else Type.F16


def _interleaved(values: Any, heads: int) -> Any:
    """Rows of a llama's query or key matrix as llama.cpp rotates them: neighbours in pairs, not halves of a head."""
    rows = values.shape[0]
    return values.reshape(heads, 2, rows // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
