"""One `trl:` mapping, checked by TRL's own dataclass; none of its fields is restated here.

Order of precedence: a stage's own arguments (`fixed`) cannot be overridden, the user's mapping comes next, then the
stage's defaults, then the defaults below, then TRL's.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub.constants as hub
import torch
from pydantic import TypeAdapter, ValidationError

from constitutional.backends.cpu import fast_dtype
from constitutional.errors import ConfigError, nearest
from constitutional.processes import processes

Scalar = str | int | float | bool | None
Settings = Mapping[str, Scalar | list[Any] | dict[str, Any]]
Config = TypeVar("Config")

OURS: dict[str, object] = {
    # every step's figures are kept: a resumed training's must be those of one that was not interrupted
    "logging_strategy": "steps",
    "logging_steps": 1,
    # checkpoints are ours (`checkpoint_every`), with all that a training goes on from
    "save_strategy": "no",
    "save_only_model": False,
    "resume_from_checkpoint": None,
    "ignore_data_skip": False,
}
"""Fields that no stage and no recipe sets."""


def trl_config(
    config_class: type[Config],
    output_dir: str | Path,
    *,
    fixed: Mapping[str, object],
    defaults: Mapping[str, object],
    passed: Settings | None = None,
) -> Config:
    """Builds a TRL config from a stage's settings and the user's `trl:` mapping.

    Args:
        config_class: one of those in `CONFIGS`.
        output_dir: where TRL may write while it trains.
        fixed: fields the stage sets from its own arguments; naming one in `passed` is refused.
        defaults: fields the stage prefers; `passed` overrides them.
        passed: the user's mapping. Text is read as the field's type (YAML reads `1e-6` as text).

    Raises:
        ConfigError: an unknown field (with the nearest one), a fixed one, or a value TRL refuses.
    """
    silence_telemetry()
    given = checked_fields(config_class, passed or {}, key="trl")
    _refuse_fixed(given, fixed, key="trl")
    common = _common_defaults()
    if "gradient_checkpointing" in given:
        del common["activation_checkpointing"]  # two names of one switch
    if given.get("fp16"):
        common["bf16"] = False
    chosen = {**common, **defaults, **given, **OURS, **fixed}
    if processes() > 1:
        chosen |= shared_batch(config_class, chosen, processes())
    try:
        return config_class(output_dir=str(output_dir), **chosen)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trl: {_one_line(error)}") from error


CONFIGS = {
    "sft": "SFTConfig",
    "best_of_n": "SFTConfig",
    "pm": "RewardConfig",
    "dpo": "DPOConfig",
    "grpo": "GRPOConfig",
    "rloo": "RLOOConfig",
}
"""TRL's config of each kind of training that has a `trl:` mapping."""

_SFT = ("seed", "packing", "completion_only_loss")
_ROLLOUTS = (
    "max_steps",
    "beta",
    "num_generations",
    "max_completion_length",
    "temperature",
    "seed",
    "gradient_accumulation_steps",
    "shuffle_dataset",
    "chat_template_kwargs",
)
FIXED: dict[str, tuple[str, ...]] = {
    "sft": _SFT,
    "best_of_n": _SFT,
    "pm": ("seed",),
    "dpo": ("seed", "beta", "precompute_ref_log_probs", "disable_dropout"),
    "grpo": _ROLLOUTS,
    "rloo": _ROLLOUTS,
}
"""The fields that each of them sets from its own arguments."""

HARD_ONLY: dict[str, object] = {
    "loss_type": ["sigmoid"],
    "f_divergence_type": "reverse_kl",
    "ld_alpha": None,
    "use_weighting": False,
    "label_smoothing": 0.0,
}
"""Of DPO: other losses have no soft form, so that under soft labels these fields are ours, too."""


def check_passed(training: str, passed: Settings, *, key: str, fixed: Collection[str] = ()) -> None:
    """What can be known of a `trl:` mapping before the training begins, which may be hours later.

    Args:
        training: of `CONFIGS`.
        passed: the user's mapping.
        key: what to call it in an error.
        fixed: fields that the training sets besides those in `FIXED`.

    Raises:
        ConfigError: an unknown field (with the nearest one), a value of another type, or a field the training sets.
    """
    silence_telemetry()
    import trl

    given = checked_fields(getattr(trl, CONFIGS[training]), passed, key=key)
    _refuse_fixed(given, (*FIXED[training], *fixed), key=key)


