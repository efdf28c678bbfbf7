"""Weights that lie in parts over processes (FSDP2, ZeRO-3): what has to put them together, and what is refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from recipes import write_recipe
from rl_tasks import PROMPTS, SMALL, letters_source, policy_folder
from tiny_scorer import save_tiny_scorer
from torch import nn
from training_tasks import preference_rows, watching
from transformers import AutoModelForSequenceClassification

from constitutional.config import load_recipe
from constitutional.errors import ConfigError, TrainingError
from constitutional.pipeline import check_recipe, run_recipe
from constitutional.pipeline.inputs import load_inputs
from constitutional.pipeline.preflight import check_launch
from constitutional.training import launches, preference_model, rl
from constitutional.training.guards import WeightWatch, require_finite
from constitutional.training.preference_model import train_preference_model
from constitutional.training.rl import train_rl
from constitutional.training.scoring import score_ids
from constitutional.training.session import bare_model

ROWS = [[5, 6, 7, 8, 9, 10, 11, last] for last in range(12, 20)]


@pytest.fixture
def one_process() -> Iterator[Any]:
    """A launch of one process, whose weights lie in one part."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        torch.distributed.destroy_process_group()


def opened(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


def sharded(network: Any, mesh: Any) -> Any:
    """As `accelerate` prepares a model for FSDP2: each layer a part of its own, the rest one of the outermost."""
    from torch.distributed.fsdp import fully_shard

    for layer in network.base_model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(network, mesh=mesh)


def test_a_classifier_in_parts_gives_the_scores_of_the_whole_one(tmp_path: Path, one_process: Any) -> None:
    folder = save_tiny_scorer(tmp_path / "pm")
    network = sharded(opened(folder), one_process)
    trainer = SimpleNamespace(model=network, is_fsdp_enabled=True, is_deepspeed_enabled=False)
    assert bare_model(trainer) is network
    found = score_ids(network, ROWS, pad=network.config.pad_token_id, whole=False)
    assert found == pytest.approx(score_ids(opened(folder), ROWS, pad=network.config.pad_token_id), abs=1e-5)
    assert len({round(score, 3) for score in found}) > 4


def test_weights_in_parts_are_watched_whole(tmp_path: Path, one_process: Any) -> None:
    folder = save_tiny_scorer(tmp_path / "pm")
    watch, network = WeightWatch(opened(folder)), sharded(opened(folder), one_process)
    with pytest.raises(TrainingError, match="no weight changed"):
        watch.check(network, steps=1)
    with torch.no_grad():
        network.score.weight.mul_(2)
    watch.check(network, steps=1)
    require_finite(network, 1)
    with torch.no_grad():
        network.score.weight.mul_(float("nan"))
    with pytest.raises(TrainingError, match=r"score\.weight is not finite"):
        watch.check(network, steps=1)
    with pytest.raises(TrainingError, match=r"score\.weight is not finite"):
        require_finite(network, 1)


def test_weights_that_deepspeed_keeps_elsewhere_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(3, 2)
    watch, elsewhere = WeightWatch(layer), {}

    @contextmanager
    def gathered(parameters: Sequence[Any]) -> Iterator[None]:
        for parameter in parameters:
            parameter.data = elsewhere[parameter.ds_id]
        yield
        for parameter in parameters:
            parameter.data = torch.empty(0)

    zero = ModuleType("deepspeed.zero")
    zero.GatheredParameters = gathered  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    monkeypatch.setitem(sys.modules, "deepspeed.zero", zero)
    for number, parameter in enumerate(layer.parameters()):
        elsewhere[number], parameter.ds_id = parameter.data, number  # type: ignore[attr-defined]
        parameter.data = torch.empty(0)
    with pytest.raises(TrainingError, match="no weight changed"):
        watch.check(layer, steps=1)
    elsewhere[0] = elsewhere[0] + 1
    watch.check(layer, steps=1)
    elsewhere[1] = elsewhere[1] * float("nan")
    with pytest.raises(TrainingError, match="bias is not finite"):
        watch.check(layer, steps=1)
    with pytest.raises(TrainingError, match="bias is not finite"):
        require_finite(layer, 1)


def test_a_preference_model_in_parts_is_asked_by_its_own_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def scores(network: Any, *given: Any, **named: Any) -> list[float]:
        asked.append(named.get("whole"))
        return score_ids(network, *given, **named)

    monkeypatch.setattr(preference_model, "in_parts", lambda trainer: True)
    monkeypatch.setattr(preference_model, "score_ids", scores)
    trl = {"max_steps": 1, "learning_rate": 0.01, "bf16": False}
    rows = preference_rows(4)
    train_preference_model(rows, [], model=policy_folder(tmp_path), output=tmp_path / "pm", seed=0, trl=trl)
    assert asked == [False]


def test_a_watch_over_weights_in_parts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl, "in_parts", lambda trainer: True)
    named: dict[str, Any] = {**SMALL, "rewards": [letters_source()], "algorithm": "rloo", "watching": watching()}
    with pytest.raises(ConfigError, match=r"rl\.watch: .* launch with MULTI_GPU"):
        train_rl(PROMPTS, policy=policy_folder(tmp_path), output=tmp_path / "rl", **named)
    assert not (tmp_path / "rl").exists()


