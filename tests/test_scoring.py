"""Fast scoring gives what a forward of each row alone gives, however rows share, repeat, end or are cut."""

import random

import pytest
import torch
from tiny_scorer import save_tiny_scorer
from transformers import AutoModelForSequenceClassification

from constitutional.training import scoring
from constitutional.training.scoring import distinct_share, score_ids


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.set_num_threads(1)
    folder = save_tiny_scorer(tmp_path_factory.mktemp("scorer") / "pm", context=512)
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def pad(network):
    return network.config.pad_token_id


def plain(network, rows):
    with torch.inference_mode():
        return [float(network(torch.tensor([list(ids)])).logits) for ids in rows]


def grouped(prompts, answers, seed=0, length=(5, 60)):
    """`answers` random answers to each of `prompts` random prompts, rows in random order."""
    draw = random.Random(seed)
    rows = []
    for _ in range(prompts):
        prompt = [draw.randrange(4, 300) for _ in range(draw.randint(20, 90))]
        rows += [prompt + [draw.randrange(4, 300) for _ in range(draw.randint(*length))] for _ in range(answers)]
    draw.shuffle(rows)
    return rows


def forwards(network, monkeypatch):
    """Counts tokens of each forward of the layers."""
    seen = []
    real = network.base_model.forward

    def counted(*args, **kwargs):
        seen.append((args[0] if args else kwargs["input_ids"]).numel())
        return real(*args, **kwargs)

    monkeypatch.setattr(network.base_model, "forward", counted)
    return seen


@pytest.mark.parametrize(("prompts", "answers"), [(1, 8), (5, 8), (3, 2), (12, 1), (1, 1)])
def test_scores_equal_a_forward_of_each_row_alone(network, pad, prompts, answers):
    rows = grouped(prompts, answers)
    expected = plain(network, rows)
    assert score_ids(network, rows, pad=pad) == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) > len(rows) // 2


def test_a_shared_prompt_and_an_equal_row_are_computed_once(network, pad, monkeypatch):
    rows = grouped(4, 8, length=(5, 18))
    seen = forwards(network, monkeypatch)
    scores = score_ids(network, [*rows, rows[0], rows[0]], pad=pad)
    distinct = round(distinct_share(sorted(map(tuple, rows))) * sum(map(len, rows)))
    assert distinct <= sum(seen) <= 1.15 * distinct < 0.6 * sum(map(len, rows))  # where a tree ends, a little again
    assert scores[0] == scores[-1] == scores[-2]


def test_rows_that_share_nothing_go_in_padded_batches(network, pad, monkeypatch):
    rows = grouped(9, 1)
    seen = forwards(network, monkeypatch)
    score_ids(network, rows, pad=pad, batch_tokens=300)
    assert len(seen) < 9 and sum(seen) >= sum(map(len, rows))


def test_one_row_that_begins_another_and_one_longer_than_a_tree(network, pad, monkeypatch):
    monkeypatch.setattr(scoring, "TREE_NODES", 64)
    base = grouped(1, 1, length=(150, 150))[0]
    rows = [base[:30], base[:31], base, base[:31], [*base[:31], 7], [*base[:31], 8, 9]]
    assert score_ids(network, rows, pad=pad) == pytest.approx(plain(network, rows), abs=1e-5)


def test_a_row_that_ends_in_the_padding_token_is_read_as_the_classifier_reads_it(network, pad):
    start = grouped(1, 1)[0]
    rows = [[*start, 5, pad], [*start, 6, pad, pad], [*start, 7], [*start, pad, 8]]
    expected = plain(network, rows)
    assert score_ids(network, rows, pad=pad) == pytest.approx(expected, abs=1e-5)
    assert expected[0] == pytest.approx(plain(network, [[*start, 5]])[0], abs=1e-5)  # what stands before padding counts


def test_layers_with_a_window_get_no_tree(network, pad, monkeypatch):
    monkeypatch.setattr(network.config, "sliding_window", 16, raising=False)
    monkeypatch.setattr(network.config, "layer_types", None, raising=False)
    rows = grouped(1, 6)
    seen = forwards(network, monkeypatch)
    score_ids(network, rows, pad=pad)
    assert sum(seen) >= sum(map(len, rows))


def test_nothing_to_score(network, pad):
    assert score_ids(network, [], pad=pad) == [] and distinct_share([]) == 1
