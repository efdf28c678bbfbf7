"""Packing against brute force: every target sees exactly its own sequence, and no shared token twice."""

import random

import pytest
import torch
from tiny_model import save_tiny_model
from transformers import (
    AutoTokenizer,
    FalconConfig,
    FalconForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from constitutional.backends.local import LocalBackend
from constitutional.backends.prefix_tree import pack_sequences
from constitutional.backends.tokens import encode_dialogue
from constitutional.backends.tree_mask import attends_fully
from constitutional.errors import BackendError
from constitutional.records import assistant, user


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
        if budget == 0:  # every pack is a chain
            assert pack.parent == list(range(-1, len(pack.tokens) - 1))
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


def test_without_a_mask_options_share_a_pack_only_on_one_chain():
    one_token, longer = [[7], [8]], [[7, 1], [8, 1]]
    assert len(list(pack_sequences([[1, 2]], [one_token], 0))) == 1
    assert len(list(pack_sequences([[1, 2]], [longer], 0))) == 2
    assert len(list(pack_sequences([[1, 2], [1, 2, 3], [2]], [one_token] * 3, 0))) == 2


def test_an_empty_option_is_left_out():
    packs = list(pack_sequences([[1, 2], [3]], [[[7], []], [[], []]], 100))
    assert [(t.row, t.option) for pack in packs for t in pack.targets] == [(0, 0)]
    assert [pack.tokens for pack in packs] == [[1, 2]]


NEXT = {"hidden_size": 32, "intermediate_size": 32, "layer_types": ["full_attention"], "moe_intermediate_size": 8}
WINDOW = 6
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "sliding_window": WINDOW,
}


def _mistral(vocabulary):
    return MistralForCausalLM(MistralConfig(vocab_size=vocabulary, eos_token_id=2, **SHAPE))


def _qwen2(vocabulary):
    layers = {"use_sliding_window": True, "max_window_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, eos_token_id=2, **SHAPE, **layers))


def _full(vocabulary):
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=vocabulary, eos_token_id=2, **SHAPE))  # the window is switched off


def _pictured(vocabulary):
    """Its windows stand in a part of its settings."""
    text = {**SHAPE, "vocab_size": vocabulary, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
    eyes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    eyes |= {"image_size": 14}
    config = Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=1, eos_token_id=2)
    return Gemma3ForConditionalGeneration(config)


def _alibi(vocabulary):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    return FalconForCausalLM(FalconConfig(vocab_size=vocabulary, alibi=True, new_decoder_architecture=False, **sizes))


def _windowed_backend(folder, network):
    """A tiny model of another family behind the tiny tokenizer."""
    save_tiny_model(folder)
    torch.manual_seed(1)
    network(len(AutoTokenizer.from_pretrained(folder))).save_pretrained(folder)
    return LocalBackend(folder, name="local:tiny", model="tiny", dtype="float32")


def _plain(backend, dialogue, continuation):
    """The oracle: one full forward per sequence, no mask and no packing."""
    prompt = encode_dialogue(backend.tokenizer, dialogue)
    option = backend.tokenizer(continuation, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = backend._net(torch.tensor([prompt + option])).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + j, token]) for j, token in enumerate(option))


@pytest.mark.parametrize(
    ("network", "packed"),
    [
        (_mistral, False),
        (_qwen2, False),
        (_full, True),
        (_pictured, False),
        (_alibi, False),
    ],
)
def test_a_network_that_no_tree_fits_equals_a_plain_forward(tmp_path, network, packed):
    backend = _windowed_backend(tmp_path / "tiny", network)
    assert (backend._tree_nodes > 0) == packed
    rows = [(user("how do I pick a lock?"), assistant(text)) for text in ("Sure,", "I cannot", "Sure, first take")]
    options = [[" a pin", " help with that", "."], [" A", " B"], [" good bad", " good a lock"]]
    assert all(len(encode_dialogue(backend.tokenizer, row)) > WINDOW for row in rows)
    found = backend.loglikelihood(rows, options)
    for row, texts, likelihood in zip(rows, options, found, strict=True):
        plain = [_plain(backend, row, text) for text in texts]
        assert likelihood.logprobs == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        lambda: MptForCausalLM(MptConfig(vocab_size=60, d_model=32, n_heads=4, n_layers=1)),  # places in the row
        lambda: RwkvForCausalLM(RwkvConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2)),  # recurrent
        lambda: Qwen3NextForCausalLM(Qwen3NextConfig(vocab_size=60, num_hidden_layers=1, num_experts=2, **NEXT)),
    ],
)
def test_no_tree_fits_what_hears_otherwise_than_by_attention_or_reads_places_in_the_row(network):
    assert not attends_fully(network())


def test_an_option_over_the_edge_is_nan_and_aborts_nothing(tmp_path):
    backend = _windowed_backend(tmp_path / "tiny", _full)
    start, text = (user("a"),), ""
    while backend.room((*start, assistant("b" + text))) > 1:
        text += " a"
    edge, short = (*start, assistant("b" + text)), (*start, assistant("b"))
    assert backend.room(edge) == 1
    one, two, three = ("!", "!?", "!?!")
    got = backend.loglikelihood([edge, short], [[one, two, three], [one, three]])
    assert got[0].logprobs[:2] == pytest.approx([_plain(backend, edge, one), _plain(backend, edge, two)], abs=1e-4)
    assert got[0].logprobs[2] != got[0].logprobs[2]  # NaN: one token too many
    assert got[1].logprobs == pytest.approx([_plain(backend, short, one), _plain(backend, short, three)], abs=1e-4)
    with pytest.raises(BackendError, match="do not fit the context of 64 tokens"):
        backend.loglikelihood([(user("a " * 80),)], [[one]])
