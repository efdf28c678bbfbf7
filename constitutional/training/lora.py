"""LoRA settings (Hu et al. 2021), checked by PEFT's own dataclass; PEFT is an optional extra."""

from __future__ import annotations

from typing import Any, Literal

from constitutional.errors import ConfigError
from constitutional.training.trl_settings import Settings, checked_fields

ALIASES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}
TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]


def lora_config(passed: Settings | None, task_type: TaskType) -> Any:
    """A `peft.LoraConfig` from a mapping of its fields (`alpha` and `dropout` for short), or None when there is none.

    All linear layers are adapted unless `target_modules` says otherwise. The task type is ours: without `SEQ_CLS` the
    head of a preference model would be neither trained nor saved.

    Raises:
        ConfigError: PEFT is not installed, or a setting it does not know.
    """
    if passed is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise ConfigError("lora: needs the peft library; install it with: pip install 'constitutional[lora]'") from None
    named = {ALIASES.get(name, name): value for name, value in passed.items()}
    given = checked_fields(LoraConfig, named, key="lora")
    if "task_type" in given:
        raise ConfigError("lora.task_type cannot be set here: the stage sets it")
    try:
        return LoraConfig(**{"r": 16, "lora_alpha": 32, "target_modules": "all-linear", **given}, task_type=task_type)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora: {' '.join(str(error).split())}") from error
