"""What one step of PPO learns, as it is wired: against NumPy and autograd, once the policy has left its reference.

A rollout is left out, rollouts end early, and micro-batches do not divide them.
"""

# ruff: noqa: F401, F811  (fixtures of another file)
from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from test_ppo import CPU, LORA, batch_of, drawn, opened, policy, preference_model, tokenizer
from transformers import AutoModelForCausalLM

from constitutional.settings import PpoSettings
from constitutional.training.ppo.rollouts import lay_out
from constitutional.training.ppo.update import improve

KEPT = [0, 1, 3]
SCORES = [1.0, -2.0, 1e6, 0.5]


def move(network, scale):
    """Changes what would be trained, so that no ratio is 1 and no value what it was."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(scale * torch.randn_like(weight))


def alone(net, drawn, temperature):
    """Log-probabilities of each answer under a bare network, an answer at a time."""
    found = []
    for before, after in zip(drawn.prompts, drawn.answers, strict=True):
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([before + after])).logits[0, len(before) - 1 : -1] / temperature
        found.append(np.array([float(s.log_softmax(-1)[t]) for s, t in zip(logits, after, strict=True)]))
    return found


@pytest.mark.parametrize("whiten_rewards", [False, True])
@pytest.mark.parametrize("whiten_advantages", [False, True])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_batch_is_worth_what_its_definition_says(
    policy,
    preference_model,
    tokenizer,
    drawn,
    whiten_rewards,
    whiten_advantages,
    lora,
):
    kl, temperature = 0.3, 0.7
    settings = PpoSettings(
        gamma=0.9, lam=0.6, whiten_rewards=whiten_rewards, whiten_advantages=whiten_advantages, micro_batch=3
    )
    torch.manual_seed(2)
    networks = opened(policy, preference_model, critic="preference_model", lora=lora, temperature=temperature)
    move(networks.actor_critic, 0.05)
    layout = lay_out(drawn, [i in KEPT for i in range(4)], tokenizer.pad_token_id, CPU)
    batch, figures = batch_of(networks, layout, SCORES, settings, kl, temperature)

    logprobs = alone(networks.actor_critic.policy, drawn, temperature)
    reference = alone(AutoModelForCausalLM.from_pretrained(policy).eval(), drawn, temperature)
    with torch.no_grad():
        values = networks.actor_critic(layout.tokens, layout.attention, layout.mask)[2].double().numpy()
    ratios = [mine - theirs for mine, theirs in zip(logprobs, reference, strict=True)]
    assert min(np.abs(ratios[i]).max() for i in KEPT) > 0.05  # the policy has moved
    rewards = {i: -kl * ratios[i] for i in KEPT}
    for i in KEPT:
        rewards[i][-1] += SCORES[i]
    if whiten_rewards:
        every = np.concatenate([rewards[i] for i in KEPT])
        rewards = {i: (r - every.mean()) / np.sqrt(every.var() + 1e-8) + every.mean() for i, r in rewards.items()}
    advantages, returns = {}, {}
    for i in KEPT:
        value = np.append(values[i, : len(rewards[i])], 0.0)
        errors = rewards[i] + 0.9 * value[1:] - value[:-1]
        sums = [sum((0.9 * 0.6) ** (k - t) * errors[k] for k in range(t, len(errors))) for t in range(len(errors))]
        advantages[i], returns[i] = np.array(sums), np.array(sums) + value[:-1]
    every_return, every_value = (
        np.concatenate([returns[i] for i in KEPT]),
        np.concatenate([values[i, : len(returns[i])] for i in KEPT]),
    )
    if whiten_advantages:
        every = np.concatenate([advantages[i] for i in KEPT])
        advantages = {i: (a - every.mean()) / np.sqrt(every.var() + 1e-8) for i, a in advantages.items()}
    for i in range(4):
        kept = len(drawn.answers[i]) if i in KEPT else 0
        for found, expected in ((batch.advantages, advantages), (batch.returns, returns)):
            assert not found[i, kept:].any()
            if kept:
                np.testing.assert_allclose(found[i, :kept].numpy(), expected[i], rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(batch.logprobs[i, : len(logprobs[i])].numpy(), logprobs[i], atol=1e-5)
    every_ratio = np.concatenate([ratios[i] for i in KEPT])
    assert figures["kl"] == pytest.approx((np.exp(-every_ratio) - 1 + every_ratio).mean(), rel=1e-3)
    assert figures["kl_rollout"] == pytest.approx(sum(ratios[i].sum() for i in KEPT) / 3, rel=1e-3, abs=1e-5)
    assert figures["value"] == pytest.approx(every_value.mean(), rel=1e-3, abs=1e-5)
    explained = 1 - ((every_return - every_value) ** 2).mean() / every_return.var()
    assert figures["explained_variance"] == pytest.approx(explained, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("norm", [1e9, 0.05])
@pytest.mark.parametrize("critic", ["head", "preference_model"])
def test_an_update_is_the_gradient_of_the_clipped_losses(
    policy,
    preference_model,
    tokenizer,
    drawn,
    critic,
    norm,
):
    """The losses written down token by token, their gradient by autograd, one plain step of descent."""
    settings = PpoSettings(
        critic=critic, epochs=1, minibatches=1, micro_batch=3, clip=0.2, value_weight=0.7, max_grad_norm=norm
    )
    torch.manual_seed(3)
    networks = opened(policy, preference_model, critic=critic)
    model = networks.actor_critic
    move(model, 0.02)
    layout = lay_out(drawn, [i in KEPT for i in range(4)], tokenizer.pad_token_id, CPU)
    batch, _ = batch_of(networks, layout, SCORES, settings, kl=0.1)
    move(model, 0.03)

    new, _, values = model(layout.tokens, layout.attention, layout.mask)
    kept_in = float((values.detach() - batch.values).abs()[layout.mask > 0].median())
    settings = settings.model_copy(update={"value_clip": kept_in})
    gains, errors, clipped, near, tokens = [], [], 0, 0, 0
    for i in KEPT:
        for t in range(len(drawn.answers[i])):
            ratio, gain = (new[i, t] - batch.logprobs[i, t]).exp(), batch.advantages[i, t]
            kept = ratio.clamp(0.8, 1.2)
            gains.append(torch.min(ratio * gain, kept * gain))
            old, wanted = batch.values[i, t], batch.returns[i, t]
            close = old + (values[i, t] - old).clamp(-kept_in, kept_in)
            errors.append(torch.max((values[i, t] - wanted) ** 2, (close - wanted) ** 2) / 2)
            clipped += bool(kept != ratio)
            near += bool(close != values[i, t])
            tokens += 1
    assert 0 < clipped < tokens and 0 < near < tokens  # both sides of both clips
    policy_loss, value_loss = -sum(gains) / tokens, sum(errors) / tokens
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    expected = torch.autograd.grad(policy_loss + 0.7 * value_loss, list(trained.values()), allow_unused=True)
    length = float(torch.sqrt(sum((g**2).sum() for g in expected if g is not None)))
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    figures = improve(
        model,
        torch.optim.SGD(list(trained.values()), lr=1.0),
        batch,
        settings=settings,
        accelerator=Accelerator(cpu=True),
        generator=torch.Generator().manual_seed(0),
    )
    shrunk = min(1.0, norm / length)
    assert shrunk == 1 if norm > 1 else shrunk < 1
    for (name, weight), gradient in zip(trained.items(), expected, strict=True):
        step = torch.zeros_like(weight) if gradient is None else gradient * shrunk
        torch.testing.assert_close(before[name] - weight.detach(), step, atol=2e-6, rtol=2e-4, msg=name)
    head = "head.weight" if critic == "head" else "critic.score.weight"
    assert not torch.equal(before[head], trained[head])
    assert figures["loss/policy"] == pytest.approx(policy_loss.item(), rel=1e-4, abs=1e-6)
    assert figures["loss/value"] == pytest.approx(value_loss.item(), rel=1e-4)
    assert figures["loss"] == pytest.approx((policy_loss + 0.7 * value_loss).item(), rel=1e-4, abs=1e-6)
    assert figures["clip_ratio"] == pytest.approx(clipped / tokens)
    assert figures["grad_norm"] == pytest.approx(length, rel=1e-3)
