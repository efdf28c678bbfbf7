"""Keys and values of sequences written before, for prompts that go on where these ended: no turn is read twice.

Which tokens are shared is decided by their ids alone, so a dialogue whose text is tokenised anew in its next turn, or
that was cut, is continued from the last token both have in common, whatever it is.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

KEPT_TOKENS = 24_576
"""Most tokens kept, of all sequences together: 1.1 GB of a SmolLM2-135M in float32, 1.4 GB of a Qwen2.5 1.5B. What was
written longest ago is dropped first, and then read again."""

Stored = list[torch.Tensor]
"""Keys and values of one sequence, per layer and kind: heads x tokens x width."""


@dataclass
class KeptDialogues:
    """Sequences and their keys and values, at most `budget` tokens of them."""

    budget: int = KEPT_TOKENS
    tokens: int = 0
    """How many are held."""
    _stored: OrderedDict[tuple[int, ...], Stored] = field(default_factory=OrderedDict)
    _ordered: list[tuple[int, ...]] = field(default_factory=list)

    def add(self, ids: Sequence[int], stored: Stored) -> None:
        """Keeps a sequence; what it continues is dropped, and what is oldest, until all fit. A longer one is not kept.

        Args:
            ids: its tokens.
            stored: their keys and values, which nobody else writes to.
        """
        name = tuple(ids)
        place = bisect_left(self._ordered, name)
        if place and self._ordered[place - 1] == name[: len(self._ordered[place - 1])]:
            self._drop(self._ordered[place - 1])
        if len(name) > self.budget or name in self._stored:
            return
        while self.tokens + len(name) > self.budget:
            self._drop(next(iter(self._stored)))
        self._stored[name] = stored
        self.tokens += len(name)
        insort(self._ordered, name)

    def find(self, prompt: Sequence[int]) -> tuple[int, Stored]:
        """How many of a prompt's first tokens are kept, and the sequence that holds them; none: 0 and an empty one."""
        name = tuple(prompt)
        place = bisect_left(self._ordered, name)
        # of all sequences in lexicographic order, the one that shares most stands next to where the prompt would
        near = self._ordered[max(0, place - 1) : place + 1]
        best = max(near, key=lambda ids: shared_beginning(ids, name), default=())
        return shared_beginning(best, name), self._stored.get(best, [])

    def _drop(self, name: tuple[int, ...]) -> None:
        del self._stored[name]
        del self._ordered[bisect_left(self._ordered, name)]
        self.tokens -= len(name)


def shared_beginning(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two sequences have in common."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
