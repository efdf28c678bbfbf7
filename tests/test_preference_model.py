import math
import random

import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError
from tiny_model import save_tiny_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from constitutional.errors import BackendError, ConfigError, TrainingError
from constitutional.records import assistant, user
from constitutional.training import preference_model as module
from constitutional.training.agreement import agreement_by
from constitutional.training.preference_model import agreement, tokenised_pairs, train_preference_model
from constitutional.training.rows import PreferenceRow
from constitutional.training.scorer import PreferenceModel, weights_digest
from constitutional.training.soft_columns import COLUMN
from constitutional.training.soft_reward import SoftRewardTrainer
from constitutional.training.tokens import dialogue_ids, open_tokenizer
from constitutional.training.trl_settings import trl_config

FAST = {"bf16": False, "learning_rate": 3e-3, "num_train_epochs": 6, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def planted(n, seed=0):
    """Answers that end in "good" are preferred to those that end in "bad", with probability 0.9."""
    draw = random.Random(seed)
    rows = []
    for i in range(n):
        words = " ".join(draw.choice(["pin", "lock", "first", "take"]) for _ in range(draw.randint(1, 4)))
        rows.append(
            PreferenceRow(
                messages=(user(f"How {i}?"),),
                chosen=f"{words} good",
                rejected=f"{words} bad",
                probability=0.9,
                preference_id=f"p{i}",
                comparison_id=f"c{i}",
                source="ai",
                principles=("kind@1.0.0",),
            )
        )
    return rows


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pm") / "pm"
    logs = []
    result = train_preference_model(
        planted(32), planted(12, seed=1), model=tiny, output=folder, seed=0, trl=FAST, on_log=logs.append
    )
    return folder, result, logs


def test_learns_a_planted_preference(trained):
    folder, result, logs = trained
    assert (result.rows, result.steps, result.failures) == (32, 48, ())
    assert (result.heldout.n, result.heldout.correct, result.heldout.accuracy) == (12, 12, 1.0)
    assert result.heldout.interval.low > 0.7
    assert result.heldout.calibration_error < 0.1
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    last = [entry["loss"] for entry in logs if "loss" in entry][-5:]
    assert entropy - 1e-3 < sum(last) / 5 < 0.5  # soft labels: the loss ends at their entropy, not at zero
    assert result.model == PreferenceModel(folder).model == f"pm-{weights_digest(folder)}"


def test_training_starts_undecided(trained, tiny, tmp_path):
    pytest.importorskip("peft")
    logs, settings = [], {**FAST, "num_train_epochs": 1}
    train_preference_model(
        planted(8), [], model=tiny, output=tmp_path / "pm", seed=0, trl=settings, lora={"r": 4}, on_log=logs.append
    )
    for first in (trained[2][0]["loss"], logs[0]["loss"]):
        assert first == pytest.approx(math.log(2), abs=1e-6)  # every score is 0 before the first step


def test_scores_equal_one_plain_forward_each(trained):
    folder, _, _ = trained
    dialogues = [
        (user("How?"), assistant("pin " * n + word)) for n in (0, 1, 7, 30) for word in ("good", "bad", "<|pad|>")
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = [network(torch.tensor([dialogue_ids(tokenizer, d)])).logits.item() for d in dialogues]
    found = PreferenceModel(folder, batch_tokens=150).score(dialogues)
    assert found == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) > 3
    assert PreferenceModel(folder).score([]) == []


def test_a_long_dialogue_is_judged_by_its_end(trained):
    folder, _, _ = trained
    tokenizer = open_tokenizer(folder)
    dialogue = (user("lock " * 60), assistant("take pin good"))
    ids = dialogue_ids(tokenizer, dialogue)
    short = PreferenceModel(folder, max_length=20)
    assert short.score([dialogue]) == short.score_ids([ids[-20:]])
    assert short.score([dialogue]) != PreferenceModel(folder).score([dialogue])


def test_identity_follows_the_weights_not_the_folder(trained, tmp_path):
    import shutil

    folder, _, _ = trained
    shutil.copytree(folder, tmp_path / "elsewhere")
    model = PreferenceModel(tmp_path / "elsewhere")
    assert model.model == PreferenceModel(folder).model
    assert PreferenceModel(folder, dtype="bfloat16").model == f"{model.model}-bfloat16"
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        network.score.weight[0, 0] += 1
    network.save_pretrained(tmp_path / "elsewhere")
    assert PreferenceModel(tmp_path / "elsewhere").model != model.model


def test_a_score_that_is_not_finite_is_an_error(trained, tmp_path):
    folder, _, _ = trained
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        network.score.weight.fill_(float("nan"))
    network.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "nan")
    with pytest.raises(BackendError, match="1 of 1 scores that are not finite"):
        PreferenceModel(tmp_path / "nan").score([(user("a"), assistant("b"))])


