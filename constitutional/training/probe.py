"""A preference model's first head: the line through the untrained model's last hidden states that fits the labels.

Linear probing before fine-tuning (Kumar et al. 2022, "Fine-tuning can distort pretrained features", section 3): a head
that is fitted first keeps the first steps from bending the features towards a head that knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from transformers import AutoModelForSequenceClassification

from constitutional.atomic import write_atomic
from constitutional.backends.cpu import device
from constitutional.processes import told_by_leader
from constitutional.records import Record
from constitutional.training.agreement import agreement
from constitutional.training.checkpoints import Checkpoints
from constitutional.training.pairs import Pair
from constitutional.training.resuming import quiet
from constitutional.training.rows import Agreement
from constitutional.training.scoring import last_states
from constitutional.training.soft_columns import COLUMN, WEIGHT

Floats = NDArray[np.float64]
OnFeatures = Callable[[int, int], None]
_Sides = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a pair's two sides: equal ones have equal features, whatever the rows call themselves."""

PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
"""Ridge penalties to choose from, in units of one pair's loss; features are scaled to differences of size 1 before."""

FOLDS = 5

MOST = 10_000
"""Pairs a head is fitted to at most, and measured on: their features are held in memory."""

BLOCK = 64
"""Pairs read between two words of progress."""

KEPT = "probe.json"


class Probe(Record):
    """A fitted head: a weight a feature, the penalty its folds chose, and its agreement with held-out labels."""

    weights: tuple[float, ...]
    penalty: float
    heldout: Agreement


class FirstHead:
    """Fits first heads to pairs of one model; its features are computed once, when the first head is fitted."""

    def __init__(
        self,
        start: str | Path,
        pairs: Sequence[Pair],
        heldout: Sequence[Pair],
        *,
        pad: int,
        on_features: OnFeatures | None = None,
    ) -> None:
        """Names what heads are fitted to and measured on; of more than `MOST` pairs those of lowest id.

        Args:
            start: the untrained model's folder.
            pairs: all that heads are fitted to.
            heldout: pairs to measure them on.
            pad: the model's padding id.
            on_features: told how many pairs are read, and of how many.
        """
        self._start, self._pad, self._on_features = start, pad, on_features
        self._pairs, self._heldout = _by_content(pairs), _by_content(heldout)
        self._features: Mapping[_Sides, Floats] = {}

    def fit(self, drawn: Sequence[Pair], *, centre: float, checkpoints: Checkpoints | None) -> Probe:
        """A head for pairs drawn from all, the same in every process; the leading one works.

        Args:
            drawn: maybe repeated.
            centre: coefficient of the squared sum of a pair's scores, as in training.
            checkpoints: where a head is kept, for a training that goes on.
        """
        return told_by_leader(lambda: self._fit(drawn, centre, checkpoints))

    def _fit(self, drawn: Sequence[Pair], centre: float, checkpoints: Checkpoints | None) -> Probe:
        kept = checkpoints.folder / KEPT if checkpoints is not None and checkpoints.every is not None else None
        if kept is not None and kept.exists():
            return Probe.model_validate_json(kept.read_bytes())
        if not self._features:
            self._features = self._read()
        pairs = [pair for pair in drawn if _sides(pair) in self._features]
        sides = np.stack([self._features[_sides(pair)] for pair in pairs])
        weights, penalty = fit_head(
            sides[:, 0],
            sides[:, 1],
            [pair[COLUMN] for pair in pairs],
            weight=[pair[WEIGHT] for pair in pairs],
            margin=[pair.get("margin", 0.0) for pair in pairs],
            groups=[pair["conversation"] for pair in pairs],
            centre=centre,
        )
        margins = [float(np.subtract(*self._features[_sides(pair)]) @ weights) for pair in self._heldout]
        measured = agreement(margins, [pair[COLUMN] for pair in self._heldout])
        found = Probe(weights=tuple(weights.tolist()), penalty=penalty, heldout=measured)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, found.to_json() + "\n")
        return found

    def _read(self) -> dict[_Sides, Floats]:
        """Last hidden states of chosen and rejected, (2, width), by their token ids."""
        # the first says that the head is new; silenced, it has the second say how to share out layers
        with quiet("transformers.modeling_utils"), quiet("transformers.distributed.tensor_parallel"):
            network = AutoModelForSequenceClassification.from_pretrained(
                str(self._start), num_labels=1, dtype=torch.float32
            )
        network = network.to(device()).eval()
        found, pairs = dict[_Sides, Floats](), [*self._pairs, *self._heldout]
        for begin in range(0, len(pairs), BLOCK):
            block = pairs[begin : begin + BLOCK]
            sides = [pair[side] for pair in block for side in ("chosen_ids", "rejected_ids")]
            states = last_states(network, sides, pad=self._pad).numpy().astype(np.float64)
            found |= {_sides(pair): states[2 * i : 2 * i + 2] for i, pair in enumerate(block)}
            if self._on_features is not None:
                self._on_features(begin + len(block), len(pairs))
        return found


