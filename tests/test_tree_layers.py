"""Layers that read a tree in pieces against the same network whole, and which layers and inputs are left alone."""

import pytest
import torch
from test_tree_attention import FAMILIES, SHAPE, _logits, _tree
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from constitutional.backends import tree_layers
from constitutional.backends.tree_attention import attend_in_blocks, block_mask
from constitutional.backends.tree_layers import read_in_pieces
from constitutional.backends.tree_mask import tree_mask

EXPERTS = {
    "num_experts": 4,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
WHOLE = "neox, a key a head"
NETS = {name: lambda make=make: make().double() for name, make in FAMILIES.items()}
NETS["experts"] = lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**SHAPE, **EXPERTS))  # knows no float64


def prepared(family, monkeypatch, piece):
    """A network, and how many tokens its second layer's norm met at a time."""
    torch.manual_seed(3)
    net, met = NETS[family]().eval(), []
    attend_in_blocks(net)
    monkeypatch.setattr(tree_layers, "PIECE", piece)
    read_in_pieces(net)
    net.base_model.layers[1].input_layernorm.register_forward_pre_hook(lambda _, given: met.append(given[0].shape[1]))
    return net, met


@pytest.mark.parametrize("family", NETS)
@pytest.mark.parametrize(("block", "piece"), [(7, 20), (16, 16), (16, 50), (64, 10), (16, 10_000)])
def test_pieces_give_what_the_whole_tree_gives(family, block, piece, monkeypatch):
    pack = _tree(rows=60)
    torch.manual_seed(3)
    dense = _logits(NETS[family]().eval(), pack, tree_mask(pack.parent))
    net, met = prepared(family, monkeypatch, piece)
    found = _logits(net, pack, block_mask(pack.parent, block))
    assert torch.allclose(found, dense, atol=1e-12 if dense.dtype == torch.float64 else 1e-5)
    assert sum(met) == len(pack.tokens)
    if family == WHOLE or piece == 10_000:  # its layers take other arguments
        assert met == [len(pack.tokens)]
    else:
        assert len(met) > 2 and max(met) <= max(block, piece)


def test_other_masks_and_generation_are_as_before(monkeypatch):
    pack = _tree()
    torch.manual_seed(3)
    net = NETS["llama"]().eval()
    ids = torch.tensor([[5, 6, 7, 8], [7, 8, 9, 10]])
    ask = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": 59}
    expected, written = _logits(net, pack, tree_mask(pack.parent)), net.generate(ids, **ask)
    net, met = prepared("llama", monkeypatch, 3)
    assert torch.allclose(_logits(net, pack, tree_mask(pack.parent)), expected, atol=1e-12)
    assert torch.equal(net.generate(ids, **ask), written)
    assert met[:2] == [len(pack.tokens), 4]


def test_a_network_that_makes_attention_dense_again_is_right_in_pieces_too(monkeypatch):
    pack = _tree(rows=60)
    net, met = prepared("llama", monkeypatch, 20)
    expected = _logits(net, pack, block_mask(pack.parent, 16))
    net.set_attn_implementation("sdpa")  # knows nothing of blocks
    assert torch.allclose(_logits(net, pack, block_mask(pack.parent, 16)), expected, atol=1e-12)
    assert max(met) <= 20
