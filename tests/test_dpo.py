"""Soft-label DPO against the closed form and against TRL's own loss; best-of-n against a sort."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from rl_tasks import PROMPTS, letters, letters_source, policy_folder
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from constitutional.errors import ConfigError, TrainingError
from constitutional.records import user
from constitutional.training.best_of_n import train_best_of_n
from constitutional.training.dpo import tokenised_pairs, train_dpo
from constitutional.training.rows import PreferenceRow
from constitutional.training.soft_columns import COLUMN, WEIGHT
from constitutional.training.soft_dpo import SoftDpoTrainer, SoftPairCollator
from constitutional.training.tokens import open_tokenizer

BETA = 0.7


def row(number, p, chosen="I cannot help with that.", rejected="Sure, first take a pin"):
    return PreferenceRow(
        messages=(user(f"How {number}?"),),
        chosen=chosen,
        rejected=rejected,
        probability=p,
        preference_id=f"{number:016x}",
        comparison_id=f"{number:016x}",
        source="ai",
        principles=(),
    )


ROWS = [row(1, 0.9), row(2, 0.6, "no", "yes a good pick"), row(3, 0.5), row(4, 1.0, "good", "bad")]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    torch.set_num_threads(1)
    return policy_folder(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def moved(policy):
    """The policy after some training: as it starts, every margin is 0 and says nothing."""
    net = AutoModelForCausalLM.from_pretrained(policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net.eval()


def batch_of(trainer, moved):
    """One batch of the trainer's own, and the trainer's network moved away from its reference."""
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        for ours, theirs in zip(trainer.model.parameters(), moved.parameters(), strict=True):
            ours.copy_(theirs)
    return batch


def config(folder, **keywords):
    return DPOConfig(
        str(folder),
        beta=BETA,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        precompute_ref_log_probs=True,
        max_length=128,
        **keywords,
    )


def soft_trainer(policy, folder, rows):
    tokenizer = open_tokenizer(policy)
    examples, _ = tokenised_pairs(rows, tokenizer, 128, "soft")
    return SoftDpoTrainer(
        str(policy),
        args=config(folder, train_sampling_strategy="sequential"),
        data_collator=SoftPairCollator(tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
    ), examples


def answer_logprob(net, example, side):
    """Sum over the answer's tokens of log p, from a bare forward over one unpadded sequence."""
    ids = example["prompt_ids"] + example[side]
    with torch.no_grad():
        logprobs = net(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    start = len(example["prompt_ids"])
    return sum(float(logprobs[t - 1, ids[t]]) for t in range(start, len(ids)))


def test_soft_labels_equal_the_closed_form(policy, moved, tmp_path):
    trainer, examples = soft_trainer(policy, tmp_path, ROWS)
    batch = batch_of(trainer, moved)
    assert sorted(batch[COLUMN].tolist()) == pytest.approx([0.5, 0.6, 0.9, 1.0])
    reference = AutoModelForCausalLM.from_pretrained(policy).eval()
    expected = []
    for example in examples:
        d = BETA * sum(
            sign * (answer_logprob(moved, example, side) - answer_logprob(reference, example, side))
            for side, sign in (("chosen_ids", 1), ("rejected_ids", -1))
        )
        assert abs(d) > 0.01
        p = example[COLUMN]
        expected.append(p * math.log1p(math.exp(-d)) + (1 - p) * math.log1p(math.exp(d)))
    loss = trainer.compute_loss(trainer.model, batch)
    assert float(loss.detach()) == pytest.approx(sum(expected) / 4, rel=1e-6, abs=1e-6)


def test_at_one_it_is_trls_own_loss(policy, moved, tmp_path):
    """TRL tokenises these rows itself: the same batch, the same number, the same gradient."""
    certain = [item.model_copy(update={"probability": 1.0}) for item in ROWS]
    ours, _ = soft_trainer(policy, tmp_path / "ours", certain)
    theirs = DPOTrainer(
        str(policy),
        args=config(tmp_path / "theirs", train_sampling_strategy="sequential"),
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": item.messages[0].content}],
                    "chosen": [{"role": "assistant", "content": item.chosen}],
                    "rejected": [{"role": "assistant", "content": item.rejected}],
                }
                for item in certain
            ]
        ),
        processing_class=open_tokenizer(policy),
    )
    batches = [batch_of(trainer, moved) for trainer in (ours, theirs)]
    for name in ("input_ids", "completion_mask", "attention_mask"):
        assert torch.equal(batches[0][name], batches[1][name])
    losses = [
        trainer.compute_loss(trainer.model, batch) for trainer, batch in zip((ours, theirs), batches, strict=True)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-7)
    gradients = [
        torch.autograd.grad(loss, list(trainer.model.parameters()))
        for loss, trainer in zip(losses, (ours, theirs), strict=True)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


def test_weights_shift_the_loss_between_rows_and_not_its_size(policy, moved, tmp_path):
    """One term a row, each measured alone; with weights their weighted mean, the weights scaled to a mean of 1."""
    weights = (1.0, 4.0, 2.0, 1.0)
    weighted = [item.model_copy(update={"weight": weight}) for item, weight in zip(ROWS, weights, strict=True)]
    trainer, examples = soft_trainer(policy, tmp_path / "all", weighted)
    assert [example[WEIGHT] for example in examples] == [0.5, 2.0, 1.0, 0.5]
    loss = trainer.compute_loss(trainer.model, batch_of(trainer, moved)).item()
    alone = []
    for i, item in enumerate(ROWS):
        one, plain = soft_trainer(policy, tmp_path / str(i), [item])
        assert WEIGHT not in plain[0]  # equal weights leave TRL's own loss in its place
        alone.append(one.compute_loss(one.model, batch_of(one, moved)).item())
    expected = sum(w * term for w, term in zip((0.5, 2.0, 1.0, 0.5), alone, strict=True)) / 4
    assert loss == pytest.approx(expected, rel=1e-6) and loss != pytest.approx(sum(alone) / 4, rel=1e-4)
    with pytest.raises(ConfigError, match="rows of different weight need labels: soft"):
        tokenised_pairs(weighted, open_tokenizer(policy), 128, "hard")


QUICK = {"bf16": False, "learning_rate": 1e-2, "max_steps": 2}


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
def test_dpo_saves_a_changed_model(policy, tmp_path, lora):
    logs = []
    result = train_dpo(
        ROWS,
        policy=policy,
        output=tmp_path / "rl",
        beta=0.1,
        labels="soft",
        seed=0,
        trl=QUICK,
        lora=lora,
        on_log=logs.append,
    )
    assert (result.rows, result.steps, result.prompts) == (4, 2, 4)
    assert logs[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)  # it starts at its reference
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, tmp_path / "rl"))
    assert before.keys() == after.keys() and any(not torch.equal(before[key], after[key]) for key in before)


