"""The preference model on soft labels (Bai et al. 2022, section 4.1; soft Bradley-Terry loss)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import RewardConfig

from constitutional.errors import TrainingError
from constitutional.records import Failure, assistant
from constitutional.statistics import expected_calibration_error, wilson
from constitutional.training.folders import save_merged
from constitutional.training.guards import OnLog, StepWatch, require_rows
from constitutional.training.lora import lora_config
from constitutional.training.rows import Agreement, PreferenceModelResult, PreferenceRow
from constitutional.training.scorer import PreferenceModel, score_ids
from constitutional.training.session import bare_model, train, training_session
from constitutional.training.soft_reward import COLUMN, SoftRewardTrainer
from constitutional.training.tokens import ControlTokens, dialogue_ids, open_tokenizer
from constitutional.training.trl_settings import Settings, trl_config

__all__ = ["PreferenceModelResult", "PreferenceRow", "agreement", "train_preference_model"]

DEFAULTS: dict[str, object] = {
    "max_length": 512,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1,
    "learning_rate": 5e-5,
    "center_rewards_coefficient": 0.01,  # keeps scores around zero; differences alone are fixed by the labels
}
RELOAD_TOLERANCE = 1e-4


def train_preference_model(
    rows: Sequence[PreferenceRow],
    heldout: Sequence[PreferenceRow],
    *,
    model: str | Path,
    output: str | Path,
    seed: int,
    trl: Settings | None = None,
    lora: Settings | None = None,
    on_log: OnLog | None = None,
) -> PreferenceModelResult:
    """Trains a scalar preference model from a chat model and measures it on held-out labels.

    Rows of which either side is longer than `max_length` become Failures. After saving, the folder is opened again
    and must give the scores of the model that was trained.

    Args:
        rows: soft-labelled comparisons.
        heldout: comparisons that are only measured; may be empty.
        model: folder of the starting model, SL-CAI in the paper.
        output: folder to write; left as it was when training fails.
        seed: order of rows.
        trl: fields of `trl.RewardConfig`.
        lora: fields of `peft.LoraConfig`; a full fine-tune when None.
        on_log: called with every set of figures TRL logs, `step` and `steps` (of the whole run) added.

    Raises:
        ConfigError: a setting or a folder that cannot be used.
        TrainingError: nothing to train on, nothing trainable, no step, no change, a loss that is not a number, or a
            saved model that scores otherwise than the trained one.
    """
    tokenizer = open_tokenizer(model)
    with training_session(output) as folder:
        args = trl_config(RewardConfig, folder, fixed={"seed": seed}, defaults=DEFAULTS, passed=trl)
        limit = args.max_length or tokenizer.model_max_length
        examples, failures = tokenised_pairs(rows, tokenizer, limit)
        require_rows(len(examples), len(rows), "comparisons", limit)
        if all(row[COLUMN] == 0.5 for row in examples):
            raise TrainingError(f"pm: all {len(examples)} labels are exactly one half: there is nothing to learn")
        measured, unmeasured = tokenised_pairs(heldout, tokenizer, limit)
        watch = StepWatch(on_log)
        trainer = SoftRewardTrainer(
            str(model),
            args=args,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            callbacks=[watch],
            peft_config=lora_config(lora, "SEQ_CLS"),
        )
        start_undecided(trainer.model)
        steps, weights = train(trainer)
        live = bare_model(trainer)
        pad = tokenizer.pad_token_id
        probe = [ids for row in (measured or examples)[:8] for ids in (row["chosen_ids"], row["rejected_ids"])]
        expected = score_ids(live, probe, pad=pad)
        figures = agreement(_margins(live, measured, pad), [row[COLUMN] for row in measured])
        save_merged(live, tokenizer, folder)
        saved = PreferenceModel(folder)
        _check_reload(expected, saved.score_ids(probe))
    return PreferenceModelResult(
        rows=len(examples),
        failures=(*failures, *unmeasured),
        control_tokens=_control_tokens(tokenizer, [*rows, *heldout]),
        steps=steps,
        trainable_parameters=weights.trainable,
        train_loss=watch.values("train_loss")[-1],
        heldout=figures,
        model=saved.model,
    )


def start_undecided(network: Any) -> None:
    """Sets a new head to zero: every answer scores 0 until the labels say otherwise.

    A random head has opinions of its own, larger than the differences that soft labels near one half ask for: on 60
    rows a run mostly unlearns it (docs/LOG.md).
    """
    for name, parameter in network.named_parameters():
        if "score" in name.split("."):  # under LoRA its wrapper's two copies, too
            parameter.data.zero_()


def tokenised_pairs(
    rows: Sequence[PreferenceRow], tokenizer: Any, max_length: int
) -> tuple[list[dict[str, Any]], list[Failure]]:
    """Rows as token ids with their soft label and provenance, and a Failure for each that is too long."""
    examples = []
    failures = []
    for row in rows:
        chosen = dialogue_ids(tokenizer, (*row.messages, assistant(row.chosen)))
        rejected = dialogue_ids(tokenizer, (*row.messages, assistant(row.rejected)))
        longest = max(len(chosen), len(rejected))
        if longest > max_length:
            message = f"{longest} tokens, more than max_length {max_length}"
            failures.append(Failure(item_id=row.preference_id, stage="pm", kind="too_long", message=message))
            continue
        examples.append(
            {
                "chosen_ids": chosen,
                "rejected_ids": rejected,
                COLUMN: row.probability,
                "preference_id": row.preference_id,
            }
        )
    return examples, failures


def agreement(margins: Sequence[float], probabilities: Sequence[float]) -> Agreement:
    """Accuracy and calibration of margins against soft labels.

    A margin of exactly zero prefers neither side and counts as wrong. Calibration is taken over both framings of each
    row (chosen over rejected and the reverse): in the first alone every label is at least 0.5, and a model that knows
    nothing would look miscalibrated.

    Args:
        margins: score of chosen minus score of rejected, log-odds.
        probabilities: the labels' probability of chosen.
    """
    decided = [margin > 0 for margin, p in zip(margins, probabilities, strict=True) if p != 0.5]
    predicted = [1 / (1 + math.exp(-max(-700.0, margin))) for margin in margins]
    both = [*predicted, *(1 - p for p in predicted)]
    labels = [*probabilities, *(1 - p for p in probabilities)]
    return Agreement(
        n=len(decided),
        correct=sum(decided),
        accuracy=sum(decided) / len(decided) if decided else None,
        interval=wilson(sum(decided), len(decided)),
        calibration_error=expected_calibration_error(both, labels) if both else None,
    )


def _margins(network: Any, rows: Sequence[dict[str, Any]], pad: int) -> list[float]:
    scores = score_ids(network, [row[side] for row in rows for side in ("chosen_ids", "rejected_ids")], pad=pad)
    return [chosen - rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]


def _check_reload(expected: Sequence[float], found: Sequence[float]) -> None:
    worst = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    if not worst <= RELOAD_TOLERANCE:
        raise TrainingError(f"the saved preference model scores differently from the trained one (by {worst:.2g})")


def _control_tokens(tokenizer: Any, rows: Sequence[PreferenceRow]) -> int:
    return ControlTokens(tokenizer).count(
        text for row in rows for text in (*(message.content for message in row.messages), row.chosen, row.rejected)
    )
