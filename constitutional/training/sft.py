"""Supervised fine-tuning on revisions and helpful answers (Bai et al. 2022, section 3): SL-CAI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from constitutional.records import Failure, assistant
from constitutional.training.checkpoints import Checkpoints
from constitutional.training.guards import OnLog, StepWatch, require_rows
from constitutional.training.lora import lora_config
from constitutional.training.rows import SftResult, SftRow
from constitutional.training.session import save, train, training_session
from constitutional.training.tokens import ControlTokens, completion_labels, dialogue_ids, open_tokenizer
from constitutional.training.trl_settings import Settings, trl_config

__all__ = ["SftResult", "SftRow", "train_sft"]

DEFAULTS: dict[str, object] = {
    "max_length": 512,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "num_train_epochs": 2,
    "learning_rate": 3e-5,
    "train_sampling_strategy": "group_by_length",  # rows of like length share a batch: less padding to compute
}


class GroupedSftTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's, which sorts rows by length within fifty batches; a batch is that of all processes, not of one."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size *= self.args.world_size
        return sampler


def train_sft(
    rows: Sequence[SftRow],
    *,
    model: str | Path,
    output: str | Path,
    seed: int,
    trl: Settings | None = None,
    lora: Settings | None = None,
    on_log: OnLog | None = None,
    checkpoints: Checkpoints | None = None,
) -> SftResult:
    """Fine-tunes a chat model on completions and saves a merged model folder.

    Control tokens written out in a row's text are trained on as plain text and counted. A row longer than
    `max_length` becomes a Failure; nothing is truncated.

    Args:
        rows: what to train on; the loss is on the completions only.
        model: folder of the starting model.
        output: folder to write; left as it was when training fails.
        seed: order of rows and initial LoRA weights.
        trl: fields of `trl.SFTConfig`.
        lora: fields of `peft.LoraConfig`; a full fine-tune when None.
        on_log: called with every set of figures TRL logs, `step` and `steps` (of the whole run) added.
        checkpoints: what an interrupted training goes on from, and how often it is written; none when None.

    Raises:
        ConfigError: a setting or a folder that cannot be used.
        TrainingError: nothing to train on, nothing trainable, no step, no change, or a loss that is not a number.
    """
    tokenizer = open_tokenizer(model)
    with training_session(output) as folder:
        fixed = {"seed": seed, "packing": False, "completion_only_loss": True}
        args = trl_config(SFTConfig, folder, fixed=fixed, defaults=DEFAULTS, passed=trl)
        limit = args.max_length or tokenizer.model_max_length
        examples, failures = tokenised_rows(rows, tokenizer, limit)
        require_rows(len(examples), len(rows), "rows", limit)
        controls = ControlTokens(tokenizer).count(
            text for row in rows for text in (*(message.content for message in row.prompt), row.completion)
        )
        watch = StepWatch(on_log)
        trainer = GroupedSftTrainer(
            str(model),
            args=args,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            callbacks=[watch],
            peft_config=lora_config(lora, "CAUSAL_LM"),
        )
        steps, weights = train(trainer, checkpoints)
        save(trainer, tokenizer, folder)
    losses = watch.values("loss")
    return SftResult(
        rows=len(examples),
        failures=tuple(failures),
        control_tokens=controls,
        steps=steps,
        trainable_parameters=weights.trainable,
        first_loss=losses[0],
        last_loss=losses[-1],
    )


def tokenised_rows(
    rows: Sequence[SftRow], tokenizer: object, max_length: int
) -> tuple[list[dict[str, object]], list[Failure]]:
    """Rows as `input_ids` and `labels` with their provenance, and a Failure for each that is too long or empty."""
    examples: list[dict[str, object]] = []
    failures = []
    for row in rows:
        full = dialogue_ids(tokenizer, (*row.prompt, assistant(row.completion)), open_end=not row.complete)
        labels = completion_labels(dialogue_ids(tokenizer, row.prompt, generation_prompt=True), full)
        if not row.completion.strip():
            failures.append(Failure(item_id=row.source_id, stage="sft", kind="empty", message="empty completion"))
        elif len(full) > max_length:
            message = f"{len(full)} tokens, more than max_length {max_length}"
            failures.append(Failure(item_id=row.source_id, stage="sft", kind="too_long", message=message))
        else:
            examples.append({"input_ids": full, "labels": labels, "source_id": row.source_id})
    return examples, failures
