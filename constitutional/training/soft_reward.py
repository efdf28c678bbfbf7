"""TRL's RewardTrainer with a loss of ours: soft labels, and a weight a row, beside TRL's margin and centring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from constitutional.training.preference_loss import preference_loss
from constitutional.training.soft_columns import COLUMN, WEIGHT, with_labels


@dataclass
class SoftPreferenceCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, with the soft labels and weights beside the token ids and margins."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pads chosen and rejected into one batch (all chosen, then all rejected) and stacks the labels."""
        return with_labels(super().torch_call(examples), examples)


class SoftRewardTrainer(RewardTrainer):  # type: ignore[misc]
    """A reward trainer for rows with a `preference` column, and maybe a `weight` and a `margin`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        collator: Any = self.data_collator  # type: ignore[has-type]
        self.data_collator = SoftPreferenceCollator(collator.pad_token_id, collator.pad_to_multiple_of)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known: list[str] = self._signature_columns  # type: ignore[has-type]
        self._signature_columns = [*known, *(c for c in (COLUMN, WEIGHT, "margin") if c not in known)]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`preference_loss` of the batch. TRL's own, hard loss is computed along with its figures and not used."""
        inputs = dict(inputs)
        probability, weight = inputs.pop(COLUMN), inputs.pop(WEIGHT, None)  # must not reach the network
        margin = inputs.pop("margin", None)  # TRL would hand it to the network, which knows no such argument
        _, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        loss = preference_loss(
            chosen,
            rejected,
            probability,
            weight=weight,
            margin=margin,
            centre=self.args.center_rewards_coefficient or 0.0,
        )
        return (loss, outputs) if return_outputs else loss
