"""Direct preference optimisation (Rafailov et al. 2023) on labelled comparisons, soft labels or rounded ones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from trl import DPOConfig

from constitutional.errors import ConfigError, TrainingError
from constitutional.processes import leads, processes, wait_for_all
from constitutional.records import Failure, assistant
from constitutional.training.checkpoints import Checkpoints
from constitutional.training.guards import OnLog, StepWatch, require_rows
from constitutional.training.lora import lora_config
from constitutional.training.rows import PreferenceRow, RlResult
from constitutional.training.session import save, train, training_session
from constitutional.training.soft_columns import COLUMN, WEIGHT
from constitutional.training.soft_dpo import SoftDpoTrainer, SoftPairCollator
from constitutional.training.tokens import ControlTokens, dialogue_ids, open_tokenizer
from constitutional.training.trl_settings import HARD_ONLY, Settings, trl_config

DEFAULTS: dict[str, object] = {
    "max_length": 512,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1,
    "learning_rate": 5e-6,
}

SHARED = ".rows"
Labels = Literal["soft", "hard"]


def train_dpo(
    rows: Sequence[PreferenceRow],
    *,
    policy: str | Path,
    output: str | Path,
    beta: float,
    labels: Labels,
    seed: int,
    trl: Settings | None = None,
    lora: Settings | None = None,
    on_log: OnLog | None = None,
    checkpoints: Checkpoints | None = None,
) -> RlResult:
    """Trains a policy on comparisons and saves a merged model folder.

    A row longer than `max_length` becomes a Failure, and so does one labelled one half where labels are rounded.
    Weights that differ are scaled to a mean of 1; they need soft labels, as TRL's other losses know none.

    Args:
        rows: labelled comparisons.
        policy: folder of the starting policy, also the reference.
        output: folder to write; left as it was when training fails.
        beta: weight of the divergence from the reference.
        labels: "soft" learns each row's probability, "hard" takes what is more probable for certain.
        seed: order of rows.
        trl: fields of `trl.DPOConfig`.
        lora: fields of `peft.LoraConfig`, the reference is the policy without adapters; a full fine-tune when None.
        on_log: called with every set of figures TRL logs, `step` and `steps` (of the whole run) added.
        checkpoints: what an interrupted training goes on from, and how often it is written; none when None.

    Raises:
        ConfigError: a setting or a folder that cannot be used.
        TrainingError: nothing to train on, labels that say nothing, nothing trainable, no step, no change, or a loss
            that is not a number.
    """
    tokenizer = open_tokenizer(policy)
    with training_session(output) as folder:
        fixed = {"seed": seed, "beta": beta, "precompute_ref_log_probs": True, "disable_dropout": True}
        own = HARD_ONLY if labels == "soft" else {}
        args = trl_config(DPOConfig, folder, fixed=fixed | own, defaults=DEFAULTS, passed=trl)
        limit = args.max_length or tokenizer.model_max_length
        examples, failures = tokenised_pairs(rows, tokenizer, limit, labels)
        require_rows(len(examples), len(rows), "comparisons", limit)
        if all(example[COLUMN] == 0.5 for example in examples):
            raise TrainingError(f"dpo: all {len(examples)} labels are exactly one half: there is nothing to learn")
        watch = StepWatch(on_log)
        trainer = SoftDpoTrainer(
            str(policy),
            args=args,
            data_collator=SoftPairCollator(tokenizer.pad_token_id),
            train_dataset=shared_rows(examples, folder),
            processing_class=tokenizer,
            callbacks=[watch],
            peft_config=lora_config(lora, "CAUSAL_LM"),
        )
        steps, weights = train(trainer, checkpoints)
        shutil.rmtree(folder / SHARED, ignore_errors=True)
        save(trainer, tokenizer, folder)
    texts = [text for row in rows for text in (*(m.content for m in row.messages), row.chosen, row.rejected)]
    return RlResult(
        prompts=len({row.messages for row in rows}),
        failures=tuple(failures),
        control_tokens=ControlTokens(tokenizer).count(texts),
        steps=steps,
        trainable_parameters=weights.trainable,
        completions=0,
        empty_completions=0,
        groups=0,
        zero_spread_groups=0,
        first_reward=None,
        last_reward=None,
        last_kl=None,
        preference_model=None,
        rows=len(examples),
    )


def shared_rows(examples: list[dict[str, Any]], folder: Path) -> Dataset:
    """The rows as a data set. TRL keeps what the reference says of them beside it, where every process must find it."""
    if processes() == 1:
        return Dataset.from_list(examples)
    if leads():
        Dataset.from_list(examples).save_to_disk(str(folder / SHARED))
    wait_for_all()
    return Dataset.load_from_disk(str(folder / SHARED))


def tokenised_pairs(
    rows: Sequence[PreferenceRow], tokenizer: Any, max_length: int, labels: Labels
) -> tuple[list[dict[str, Any]], list[Failure]]:
    """Rows as token ids with their label and weight, and a Failure for each that is too long or undecided.

    Raises:
        ConfigError: weights differ, and labels are rounded.
    """
    examples, failures = [], []
    for row in rows:
        prompt = dialogue_ids(tokenizer, row.messages, generation_prompt=True)
        sides = [dialogue_ids(tokenizer, (*row.messages, assistant(text))) for text in (row.chosen, row.rejected)]
        longest = max(map(len, sides))
        if longest > max_length:
            message = f"{longest} tokens, more than max_length {max_length}"
            failures.append(Failure(item_id=row.preference_id, stage="rl", kind="too_long", message=message))
        elif labels == "hard" and row.probability == 0.5:
            message = "labelled one half: neither answer is chosen"
            failures.append(Failure(item_id=row.preference_id, stage="rl", kind="undecided", message=message))
        else:
            shared = min(_shared(prompt, side) for side in sides)
            examples.append(
                {
                    "prompt_ids": prompt[:shared],
                    "chosen_ids": sides[0][shared:],
                    "rejected_ids": sides[1][shared:],
                    COLUMN: 1.0 if labels == "hard" else row.probability,
                    WEIGHT: row.weight,
                }
            )
    _weigh(examples, labels)
    return examples, failures


def _weigh(examples: Sequence[dict[str, Any]], labels: Labels) -> None:
    """Weights to a mean of 1; taken out where all are equal.

    Raises:
        ConfigError: they differ, and labels are rounded.
    """
    weights = [example.pop(WEIGHT) for example in examples]
    if len(set(weights)) < 2:
        return
    if labels == "hard":
        raise ConfigError("rl.dpo.labels: rows of different weight need labels: soft")
    mean = sum(weights) / len(weights)
    for example, weight in zip(examples, weights, strict=True):
        example[WEIGHT] = weight / mean


def _shared(prompt: Sequence[int], full: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike: a template may render the prompt alone a little differently."""
    pairs = enumerate(zip(prompt, full, strict=False))
    return next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(prompt), len(full)))