def _refuse_fixed(given: Collection[str], fixed: Collection[str], *, key: str) -> None:
    for name in ("output_dir", *OURS, *fixed):
        if name in given:
            raise ConfigError(f"{key}.{name}: cannot be set here: the stage sets it from its own arguments")


def shared_batch(config_class: Any, chosen: Mapping[str, Any], processes: int) -> dict[str, int]:
    """The sizes for each of several processes, so that a step is over as many rows as it is in one process.

    What a recipe trains must not depend on the launch: a stage is known by its settings alone.

    Args:
        config_class: holds the sizes that are not chosen.
        chosen: the settings of one process.
        processes: how many there are.

    Raises:
        ConfigError: they cannot share a step's rows out evenly.
    """
    preset = {field.name: field.default for field in fields(config_class)}
    micro, rounds = (
        int(chosen.get(name, preset[name])) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    if micro * rounds % processes:
        raise ConfigError(
            f"trl: a step of {micro * rounds} rows (per_device_train_batch_size x gradient_accumulation_steps) cannot "
            f"be shared by {processes} processes"
        )
    share = micro * rounds // processes
    size = max(n for n in range(1, min(micro, share) + 1) if share % n == 0)
    sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": share // size}
    if chosen.get("steps_per_generation") is not None:
        drawn = int(chosen["steps_per_generation"]) * micro
        if drawn % (processes * size):
            raise ConfigError(
                f"trl.steps_per_generation: {drawn} rows drawn at once cannot be shared by {processes} processes "
                f"of {size} rows at a time"
            )
        sizes["steps_per_generation"] = drawn // (processes * size)
    return sizes


def checked_fields(dataclass: type, passed: Mapping[str, object], *, key: str) -> dict[str, Any]:
    """`passed` with every name known to `dataclass` and every value of its field's type.

    Args:
        dataclass: the class whose fields are legal.
        passed: names and values as a YAML file gives them.
        key: what to call the mapping in an error.

    Raises:
        ConfigError: an unknown name, with the nearest one, or a value of another type.
    """
    hints = typing.get_type_hints(dataclass)
    legal = [field.name for field in fields(dataclass) if field.init]
    checked = {}
    for name, value in passed.items():
        if name not in legal:
            close = nearest(name, legal)
            hint = close if "did you mean" in close else f" (a field of {dataclass.__name__})"
            raise ConfigError(f"{key}.{name}: unknown setting{hint}")
        checked[name] = _coerced(value, hints[name], f"{key}.{name}")
    return checked


def silence_telemetry() -> None:
    """Turns TRL's telemetry off unless the user has set HF_HUB_DISABLE_TELEMETRY."""
    if "HF_HUB_DISABLE_TELEMETRY" not in os.environ:
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        hub.HF_HUB_DISABLE_TELEMETRY = True  # the constant was read from the environment at import


def _common_defaults() -> dict[str, object]:
    return {
        "use_cpu": not torch.cuda.is_available(),
        # Weights and optimiser state stay float32; only matrix products are rounded. That pays on a GPU and on AMX
        # units; elsewhere a step gets slower, even where the CPU knows bfloat16 (docs/LOG.md).
        "bf16": fast_dtype() == "bfloat16",
        "activation_checkpointing": False,
        "logging_nan_inf_filter": False,  # the filter would report a NaN loss as the last good one
        "report_to": "none",
        "disable_tqdm": True,
    }


def _coerced(value: object, kind: Any, name: str) -> object:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    allowed = {kind, *typing.get_args(kind)}
    if isinstance(value, bool) and bool not in allowed:
        raise ConfigError(f"{name}: expected {_kind_name(kind)}, not {str(value).lower()}")
    try:
        result = adapter.validate_python(value)
    except ValidationError:
        raise ConfigError(f"{name}: expected {_kind_name(kind)}, not {value!r}") from None
    return result


def _kind_name(kind: Any) -> str:
    return getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind).replace("typing.", "")  # type: ignore[return-value]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