def test_rounded_labels_leave_the_undecided_out(policy):
    tokenizer = open_tokenizer(policy)
    long = row(9, 0.9, "good " * 200)
    examples, failures = tokenised_pairs([*ROWS, long], tokenizer, 128, "hard")
    assert [example[COLUMN] for example in examples] == [1.0, 1.0, 1.0]
    assert [(f.item_id, f.kind) for f in failures] == [
        (ROWS[2].preference_id, "undecided"),
        (long.preference_id, "too_long"),
    ]
    examples, failures = tokenised_pairs([*ROWS, long], tokenizer, 128, "soft")
    assert [example[COLUMN] for example in examples] == [0.9, 0.6, 0.5, 1.0] and len(failures) == 1


@pytest.mark.parametrize(
    ("rows", "keywords", "error", "message"),
    [
        ([row(1, 0.5)] * 2, {}, TrainingError, "labels are exactly one half"),
        ([row(1, 0.5)], {"labels": "hard"}, TrainingError, "comparisons"),
        (ROWS, {"trl": {"loss_type": ["ipo"]}}, ConfigError, r"trl\.loss_type: cannot be set here"),
        (ROWS, {"trl": {"beta": 0.3}}, ConfigError, r"trl\.beta: cannot be set here"),
    ],
)
def test_what_dpo_cannot_do_is_refused(policy, tmp_path, rows, keywords, error, message):
    with pytest.raises(error, match=message):
        train_dpo(
            rows, **{"policy": policy, "output": tmp_path / "rl", "beta": 0.1, "labels": "soft", "seed": 0, **keywords}
        )


def test_best_of_n_trains_on_the_best_of_each_prompt(policy, tmp_path, monkeypatch):
    seen, rows = [], []
    from constitutional.training import best_of_n

    real = best_of_n.train_sft
    monkeypatch.setattr(best_of_n, "train_sft", lambda rows, **kw: seen.extend(rows) or real(rows, **kw))
    result = train_best_of_n(
        PROMPTS,
        policy=policy,
        rewards=[letters_source()],
        output=tmp_path / "rl",
        generations=8,
        max_tokens=4,
        temperature=1.0,
        seed=0,
        trl={"bf16": False, "learning_rate": 1e-2, "max_steps": 1},
        on_reward=rows.extend,
    )
    assert len(rows) == result.completions == 48 and result.rows == len(seen) == 6
    for prompt, taken in zip(PROMPTS, seen, strict=True):
        answers = [r.completion for r in rows if r.prompt_id == prompt.id and r.completion.strip()]
        assert taken.source_id == prompt.id and taken.completion == max(answers, key=lambda text: letters((), text))
    scores = [r.score for r in rows if r.score is not None]
    assert result.first_reward == pytest.approx(sum(scores) / len(scores))
    assert (tmp_path / "rl" / "model.safetensors").exists()
