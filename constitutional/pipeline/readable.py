"""Which preference rows a training reads whole: where rows are counted, only those are chosen from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from constitutional.errors import TrainingError
from constitutional.pipeline.inputs import Inputs
from constitutional.records import Failure
from constitutional.settings import DpoSettings
from constitutional.training.rows import PreferenceRow

Unread = Callable[[PreferenceRow], Failure | None]
"""Why a row would not be trained on."""


def unread(ctx: Inputs) -> Unread:
    """What says why a row would be left out: it is longer than its reader takes, or hard labels find it undecided.

    Its reader is the policy under `dpo`, else the preference model; both have the policy's tokenizer.
    """
    from constitutional.training import dpo, preference_model
    from constitutional.training.pairs import side_ids
    from constitutional.training.tokens import open_tokenizer

    rl, tokenizer = ctx.recipe.rl, open_tokenizer(weights_of(ctx.spec("policy")))
    direct = rl.algorithm == "dpo"
    settings = dpo.DEFAULTS | rl.trl if direct else preference_model.DEFAULTS | ctx.recipe.pm.trl
    limit = int(str(settings["max_length"] or tokenizer.model_max_length))
    hard = direct and (rl.dpo or DpoSettings()).labels == "hard"

    def reason(row: PreferenceRow) -> Failure | None:
        longest = max(map(len, side_ids(row, tokenizer)))
        if longest > limit:
            message = f"{longest} tokens, more than max_length {limit}"
            return Failure(item_id=row.preference_id, stage="pm", kind="too_long", message=message)
        if hard and row.probability == 0.5:
            message = "labelled one half: neither answer is chosen"
            return Failure(item_id=row.preference_id, stage="pm", kind="undecided", message=message)
        return None

    return reason


def weights_of(spec: str) -> Path:
    """The model folder behind a spec.

    Raises:
        TrainingError: a scripted or openvino model, which cannot be trained.
    """
    kind, _, rest = spec.partition(":")
    if kind == "embedded":
        from constitutional.backends.embedded import converted_folder

        return converted_folder(rest)
    if kind == "local":
        return Path(rest)
    raise TrainingError(f"{spec} cannot be trained: a policy is local: or embedded:")