def _sides(pair: Pair) -> _Sides:
    return tuple(pair["chosen_ids"]), tuple(pair["rejected_ids"])


def _by_content(pairs: Sequence[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: str(pair["preference_id"]))[:MOST] if len(pairs) > MOST else list(pairs)


def fit_head(
    chosen: Floats,
    rejected: Floats,
    probability: Sequence[float],
    *,
    weight: Sequence[float],
    margin: Sequence[float],
    groups: Sequence[str],
    centre: float,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Floats, float]:
    """The head that minimises the trainer's own loss (`preference_loss`) on fixed features, with a ridge penalty.

    The penalty is the one of least loss on pairs left out, in up to five folds by group; with a single group there is
    nothing to leave out, and it is the largest.

    Args:
        chosen: (pairs, width) features of the chosen answers.
        rejected: (pairs, width), of the rejected ones.
        probability: of chosen being the better answer, one a pair.
        weight: of each pair in the loss.
        margin: log-odds taken off each difference.
        groups: what each pair belongs to; a group is in one fold.
        centre: coefficient of the squared sum of a pair's scores.
        penalties: to choose from.

    Returns:
        (width,) weights of the head, and the penalty.
    """
    scale = np.sqrt(np.mean((chosen - rejected) ** 2, axis=0))
    scale[scale == 0] = 1.0
    data = [(chosen - rejected) / scale, (chosen + rejected) / scale]
    rows = [np.asarray(column, dtype=np.float64) for column in (probability, weight, margin)]
    order = {group: k for k, group in enumerate(sorted(set(groups)))}
    fold = np.array([order[group] % FOLDS for group in groups])
    folds = sorted(set(fold.tolist()))

    def left_out(penalty: float) -> float:
        total = 0.0
        for k in folds:
            kept, out = fold != k, fold == k
            head = _fit([part[kept] for part in data], [row[kept] for row in rows], penalty, centre)
            total += _loss(head, [part[out] for part in data], [row[out] for row in rows], 0.0, 0.0)[0]
        return total

    best = min(sorted(penalties, reverse=True), key=left_out) if len(folds) > 1 else max(penalties)
    return _fit(data, rows, best, centre) / scale, best


def _fit(data: Sequence[Floats], rows: Sequence[Floats], penalty: float, centre: float) -> Floats:
    start = np.zeros(data[0].shape[1])
    options = {"maxiter": 10_000, "maxfun": 10_000, "ftol": 1e-12, "gtol": 1e-7}
    return np.asarray(
        minimize(_loss, start, args=(data, rows, penalty, centre), jac=True, method="L-BFGS-B", options=options).x
    )


def _loss(
    head: Floats, data: Sequence[Floats], rows: Sequence[Floats], penalty: float, centre: float
) -> tuple[float, Floats]:
    """The summed loss of pairs and its gradient; `data` are differences and sums of features."""
    (difference, both), (probability, weight, margin) = data, rows
    odds, sums = difference @ head - margin, both @ head
    loss = weight @ (np.logaddexp(0, odds) - probability * odds) + centre * sums @ sums + penalty / 2 * head @ head
    slope = difference.T @ (weight * (expit(odds) - probability)) + 2 * centre * both.T @ sums + penalty * head
    return float(loss), slope


def set_head(network: Any, weights: Sequence[float]) -> None:
    """Sets the head of a one-label classifier.

    A new head has opinions of its own, larger than the differences that soft labels near one half ask for: on 60 rows
    a run mostly unlearns it (docs/LOG.md). Zeros leave every answer at 0 until the labels say otherwise.
    """
    for name, parameter in network.named_parameters():
        if "score" in name.split("."):  # under LoRA its wrapper's two copies, too
            parameter.data.copy_(torch.tensor(weights).expand(parameter.shape))
