"""What a recipe would ask, against closed forms, and against all that the backend sends to a server at its worst."""

import re
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("tenacity")
pytest.importorskip("aiolimiter")

from recipes import write_recipe

from constitutional.backends.endpoint import backend as module
from constitutional.backends.endpoint.answers import Answered
from constitutional.backends.endpoint.backend import EndpointBackend
from constitutional.config import load_recipe
from constitutional.feedback.judge import judge
from constitutional.pipeline import chosen_steps
from constitutional.pipeline.estimate import Load, estimate
from constitutional.pipeline.estimate_table import render_estimate
from constitutional.pipeline.inputs import Inputs, load_inputs
from constitutional.records import Comparison

URL = "http://127.0.0.1:9/v1"
TRAIN = 6
"""Of the eight prompts of each kind."""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Every role is a model behind a server with a price."""
    found = write_recipe(tmp_path / "in", prompts=8)
    (found.parent / "prices.yaml").write_text("m: {prompt: 2.0, completion: 8.0}\n")
    text = found.read_text().replace("scripted:model.yaml", f"openai:m@{URL}")
    found.write_text(text + "endpoint: {prices: prices.yaml}\n")
    constitution = found.parent / "constitution.yaml"
    text = constitution.read_text()
    constitution.write_text(
        re.sub(r"( +)(comparison_request: .*more (\w+).*)", r"\1\2\n\1score_request: How \3 is it?", text)
    )
    return found


def loads(recipe: Path, *sets: str) -> tuple[Inputs, tuple[Load, ...]]:
    loaded = load_recipe(recipe, sets)
    inputs = load_inputs(loaded, recipe)
    return inputs, estimate(inputs, chosen_steps(loaded, None))


def of(found: tuple[Load, ...], step: str) -> Load:
    (one,) = (load for load in found if load.step == step)
    return one


def test_cost_and_time_are_those_of_calls_and_tokens(recipe: Path) -> None:
    _, found = loads(recipe, "helpful.draws=2", "helpful.max_tokens=25")
    one = of(found, "helpful")
    calls, read, written = 2 * TRAIN, 2 * TRAIN * len("Prompt help 0") / 4, 2 * TRAIN * 25
    assert (one.calls, one.prompt_tokens, one.completion_tokens) == (calls, read, written)
    assert one.usd == pytest.approx((2.0 * read + 8.0 * written) / 1e6)
    at_once = 4  # a chunk's
    assert one.seconds == pytest.approx(calls / at_once * (0.5 + 25 / 50))
    for setting, seconds in {
        "endpoint.concurrency=2": calls / 2 * (0.5 + 25 / 50),
        "endpoint.requests_per_minute=6": calls * 10,
        "endpoint.tokens_per_minute=60": read + written,
    }.items():
        limited = of(loads(recipe, "helpful.draws=2", "helpful.max_tokens=25", setting)[1], "helpful")
        assert limited.seconds == pytest.approx(seconds), setting
    table = render_estimate(found).splitlines()
    (total,) = (line.split() for line in table if line.startswith("total"))
    assert total[1:4] == [
        f"{sum(getattr(x, n) for x in found)}" for n in ("calls", "prompt_tokens", "completion_tokens")
    ]
    assert total[4] == f"{sum(x.usd or 0 for x in found):.2f}"
    unpriced = of(loads(recipe, "helpful.draws=2", "helpful.max_tokens=25", "endpoint.prices=null")[1], "helpful")
    assert (unpriced.usd, unpriced.seconds) == (None, one.seconds)
    local = of(
        loads(recipe, f"policy=scripted:{recipe.parent / 'model.yaml'}", f"feedback=openai:m@{URL}")[1], "helpful"
    )
    assert (local.calls, local.usd, local.seconds) == (TRAIN, None, None)


class Worst:
    """Stands for `Server`: options of more than a letter or a word are written token by token there."""

    owner_name, offline, gave_logprobs = "vllm", False, True

    def __init__(self, *given):
        self.sent = {}

    def owner(self):
        return self.owner_name

    def ask(self, requests):
        return [(self.answer(request), 0.0) for request in requests]

    def answer(self, request):
        self.sent[request.key] = request
        body = request.body
        text = body["messages"][-1]["content"] if request.chat else body["prompt"]
        words = [" (", " A", " B", " Yes", " No", *"0123456789"]
        return Answered(
            text=("word " * body["max_tokens"])[: 4 * body["max_tokens"] - 1],
            finish="length",
            top=tuple((word, -3.0) for word in words),
            prompt=tuple((character, -0.1) for character in text[-16:]),
        )


@pytest.mark.parametrize("pack", ["chat", "transcript"])
@pytest.mark.parametrize("mode", ["logprob", "cot", "vote", "score"])
def test_a_judge_is_asked_as_often_as_estimated_where_options_are_of_several_tokens(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, mode: str, pack: str
) -> None:
    monkeypatch.setattr(module, "Server", Worst)
    sets = [f"templates={pack}", f"judging.mode={mode}", "judging.principles_per_comparison=all"]
    inputs, found = loads(recipe, *sets)
    backend = EndpointBackend(f"m@{URL}", inputs.endpoint)
    tokens = inputs.sampling("policy").max_tokens
    a, b = (f"{word} " * tokens for word in ("word", "work"))
    prompts = inputs.select("red_team", "train")
    pairs = [
        Comparison(prompt_id=p.id, messages=p.messages, a=a[: 4 * tokens - 1], b=b[: 4 * tokens - 1], origin="sampled")
        for p in prompts
    ]
    (juror,) = inputs.jury
    principles = inputs.taking_part("judge", juror.way)
    assert (len(pairs), len(principles)) == (TRAIN, 3)
    judged = list(judge(pairs, assigned=[principles] * TRAIN, backend=backend, pack=inputs.pack, seed=0, way=juror.way))
    assert len(judged) == 2 * 3 * TRAIN
    sent = list(backend._server.sent.values())
    asked = [load for load in found if load.step == "judge"]
    assert len(sent) == sum(load.calls for load in asked)
    assert sum(request.body["max_tokens"] for request in sent) == sum(load.completion_tokens for load in asked)
    assert sum(request.size for request in sent) / 4 == pytest.approx(
        sum(load.prompt_tokens for load in asked), rel=0.03
    )
    a_question = {"logprob": 1, "vote": 5, "cot": 2, "score": 3}[mode]  # score: all grades, "10", and what follows "1"
    if pack == "transcript":  # options "(A)" and "(B)", besides
        a_question += {"logprob": 2, "cot": 2}.get(mode, 0)
    assert len(sent) == a_question * len(judged)
