"""Batched sampling with continuous refill: a finished sequence's place is taken by the next prompt.

Every sequence draws from a random stream of its own, so what it draws does not depend on who shares the batch. Keys and
values live in slots allocated once; each step writes one token per slot in place, where a growing cache is copied anew.
A prompt that continues a sequence whose keys and values were kept is read from there on only.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from constitutional.activity import tell
from constitutional.backends.drawing import penalise_repetition, pick
from constitutional.backends.kept import KeptDialogues, shared_beginning
from constitutional.backends.narrow import narrow_products
from constitutional.backends.slot_cache import SlotCache
from constitutional.records import Sampling, digest, seed_for

SLOTS = 128
"""Most sequences written at once: a CPU gains nothing beyond (docs/LOG.md)."""

CACHE_TOKENS = 16_384
"""Bound of the cache: slots x (longest prompt + max_tokens). One sequence alone may be longer."""

PREFILL_TOKENS = 4_096
"""Bound of one forward over new prompts: rows x the longest of them."""

CPU_FORWARD, GPU_FORWARD = 64, 2_048
"""What a forward costs besides its tokens, in tokens: its weights are read, and its steps begun. Of two AMD cores by
`benchmarks/few_rows.py`, rounded up for the rest of a forward; of a GPU a guess, none was measured."""

_NOTHING = torch.zeros(0, dtype=torch.long)
"""Of which positions a forward that only reads gives logits."""

Finished = Callable[[list[int]], bool]
"""Whether the tokens drawn so far are a whole answer."""


@dataclass
class _Row:
    """One sequence being written: its place in the batch given, and its own random stream."""

    number: int
    prompt: list[int]
    stream: random.Random
    drawn: list[int] = field(default_factory=list)
    read: int = 0
    """Tokens of the prompt whose keys and values are there before it is placed."""

    @property
    def position(self) -> int:
        """Where its last token stands, the one to be read next."""
        return len(self.prompt) + len(self.drawn) - 1

    @property
    def unread(self) -> int:
        """Tokens of the prompt to be read before its first step, which reads the last one."""
        return len(self.prompt) - 1 - self.read

    @property
    def last(self) -> int:
        return self.drawn[-1] if self.drawn else self.prompt[-1]


def decode(
    net: Any,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    finished: Finished,
    kept: KeptDialogues | None = None,
) -> list[list[int]]:
    """Token ids written after each prompt, in the order of the prompts; a last token that ends an answer is included.

    Args:
        net: a causal language model all of whose layers attend to everything before.
        prompts: token ids; none empty, and each leaves room for `max_tokens`.
        sampling: `seed` and the prompt make a sequence's random stream; equal prompts get one each, by their order.
        finished: called with a sequence's tokens after each one.
        kept: sequences written before, which prompts may continue; those written now are added.
    """
    rows = _rows(prompts, sampling.seed)
    found: dict[int, list[int]] = {}

    def tell_step() -> None:
        """Of tokens, too: rows that begin together end together, and nothing is finished for long."""
        tell(len(found), len(prompts), f"texts written, {sum(len(row.drawn) for row in rows)} tokens")

    tell_step()
    with narrow_products(net):
        for group in _groups(rows, sampling.max_tokens):
            for row in _decode_group(net, group, sampling, finished, kept, tell_step):
                found[row.number] = row.drawn
    tell_step()
    return [found[number] for number in range(len(prompts))]


def _rows(prompts: Sequence[list[int]], seed: int) -> list[_Row]:
    copies: Counter[str] = Counter()
    rows = []
    for number, prompt in enumerate(prompts):
        name = digest(prompt)
        rows.append(_Row(number, prompt, random.Random(seed_for(seed, name, copies[name]))))
        copies[name] += 1
    return rows


def _groups(rows: Sequence[_Row], max_tokens: int) -> Iterator[list[_Row]]:
    """Rows that share a cache, longest first: none needs less than half of the room that a slot must have."""
    group: list[_Row] = []
    for row in sorted(rows, key=lambda row: -len(row.prompt)):
        if group and 2 * (len(row.prompt) + max_tokens) < len(group[0].prompt) + max_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


@torch.inference_mode()
def _decode_group(
    net: Any,
    group: Sequence[_Row],
    sampling: Sampling,
    finished: Finished,
    kept: KeptDialogues | None,
    tell_step: Callable[[], None],
) -> Iterator[_Row]:
    length = len(group[0].prompt) + sampling.max_tokens
    cache = SlotCache(max(1, min(SLOTS, len(group), CACHE_TOKENS // length)), length)
    waiting = deque(group)
    shared = _read_shared(net, cache, group, kept)
    rows: list[_Row] = []  # row i is written in slot i: what is live stands together
    # tokens of each slot, for the penalty; what is not yet written repeats the first token, which changes nothing
    seen = torch.zeros((cache.slots, length), dtype=torch.long, device=net.device)
    while waiting or rows:
        new = [waiting.popleft() for _ in range(min(len(waiting), cache.slots - len(rows)))]
        _place(cache, new, len(rows), shared, kept)
        for slot, row in enumerate(new, start=len(rows)):
            seen[slot] = row.prompt[0]
            seen[slot, : len(row.prompt)] = torch.tensor(row.prompt, device=net.device)
        _read_prompts(net, cache, new, len(rows))
        rows += new
        tell_step()
        logits = _step(net, cache, rows)
        if sampling.repetition_penalty != 1:
            penalise_repetition(logits, seen[: len(rows)], sampling.repetition_penalty)
        uniforms = torch.tensor([row.stream.random() for row in rows], dtype=torch.float64, device=net.device)
        picked = pick(logits, uniforms, sampling)
        for row, token in zip(rows, picked.tolist(), strict=True):
            row.drawn.append(token)
        seen[list(range(len(rows))), [row.position for row in rows]] = picked
        for slot in reversed(range(len(rows))):
            row = rows[slot]
            if len(row.drawn) == sampling.max_tokens or finished(row.drawn):
                if kept is not None:
                    kept.add((row.prompt + row.drawn)[: row.position], cache.taken(slot, row.position))
                yield row
                last = rows.pop()
                if slot < len(rows):
                    rows[slot] = last
                    seen[slot] = seen[len(rows)]
                    cache.move(len(rows), slot, last.position)


def _read_shared(net: Any, cache: SlotCache, group: Sequence[_Row], kept: KeptDialogues | None) -> int:
    """Reads the tokens that all prompts begin with, once for all slots; how many they are. 0 where all are kept."""
    first, last = min(row.prompt for row in group), max(row.prompt for row in group)
    shared = min(shared_beginning(first, last), len(first) - 1, len(last) - 1)
    if kept is not None and all(kept.find(row.prompt)[0] >= shared for row in group):
        return 0
    if shared and len(group) > 1:
        _forward(net, cache, 0, torch.tensor([first[:shared]]), torch.arange(shared)[None], keep=_NOTHING)
        cache.spread(shared)
        return shared
    return 0


def _place(cache: SlotCache, new: list[_Row], start: int, shared: int, kept: KeptDialogues | None) -> None:
    """Orders new rows, those with most left to read first, and copies what is kept of them into slots from `start`."""
    found = {row.number: kept.find(row.prompt[:-1]) for row in new} if kept is not None else {}
    for row in new:
        row.read = max(shared, found[row.number][0] if found else 0)
    new.sort(key=lambda row: -row.unread)
    for slot, row in enumerate(new, start=start):
        if row.read > shared:
            cache.put(slot, found[row.number][1], row.read)


def _read_prompts(net: Any, cache: SlotCache, new: Sequence[_Row], start: int) -> None:
    """Reads new prompts into the slots from `start` on, all but the last token: their first step reads that one."""
    forward = CPU_FORWARD if net.device.type == "cpu" else GPU_FORWARD
    for count in batch_sizes([row.unread for row in new], forward):
        _read_batch(net, cache, new[:count], start)
        new, start = new[count:], start + count


def batch_sizes(lengths: Sequence[int], forward: int) -> list[int]:
    """How many rows to read at a time, so that as little as can be is spent on filling and on forwards.

    Args:
        lengths: tokens of each row, the longest first; a batch is as wide as its first.
        forward: what a forward costs besides its tokens, in tokens.
    """
    # the least cost of reading all rows from each on, and how many of them go into its first batch
    costs, counts = [0] * (len(lengths) + 1), [0] * len(lengths)
    for first in reversed(range(len(lengths))):
        most = max(1, min(len(lengths) - first, PREFILL_TOKENS // max(1, lengths[first])))
        costs[first], counts[first] = min(
            (forward + count * lengths[first] + costs[first + count], count) for count in range(1, most + 1)
        )
    found, first = [], 0
    while first < len(lengths):
        found.append(counts[first])
        first += counts[first]
    return found


def _read_batch(net: Any, cache: SlotCache, batch: Sequence[_Row], start: int) -> None:
    width = batch[0].unread  # the longest comes first
    if width == 0:
        return
    tokens = torch.zeros((len(batch), width), dtype=torch.long)
    for i, row in enumerate(batch):
        tokens[i, : row.unread] = torch.tensor(row.prompt[row.read : -1])
    positions = torch.tensor([[row.read] for row in batch]) + torch.arange(width)
    # filling after a shorter prompt is written too; it stands after every token that will attend, until overwritten
    _forward(net, cache, start, tokens, positions.clamp(max=cache.length - 1), keep=_NOTHING)


def _step(net: Any, cache: SlotCache, rows: Sequence[_Row]) -> torch.Tensor:
    """Reads the last token of each row; the logits of the next (rows x vocabulary, float32)."""
    tokens = torch.tensor([[row.last] for row in rows])
    positions = torch.tensor([[row.position] for row in rows])
    return _forward(net, cache, 0, tokens, positions, keep=1)[:, 0].float()


def _forward(
    net: Any, cache: SlotCache, start: int, tokens: torch.Tensor, positions: torch.Tensor, keep: int | torch.Tensor
) -> torch.Tensor:
    until = int(positions.max()) + 1  # asked of the processor's: a GPU would be waited for
    positions = positions.to(net.device)
    cache.aim(start, positions, until)
    before = torch.arange(until, device=net.device)
    logits: torch.Tensor = net(
        input_ids=tokens.to(net.device),
        position_ids=positions,
        attention_mask=(before <= positions[:, :, None])[:, None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    ).logits
    return logits
