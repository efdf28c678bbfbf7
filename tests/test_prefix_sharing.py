"""Batches computed as prefix trees against padded batches as transformers computes them: losses, gradients, weights."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_model import save_tiny_model
from tiny_shape import SHAPE
from torch import nn
from training_tasks import TASKS
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    HunYuanDenseV1Config,
    HunYuanDenseV1ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from constitutional.training import prefix_sharing
from constitutional.training.prefix_sharing import sharing_prefixes

FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **SHAPE)),
    "qwen2, tied": lambda: Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=1, tie_word_embeddings=True, **SHAPE)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(num_key_value_heads=2, num_local_experts=4, **SHAPE)),
}
GROWING = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
FILLING = 0


@pytest.fixture
def trees(monkeypatch):
    """Sizes of the trees that are computed."""
    met, real = [], prefix_sharing.block_mask

    def measured(parents):
        met.append(len(parents))
        return real(parents)

    monkeypatch.setattr(prefix_sharing, "block_mask", measured)
    return met


def batch(side="right", rows=12, own=(5, 40)):
    """Rows that begin alike in twos and all together, filled on one side; the labels are the last tokens of each."""
    rng = random.Random(0)
    system = [rng.randrange(1, 60) for _ in range(20)]
    questions = [system + [rng.randrange(1, 60) for _ in range(rng.randint(8, 20))] for _ in range((rows + 1) // 2)]
    texts = [questions[row // 2] + [rng.randrange(1, 60) for _ in range(rng.randint(*own))] for row in range(rows)]
    width = max(map(len, texts)) + 2  # filling in every row
    ids, labels = torch.full((rows, width), FILLING), torch.full((rows, width), -100)
    for row, text in enumerate(texts):
        start = 0 if side == "right" else width - len(text)
        ids[row, start : start + len(text)] = torch.tensor(text)
        labels[row, start + len(text) - 4 : start + len(text)] = torch.tensor(text[-4:])
    distinct = {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}
    inputs = {"input_ids": ids, "attention_mask": (ids != FILLING).long(), "labels": labels}
    if side == "left, with positions":
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return inputs, len(distinct)


def gradients(net, inputs):
    net.zero_grad()
    loss = net(**inputs, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def furthest(padded, shared):
    """The largest difference of a gradient, as a share of the largest gradient of its weights."""
    assert shared.keys() == padded.keys()
    return max(float((padded[name] - shared[name]).abs().max() / padded[name].abs().max()) for name in padded)


def difference(net, inputs):
    """How far gradients are from those of the padded batch; the losses are equal."""
    loss, padded = gradients(net, inputs)
    with sharing_prefixes(net):
        shared_loss, shared = gradients(net, inputs)
    assert torch.allclose(loss, shared_loss, atol=1e-5)
    return furthest(padded, shared)


@pytest.mark.parametrize("side", ["left", "left, with positions", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_padded_batch(family, side, trees):
    torch.manual_seed(0)
    inputs, distinct = batch(side)
    net = FAMILIES[family]().train()
    # norms compute in 32 bits whatever comes in, but for neox's; so do positions, which filling on the left moves
    bound = {"neox": 1e-12, "mixtral": 1e-4}.get(family, 1e-6) if side != "left" else 1e-4
    assert difference(net if family == "mixtral" else net.double(), inputs) < bound  # experts know no more than 32
    assert trees == [distinct] and 128 < distinct < 0.7 * inputs["input_ids"].numel()  # more than one block


def test_several_trees_give_what_one_gives(trees, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(prefix_sharing, "NODES", 100)
    inputs, distinct = batch()
    assert difference(FAMILIES["llama"]().double().train(), inputs) < 1e-6
    assert len(trees) > 2 and max(trees) <= 100 and distinct < sum(trees) < inputs["input_ids"].numel()


def test_several_trees_are_not_made_where_activations_are_computed_again(trees, monkeypatch):
    monkeypatch.setattr(prefix_sharing, "NODES", 100)
    net, (inputs, _) = FAMILIES["llama"]().train(), batch()
    net.gradient_checkpointing_enable()
    assert difference(net, inputs) == 0.0 and not trees


def test_an_empty_row_is_no_obstacle(trees):
    torch.manual_seed(0)
    inputs, distinct = batch("left, with positions")
    inputs["attention_mask"][3], inputs["labels"][3] = 0, -100
    net = FAMILIES["llama"]().double().train()
    keep = [row for row in range(12) if row != 3]  # transformers gives such a row states that are not numbers
    loss, padded = gradients(net, {name: part[keep] for name, part in inputs.items()})
    with sharing_prefixes(net):
        shared_loss, shared = gradients(net, inputs)
    assert len(trees) == 1 and trees[0] < distinct
    assert torch.allclose(loss, shared_loss) and furthest(padded, shared) < 1e-6


def test_a_classifier_and_checkpointed_activations(trees):
    torch.manual_seed(0)
    inputs, _ = batch()
    inputs["labels"] = torch.linspace(-1, 1, 12, dtype=torch.float64)
    config = LlamaConfig(num_key_value_heads=2, num_labels=1, pad_token_id=FILLING, **SHAPE)
    net = LlamaForSequenceClassification(config).double().train()
    assert difference(net, inputs) < 1e-6
    net.gradient_checkpointing_enable()
    assert difference(net, inputs) < 1e-6 and len(trees) == 2


@pytest.mark.parametrize(("dropout", "taken"), [(0.0, 1), (0.1, 0)])
def test_adapters_share_unless_they_drop(dropout, taken, trees):
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules="all-linear", lora_dropout=dropout, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    net = get_peft_model(FAMILIES["llama"](), config).double().train()
    inputs, _ = batch()
    with sharing_prefixes(net):
        gradients(net, inputs)
        assert len(trees) == taken
        gradients(net.eval(), inputs)
        assert len(trees) == taken + 1
    assert dropout or difference(net.train(), inputs) < 1e-6


@pytest.mark.parametrize(("side", "shared"), [("left", False), ("left, with positions", True), ("right", True)])
def test_a_family_that_reads_more_than_distances_shares_where_positions_are_its_rows_own(side, shared, trees):
    torch.manual_seed(0)
    net = HunYuanDenseV1ForCausalLM(HunYuanDenseV1Config(num_key_value_heads=2, head_dim=8, **SHAPE)).double().train()
    for name, weight in net.named_parameters():
        if "layernorm" in name:
            nn.init.uniform_(weight, 0.5, 1.5)
    assert difference(net, batch(side)[0]) < 1e-6
    assert bool(trees) == shared


def test_noise_on_embeddings_is_that_of_the_padded_batch(trees):
    net, (inputs, _) = FAMILIES["llama"]().train(), batch()
    net.get_input_embeddings().neftune_noise_alpha = 5
    with sharing_prefixes(net):
        gradients(net, inputs)
        assert not trees
        gradients(net.eval(), inputs)
        assert trees


def test_networks_are_restored_though_one_was_replaced_within(trees):
    one, other = FAMILIES["llama"](), FAMILIES["llama"]()
    with sharing_prefixes(one, other):
        held, one.model = one.model, FAMILIES["llama"]().model
    for net, backbone in ((one, held), (other, other.model)):
        assert "forward" not in vars(backbone) and net.config._attn_implementation == "sdpa"


def test_states_of_equal_batches_are_equal_to_the_bit():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        net = FAMILIES["llama"]().train()
        inputs, _ = batch(rows=200)
        inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        with sharing_prefixes(net):
            loss, first = gradients(net, inputs)
            for _ in range(5):
                again, found = gradients(net, inputs)
                assert torch.equal(loss, again) and all(torch.equal(first[name], found[name]) for name in first)
    finally:
        torch.set_num_threads(threads)


def _with_a_hole(inputs):
    inputs["attention_mask"][0, 3] = 0


def _other_positions(inputs):
    inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).repeat(12, 1) + 1


def _one_row(inputs):
    inputs.update({name: part[:1] for name, part in inputs.items()})


def _nothing_shared(inputs):
    inputs["input_ids"] = torch.arange(12)[:, None] + torch.arange(1, 41)
    inputs.update(attention_mask=None, labels=inputs["input_ids"])


def _a_mask_of_its_own(inputs):
    rows, width = inputs["input_ids"].shape
    inputs["attention_mask"] = torch.ones(rows, 1, width, width).tril().bool()


@pytest.mark.parametrize(
    "change",
    [
        _with_a_hole,
        _other_positions,
        _one_row,
        _nothing_shared,
        lambda inputs: inputs.update(output_hidden_states=True),
        _a_mask_of_its_own,
    ],
)
def test_other_batches_are_computed_as_before(change, trees):
    torch.manual_seed(0)
    net, (inputs, _) = FAMILIES["llama"]().train(), batch()
    change(inputs)
    before = net(**inputs)
    with sharing_prefixes(net):
        after = net(**inputs)
    assert not trees and torch.equal(before.loss, after.loss) and torch.equal(before.logits, after.logits)
    assert (after.hidden_states is None) == (before.hidden_states is None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4)),
        lambda: MistralForCausalLM(MistralConfig(num_key_value_heads=2, sliding_window=8, **SHAPE)),
        lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, attn_implementation="eager", **SHAPE)),
        lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, attention_dropout=0.1, **SHAPE)),
        lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, output_hidden_states=True, **SHAPE)),
        lambda: MixtralForCausalLM(MixtralConfig(num_key_value_heads=2, router_jitter_noise=0.1, **SHAPE)),
        lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, rope_parameters=GROWING, **SHAPE)),
    ],
)
def test_other_networks_are_left_alone(make, trees):
    torch.manual_seed(0)
    net, (inputs, _) = make().eval(), batch()
    kind = net.config._attn_implementation
    with sharing_prefixes(net):
        assert "forward" not in vars(net.base_model) and net.config._attn_implementation == kind
        net(**inputs)
    assert not trees


def test_writing_goes_on_as_before_and_nothing_of_it_is_left(trees, tmp_path):
    torch.manual_seed(0)
    net, (inputs, _) = FAMILIES["llama"]().eval(), batch("left")
    del inputs["labels"]
    net.save_pretrained(tmp_path / "before")
    written = net.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=FILLING)
    with pytest.raises(KeyError), sharing_prefixes(net, None, net):
        assert torch.equal(net.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=FILLING), written)
        assert not trees
        net.save_pretrained(tmp_path / "within")
        raise KeyError
    assert "forward" not in vars(net.base_model) and net.config._attn_implementation == "sdpa"
    config = (tmp_path / "before" / "config.json").read_text()
    assert (tmp_path / "within" / "config.json").read_text() == config


@pytest.mark.parametrize("kind", sorted(TASKS))
def test_every_training_shares_and_ends_with_the_same_weights(kind, trees, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    policy = save_tiny_model(tmp_path / "policy")
    TASKS[kind](policy, output=tmp_path / "shared")
    shared = sum(trees)
    assert bool(shared) == (kind not in ("sft_lora", "best_of_n"))  # dropout, and batches of one row
    trees.clear()
    monkeypatch.setattr(prefix_sharing, "WORTH", 0.0)
    TASKS[kind](policy, output=tmp_path / "padded")
    assert not trees
    files = sorted(file.relative_to(tmp_path / "padded") for file in (tmp_path / "padded").rglob("*.safetensors"))
    assert files
    for file in files:
        ours, theirs = (load_file(tmp_path / name / file) for name in ("shared", "padded"))
        assert ours.keys() == theirs.keys()
        for name, weight in theirs.items():
            assert torch.allclose(ours[name], weight, atol=5e-4), (file, name, (ours[name] - weight).abs().max())
