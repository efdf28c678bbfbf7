"""Packing against brute force: every target sees exactly its own sequence, and no shared token twice."""

import random

import pytest

from constitutional.backends.prefix_tree import pack_sequences


def _ancestors(pack, node):
    tokens = []
    while node >= 0:
        tokens.append(pack.tokens[node])
        node = pack.parent[node]
    return tokens[::-1]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("budget", [0, 7, 40, 10_000])
def test_every_target_stands_behind_its_own_prefix(seed, budget):
    rng = random.Random(seed)
    roots = [[rng.randint(0, 3) for _ in range(rng.randint(1, 10))] for _ in range(3)]
    prompts = [rng.choice(roots) + [rng.randint(0, 3) for _ in range(rng.randint(0, 6))] for _ in range(15)]
    options = [[[rng.randint(0, 3) for _ in range(rng.randint(1, 4))] for _ in range(2)] for _ in prompts]
    seen = {}
    for pack in pack_sequences(prompts, options, budget):
        for node, parent in enumerate(pack.parent):
            assert parent < node and pack.depth[node] == (pack.depth[parent] + 1 if parent >= 0 else 0)
        paths = [tuple(_ancestors(pack, node)) for node in range(len(pack.tokens))]
        assert len(set(paths)) == len(paths)  # no prefix is computed twice in one tree
        for t in pack.targets:
            seen.setdefault((t.row, t.option), []).append((_ancestors(pack, t.node), t.token))
    assert len(seen) == sum(map(len, options))
    for (row, option), found in seen.items():
        tokens = options[row][option]
        assert found == [(prompts[row] + tokens[:j], token) for j, token in enumerate(tokens)]


def test_the_budget_bounds_every_tree_but_a_single_long_row():
    prompts = [[i] + [0] * 9 for i in range(10)] + [[99] * 50]
    options = [[[1], [2]]] * 11
    sizes = [len(pack.tokens) for pack in pack_sequences(prompts, options, 25)]
    assert sum(sizes) == 10 * 10 + 50
    assert sorted(sizes)[-1] == 50 and all(size <= 25 for size in sizes if size != 50)
