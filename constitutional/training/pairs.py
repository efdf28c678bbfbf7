"""Preference rows as the trainer takes them: token ids, soft label, weight, margin."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from constitutional.records import Failure, short_digest
from constitutional.training.pm_folder import answered
from constitutional.training.rows import PreferenceRow
from constitutional.training.soft_columns import COLUMN, WEIGHT
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
        chosen, rejected = side_ids(row, tokenizer)
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
            "conversation": short_digest([message.model_dump() for message in row.messages]),
            "origin": row.origin,
            "principles": list(row.principles),
            WEIGHT: row.weight,
        }
        pairs.append({**pair, "margin": margin * (2 * row.probability - 1)} if margin else pair)
    mean = sum(pair[WEIGHT] for pair in pairs) / len(pairs) if pairs else 1.0
    for pair in pairs:
        pair[WEIGHT] /= mean
    return pairs, failures


def side_ids(row: PreferenceRow, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of a row's conversation with the chosen answer, and with the rejected one."""
    chosen, rejected = (answered(row.messages, text, row.principle_text) for text in (row.chosen, row.rejected))
    return dialogue_ids(tokenizer, chosen), dialogue_ids(tokenizer, rejected)


def bootstrap(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """As many pairs, drawn with replacement (Breiman 1996)."""
    return random.Random(seed).choices(pairs, k=len(pairs))