STAGES = {"sft": "revise, helpful, sft", "pm": "sample, gate, judge, label, pm", "rl": "rl"}
CHECKED = "rewards: [{kind: check}]"


def recipe_of(folder: Path, step: str, *sets: str) -> tuple[Path, list[str]]:
    """A recipe that ends with a training, and the settings that make it one."""
    return write_recipe(folder / "in"), [f"stages=[{STAGES[step]}]", "policy=local:policy", *sets]


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
@pytest.mark.parametrize(
    ("step", "setting", "line"),
    [
        ("sft", "sft={lora: {}}", f"sft.lora: {launches.ADAPTERS}"),
        ("pm", "pm={lora: {}}", f"pm.lora: {launches.ADAPTERS}"),
        ("rl", f"rl={{lora: {{}}, {CHECKED}}}", f"rl.lora: {launches.ADAPTERS}"),
        ("rl", f"rl={{algorithm: ppo, ppo: {{critic: head}}, {CHECKED}}}", launches.PPO),
        ("rl", f"rl={{watch: {{}}, {CHECKED}}}", launches.WATCH),
    ],
)
def test_what_a_launch_cannot_train_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, step: str, setting: str, line: str
) -> None:
    recipe, sets = recipe_of(tmp_path, step, setting)
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError) as caught:
        run_recipe(load_recipe(recipe, sets), recipe, tmp_path / "run")
    assert str(caught.value) == line and "\n" not in line and not (tmp_path / "run").exists()


def test_a_probe_is_refused_under_deepspeed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, sets = recipe_of(tmp_path, "pm", "pm={head: probe}")
    inputs = load_recipe(recipe, sets)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_launch(inputs, ["pm"])
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=re.escape(launches.PROBE)):
        check_launch(inputs, ["pm"])
    with pytest.raises(ConfigError, match=re.escape(launches.PROBE)):
        train_preference_model([], [], model=tmp_path, output=tmp_path / "pm", seed=0, head="probe")


@pytest.mark.parametrize(
    ("shared_out", "step", "setting"),
    [("true", "sft", "sft={}"), ("false", "sft", "sft={lora: {}}"), ("true", "sft", "pm={lora: {}}")],
)
def test_what_a_launch_can_train_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_out: str, step: str, setting: str
) -> None:
    """Full fine-tunes in parts, adapters by DDP, and adapters of a step that this run does not make."""
    recipe, sets = recipe_of(tmp_path, step, setting)
    policy_folder(recipe.parent)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", shared_out)
    check_recipe(load_inputs(load_recipe(recipe, sets), recipe))
