"""Feed-forward layers in pieces against the same network whole; and which layers are left alone."""

import pytest
import torch
from test_tree_attention import SHAPE as tree_shape
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from constitutional.backends import pieces
from constitutional.backends.pieces import feed_in_pieces

SHAPE = tree_shape | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
EXPERTS = {
    "num_experts": 4,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
FAMILIES = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)), [7, 7, 7, 3]),
    "neox": (lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)), [7, 7, 7, 3]),
    "experts": (lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**SHAPE, **EXPERTS)), [24]),
    "experts that give a pair": (
        lambda: GptOssForCausalLM(GptOssConfig(num_local_experts=4, head_dim=8, num_key_value_heads=4, **SHAPE)),
        [24],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_give_what_the_whole_gives_and_experts_stay_whole(monkeypatch, family):
    torch.manual_seed(3)
    make, expected = FAMILIES[family]
    net, met = make().eval(), []
    ids = torch.randint(60, (2, 12))  # 24 tokens of two sequences
    layer = net.base_model.layers[1].mlp
    forward = layer.forward

    def counted(values):
        met.append(values.shape[:-1].numel())
        return forward(values)

    with torch.inference_mode():
        whole = net(ids).logits
        monkeypatch.setattr(pieces, "PIECE", 7)
        layer.forward = counted
        feed_in_pieces(net)
        found = net(ids).logits
        assert torch.allclose(found, whole, atol=1e-5)
        assert met == expected
        met.clear()
        net(ids[:1, :7])  # what fits one piece comes as it is
        assert met == [7]
