"""Preference rows as the trainer takes them: token ids, soft label, weight, margin."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from constitutional.records import Failure
from constitutional.training.pm_folder import answered
from constitutional.training.rows import PreferenceRow
from constitutional.training.soft_reward import COLUMN, WEIGHT
from constitutional.training.tokens import dialogue_ids

Pair = dict[str, Any]


def tokenised_pairs(
    rows: Sequence[PreferenceRow], tokenizer: Any, max_length: int, *, margin: float = 0.0
) -> tuple[list[Pair], list[Failure]]:
    """Rows as token ids with their soft label and provenance, and a Failure for each that is too long.

    Weights are scaled to a mean of 1, so that they shift the loss between sources and do not change the learning
    rate. A row's margin is `margin * (2p - 1)`: whole for a certain label, none for one that prefers neither side.
    """
    pairs: list[Pair] = []
    failures = []
    for row in rows:
        chosen = dialogue_ids(tokenizer, answered(row.messages, row.chosen, row.principle_text))
        rejected = dialogue_ids(tokenizer, answered(row.messages, row.rejected, row.principle_text))
        longest = max(len(chosen), len(rejected))
        if longest > max_length:
            message = f"{longest} tokens, more than max_length {max_length}"
            failures.append(Failure(item_id=row.preference_id, stage="pm", kind="too_long", message=message))
            continue
        pair: Pair = {
            "chosen_ids": chosen,
            "rejected_ids": rejected,
            COLUMN: row.probability,
            "preference_id": row.preference_id,
            "origin": row.origin,
            "principles": list(row.principles),
            WEIGHT: row.weight,
        }
        pairs.append({**pair, "margin": margin * (2 * row.probability - 1)} if margin else pair)
    mean = sum(pair[WEIGHT] for pair in pairs) / len(pairs) if pairs else 1.0
    for pair in pairs:
        pair[WEIGHT] /= mean
    return pairs, failures


def bootstrap(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """As many pairs, drawn with replacement (Breiman 1996)."""
    return random.Random(seed).choices(pairs, k=len(pairs))
