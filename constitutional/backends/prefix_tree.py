"""Token sequences packed into prefix trees, so that a shared token is computed once.

Sequences that begin alike (one conversation under many principles, one question with several options) are inserted into
one tree. The tree's nodes are laid out as one row of tokens for a single forward pass; a node may attend to itself and
its ancestors only, and its position is its depth, so every node sees exactly what it would see in its own sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

ENOUGH = 512
"""Tokens at which matrix products are at full speed: a smaller tree is not ended before it must be."""

LITTLE = 8
"""A tree ends before a row that shares less than one in so many of its tokens: the branches that belong together then
stand in one tree, and what they share is not computed again where a full tree happens to end."""


@dataclass(frozen=True)
class Target:
    """One token whose log-probability is wanted: `token` predicted at tree node `node`, for (row, option)."""

    row: int
    option: int
    node: int
    token: int


@dataclass
class Pack:
    """One tree: parallel lists over its nodes (a parent always stands before its children), and what to read off it."""

    tokens: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def new_nodes(self, sequence: Sequence[int]) -> int:
        """How many nodes inserting `sequence` would add."""
        node = -1
        for i, token in enumerate(sequence):
            child = self._children.get((node, token))
            if child is None:
                return len(sequence) - i
            node = child
        return 0

    def forks(self, sequence: Sequence[int]) -> bool:
        """Whether inserting `sequence` would make a chain into a tree with branches."""
        new = self.new_nodes(sequence)
        return new > 0 and len(self.tokens) + new > len(sequence)

    def insert(self, sequence: Sequence[int]) -> list[int]:
        """Inserts a sequence and returns the node of each of its tokens."""
        path, node = [], -1
        for depth, token in enumerate(sequence):
            child = self._children.get((node, token))
            if child is None:
                child = len(self.tokens)
                self._children[node, token] = child
                self.tokens.append(token)
                self.depth.append(depth)
                self.parent.append(node)
            path.append(child)
            node = child
        return path


def pack_sequences(
    prompts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]], budget: int
) -> Iterator[Pack]:
    """Packs every (prompt, option) into trees of at most `budget` nodes.

    Rows are visited in lexicographic order of their tokens, so that rows sharing a long prefix land in one tree. A
    row's options always stay together; a single row longer than the budget gets a tree of its own.

    A budget of 0 is for models that cannot be given a tree mask: no tree ever forks, so every pack is one plain
    sequence under the ordinary causal mask, shared only by options and rows that lie on it.

    Args:
        prompts: token ids per row; none empty.
        options: per row, the token ids of each continuation; an empty one is left out.
        budget: most nodes in one tree; 0 for chains.
    """
    pack = Pack()
    for row in sorted(range(len(prompts)), key=lambda r: list(prompts[r])):
        prompt = list(prompts[row])
        wanted = [(k, option) for k, option in enumerate(options[row]) if option]
        new = pack.new_nodes(prompt)
        growth = new + len(wanted) * max((len(option) - 1 for _, option in wanted), default=0)
        another = len(pack.tokens) >= ENOUGH and (len(prompt) - new) * LITTLE < len(prompt)
        if budget and pack.tokens and (another or len(pack.tokens) + growth > budget):
            yield pack
            pack = Pack()
        for k, option in wanted:
            # the last token of a continuation is only predicted, never read: it needs no node
            sequence = [*prompt, *option[:-1]]
            if not budget and pack.forks(sequence):
                yield pack
                pack = Pack()
            path = pack.insert(sequence)
            for j, token in enumerate(option):
                pack.targets.append(Target(row, k, path[len(prompt) - 1 + j], token))
    if pack.tokens:
        yield pack