def test_a_language_model_is_not_a_preference_model(tiny):
    with pytest.raises(ConfigError, match="not a preference model"):
        PreferenceModel(tiny)


def loss_of(trainer_class, tiny, folder, probabilities, centre=None):
    """Loss and gradient of one batch, and the network's own scores of it, from a fresh trainer."""
    tokenizer = open_tokenizer(tiny)
    rows = [
        row.model_copy(update={"probability": p})
        for row, p in zip(planted(len(probabilities)), probabilities, strict=True)
    ]
    examples, _ = tokenised_pairs(rows, tokenizer, 200)
    args = trl_config(
        RewardConfig, folder, fixed={"seed": 0}, defaults={"center_rewards_coefficient": centre}, passed={"bf16": False}
    )
    trainer = trainer_class(str(tiny), args=args, train_dataset=Dataset.from_list(examples), processing_class=tokenizer)
    batch = trainer.data_collator(examples)
    with torch.no_grad():
        inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
        scores = trainer.model(**inputs).logits[:, 0].double().tolist()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    n = len(probabilities)
    return float(loss.detach()), trainer.model.score.weight.grad.clone(), scores[:n], scores[n:]


@pytest.mark.parametrize("centre", [None, 0.01])
def test_soft_loss_equals_the_closed_form(tiny, tmp_path, centre):
    probabilities = [0.5, 0.6, 0.83, 1.0]
    found, gradient, chosen, rejected = loss_of(SoftRewardTrainer, tiny, tmp_path, probabilities, centre)
    expected = 0.0
    for p, c, r in zip(probabilities, chosen, rejected, strict=True):
        expected += p * math.log1p(math.exp(r - c)) + (1 - p) * math.log1p(math.exp(c - r))
        expected += (centre or 0.0) * (c + r) ** 2
    assert found == pytest.approx(expected / 4, abs=1e-6)
    assert gradient.abs().sum() > 0


def test_at_probability_one_the_loss_is_trls_own(tiny, tmp_path):
    ours = loss_of(SoftRewardTrainer, tiny, tmp_path, [1.0] * 4)
    theirs = loss_of(RewardTrainer, tiny, tmp_path, [1.0] * 4)
    assert ours[0] == theirs[0]
    assert torch.equal(ours[1], theirs[1])
    assert loss_of(SoftRewardTrainer, tiny, tmp_path, [0.7] * 4)[0] != theirs[0]


def test_the_labels_reach_the_loss_through_the_dataloader(tiny, tmp_path):
    examples, _ = tokenised_pairs(planted(4), open_tokenizer(tiny), 200)
    args = trl_config(RewardConfig, tmp_path, fixed={"seed": 0}, defaults={}, passed={"bf16": False})
    trainer = SoftRewardTrainer(str(tiny), args=args, train_dataset=Dataset.from_list(examples))
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch[COLUMN].tolist() == pytest.approx([0.9] * 4)


def test_rows_too_long_are_counted_and_refused_when_none_is_left(tiny, tmp_path):
    long = planted(1)[0].model_copy(update={"chosen": "pin " * 100, "preference_id": "long"})
    settings = {**FAST, "max_length": 60, "num_train_epochs": 1}
    result = train_preference_model(
        [long, *planted(4)], [long], model=tiny, output=tmp_path / "pm", seed=0, trl=settings
    )
    assert [(f.item_id, f.kind) for f in result.failures] == [("long", "too_long")] * 2
    assert result.rows == 4
    assert (result.heldout.n, result.heldout.accuracy, result.heldout.calibration_error) == (0, None, None)
    with pytest.raises(TrainingError, match="all 1 comparisons are longer than 60"):
        train_preference_model([long], [], model=tiny, output=tmp_path / "none", seed=0, trl=settings)
    assert not (tmp_path / "none").exists()


def test_lora_head_survives_saving(tiny, tmp_path):
    pytest.importorskip("peft")
    result = train_preference_model(
        planted(16), planted(8, seed=1), model=tiny, output=tmp_path / "pm", seed=0, trl=FAST, lora={"r": 4}
    )
    assert result.heldout.correct == 8
    assert result.trainable_parameters < 20_000


def test_labels_that_prefer_nothing_are_refused(tiny, tmp_path):
    rows = [row.model_copy(update={"probability": 0.5}) for row in planted(3)]
    with pytest.raises(TrainingError, match="all 3 labels are exactly one half"):
        train_preference_model(rows, planted(2), model=tiny, output=tmp_path / "pm", seed=0, trl=FAST)
    assert not (tmp_path / "pm").exists()


