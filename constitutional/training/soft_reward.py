"""TRL's RewardTrainer with soft labels: one linear term more than the hard Bradley-Terry loss.

With d the margin of chosen over rejected and p the probability of chosen,
`-p*logsigmoid(d) - (1-p)*logsigmoid(-d) = -logsigmoid(d) + (1-p)*d`, so the subclass adds the last term to TRL's loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

COLUMN = "preference"
"""The dataset column that holds the probability of chosen, in [0, 1]."""


@dataclass
class SoftPreferenceCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, with the soft labels beside the token ids."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pads chosen and rejected into one batch (all chosen, then all rejected) and stacks the labels."""
        batch: dict[str, Any] = super().torch_call(examples)
        batch[COLUMN] = torch.tensor([example[COLUMN] for example in examples], dtype=torch.float)
        return batch


class SoftRewardTrainer(RewardTrainer):  # type: ignore[misc]
    """A reward trainer for rows with a `preference` column."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        collator: Any = self.data_collator  # type: ignore[has-type]
        self.data_collator = SoftPreferenceCollator(collator.pad_token_id, collator.pad_to_multiple_of)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if COLUMN not in self._signature_columns:
            self._signature_columns.append(COLUMN)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss (centring included) plus `(1-p) * margin`, averaged over the batch."""
        inputs = dict(inputs)
        probability = inputs.pop(COLUMN)  # must not reach the network
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        loss = loss + ((1 - probability) * (chosen - rejected)).mean()
        return (loss, outputs) if return_outputs else loss
