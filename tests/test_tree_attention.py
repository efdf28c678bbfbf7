"""Attention in blocks against the dense mask and against plain sequences, and what happens without the blocks."""

import random

import pytest
import torch
from tiny_shape import SHAPE
from torch.profiler import ProfilerActivity, profile
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from constitutional.backends import tree_attention
from constitutional.backends.prefix_tree import ENOUGH, LITTLE, pack_sequences
from constitutional.backends.tree_attention import attend_in_blocks, block_mask
from constitutional.backends.tree_mask import tree_mask

FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **SHAPE)),
    "qwen2, one key for all": lambda: Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=1, **SHAPE)),
    "neox, a key a head": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)),
}


def _tree(seed=0, rows=30):
    rng = random.Random(seed)
    roots = [[rng.randrange(60) for _ in range(rng.randint(5, 25))] for _ in range(3)]
    prompts = [rng.choice(roots) + [rng.randrange(60) for _ in range(rng.randint(1, 12))] for _ in range(rows)]
    return next(iter(pack_sequences(prompts, [[[1, 2], [3]]] * rows, 10_000)))


def _logits(net, pack, mask):
    with torch.inference_mode():
        return net(
            torch.tensor([pack.tokens]), position_ids=torch.tensor([pack.depth]), attention_mask=mask, use_cache=False
        ).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_blocks_give_what_the_dense_mask_and_each_sequence_alone_give(family, block):
    torch.manual_seed(3)
    net = FAMILIES[family]().double().eval()
    pack = _tree()
    dense = _logits(net, pack, tree_mask(pack.parent))
    attend_in_blocks(net)
    assert torch.allclose(_logits(net, pack, block_mask(pack.parent, block)), dense, atol=1e-12)
    for node in range(0, len(pack.tokens), 17):
        path = [node]
        while pack.parent[path[-1]] >= 0:
            path.append(pack.parent[path[-1]])
        with torch.inference_mode():
            alone = net(torch.tensor([[pack.tokens[i] for i in path[::-1]]])).logits[0, -1]
        assert torch.allclose(alone, dense[node], atol=1e-12)


def test_blocks_multiply_less_and_a_mask_without_them_is_computed_densely(monkeypatch):
    torch.manual_seed(3)
    net = FAMILIES["llama"]().double().eval()
    pack, met = _tree(rows=60), []
    real = torch.nn.functional.scaled_dot_product_attention

    def counted(query, key, *rest, **options):
        met.append(query.shape[-2] * key.shape[-2])
        return real(query, key, *rest, **options)

    attend_in_blocks(net)
    expected = _logits(net, pack, tree_mask(pack.parent))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    found = _logits(net, pack, block_mask(pack.parent, 16))
    in_blocks, nodes = sum(met), len(pack.tokens)
    assert torch.allclose(found, expected, atol=1e-12) and in_blocks < 2 * 0.4 * nodes**2
    met.clear()
    stripped = block_mask(pack.parent, 16).clone()
    assert torch.allclose(_logits(net, pack, stripped), expected, atol=1e-12)
    assert sum(met) == 2 * nodes**2


def test_generation_by_a_prepared_network_is_unchanged():
    torch.manual_seed(3)
    net = FAMILIES["llama"]().double().eval()
    ids, mask = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    ask = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": 59}
    before = net.generate(ids, **ask)
    attend_in_blocks(net)
    assert net.config._attn_implementation == tree_attention.NAME
    assert torch.equal(net.generate(ids, **ask), before)


def test_a_tree_ends_where_little_is_shared_and_not_in_the_middle_of_a_pair():
    def pair(first):
        return [[first, *range(10, 10 + ENOUGH // 2), i, i, i, i] for i in range(100)]

    rows = pair(1) + pair(2) + pair(3)
    options = [[[7], [8]]] * len(rows)
    packs = [pack.tokens for pack in pack_sequences(rows, options, 1_000)]
    assert [tokens[0] for tokens in packs] == [1, 2, 3]
    assert sum(map(len, packs)) == 3 * (1 + ENOUGH // 2 + 400)
    few = [[i, *range(10, 10 + LITTLE)] for i in range(20)]
    assert len(list(pack_sequences(few, options[:20], 1_000))) == 1


def test_a_token_costs_as_much_memory_in_a_large_tree_as_in_a_small_one():
    """Else some block copies the whole tree, and memory and time grow with the square of the questions."""

    def allocated(branches):
        trunk = list(range(100))
        pack = next(iter(pack_sequences([[*trunk, *[i] * 31] for i in range(branches)], [[[1]]] * branches, 100_000)))
        mask, nodes = block_mask(pack.parent, 32), len(pack.tokens)
        query, key = torch.randn(1, 4, nodes, 16), torch.randn(1, 2, nodes, 16)
        value = torch.randn(1, nodes, 2, 16).transpose(1, 2)  # as a projection leaves it
        with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            tree_attention.tree_attention(torch.nn.Module(), query, key, value, mask)
        return sum(max(event.self_cpu_memory_usage, 0) for event in seen.events()) / nodes

    assert allocated(128) < 1.1 * allocated(32)
