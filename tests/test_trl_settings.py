import pytest
from tiny_model import save_tiny_model
from trl import SFTConfig

from constitutional.errors import ConfigError
from constitutional.training import dpo, preference_model, rl, sft
from constitutional.training.trl_settings import CONFIGS, FIXED, HARD_ONLY, check_passed, trl_config

FP32 = {"bf16": False}


@pytest.mark.parametrize(
    ("passed", "message"),
    [
        ({"learning_rat": 1e-4}, r"trl\.learning_rat: unknown setting \(did you mean 'learning_rate'\?\)"),
        ({"zzz": 1}, r"trl\.zzz: unknown setting \(a field of SFTConfig\)"),
        ({"learning_rate": "fast"}, r"trl\.learning_rate: expected float, not 'fast'"),
        ({"max_steps": 2.5}, r"trl\.max_steps: expected int, not 2\.5"),
        ({"learning_rate": True}, r"trl\.learning_rate: expected float, not true"),
        ({"seed": 3}, r"trl\.seed: cannot be set here"),
        ({"output_dir": "x"}, r"trl\.output_dir: cannot be set here"),
        ({"lr_scheduler_type": "wavy"}, r"trl: .*wavy"),
    ],
)
def test_bad_trl_settings_are_one_clear_line(tmp_path, passed, message):
    with pytest.raises(ConfigError, match=message) as caught:
        trl_config(SFTConfig, tmp_path, fixed={"seed": 0}, defaults={}, passed=passed)
    assert "\n" not in str(caught.value)


def test_trl_settings_precedence_and_coercion(tmp_path):
    passed = {"learning_rate": "1e-6", "max_steps": "7", "report_to": "none", "bf16": "no"}
    args = trl_config(
        SFTConfig, tmp_path, fixed={"seed": 3}, defaults={"max_length": 99, "max_steps": 1}, passed=passed
    )
    assert (args.learning_rate, args.max_steps, args.bf16, args.max_length, args.seed) == (1e-6, 7, False, 99, 3)
    assert (args.logging_nan_inf_filter, str(args.save_strategy.value)) == (False, "no")


@pytest.mark.parametrize("name", ["logging_steps", "logging_strategy", "save_strategy", "save_only_model"])
def test_what_resuming_stands_on_cannot_be_set(tmp_path, name):
    value = {"logging_steps": 10, "save_only_model": True}.get(name, "epoch")
    with pytest.raises(ConfigError, match=rf"^trl\.{name}: cannot be set here"):
        trl_config(SFTConfig, tmp_path, fixed={}, defaults={}, passed={name: value})


def test_telemetry_is_off_by_default(tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(hub, "HF_HUB_DISABLE_TELEMETRY", False)
    trl_config(SFTConfig, tmp_path, fixed={}, defaults={}, passed=FP32)
    assert hub.HF_HUB_DISABLE_TELEMETRY


def test_two_names_of_one_switch_do_not_clash(tmp_path):
    args = trl_config(SFTConfig, tmp_path, fixed={}, defaults={}, passed={**FP32, "gradient_checkpointing": True})
    assert args.gradient_checkpointing
    assert not trl_config(SFTConfig, tmp_path, fixed={}, defaults={}, passed=FP32).gradient_checkpointing


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_a_training_sets_itself_is_what_the_check_before_it_refuses(tmp_path, monkeypatch, kind):
    class Built(Exception):
        pass

    def built(config_class, folder, *, fixed, **given):
        raise Built(config_class.__name__, set(fixed))

    save_tiny_model(tmp_path / "policy", context=512)
    common = {"output": tmp_path / "out", "seed": 3}
    for module in (sft, dpo, preference_model, rl):
        monkeypatch.setattr(module, "trl_config", built)
    with pytest.raises(Built) as found:
        if kind in ("sft", "best_of_n"):  # which fine-tunes by it
            sft.train_sft([], model=tmp_path / "policy", **common)
        elif kind == "dpo":
            dpo.train_dpo([], policy=tmp_path / "policy", beta=0.1, labels="soft", **common)
        elif kind == "pm":
            preference_model.train_preference_model([], [], model=tmp_path / "policy", **common)
        else:
            sizes = {"steps": 1, "kl": 0.1, "generations": 2, "prompts_per_step": 1, "max_tokens": 4}
            policy = {"policy": tmp_path / "policy", "temperature": 1.0, "rewards": []}
            rl.train_rl([], algorithm=kind, **policy, **sizes, **common)
    soft = set(HARD_ONLY) if kind == "dpo" else set()
    assert found.value.args == (CONFIGS[kind], {*FIXED[kind], *soft})
    for name in found.value.args[1]:
        with pytest.raises(ConfigError, match=rf"^x\.trl\.{name}: "):
            check_passed(kind, {name: None}, key="x.trl", fixed=soft)
