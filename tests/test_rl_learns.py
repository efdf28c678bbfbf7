"""Every algorithm of RL finds a known optimum: an answer of digits alone, which a check scores 1.

The budget is `STEPS` steps of 32 rollouts of at most 4 tokens, from a random policy that says almost everything else.
What is measured is not what the run logged: fresh answers of the saved model, an empty one counting 0.
"""

from __future__ import annotations

import pytest
import torch
from rl_tasks import PROMPTS, digits, digits_source, policy_folder
from transformers import AutoModelForCausalLM

from constitutional.records import Sampling
from constitutional.settings import PpoSettings
from constitutional.training.ppo.rollouts import draw
from constitutional.training.ppo.stage import train_ppo
from constitutional.training.rl import train_rl
from constitutional.training.tokens import dialogue_ids, open_tokenizer

OPTIMUM = 1.0
STEPS = {"ppo": 30, "grpo": 60, "rloo": 60}
RATE = {"ppo": 1e-2, "grpo": 5e-3, "rloo": 5e-3}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    torch.set_num_threads(1)
    return policy_folder(tmp_path_factory.mktemp("models"))


def reward_of(folder, seed):
    net, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), open_tokenizer(folder)
    asked = [dialogue_ids(tokenizer, p.messages, generation_prompt=True) for p in PROMPTS for _ in range(20)]
    texts = draw(net, tokenizer, asked, Sampling(temperature=1.0, max_tokens=4, seed=seed)).texts
    return sum(digits((), text) if text.strip() else 0.0 for text in texts) / len(texts)


def train(algorithm, policy, output, seed):
    common = {
        "policy": policy,
        "rewards": [digits_source()],
        "output": output,
        "steps": STEPS[algorithm],
        "kl": 0.001,
        "generations": 8,
        "prompts_per_step": 4,
        "max_tokens": 4,
        "temperature": 1.0,
        "seed": seed,
    }
    if algorithm == "ppo":
        own = PpoSettings(
            critic="policy", learning_rate=RATE["ppo"], critic_learning_rate=RATE["ppo"], epochs=2, micro_batch=32
        )
        return train_ppo(PROMPTS, preference_model=None, settings=own, **common)
    trl = {
        "bf16": False,
        "learning_rate": RATE[algorithm],
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 32,
    }
    return train_rl(PROMPTS, algorithm=algorithm, trl=trl, **common)


def test_the_task_is_not_solved_at_the_start(policy):
    assert reward_of(policy, 0) < 0.2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_the_optimum_is_reached(policy, tmp_path, algorithm, seed):
    result = train(algorithm, policy, tmp_path / "rl", seed)
    assert reward_of(tmp_path / "rl", seed) >= 0.95 * OPTIMUM, result
