"""The preference model's loss against its closed form, TRL's own loss, and finite differences."""

import math

import pytest
import torch
from datasets import Dataset
from test_preference_model import planted
from tiny_model import save_tiny_model
from trl import RewardConfig, RewardTrainer

from constitutional.training.pairs import tokenised_pairs
from constitutional.training.preference_loss import preference_loss
from constitutional.training.soft_columns import COLUMN, WEIGHT
from constitutional.training.soft_reward import SoftRewardTrainer
from constitutional.training.tokens import open_tokenizer
from constitutional.training.trl_settings import trl_config


def drawn(n=64, seed=0):
    torch.manual_seed(seed)
    chosen, rejected = torch.randn(n, dtype=torch.float64) * 3, torch.randn(n, dtype=torch.float64) * 3
    return chosen, rejected, torch.rand(n, dtype=torch.float64)


def closed_form(chosen, rejected, p, weight, margin, centre):
    """Written with math.exp alone, one row at a time."""
    total = 0.0
    for c, r, q, w, m in zip(*(t.tolist() for t in (chosen, rejected, p, weight, margin)), strict=True):
        sigmoid = 1 / (1 + math.exp(-(c - r - m)))
        total += w * (-q * math.log(sigmoid) - (1 - q) * math.log(1 - sigmoid)) + centre * (c + r) ** 2
    return total / len(chosen)


@pytest.mark.parametrize("centre", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parted", [False, True])
def test_the_loss_equals_its_closed_form(centre, weighted, parted):
    chosen, rejected, p = drawn()
    weight = torch.rand(64, dtype=torch.float64) * 2 if weighted else torch.ones(64, dtype=torch.float64)
    margin = torch.rand(64, dtype=torch.float64) * 3 if parted else torch.zeros(64, dtype=torch.float64)
    found = preference_loss(
        chosen,
        rejected,
        p,
        weight=weight if weighted else None,
        margin=margin if parted else None,
        centre=centre,
    )
    assert float(found) == pytest.approx(closed_form(chosen, rejected, p, weight, margin, centre), abs=1e-9)
    single = preference_loss(
        chosen.float(), rejected.float(), p.float(), weight=weight.float(), margin=margin.float(), centre=centre
    )
    assert float(single) == pytest.approx(float(found), rel=1e-6, abs=1e-6)


def test_scores_far_apart_give_a_finite_loss_and_gradient():
    chosen = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = preference_loss(chosen, torch.zeros(2), torch.tensor([1.0, 1.0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(5e3)
    assert chosen.grad.tolist() == pytest.approx([0.0, -0.5])


def test_gradients_equal_finite_differences():
    chosen, rejected, p = drawn(7, seed=3)
    weight, margin = torch.rand(7, dtype=torch.float64) + 0.5, torch.rand(7, dtype=torch.float64)
    at = [chosen.requires_grad_(), rejected.requires_grad_()]

    def loss(c, r):
        return preference_loss(c, r, p, weight=weight, margin=margin, centre=0.1)

    loss(*at).backward()
    step = 1e-6
    for side in (0, 1):
        for i in range(7):
            values = []
            for sign in (1, -1):
                moved = [t.detach().clone() for t in at]
                moved[side][i] += sign * step
                values.append(float(loss(*moved)))
            assert at[side].grad[i].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-7)


def test_turning_a_row_round_changes_nothing():
    chosen, rejected, p = drawn()
    margin = torch.rand(64, dtype=torch.float64)
    one = preference_loss(chosen, rejected, p, margin=margin, centre=0.1)
    other = preference_loss(rejected, chosen, 1 - p, margin=-margin, centre=0.1)
    assert float(one) == pytest.approx(float(other), abs=1e-12)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def batch_of(trainer_class, tiny, folder, pairs, centre=None):
    """Loss and head gradient of one batch from a fresh trainer, and its scores of that batch."""
    args = trl_config(
        RewardConfig, folder, fixed={"seed": 0}, defaults={"center_rewards_coefficient": centre}, passed={"bf16": False}
    )
    columns = [{k: v for k, v in pair.items() if k not in ("principles", "origin", "preference_id")} for pair in pairs]
    trainer = trainer_class(
        str(tiny), args=args, train_dataset=Dataset.from_list(columns), processing_class=open_tokenizer(tiny)
    )
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        scores = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), trainer.model.score.weight.grad.clone(), scores.chunk(2), batch


def pairs_of(tiny, rows, margin=0.0):
    return tokenised_pairs(rows, open_tokenizer(tiny), 200, margin=margin)[0]


def test_weight_margin_and_label_reach_the_trainers_loss_as_the_formula_says(tiny, tmp_path):
    given = [(0.5, 1.0), (0.6, 3.0), (0.83, 1.0), (1.0, 0.5), (0.7, 2.0), (0.9, 0.1), (0.99, 1.0), (0.51, 4.0)]
    rows = [
        row.model_copy(update={"probability": p, "weight": w}) for row, (p, w) in zip(planted(8), given, strict=True)
    ]
    pairs = pairs_of(tiny, rows, margin=2.0)
    mean = sum(w for _, w in given) / 8
    assert [pair[WEIGHT] for pair in pairs] == pytest.approx([w / mean for _, w in given])
    assert [pair["margin"] for pair in pairs] == pytest.approx([2 * (2 * p - 1) for p, _ in given])
    found, _, (chosen, rejected), batch = batch_of(SoftRewardTrainer, tiny, tmp_path, pairs, centre=0.1)
    columns = (batch[COLUMN], batch[WEIGHT], batch["margin"])  # in the order the loader shuffled them to
    assert len(set(columns[1].tolist())) > 2
    assert float(found) == pytest.approx(closed_form(chosen, rejected, *columns, centre=0.1), abs=1e-6)


@pytest.mark.parametrize("margin", [0.0, 1.5])
@pytest.mark.parametrize("centre", [None, 0.05])
def test_at_certainty_and_weight_one_it_is_trls_own_loss(tiny, tmp_path, margin, centre):
    rows = [row.model_copy(update={"probability": 1.0}) for row in planted(8)]
    pairs = pairs_of(tiny, rows, margin)
    ours = batch_of(SoftRewardTrainer, tiny, tmp_path, pairs, centre)
    hard = [{k: v for k, v in pair.items() if k not in (COLUMN, WEIGHT)} for pair in pairs]
    theirs = batch_of(RewardTrainer, tiny, tmp_path, hard, centre)
    assert torch.equal(ours[3]["input_ids"], theirs[3]["input_ids"])
    assert float(ours[0]) == pytest.approx(float(theirs[0]), abs=1e-6)
    assert torch.allclose(ours[1], theirs[1], atol=1e-6)
