"""Watched runs of each algorithm that samples, on a tiny model against a preference model that can be gamed.

`Gamed` is the planted flaw: it likes digits, and the digits 7, 8 and 9 six times as much again. `Honest`, which
nothing is optimised against, likes digits too, but not answers made of those three: its score rises, then falls to 0.4.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from rl_tasks import PROMPTS, SMALL, policy_folder, prompt
from safetensors.torch import load_file

from constitutional.settings import PpoSettings
from constitutional.settings.watch import WatchRule, WatchSettings
from constitutional.training.ppo.stage import train_ppo
from constitutional.training.rewards import RewardSource, Scored, by_preference_model
from constitutional.training.rl import train_rl
from constitutional.training.watch.probe import Watch

ASKED = [prompt(f"What about {i}?") for i in range(64)]


def share(text, characters):
    return sum(c in characters for c in text) / len(text)


class Gamed:
    model = "pm-gamed"

    def score(self, dialogues):
        return [share(d[-1].content, "0123456789") + 6 * share(d[-1].content, "789") for d in dialogues]


class Honest:
    model = "pm-honest"

    def score(self, dialogues):
        texts = [d[-1].content for d in dialogues]
        return [1 + 0.6 * share(t, "0123456789") - 1.2 * share(t, "789") ** 2 for t in texts]


class Varied:
    """Likes different characters: no two rollouts are worth the same, so that every step moves the weights."""

    model = "pm-varied"

    def score(self, dialogues):
        return [float(len(set(d[-1].content))) + len(d[-1].content) / 7 for d in dialogues]


VARIED = [by_preference_model(Varied())]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    torch.set_num_threads(1)
    return policy_folder(tmp_path_factory.mktemp("models"))


def train(algorithm, policy, output, rate=4e-3, trl=None, **given):
    common = {**SMALL, "policy": policy, "output": output, **given}
    if algorithm == "ppo":
        own = PpoSettings(critic="policy", learning_rate=rate, critic_learning_rate=rate, epochs=2, micro_batch=32)
        return train_ppo(PROMPTS, preference_model=None, settings=own, **common)
    fields = {"bf16": False, "learning_rate": rate, "lr_scheduler_type": "constant", **(trl or {})}
    return train_rl(PROMPTS, algorithm=algorithm, trl=fields, **common)


def game(algorithm, policy, output, seed, *rules):
    """A run against `Gamed`, and what its probes found by step."""
    logs = []
    watching = Watch(
        WatchSettings(every=1, prompts=64, canaries=0, temperature=1.0, heldout="member", rules=rules),
        ASKED,
        heldout=[by_preference_model(Honest())],
    )
    result = train(
        algorithm, policy, output, rewards=[by_preference_model(Gamed())], watching=watching, on_log=logs.append,
        steps=40, kl=0.001, generations=8, prompts_per_step=4, max_tokens=4, seed=seed,
        trl={"per_device_train_batch_size": 32},
    )  # fmt: skip
    return result, {row["step"]: row for row in logs if "probe/heldout_reward" in row}


FALL = WatchRule(figure="probe/heldout_reward", fall_share=0.03)


@pytest.fixture(scope="module")
def stopped(policy, tmp_path_factory):
    """The run of each algorithm under the rule, made once."""
    return cache(lambda algorithm: game(algorithm, policy, tmp_path_factory.mktemp("games") / "rl", 0, FALL))


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_a_gamed_preference_model_is_left_before_a_tenth_is_lost(stopped, algorithm):
    result, probes = stopped(algorithm)
    heldout = [row["probe/heldout_reward"] for row in probes.values()]
    assert result.watch.stopped_step == result.steps == max(probes) < 40
    assert result.watch.end.startswith(f"stopped at step {result.steps} of 40: probe/heldout_reward")
    assert 0.9 * max(heldout) < heldout[-1] < 0.97 * max(heldout)
    assert probes[result.steps]["probe/reward"] > probes[0]["probe/reward"] + 0.3  # the reward tells the opposite
    assert probes[result.steps]["probe/gap"] > 0.3
    assert [event.action for event in result.watch.events] == ["stop"]


def test_nobody_would_have_noticed(policy, stopped, tmp_path):
    """The control: the same run without the rule, which until then is the same to the last bit."""
    result, alone = game("ppo", policy, tmp_path / "alone", 0)
    _, probes = stopped("ppo")
    heldout = [row["probe/heldout_reward"] for row in alone.values()]
    assert result.watch.end is None and result.watch.events == () and len(alone) == 41
    assert heldout[-1] < 0.6 * max(heldout) and alone[40]["probe/reward"] == max(
        r["probe/reward"] for r in alone.values()
    )
    assert all(alone[step] == row for step, row in probes.items())


def light(heldout=None, *rules, every=1, **more):
    return Watch(
        WatchSettings(
            every=every, prompts=16, canaries=0, temperature=1.0, heldout="judge" if heldout else None, rules=rules
        ),
        ASKED[:16],
        heldout=[heldout] if heldout else [],
        **more,
    )


def told_beforehand(values):
    """A held-out source that says these numbers, one a probe."""
    left = list(values)

    def score(prompts, texts):
        value = left.pop(0)
        return [Scored(value) for _ in texts]

    return RewardSource("kind@1.0.0", "judge", "a judge", 1.0, score)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_watching_changes_no_bit(policy, tmp_path, algorithm):
    train(algorithm, policy, tmp_path / "alone", rewards=VARIED)
    rows = []
    result = train(algorithm, policy, tmp_path / "watched", rewards=VARIED, watching=light(on_answers=rows.extend))
    alone, watched = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "watched"))
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    assert result.watch.probes == 3 and [row.step for row in rows] == [0] * 16 + [1] * 16 + [2] * 16
    assert [row.prompt_id for row in rows[:16]] == [p.id for p in ASKED[:16]]
    train(algorithm, policy, tmp_path / "again", rewards=VARIED, watching=light())
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(alone[name], again[name]) for name in alone)


@pytest.mark.parametrize(("algorithm", "lora"), [("grpo", None), ("ppo", None), ("ppo", {"r": 4, "alpha": 8})])
def test_rollback_saves_the_best_probe(policy, tmp_path, algorithm, lora):
    rule = WatchRule(figure="probe/heldout_reward", fall=0.5, action="rollback")
    watching = light(told_beforehand([1.0, 2.0, 3.0, 2.0]), rule)
    result = train(algorithm, policy, tmp_path / "rl", rewards=VARIED, watching=watching, steps=6, lora=lora)
    assert (result.steps, result.watch.saved_step, result.watch.best_value) == (3, 2, 3.0)
    train(algorithm, policy, tmp_path / "two", rewards=VARIED, steps=2, lora=lora)
    saved, two, start = (load_file(f / "model.safetensors") for f in (tmp_path / "rl", tmp_path / "two", policy))
    assert all(torch.equal(saved[name], two[name]) for name in two)
    assert any(not torch.equal(saved[name], start[name]) for name in start)


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_rollback_to_the_start_saves_the_start(policy, tmp_path, algorithm):
    rule = WatchRule(figure="probe/heldout_reward", fall=0.5, action="rollback")
    watching = light(told_beforehand([1.0, 0.0]), rule)
    result = train(algorithm, policy, tmp_path / "rl", rewards=VARIED, watching=watching)
    assert (result.steps, result.watch.saved_step) == (1, 0)
    saved, start = (load_file(folder / "model.safetensors") for folder in (tmp_path / "rl", policy))
    assert all(torch.equal(saved[name], start[name]) for name in start)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_lowered_rate_stays_lower(policy, tmp_path, algorithm):
    logs, events = [], []
    rule = WatchRule(figure="kl", above=1e-9, action="lower_lr", factor=0.25)
    trl = {"lr_scheduler_type": "linear"} if algorithm == "grpo" else None
    result = train(
        algorithm, policy, tmp_path / "rl", rewards=VARIED, 
        watching=light(None, rule, on_event=events.append),
        on_log=logs.append, steps=4, trl=trl,
    )  # fmt: skip
    rates = [row["learning_rate"] for row in logs if "learning_rate" in row]
    plain = [4e-3 * (1 - step / 4) for step in range(4)] if algorithm == "grpo" else [4e-3] * 4
    assert rates == pytest.approx([plain[0], plain[1], plain[2] / 4, plain[3] / 4])  # KL is 0 at step 1
    assert [(event.step, event.action) for event in events] == [(2, "lower_lr")] and result.watch.end is None
    assert result.watch.events == tuple(events)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_a_rule_of_the_steps_ends_the_run(policy, tmp_path, algorithm):
    logs = []
    watching = light(None, WatchRule(figure="kl", above=1e-9), every=3)
    result = train(algorithm, policy, tmp_path / "rl", rewards=VARIED, watching=watching, steps=5, on_log=logs.append)
    assert (result.steps, result.watch.stopped_step, result.watch.saved_step, result.watch.probes) == (2, 2, 2, 2)
    stepped = [row for row in logs if "loss" in row]
    assert {"repetition", "distinct_2", "empty", "boilerplate", "entropy", "kl"} <= stepped[0].keys()


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_rollouts_that_are_learned_from_twice_are_looked_at_once(policy, tmp_path, algorithm):
    """A step that draws nothing has no figures of rollouts: nothing is missing, and no rule counts it."""
    logs, events = [], []
    rules = [
        WatchRule(figure="distinct_2", below=2.0, action="lower_lr", factor=0.5, times=2),  # always broken
        WatchRule(figure="boilerplate", above=2.0),
        WatchRule(figure="kl", above=1e9),
    ]
    watching = light(None, *rules, every=9, on_event=events.append)
    result = train(
        algorithm, policy, tmp_path / "rl", rewards=VARIED, watching=watching, steps=4, on_log=logs.append,
        trl={"num_iterations": 2},
    )  # fmt: skip
    stepped = [row for row in logs if "loss" in row]
    assert [row["step"] for row in stepped if "distinct_2" in row] == [1, 3]  # TRL does draw every other step only
    assert [(event.step, event.figure, event.action) for event in events] == [(3, "distinct_2", "lower_lr")]
    assert result.watch.events == tuple(events) and result.completions == 16
