"""A trained preference model opened from its folder: one number a dialogue, fast and the same however it is batched."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from constitutional.backends.cpu import prepare_process
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Dialogue
from constitutional.training.tokens import dialogue_ids, open_tokenizer


class PreferenceModel:
    """Scores dialogues with a preference model; differences of scores are log-odds of preference (Bradley-Terry)."""

    def __init__(
        self, folder: str | Path, *, max_length: int = 1024, batch_tokens: int = 4096, dtype: str = "float32"
    ) -> None:
        """Opens a folder written by `train_preference_model`.

        Args:
            folder: a saved sequence-classification model with one label.
            max_length: tokens of a dialogue that are looked at; of a longer one the END, where the answer stands.
            batch_tokens: padded tokens computed at a time.
            dtype: "float32" or "bfloat16".

        Raises:
            ConfigError: not a preference model's folder, or no such dtype.
        """
        if dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype '{dtype}': expected float32 or bfloat16")
        prepare_process()
        self._tokenizer = open_tokenizer(folder)
        self._max_length, self._batch_tokens = max_length, batch_tokens
        network = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=getattr(torch, dtype))
        architectures = network.config.architectures or [""]
        if network.config.num_labels != 1 or "SequenceClassification" not in architectures[0]:
            raise ConfigError(f"{folder}: not a preference model (expected a sequence classifier with one label)")
        network.config.pad_token_id = self._tokenizer.pad_token_id  # tells the head which token is the last
        self._network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.model = f"pm-{weights_digest(folder)}" + ("" if dtype == "float32" else f"-{dtype}")
        """Identity: the digest of the weights, whatever folder they lie in."""

    def score(self, dialogues: Sequence[Dialogue]) -> list[float]:
        """One score a dialogue, in order; each ends with the assistant message that is judged.

        Raises:
            BackendError: a score is NaN or infinite.
        """
        return self.score_ids([dialogue_ids(self._tokenizer, dialogue) for dialogue in dialogues])

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """As `score`, of dialogues that are token ids already."""
        ends = [ids[-self._max_length :] for ids in sequences]
        scores = score_ids(self._network, ends, pad=self._tokenizer.pad_token_id, batch_tokens=self._batch_tokens)
        broken = sum(not math.isfinite(score) for score in scores)
        if broken:
            raise BackendError(
                f"preference model {self.model} gave {broken} of {len(scores)} scores that are not finite"
            )
        return scores


@torch.inference_mode()
def score_ids(network: Any, sequences: Sequence[Sequence[int]], *, pad: int, batch_tokens: int = 4096) -> list[float]:
    """Scores of token sequences from a one-label sequence classifier, in order.

    Sequences of like length go together, padded on the right, so that little padding is computed and a score does not
    depend on its neighbours.
    """
    scores = [0.0] * len(sequences)
    for batch in _batches([len(ids) for ids in sequences], batch_tokens):
        width = len(sequences[batch[-1]])
        ids = torch.full((len(batch), width), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
            mask[row, : len(sequences[i])] = 1
        device = network.device
        logits = network(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        for i, score in zip(batch, logits[:, 0].float().tolist(), strict=True):
            scores[i] = score
    return scores


def _batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def weights_digest(folder: str | Path) -> str:
    """The first 16 hex digits of the sha256 over a model folder's weight files.

    Raises:
        ConfigError: the folder holds no safetensors file.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder}: model folder without safetensors weights")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
