"""The model folder behind a spec, and the spec that has another engine write from it."""

from __future__ import annotations

from pathlib import Path

from constitutional.backends.embedded import converted_folder
from constitutional.errors import ConfigError, TrainingError


def weights_of(spec: str) -> Path:
    """The model folder behind a spec.

    Raises:
        TrainingError: a scripted or openvino model, which cannot be trained.
    """
    kind, _, rest = spec.partition(":")
    if kind == "embedded":
        return converted_folder(rest)
    if kind == "local":
        return Path(rest)
    raise TrainingError(f"{spec} cannot be trained: a policy is local: or embedded:")


def through_openvino(spec: str) -> str:
    """The spec under which openvino writes from the weights of a local or embedded model.

    Raises:
        ConfigError: no weights in a folder here.
    """
    kind, _, rest = spec.partition(":")
    if kind not in ("local", "embedded") or (kind == "local" and not Path(rest).is_dir()):
        raise ConfigError(f"policy_engine: openvino writes from a model folder or an embedded model, not from {spec}")
    return f"openvino:{weights_of(spec)}"
