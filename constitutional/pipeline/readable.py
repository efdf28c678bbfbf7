"""Which preference rows a training reads whole: where rows are counted, only those are chosen from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.weights import weights_of
from constitutional.records import Failure
from constitutional.settings import DpoSettings
from constitutional.training.rows import PreferenceRow

Unread = Callable[[PreferenceRow], Failure | None]
"""Why a row would not be trained on."""

Reader = Literal["pm", "rl"]
"""The step that trains on a row."""


def unread(ctx: Inputs, reader: Reader) -> Unread:
    """What says why a row would be left out: it is longer than its reader takes, or hard labels find it undecided.

    Args:
        ctx: of the recipe; both readers have the policy's tokenizer.
        reader: the preference model, or under `dpo` the policy.

    Raises:
        ConfigError: a setting of the training that TRL does not take.
    """
    from trl import DPOConfig, RewardConfig

    from constitutional.training import dpo, preference_model
    from constitutional.training.pairs import side_ids
    from constitutional.training.tokens import open_tokenizer
    from constitutional.training.trl_settings import checked_fields

    rl, tokenizer = ctx.recipe.rl, open_tokenizer(weights_of(ctx.spec("policy")))
    if reader == "rl":
        settings = dpo.DEFAULTS | checked_fields(DPOConfig, rl.trl, key="rl.trl")
    else:
        settings = preference_model.DEFAULTS | checked_fields(RewardConfig, ctx.recipe.pm.trl, key="pm.trl")
    limit = int(str(settings["max_length"] or tokenizer.model_max_length))
    hard = reader == "rl" and (rl.dpo or DpoSettings()).labels == "hard"

    def reason(row: PreferenceRow) -> Failure | None:
        longest = max(map(len, side_ids(row, tokenizer)))
        if longest > limit:
            message = f"{longest} tokens, more than max_length {limit}"
            return Failure(item_id=row.preference_id, stage=reader, kind="too_long", message=message)
        if hard and row.probability == 0.5:
            message = "labelled one half: neither answer is chosen"
            return Failure(item_id=row.preference_id, stage=reader, kind="undecided", message=message)
        return None

    return reason
