"""PPO's numbers against a second way of computing them: NumPy, one rollout and one token at a time."""

import numpy as np
import pytest
import torch

from constitutional.training.ppo.estimates import gae, log_ratio, masked_mean, positive_kl, token_rewards, whiten
from constitutional.training.ppo.losses import clipped_share, next_kl, policy_losses, value_losses

NOWHERE = 1e6
"""Written where nothing was drawn: a result that looks there is far off."""


@pytest.fixture(params=range(6))
def drawn(request):
    """Random rollouts of lengths 1 to all, some left out wholly; junk after each end."""
    rng = np.random.default_rng(request.param)
    rows, width = int(rng.integers(2, 7)), int(rng.integers(1, 9))
    lengths = rng.integers(1, width + 1, rows)
    lengths[0] = width
    if request.param % 2:
        lengths[-1] = 0
    mask = (np.arange(width)[None] < lengths[:, None]).astype(float)

    def values(scale=1.0):
        return np.where(mask > 0, rng.normal(0, scale, mask.shape), NOWHERE)

    return {
        "lengths": lengths,
        "mask": mask,
        "scores": np.where(lengths > 0, rng.normal(0, 2, rows), NOWHERE),
        **{name: values() for name in ("new", "old", "reference", "advantages", "returns", "values", "old_values")},
    }


def tensor(value):
    return torch.tensor(value, dtype=torch.float32)


def same(found, expected, mask):
    assert torch.isfinite(found).all()
    np.testing.assert_allclose(found.double().numpy()[mask > 0], expected[mask > 0], rtol=1e-5, atol=1e-5)
    assert not found.numpy()[mask == 0].any()


def rewards_of(d, kl):
    found = np.zeros_like(d["mask"])
    for i, length in enumerate(d["lengths"]):
        for t in range(length):
            found[i, t] = -kl * (d["old"][i, t] - d["reference"][i, t])
        if length:
            found[i, length - 1] += d["scores"][i]
    return found


