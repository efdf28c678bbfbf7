"""The modes on real networks: a tiny preference model as a judge, and the embedded model in every mode that asks it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from embedded_model import require
from recipes import write_recipe
from tiny_model import save_tiny_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from constitutional.audit.agreement import probability_agrees
from constitutional.audit.trace import render_trace, trace
from constitutional.backends import Backend, open_backend
from constitutional.config import load_recipe
from constitutional.errors import ConfigError
from constitutional.feedback.gate import GateReport
from constitutional.feedback.judge import judge
from constitutional.feedback.judging.score import grade, superiority
from constitutional.feedback.judging.ways import Way
from constitutional.pack_settings import GRADES
from constitutional.pipeline import run_recipe
from constitutional.pipeline.jury import scorer_identity
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Sampling, assistant, user
from constitutional.templates import load_pack
from constitutional.training.scorer import PreferenceModel

STEPS = "stages=[sample, gate, revise, judge, label]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preference model nobody trained: its opinions are noise, which is enough to see where they go."""
    tiny = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    torch.nn.init.normal_(network.score.weight)
    network.config.pad_token_id = AutoTokenizer.from_pretrained(tiny).pad_token_id
    out = tmp_path_factory.mktemp("models") / "pm"
    network.save_pretrained(out)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(out)
    return out


def test_a_preference_model_judges_a_run(tmp_path: Path, folder: Path) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=9)
    outcome = run_recipe(load_recipe(recipe, [STEPS, f"judge=model:{folder}"]), recipe, tmp_path / "run")
    steps = {step.name: step.result for step in outcome.steps}
    judgments, scorer = steps["judge"].records(Judgment), PreferenceModel(folder)
    pairs = {c.id: c for c in steps["sample"].records(Comparison)}
    assert judgments and {(j.mode, j.judge) for j in judgments} == {("model", scorer.model)}
    assert scorer.model == scorer_identity(f"model:{folder}")
    said = {}
    for judgment in judgments:
        pair = pairs[judgment.comparison_id]
        a, b = scorer.score([(*pair.messages, assistant(text)) for text in (pair.a, pair.b)])
        assert judgment.p_a == pytest.approx(1 / (1 + math.exp(b - a)), abs=1e-5)
        assert json.loads(judgment.raw or "") == {"a": pytest.approx(a, abs=1e-5), "b": pytest.approx(b, abs=1e-5)}
        said.setdefault(judgment.comparison_id, set()).add(judgment.p_a)
    assert {len(found) for found in said.values()} == {1} and len({p for f in said.values() for p in f}) > 1
    report = GateReport.model_validate_json((steps["gate"].folder / "gate.json").read_bytes())
    assert report.judge == scorer.model and report.template_digest == "" and report.sources[0].n == 12
    assert "PROBLEM" not in render_trace(trace(tmp_path / "run", judgments[0].id))


def test_a_folder_that_is_no_preference_model_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=9)
    (tmp_path / "in" / "empty").mkdir()
    with pytest.raises(ConfigError, match="model folder without safetensors weights"):
        run_recipe(load_recipe(recipe, [STEPS, "judge=model:empty"]), recipe, tmp_path / "run")


KIND = Principle(
    id="kind",
    version="1.0.0",
    title="t",
    comparison_request="Which response is kinder to the user?",
    score_request="How kind is the response to the user?",
)
PAIR = Comparison(
    prompt_id="0" * 16,
    messages=(user("I failed my exam. What now?"),),
    a="I'm sorry to hear that. Rest a little, then ask your teacher what to work on.",
    b="You are stupid. Give up.",
    origin="sampled",
)


@pytest.fixture(scope="module")
def embedded() -> Backend:
    require()
    return open_backend("embedded:smollm2-135m", threads=1)


@pytest.mark.embedded
@pytest.mark.parametrize("pack", ["chat", "transcript"])
@pytest.mark.parametrize("mode", ["logprob", "cot", "vote", "score"])
def test_the_embedded_model_answers_in_every_mode(embedded: Backend, mode: str, pack: str) -> None:
    draw = Sampling(temperature=0.7, max_tokens=8, seed=1)
    way = Way(mode, samples=2, sampling=draw) if mode in ("cot", "vote") else Way(mode)  # type: ignore[arg-type]
    pair = judge([PAIR], assigned=[[KIND]], backend=embedded, pack=load_pack(pack), seed=0, way=way)
    found = list(pair)
    for judgment in found:
        assert judgment.mode == mode and judgment.judge == embedded.model
        assert (judgment.p_a is None) == (judgment.outcome in ("invalid", "refused", "error"))
        assert len(judgment.samples) == (2 if mode in ("cot", "vote") else 0)
        assert judgment.outcome != "error" and probability_agrees(judgment) == []
        if mode == "score" and judgment.p_a is not None:
            assert -1 <= json.loads(judgment.raw or "")["b"] <= 1


@pytest.mark.embedded
def test_ten_is_not_counted_as_one_by_a_model_that_writes_digits(embedded: Backend) -> None:
    question = load_pack("chat").render("score", conversation=PAIR.messages, answer=PAIR.a, score_request="How kind?")
    (found,) = grade([question.dialogue], embedded, GRADES)
    assert found is not None
    (plain,) = embedded.loglikelihood([question.dialogue], [GRADES])
    one, ten = math.exp(plain.logprobs[0]), math.exp(plain.logprobs[-1])
    assert ten < one and math.exp(found.logprobs[0]) == pytest.approx(one - ten, rel=0.05)
    assert found.logprobs[1:] == plain.logprobs[1:] and found.mass <= 1
    assert superiority(found.shares, found.shares) == pytest.approx(0.5)