def test_a_saved_model_that_scores_otherwise_is_an_error(tiny, tmp_path, monkeypatch):
    def save_other(trainer, tokenizer, folder):
        with torch.no_grad():
            trainer.model.score.weight[0, 0] += 0.5
        real(trainer, tokenizer, folder)

    real = module.save
    monkeypatch.setattr(module, "save", save_other)
    with pytest.raises(TrainingError, match="scores differently"):
        train_preference_model(
            planted(4), [], model=tiny, output=tmp_path / "pm", seed=0, trl={**FAST, "num_train_epochs": 1}
        )
    assert not (tmp_path / "pm").exists()


def test_nan_loss_names_the_step(tiny, tmp_path):
    with pytest.raises(TrainingError, match=r"(loss|grad_norm) is (nan|inf) at step \d"):
        train_preference_model(
            planted(16), [], model=tiny, output=tmp_path / "pm", seed=0, trl={**FAST, "learning_rate": 1e30}
        )


def test_same_seed_same_model(tiny, tmp_path):
    settings = {**FAST, "num_train_epochs": 1}
    models = [
        train_preference_model(planted(8), [], model=tiny, output=tmp_path / name, seed=seed, trl=settings).model
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert models[0] == models[1] != models[2]


def test_agreement_by_hand():
    figures = agreement([2.0, -1.0, 0.0, 5.0], [0.9, 0.8, 0.7, 0.5])
    assert (figures.n, figures.correct) == (3, 1)
    assert figures.accuracy == pytest.approx(1 / 3)
    knows_nothing = agreement([0.0] * 10, [0.9] * 10)
    assert knows_nothing.calibration_error == pytest.approx(0, abs=1e-12)  # both framings: half of them are right
    logit = math.log(0.8 / 0.2)
    assert agreement([logit] * 5, [0.8] * 5).calibration_error == pytest.approx(0, abs=1e-12)
    assert agreement([logit] * 5, [0.6] * 5).calibration_error == pytest.approx(0.2)
    assert agreement([1e4, -1e4], [0.9, 0.9]).n == 2


def test_agreement_in_parts_is_that_of_each_part():
    names, margins, labels = ["b", "a", "b", "a", "c"], [2.0, -1.0, 0.5, 3.0, 1.0], [0.9, 0.8, 1.0, 0.7, 0.5]
    found = agreement_by(names, margins, labels)
    assert [part.name for part in found] == ["a", "b", "c"]
    assert found[0].agreement == agreement([-1.0, 3.0], [0.8, 0.7])
    assert found[1].agreement == agreement([2.0, 0.5], [0.9, 1.0])
    assert (found[2].agreement.n, found[2].agreement.accuracy) == (0, None)
    assert agreement_by([], [], []) == ()


def test_figures_by_source_and_principle_are_those_of_the_saved_scores(trained, tiny, tmp_path):
    pytest.importorskip("peft")
    held = planted(8, seed=1)
    held = [*held[:4], *(row.model_copy(update={"source": "human", "dataset": "people.jsonl"}) for row in held[4:])]
    turned = [row.model_copy(update={"chosen": row.rejected, "rejected": row.chosen}) for row in held[:2]]
    opinions = [*held[:3], *(row.model_copy(update={"principles": ("other@2.0.0",)}) for row in turned)]
    result = train_preference_model(
        planted(16), held, model=tiny, output=tmp_path / "pm", seed=0, opinions=opinions, trl=FAST, lora={"r": 4}
    )
    saved = PreferenceModel(tmp_path / "pm")

    def margins(rows):
        sides = [(*row.messages, assistant(text)) for row in rows for text in (row.chosen, row.rejected)]
        scores = saved.score(sides)
        return [scores[i] - scores[i + 1] for i in range(0, len(scores), 2)]

    parts = {part.name: part.agreement for part in (*result.by_source, *result.by_principle)}
    expected = {"ai": held[:4], "human:people.jsonl": held[4:], "kind@1.0.0": held[:3], "other@2.0.0": opinions[3:]}
    assert set(parts) == set(expected)
    for name, rows in expected.items():
        again = agreement(margins(rows), [row.probability for row in rows])
        assert (parts[name].n, parts[name].correct) == (again.n, again.correct)
        assert parts[name].calibration_error == pytest.approx(again.calibration_error, abs=1e-5)
    assert parts["other@2.0.0"].correct == 2 - parts["kind@1.0.0"].correct + (margins(held[2:3])[0] > 0)


def test_a_row_must_be_turned_so_that_chosen_is_likelier():
    with pytest.raises(ValidationError):
        PreferenceRow.model_validate({**planted(1)[0].model_dump(), "probability": 0.4})


def test_rows_that_use_no_later_field_are_written_as_before():
    row = planted(1)[0]
    assert set(row.model_dump(mode="json")) == {
        *("messages", "chosen", "rejected", "probability", "preference_id", "comparison_id", "source", "principles")
    }
    human = row.model_copy(update={"source": "human", "weight": 2.0, "dataset": "people.jsonl"})
    assert PreferenceRow.model_validate_json(human.to_json()) == human and human.origin == "human:people.jsonl"
