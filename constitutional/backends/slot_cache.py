"""Keys and values of many sequences in slots of fixed length, written in place.

The tokens of a head stand together, as attention reads them: with the heads of a token together a step took a third
longer in attention (docs/LOG.md).
"""

from __future__ import annotations

import torch


class SlotCache:
    """What attention layers call a cache: `update` stores new keys and values and returns those to attend to.

    Before each forward `aim` says which slots and positions are written. A slot's stale tokens lie beyond the position
    of its own; the caller's mask hides them, and later tokens overwrite them.
    """

    def __init__(self, slots: int, length: int) -> None:
        """Room for `slots` sequences of `length` tokens; tensors are made at the first update."""
        self.slots = slots
        self.length = length
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._start, self._stop, self._until = 0, 0, 0
        self._positions = torch.zeros((0, 0), dtype=torch.long)

    def aim(self, start: int, positions: torch.Tensor, until: int) -> None:
        """The next forward writes slots from `start` on at `positions` (slots x tokens), and attends to all before.

        `until` is the last position and one.
        """
        self._start, self._stop, self._until = start, start + len(positions), until
        self._positions = positions

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores a layer's keys and values (slots x heads x tokens x width); returns those of all tokens so far."""
        if layer == len(self._keys):
            shape = (self.slots, keys.shape[1], self.length)
            self._keys.append(keys.new_zeros((*shape, keys.shape[3])))
            self._values.append(values.new_zeros((*shape, values.shape[3])))
        return self._write(self._keys[layer], keys), self._write(self._values[layer], values)

    def _write(self, stored: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        slots = torch.arange(self._start, self._stop, device=stored.device)
        stored[slots[:, None], :, self._positions] = new.transpose(1, 2)
        return stored[self._start : self._stop, :, : self._until]

    def spread(self, tokens: int) -> None:
        """Copies the first `tokens` of slot 0 to every slot."""
        for stored in (*self._keys, *self._values):
            stored[:, :, :tokens] = stored[:1, :, :tokens].clone()

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first `tokens` of one slot over another."""
        for stored in (*self._keys, *self._values):
            stored[target, :, :tokens] = stored[source, :, :tokens]

    def taken(self, slot: int, tokens: int) -> list[torch.Tensor]:
        """A copy of the first `tokens` of a slot: keys and values of every layer, each heads x tokens x width."""
        return [stored[slot, :, :tokens].clone() for stored in (*self._keys, *self._values)]

    def put(self, slot: int, kept: list[torch.Tensor], tokens: int) -> None:
        """Copies the first `tokens` of what was `taken` into a slot."""
        if not self._keys:
            half = len(kept) // 2
            made = [one.new_zeros((self.slots, len(one), self.length, one.shape[2])) for one in kept]
            self._keys, self._values = made[:half], made[half:]
        for stored, one in zip((*self._keys, *self._values), kept, strict=True):
            stored[slot, :, :tokens] = one[:, :tokens]

    def get_seq_length(self, *_: object) -> int:
        """Tokens a mask made by the model itself would span; never used, since the mask is always given."""
        return self._until
