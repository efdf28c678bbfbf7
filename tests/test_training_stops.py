"""What stops a training in the middle: losses, rewards and weights that are no numbers, and rewards that say nothing.

The step is named, the checkpoint before stands, and what was to be replaced is not.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_tasks import PROMPTS, letters_source, policy_folder
from safetensors.torch import load_file
from training_tasks import TASKS
from trl import GRPOTrainer, RLOOTrainer

from constitutional.errors import TrainingError
from constitutional.settings import PpoSettings
from constitutional.training.checkpoints import MARKER, Checkpoints, newest
from constitutional.training.dpo import SoftDpoTrainer
from constitutional.training.ppo import stage
from constitutional.training.ppo.stage import train_ppo
from constitutional.training.preference_model import SoftRewardTrainer
from constitutional.training.rewards import Rewards, RewardSource, Scored
from constitutional.training.rl import train_rl
from constitutional.training.rows import RewardRow
from constitutional.training.sft import GroupedSftTrainer

BROKEN = [math.nan, math.inf]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return policy_folder(tmp_path_factory.mktemp("models"))


def breaks_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, damage: Any) -> None:
    """The `call`-th result of a function is damaged."""
    theirs, calls = getattr(owner, name), 0

    def called(*words: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        found = theirs(*words, **named)
        return damage(found) if calls == call else found

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize(
    ("task", "trainer", "calls_a_step", "value"),
    [
        ("sft", GroupedSftTrainer, 2, math.nan),
        ("sft", GroupedSftTrainer, 2, math.inf),
        ("pm", SoftRewardTrainer, 2, math.nan),
        ("dpo", SoftDpoTrainer, 2, math.nan),
        ("grpo", GRPOTrainer, 1, math.nan),
        ("rloo", RLOOTrainer, 1, math.nan),
    ],
)
def test_a_loss_that_is_no_number_stops_at_its_step_and_the_checkpoint_before_stands(
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    trainer: Any,
    calls_a_step: int,
    value: Any,
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    with monkeypatch.context() as patch:
        breaks_at(patch, trainer, "compute_loss", 4 * calls_a_step + 1, lambda loss: loss * value)
        said = rf"loss is ({value}|-{value}|nan) at step 5; nothing was saved; the checkpoint of step 4 is kept$"
        with pytest.raises(TrainingError, match=said):
            TASKS[task](policy, output=tmp_path / "model", checkpoints=checkpoints)
    assert not (tmp_path / "model").exists()
    found = newest(checkpoints)
    assert found is not None and found.step == 4
    if task == "sft":  # what broke it is gone: it goes on as if it had never been
        TASKS[task](policy, output=tmp_path / "model", checkpoints=checkpoints)
        TASKS[task](policy, output=tmp_path / "whole")
        one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "whole"))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_ppo_stops_at_a_loss_that_is_no_number(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks_at(monkeypatch, stage, "improve", 3, lambda found: {**found, "loss": math.nan})
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 3; nothing was saved; the checkpoint of step 2 is kept"
    ):
        TASKS["ppo"](policy, output=tmp_path / "model", checkpoints=checkpoints)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("task", ["sft", "ppo"])
def test_damaged_weights_are_kept_in_no_checkpoint(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """Weights may break in a step whose loss was sound; the loss of the next one would be too late to see it."""
    steps = 0
    optimiser = torch.optim.AdamW if task == "sft" else torch.optim.Adam
    theirs = optimiser.step

    def step(self: Any, *words: Any, **named: Any) -> Any:
        nonlocal steps
        steps += 1
        found = theirs(self, *words, **named)
        if steps == (4 if task == "sft" else 4 * 4):  # ppo: two epochs of two mini-batches
            self.param_groups[0]["params"][0].data.view(-1)[0] = math.nan
        return found

    monkeypatch.setattr(optimiser, "step", step)
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    said = r"weight \S+ is not finite after step 4; nothing was saved; the checkpoint of step 2 is kept"
    with pytest.raises(TrainingError, match=said):
        TASKS[task](policy, output=tmp_path / "model", checkpoints=checkpoints)
    assert newest(checkpoints).step == 2  # type: ignore[union-attr]


def source(kind: Any, values: Any) -> RewardSource:
    def score(prompts: Any, texts: Any) -> list[Scored]:
        return [Scored(value) for value in values(len(texts))]

    return RewardSource("odd@1.0.0", kind, "odd:model", 1.0, score)


@pytest.mark.parametrize("value", BROKEN)
def test_a_preference_models_broken_score_stops_the_run_and_a_checks_one_leaves_its_rollout_out(value: float) -> None:
    prompts = {prompt.id: prompt for prompt in PROMPTS}
    ids = [PROMPTS[0].id] * 3

    def values(count: int) -> list[float]:
        return [1.0, value, 2.0][:count]

    with pytest.raises(TrainingError, match=rf"^reward at step 7: odd@1.0.0 gave {value}$"):
        Rewards([source("preference_model", values)], prompts).reward(7, ids, ["a", "b", "c"])
    rows = Rewards([source("check", values)], prompts).reward(7, ids, ["a", "b", "c"])
    assert [row.score for row in rows] == [1.0, None, 2.0]
    assert rows[1].parts[0].error == f"the score is {value}"


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_list_of_rewards_of_the_wrong_length_stops_the_run(count: int) -> None:
    prompts = {prompt.id: prompt for prompt in PROMPTS}
    reward = Rewards([letters_source(), source("check", lambda _: [0.5] * count)], prompts)
    with pytest.raises(TrainingError, match=rf"^reward at step 2: odd@1.0.0 gave {count} scores for 2 rollouts$"):
        reward.reward(2, [PROMPTS[0].id] * 3, ["a", " ", "c"])


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_rewards_that_are_all_alike_teach_nothing_and_the_run_says_so(
    policy: Path, tmp_path: Path, algorithm: Any
) -> None:
    rows: list[RewardRow] = []
    with pytest.raises(TrainingError, match="no weight changed in 2 steps"):
        train_rl(
            PROMPTS,
            policy=policy,
            rewards=[source("check", lambda count: [0.5] * count)],
            output=tmp_path / "rl",
            algorithm=algorithm,
            steps=2,
            kl=0.0,
            generations=4,
            prompts_per_step=2,
            max_tokens=4,
            temperature=1.0,
            seed=0,
            trl={"bf16": False},
            on_reward=rows.extend,
        )
    assert len(rows) == 16 and {row.score for row in rows} <= {0.5, None}


def equal_ppo(policy: Path, output: Path, **given: Any) -> tuple[Any, list[dict[str, Any]]]:
    """PPO where every rollout is worth the same, and what it logged."""
    logs: list[dict[str, Any]] = []
    common = {"prompts_per_step": 2, "generations": 4, "max_tokens": 4, "temperature": 1.0, "kl": 0.0, "seed": 0}
    settings = PpoSettings(critic="policy", learning_rate=1e-3, epochs=1, **given.pop("own", {}))
    result = train_ppo(
        PROMPTS,
        policy=policy,
        rewards=[source("check", lambda count: [0.5] * count)],
        preference_model=None,
        output=output,
        settings=settings,
        on_log=logs.append,
        **common,
        **given,
    )
    return result, logs


def test_ppo_counts_steps_whose_rewards_are_all_alike(policy: Path, tmp_path: Path) -> None:
    """Its critic tells one place in an answer from another, so it goes on, and says so."""
    with pytest.raises(TrainingError, match="no weight changed in 1 steps"):  # undiscounted, every token is worth 0.5
        equal_ppo(policy, tmp_path / "rl", steps=1, own={"lam": 1.0})
    result, logs = equal_ppo(policy, tmp_path / "rl", steps=2)
    assert (result.groups, result.zero_spread_groups) == (2, 2)
    assert [row["reward_std"] for row in logs] == [0.0, 0.0] and [row["reward"] for row in logs] == [0.5, 0.5]


def test_a_folder_without_its_marker_is_no_checkpoint_and_is_removed(policy: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", 4)
    half = checkpoints.folder / "step-8"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half of it")
    assert newest(checkpoints) is None
    (half / MARKER).write_text('{"step": 8, "proc')
    assert newest(checkpoints) is None
    TASKS["sft"](policy, output=tmp_path / "model", checkpoints=checkpoints)
    found = newest(checkpoints)
    assert found is not None and found.step == 8 and (found.folder / "optimizer.pt").exists()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-8"]


def test_a_checkpoint_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "step-2"
    folder.mkdir()
    (folder / MARKER).write_text('{"step": 2, "processes": 4}')
    with pytest.raises(TrainingError, match="written by 4 processes and this is a launch of 1: launch as many again"):
        newest(Checkpoints(tmp_path, None))


def test_checkpoints_fall_on_steps_where_no_rollout_is_left_over() -> None:
    every = Checkpoints(Path("nowhere"), 3)
    assert [step for step in range(1, 13) if every.due(step, 12)] == [3, 6, 9]
    assert [step for step in range(1, 13) if every.due(step, 12, window=2)] == [4, 8]
    assert not any(Checkpoints(Path("nowhere"), None).due(step, 12) for step in range(1, 13))
