"""Sampling in slots against transformers' own generation and against its logits processors."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor, TopPLogitsWarper

from constitutional.backends import decoding
from constitutional.backends.decoding import decode
from constitutional.backends.drawing import HEAD, penalise_repetition, pick
from constitutional.records import Sampling

VOCABULARY, STOP = 97, 5


def _network(kind="llama"):
    """Random weights in float64, so that equal sums are equal whatever the batch."""
    torch.manual_seed(1)
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    net = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}[kind](config)
    return net.double().eval()


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def net(request):
    return _network(request.param)


@pytest.fixture
def forwards(net):
    """Rows and columns of every forward, and whether it was a step that writes."""
    seen = []
    forward = net.forward

    def noting(*args, **kwargs):
        seen.append((*kwargs["input_ids"].shape, isinstance(kwargs.get("logits_to_keep"), int)))
        return forward(*args, **kwargs)

    net.forward = noting
    yield seen
    del net.forward


def _prompts(count, seed=0, shared=4):
    rng = random.Random(seed)
    return [[7] * shared + [rng.randrange(10, VOCABULARY) for _ in range(rng.randint(1, 40))] for _ in range(count)]


def _ends(ids):
    return ids[-1] == STOP


def _generated(net, prompt, sampling):
    """The oracle: transformers' generation of one prompt alone, greedy."""
    with torch.inference_mode():
        output = net.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=sampling.max_tokens,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=STOP,
            pad_token_id=0,
        )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("slots", [1, 3, 128])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_transformers_whoever_shares_the_slots(net, forwards, slots, penalty, monkeypatch):
    monkeypatch.setattr(decoding, "SLOTS", slots)
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 90)
    sampling = Sampling(max_tokens=25, repetition_penalty=penalty)
    prompts = _prompts(23)
    written = decode(net, prompts, sampling, _ends)
    reading = [rows * columns for rows, columns, writes in forwards if not writes]
    assert max(reading) <= 90 < sum(reading)
    assert written == [_generated(net, prompt, sampling) for prompt in prompts]
    assert {len(ids) < 25 for ids in written} == {True, False}, "without early ends nothing is refilled"


def test_a_place_that_is_free_is_taken_at_the_next_step(net, forwards, monkeypatch):
    slots = 3
    monkeypatch.setattr(decoding, "SLOTS", slots)
    rng = random.Random(2)
    prompts = [[rng.randrange(10, VOCABULARY) for _ in range(12)] for _ in range(20)]  # of one length: first come first
    lengths = [len(ids) for ids in decode(net, prompts, Sampling(max_tokens=25), lambda ids: sum(ids) % 7 == 3)]
    steps = [rows for rows, _, writes in forwards if writes]
    waiting, left, expected = deque(lengths), [], []
    while waiting or left:
        left += [waiting.popleft() for _ in range(min(slots - len(left), len(waiting)))]
        expected.append(len(left))
        left = [tokens - 1 for tokens in left if tokens > 1]
    assert steps == expected
    in_turn = sum(max(lengths[i : i + slots]) for i in range(0, len(lengths), slots))
    assert len(steps) < 0.9 * in_turn, "a decoder that waits for the whole batch needs no more steps"


@pytest.mark.parametrize("shared", [0, 4])
def test_a_draw_does_not_depend_on_who_shares_the_batch(net, shared, monkeypatch):
    sampling = Sampling(temperature=1.5, top_p=0.95, max_tokens=20, seed=3)
    prompts = _prompts(12, shared=shared)
    alone = [decode(net, [prompt], sampling, _ends)[0] for prompt in prompts]
    assert decode(net, prompts, sampling, _ends) == alone
    assert decode(net, prompts[::-1], sampling, _ends) == alone[::-1]
    monkeypatch.setattr(decoding, "SLOTS", 2)
    assert decode(net, prompts, sampling, _ends) == alone
    assert decode(net, prompts, sampling.model_copy(update={"seed": 4}), _ends) != alone


def test_equal_prompts_draw_apart_and_one_token_prompts_work(net):
    sampling = Sampling(temperature=1.5, max_tokens=20, seed=3)
    twice = decode(net, [[11, 12], [11, 12]], sampling, _ends)
    assert twice[0] != twice[1]
    assert decode(net, [[9], [9, 10], [9]], Sampling(max_tokens=4), _ends) == [
        _generated(net, prompt, Sampling(max_tokens=4)) for prompt in ([9], [9, 10], [9])
    ]


def test_the_cache_keeps_to_its_bound(net, monkeypatch):
    made = []
    cache = decoding.SlotCache

    def counting(slots, length):
        made.append(slots * length)
        return cache(slots, length)

    monkeypatch.setattr(decoding, "SlotCache", counting)
    monkeypatch.setattr(decoding, "CACHE_TOKENS", 200)
    prompts = [*_prompts(10), list(range(10, 90))]
    written = decode(net, prompts, Sampling(max_tokens=10), _ends)
    assert written == [_generated(net, prompt, Sampling(max_tokens=10)) for prompt in prompts]
    assert max(made) <= 200 and len(made) > 1, "long prompts do not take room from short ones"


def test_the_prompts_common_beginning_is_read_once(net):
    read = []
    forward = net.forward

    def counting(*args, **kwargs):
        read.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    net.forward = counting
    try:
        decode(net, [[7] * 100 + [i, i] for i in range(10, 20)], Sampling(max_tokens=1), _ends)
    finally:
        del net.forward
    assert sum(read) == 100 + 10 + 10


def test_repetition_penalty_is_that_of_transformers():
    torch.manual_seed(0)
    logits, seen = torch.randn(6, 50), torch.randint(0, 50, (6, 9))
    expected = RepetitionPenaltyLogitsProcessor(1.4)(seen, logits.clone())
    penalise_repetition(logits, seen, 1.4)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("vocabulary", [40, 5 * HEAD])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.2, 3.0])
def test_tokens_are_drawn_as_often_as_their_nucleus_probability(vocabulary, top_p, temperature):
    torch.manual_seed(vocabulary)
    logits = torch.randn(1, vocabulary) * 2
    scaled = logits / temperature
    warped = TopPLogitsWarper(top_p)(None, scaled) if top_p < 1 else scaled
    expected = warped.double().softmax(-1)[0].numpy()
    grid = 20_000  # uniform numbers on a grid: each token's share is its probability, to one step of the grid
    uniforms = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    rows = [
        pick(logits.expand(len(part), -1).clone(), part, Sampling(temperature=temperature, top_p=top_p))
        for part in uniforms.split(2_000)
    ]
    share = np.bincount(torch.cat(rows).numpy(), minlength=vocabulary) / grid
    assert np.abs(share - expected).max() <= 2 / grid
    assert not share[expected == 0].any()


def test_temperature_zero_and_extreme_logits():
    logits = torch.tensor([[0.0, 5.0, 1.0], [-1e30, -1e30, 3e4]])
    half = torch.full((2,), 0.999999, dtype=torch.float64)
    assert pick(logits, half, Sampling()).tolist() == [1, 2]
    assert pick(logits, half, Sampling(temperature=0.01)).tolist() == [1, 2]