def test_rewards_per_token(drawn):
    mask = tensor(drawn["mask"])
    ratios = log_ratio(tensor(drawn["old"]), tensor(drawn["reference"]), mask)
    same(token_rewards(tensor(drawn["scores"]), ratios, mask, 0.3), rewards_of(drawn, 0.3), drawn["mask"])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_advantages_are_the_discounted_sum_of_errors(drawn, gamma, lam):
    """By the definition: an explicit sum over later tokens, where the code goes backwards."""
    rewards, values = rewards_of(drawn, 0.2), drawn["values"]
    advantages, returns = np.zeros_like(rewards), np.zeros_like(rewards)
    for i, length in enumerate(drawn["lengths"]):
        after = np.append(values[i, :length], 0.0)
        errors = [rewards[i, t] + gamma * after[t + 1] - after[t] for t in range(length)]
        for t in range(length):
            advantages[i, t] = sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, length))
            returns[i, t] = advantages[i, t] + values[i, t]
    mask = tensor(drawn["mask"])
    found, wanted = gae(tensor(rewards), tensor(values), mask, gamma=gamma, lam=lam)
    same(found, advantages, drawn["mask"])
    same(wanted, returns, drawn["mask"])
    if lam == 1:  # then a return is the discounted sum of rewards, whatever the critic thinks
        plain = [[sum(gamma ** (k - t) * r[k] for k in range(t, len(r))) for t in range(len(r))] for r in rewards]
        np.testing.assert_allclose(wanted.numpy(), np.array(plain) * drawn["mask"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip", [0.2, None])
def test_policy_losses(drawn, clip):
    expected = np.zeros_like(drawn["mask"])
    outside = np.zeros_like(drawn["mask"])
    for i, length in enumerate(drawn["lengths"]):
        for t in range(length):
            ratio, gain = np.exp(drawn["new"][i, t] - drawn["old"][i, t]), drawn["advantages"][i, t]
            kept = ratio if clip is None else np.clip(ratio, 1 - clip, 1 + clip)
            expected[i, t] = -min(ratio * gain, kept * gain)
            outside[i, t] = kept != ratio
    names = ("new", "old", "advantages", "mask")
    same(policy_losses(*(tensor(drawn[name]) for name in names), clip), expected, drawn["mask"])
    same(clipped_share(*(tensor(drawn[name]) for name in ("new", "old", "mask")), clip), outside, drawn["mask"])


@pytest.mark.parametrize("clip", [0.2, None])
def test_value_losses(drawn, clip):
    expected = np.zeros_like(drawn["mask"])
    for i, length in enumerate(drawn["lengths"]):
        for t in range(length):
            new, old, wanted = drawn["values"][i, t], drawn["old_values"][i, t], drawn["returns"][i, t]
            near = new if clip is None else np.clip(new, old - clip, old + clip)
            expected[i, t] = max((new - wanted) ** 2, (near - wanted) ** 2) / 2
    found = value_losses(*(tensor(drawn[name]) for name in ("values", "old_values", "returns", "mask")), clip)
    same(found, expected, drawn["mask"])


def test_kl(drawn):
    mask = tensor(drawn["mask"])
    d = drawn["old"] - drawn["reference"]
    same(log_ratio(tensor(drawn["old"]), tensor(drawn["reference"]), mask), d, drawn["mask"])
    found = positive_kl(tensor(drawn["old"]), tensor(drawn["reference"]), mask)
    same(found, np.exp(-d) - 1 + d, drawn["mask"])
    assert (found >= 0).all()
    assert not positive_kl(tensor(drawn["old"]), tensor(drawn["old"]), mask).any()


def test_both_estimates_have_the_kl_as_their_mean():
    """Over a small vocabulary the expectation can be summed: no sampling, no tolerance for luck."""
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 7, dtype=torch.float64).log_softmax(-1)
    kl = float((policy.exp() * (policy - reference)).sum())
    ones = torch.ones(1, 7, dtype=torch.float64)
    for estimate in (log_ratio, positive_kl):
        assert float((policy.exp() * estimate(policy[None], reference[None], ones)[0]).sum()) == pytest.approx(kl)


@pytest.mark.parametrize("centre", [True, False])
def test_whitening(drawn, centre):
    kept = drawn["values"][drawn["mask"] > 0]
    expected = drawn["values"] / np.sqrt(kept.var() + 1e-8)
    if centre:
        expected = (drawn["values"] - kept.mean()) / np.sqrt(kept.var() + 1e-8)
    else:
        expected = (drawn["values"] - kept.mean()) / np.sqrt(kept.var() + 1e-8) + kept.mean()
    mask = tensor(drawn["mask"])
    if len(kept) > 1:
        found = whiten(tensor(drawn["values"]), mask, centre=centre)
        np.testing.assert_allclose(found.numpy()[drawn["mask"] > 0], expected[drawn["mask"] > 0], rtol=1e-4, atol=1e-5)
        assert not found.numpy()[drawn["mask"] == 0].any()
    assert float(masked_mean(tensor(drawn["values"]), mask)) == pytest.approx(kept.mean(), abs=1e-5)


def test_nothing_to_average_is_zero_and_one_value_whitens_to_zero():
    one = torch.tensor([[3.0, NOWHERE]])
    assert float(masked_mean(one, torch.zeros(1, 2))) == 0
    assert whiten(one, torch.tensor([[1.0, 0.0]])).tolist() == [[0, 0]]


def test_the_adaptive_coefficient_moves_towards_the_target():
    assert next_kl(0.1, 6.0, 64, target=6.0, horizon=10_000) == 0.1
    assert next_kl(0.1, 6.6, 100, target=6.0, horizon=1_000) == pytest.approx(0.1 * 1.01)
    assert next_kl(0.1, 60.0, 100, target=6.0, horizon=1_000) == pytest.approx(0.1 * 1.02)
    assert next_kl(0.1, 0.0, 100, target=6.0, horizon=1_000) == pytest.approx(0.1 * 0.98)
