"""TRL's DPOTrainer with a soft label for each row: one linear term more than the hard loss.

With d = beta * (log-ratio of chosen - log-ratio of rejected) and p the probability that chosen is the better one,
`-p*logsigmoid(d) - (1-p)*logsigmoid(-d) = -logsigmoid(d) + (1-p)*d`, so the subclass adds the last term to TRL's loss.
Where rows have weights the whole loss is ours, each row's times its weight; the mean is over rows, as in the preference
model's. TRL's own `label_smoothing` is one number for all rows, and its loss `sigmoid` does not look at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.nn.functional import logsigmoid
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from constitutional.training.soft_columns import COLUMN, WEIGHT, with_labels


@dataclass
class SoftPairCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, with the soft labels and weights beside the token ids."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pads chosen and rejected into one batch (all chosen, then all rejected) and stacks the labels."""
        return with_labels(super().torch_call(examples), examples)


class SoftDpoTrainer(DPOTrainer):  # type: ignore[misc]
    """A DPO trainer for rows of token ids (`prompt_ids`, `chosen_ids`, `rejected_ids`) with a `preference` column.

    The reference's log-probabilities must be precomputed: then the policy is called once a batch, and what it said can
    be taken up without a second forward.
    """

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # tokenised already, control tokens made harmless

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [c for c in (COLUMN, WEIGHT) if c not in self._signature_columns]

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """TRL's, without the labels: they must not reach the network."""
        plain = {key: value for key, value in inputs.items() if key not in (COLUMN, WEIGHT)}
        return super().compute_ref_log_probs(model, plain)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss plus `(1-p) * d`, averaged over the batch; with weights, the same of ours alone."""
        inputs = dict(inputs)
        probability, weight = inputs.pop(COLUMN), inputs.pop(WEIGHT, None)
        tap = _Tap(model)
        loss = super().compute_loss(tap, inputs, num_items_in_batch=num_items_in_batch)
        seen = tap.log_probs[:, -(inputs["completion_mask"].shape[1] - 1) :].sum(1)
        chosen, rejected = seen.chunk(2)
        delta = (chosen - inputs["ref_chosen_logps"]) - (rejected - inputs["ref_rejected_logps"])
        soft = (1 - probability) * self.beta * delta
        loss = loss + soft.mean() if weight is None else (weight * (soft - logsigmoid(self.beta * delta))).mean()
        return (loss, {}) if return_outputs else loss


class _Tap:
    """Calls a network and keeps the log-probabilities of its first answer."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.log_probs: Any = None

    def __call__(self, **keywords: Any) -> Any:
        outputs = self._model(**keywords)
        if self.log_probs is None:
            self.log_probs = outputs.log_probs
        return outputs
