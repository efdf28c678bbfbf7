"""A trained preference model opened from its folder: one number a dialogue, fast and the same however it is batched."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from constitutional.backends.cpu import device, prepare_process
from constitutional.backends.vllm import close_idle
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Dialogue, short_digest
from constitutional.training.pm_folder import (
    Condition,
    asked_otherwise,
    combine,
    member_folders,
    read_conditions,
    read_ensemble,
    reduced,
    some_members,
    under,
)
from constitutional.training.scoring import score_ids
from constitutional.training.tokens import dialogue_ids, open_tokenizer

__all__ = ["PreferenceModel", "folder_digest", "score_ids", "weights_digest"]


class PreferenceModel:
    """Scores dialogues with a preference model; differences of scores are log-odds of preference (Bradley-Terry).

    The folder may hold an ensemble: its members' scores are combined by the rule it was saved with. It may hold a
    principle-conditioned model: `score` then is the mean of its scores under `conditions`, by their weights.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        conditions: Sequence[Condition] | None = None,
        members: Sequence[int] | None = None,
        max_length: int = 1024,
        batch_tokens: int = 4096,
        dtype: str = "float32",
    ) -> None:
        """Opens a folder written by `train_preference_model`.

        Args:
            folder: a saved sequence-classification model with one label, or an ensemble of them.
            conditions: principles to score under, in the place of those the model was trained under.
            members: numbers of the members of an ensemble that score, from 0; all when None.
            max_length: tokens of a dialogue that are looked at; of a longer one the END, where the answer stands.
            batch_tokens: padded tokens computed at a time.
            dtype: "float32" or "bfloat16".

        Raises:
            ConfigError: not a preference model's folder, no such dtype or member, or principles for a model that reads
                none.
        """
        if dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype '{dtype}': expected float32 or bfloat16")
        prepare_process()
        close_idle()
        own = read_conditions(folder)
        if conditions and not own:
            raise ConfigError(f"{folder}: not a principle-conditioned preference model")
        self.conditions = tuple(conditions) if conditions else own
        """The principles `score` asks under, with their weights; none unless the model is conditioned."""
        self._ensemble, folders = read_ensemble(folder), member_folders(folder)
        if members is not None:
            if self._ensemble is None or not members or not set(members) <= set(range(len(folders))):
                raise ConfigError(f"{folder}: no ensemble with the members {', '.join(map(str, members))}")
            self._ensemble, folders = reduced(self._ensemble, members), [folders[i] for i in members]
        self._tokenizer = open_tokenizer(folders[0])
        self._max_length, self._batch_tokens = max_length, batch_tokens
        self._networks = [_open(member, self._tokenizer.pad_token_id, getattr(torch, dtype)) for member in folders]
        self.model = f"pm-{folder_digest(folder)}" + ("" if dtype == "float32" else f"-{dtype}")
        """Identity: the digest of the weights (of an ensemble, with its rule), whatever folder they lie in."""
        if members is not None:
            self.model = some_members(self.model, members)
        if self.conditions != own:
            self.model = asked_otherwise(self.model, self.conditions)

    def score(self, dialogues: Sequence[Dialogue]) -> list[float]:
        """One score a dialogue, in order; each ends with the assistant message that is judged.

        Raises:
            BackendError: a score is NaN or infinite.
        """
        if not self.conditions:
            return self._score(dialogues)
        weights = [condition.weight for condition in self.conditions]
        return [
            math.fsum(w * s for w, s in zip(weights, row, strict=True)) / math.fsum(weights)
            for row in self.score_under(dialogues, [condition.text for condition in self.conditions])
        ]

    def score_under(self, dialogues: Sequence[Dialogue], texts: Sequence[str]) -> list[list[float]]:
        """For each dialogue its scores under each of the principles' texts, which need not be those of training.

        Raises:
            ConfigError: the model was not trained to read principles.
            BackendError: a score is NaN or infinite.
        """
        if not self.conditions:
            raise ConfigError("this preference model is not conditioned on principles")
        scores = self._score([under(dialogue, text) for dialogue in dialogues for text in texts])
        return [scores[i * len(texts) : (i + 1) * len(texts)] for i in range(len(dialogues))]

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Scores of dialogues that are token ids already, principles included.

        Raises:
            BackendError: a score is NaN or infinite.
        """
        return self.combined(self.member_scores(sequences))

    def combined(self, members: Sequence[Sequence[float]]) -> list[float]:
        """One score a sequence from those of `member_scores`.

        Raises:
            BackendError: a score is NaN or infinite.
        """
        scores = list(members[0]) if self._ensemble is None else combine(members, self._ensemble)
        broken = sum(not math.isfinite(score) for score in scores)
        if broken:
            raise BackendError(
                f"preference model {self.model} gave {broken} of {len(scores)} scores that are not finite"
            )
        return scores

    def member_scores(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of each member the scores of token sequences as they are, offsets not taken off."""
        ends = [ids[-self._max_length :] for ids in sequences]
        pad = self._tokenizer.pad_token_id
        return [score_ids(network, ends, pad=pad, batch_tokens=self._batch_tokens) for network in self._networks]

    def _score(self, dialogues: Sequence[Dialogue]) -> list[float]:
        return self.score_ids([dialogue_ids(self._tokenizer, dialogue) for dialogue in dialogues])


def _open(folder: Path, pad: int, dtype: torch.dtype) -> Any:
    network = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=dtype)
    architectures = network.config.architectures or [""]
    if network.config.num_labels != 1 or "SequenceClassification" not in architectures[0]:
        raise ConfigError(f"{folder}: not a preference model (expected a sequence classifier with one label)")
    network.config.pad_token_id = pad  # tells the head which token is the last
    return network.to(device()).eval()


def folder_digest(folder: str | Path) -> str:
    """The digest of one model's weights; of an ensemble, of all its members' and of how they are combined."""
    ensemble = read_ensemble(folder)
    if ensemble is None:
        return weights_digest(folder)
    members = [weights_digest(member) for member in member_folders(folder)]
    return short_digest([members, ensemble.model_dump(mode="json")])


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
