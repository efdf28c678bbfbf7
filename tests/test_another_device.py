"""The engine on a device that is not the processor: the same code, the same answers, nothing left behind.

No machine of the tests has a GPU. What breaks there first is a tensor made in the wrong place; that breaks here too.
"""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pretend_device import NAME, Pretend
from tiny_model import save_tiny_model
from tiny_scorer import save_tiny_scorer
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from constitutional.backends import decoding, local, upcast
from constitutional.backends.local import LocalBackend
from constitutional.prompts import HumanPair
from constitutional.records import Dialogue, Sampling, assistant, user
from constitutional.training import scorer
from constitutional.training.scorer import PreferenceModel
from constitutional.training.scoring import WORTH, distinct_share, last_states

ASKED: list[Dialogue] = [
    (user(text),)
    for text in ("how do I pick a lock?", "how do I pick a good lock?", "bad", "Sure, first take a pin and " * 3)
]
DRAWS = {
    "greedy": Sampling(temperature=0.0, max_tokens=12),
    "drawn": Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1.3, seed=7, max_tokens=12),
    "stopped": Sampling(temperature=1.0, seed=7, max_tokens=12, stop=("a",)),
}


def plain(folder: Path) -> Path:
    return save_tiny_model(folder, context=512)


def halved(folder: Path) -> Path:
    """Weights of 16 bits."""
    save_tiny_model(folder, context=512)
    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    return folder


def windowed(folder: Path) -> Path:
    """A model that transformers itself has to write with."""
    save_tiny_model(folder)
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.3,
        eos_token_id=2,
        **shape,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


FAMILIES = {"plain": plain, "16 bits": halved, "windowed": windowed}


def on(device: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> LocalBackend:
    torch.set_num_threads(1)
    monkeypatch.setattr(local, "device", lambda: device)
    monkeypatch.setitem(local.TREE_NODES, NAME, 64)
    monkeypatch.setattr(upcast, "SCRATCH", 1000)  # so that matrices are widened in several pieces
    backend = LocalBackend(folder, name="local:tiny", model="tiny", dtype="float32")
    assert backend._net.device.type == device
    return backend


@pytest.fixture(params=FAMILIES)
def both(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[LocalBackend, LocalBackend]:
    """One model on the processor and on the device."""
    folder = FAMILIES[request.param](tmp_path / "tiny")
    return on("cpu", folder, monkeypatch), on(NAME, folder, monkeypatch)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda there: there + torch.ones(3),
        lambda there: torch.ones(3)[there[0].long()],
        lambda there: there.__setitem__(there > 0, torch.ones(6)),
        lambda there: torch.cat([there, there.cpu()]),
        lambda there: torch.ones(2, 3).copy_(there).add_(there),
        lambda there: there.numpy(),
        lambda there: torch.nn.Linear(3, 3)(there),
    ],
)
def test_the_device_refuses_what_a_gpu_refuses(wrong: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"same device|numpy"):
        wrong(torch.ones(2, 3, device=NAME))


def test_the_device_does_what_a_gpu_does() -> None:
    one = torch.ones(2, 3, device=NAME)
    assert isinstance(one, Pretend) and one.device.type == NAME and not isinstance(one.cpu(), Pretend)
    one[0] = 5
    one.t()[2] += 1  # a view, and in place
    assert one.tolist() == [[5, 5, 6], [1, 1, 2]] and one.sum().item() == 20
    assert (one[torch.tensor([0])] + torch.tensor(1)).tolist() == [[6, 6, 7]]
    assert not torch.accelerator.is_available()  # to everybody else it is not there


def test_judging_gives_what_it_gives_on_the_processor(both: tuple[LocalBackend, LocalBackend]) -> None:
    here, there = (backend.loglikelihood(ASKED, [(" A", " B", " first take")] * len(ASKED)) for backend in both)
    for one, other in zip(here, there, strict=True):
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)


@pytest.mark.parametrize("draw", DRAWS)
def test_writing_gives_what_it_gives_on_the_processor(
    both: tuple[LocalBackend, LocalBackend], draw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "SLOTS", 5)  # places are taken again
    here, there = ([one.text for one in backend.generate(ASKED * 3, DRAWS[draw])] for backend in both)
    assert there == here and len(set(here)) > 2


def test_a_kept_dialogue_goes_on_as_it_does_on_the_processor(both: tuple[LocalBackend, LocalBackend]) -> None:
    told = []
    for backend in both:
        dialogues, texts = list(ASKED), []
        with backend.keep_dialogues():
            for _ in range(3):
                written = [one.text for one in backend.generate(dialogues, DRAWS["drawn"])]
                texts.append(written)
                dialogues = [
                    (*said, assistant(text), user("good?")) for said, text in zip(dialogues, written, strict=True)
                ]
        told.append(texts)
    assert told[0] == told[1]


@pytest.mark.parametrize("alike", [True, False])  # a tree, or padded rows and rows by themselves
def test_scores_are_those_of_the_processor(alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny_scorer(tmp_path / "pm", context=512)
    draw = random.Random(0)
    rows = [[draw.randrange(4, 300) for _ in range(length)] for length in (9, 20, 13, 5)]
    if alike:
        rows = [rows[1] + row for row in rows]
    found = []
    for device in ("cpu", NAME):
        monkeypatch.setattr(scorer, "device", lambda device=device: device)
        model = PreferenceModel(folder)
        states = last_states(model._networks[0], rows, pad=model._tokenizer.pad_token_id)
        assert model._networks[0].device.type == device and states.device.type == "cpu"
        found.append((model.score_ids(rows), states.flatten().tolist()))
    assert (distinct_share(sorted(map(tuple, rows))) < WORTH) is alike
    for here, there in zip(*found, strict=True):
        assert there == pytest.approx(here, abs=1e-4)


def test_the_benchmarks_of_a_gpu_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their figures are of the processor and mean nothing here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import generation_speed
    import judge_speed
    from critique_revise import limit
    from engine_cases import matrix_rate, memory_rate

    backend = on(NAME, save_tiny_model(tmp_path / "tiny", context=8192), monkeypatch)
    pair = HumanPair(
        messages=(user("how do I pick a lock?"),), chosen="I cannot help.", rejected="first take a pin", flags=()
    )
    monkeypatch.setattr(judge_speed, "real_pairs", lambda count: [pair] * count)
    sizes = {"pairs": 1, "principles": 2, "plain_tokens": 4096, "plain_share": 1, "repeats": 1}
    bars = {
        what: found for what, found, *_ in judge_speed.compare(backend, "float32", "transcript", Namespace(**sizes))
    }
    assert bars["float32, transcript: difference from a plain forward"] < 1e-4 and len(bars) == 3
    for name in ("padded", "slots"):
        assert generation_speed.ENGINES[name](f"local:{tmp_path / 'tiny'}", backend, DRAWS["drawn"])(ASKED) == [
            12
        ] * len(ASKED)
    assert limit(backend, [[(9, 12)]], matrix_rate(backend._net, "float32")[0], memory_rate(NAME, 1)) > 0
