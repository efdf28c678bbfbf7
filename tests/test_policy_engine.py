"""`policy_engine: openvino`: the policy's text by another engine from the same weights, traced as such."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded_model import require
from tiny_model import save_tiny_model
from training_recipe import training_recipe, write_training_recipe

from constitutional.audit.trace import trace
from constitutional.audit.trace_node import POLICY_TEXT, problems
from constitutional.backends import embedded, open_backend, openvino_model
from constitutional.backends.identity import identify
from constitutional.errors import BackendError, ConfigError
from constitutional.pipeline import run_recipe
from constitutional.records import Dialogue, Sampling, assistant, user
from constitutional.runs.logs import read_rows

pytestmark = pytest.mark.embedded
pytest.importorskip("openvino_genai")

SETS = (
    "stages=[revise, helpful, sft, sample, answers]",
    "policy_engine=openvino",
    "sample={n: 2, temperature: 1.0}",
    "evaluation={max_tokens: 6, temperature: 1.0}",
)
NAME = "smollm2-135m"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Translations are made here, and not found."""
    translations = tmp_path_factory.mktemp("translations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_model, "cache_folder", lambda: translations)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a tiny policy, whose text openvino wrote."""
    folder = tmp_path_factory.mktemp("engine")
    recipe = write_training_recipe(folder / "in")
    run_recipe(training_recipe(recipe, *SETS), recipe, folder / "run")
    return folder / "run"


def records(run: Path, stage: str) -> list[dict[str, object]]:
    return [row for _, row in read_rows(stage_folder(run, stage) / "data.jsonl")]


def stage_folder(run: Path, name: str) -> Path:
    (folder,) = (run / "stages").glob(f"*-{name}/*")
    return folder


def test_every_text_of_the_policy_names_the_engine_and_the_weights(run: Path) -> None:
    base = json.loads((run / "lock.json").read_text())["models"][POLICY_TEXT]
    assert base.startswith("openvino:policy@") and "/f16/openvino-genai-" in base
    assert {row["policy"] for row in records(run, "revise")} == {base}
    assert {row["model"] for row in records(run, "helpful")} == {base}
    answers = records(run, "answers")
    sft = identify(f"openvino:{stage_folder(run, 'sft') / 'sl-cai'}", "float32")
    assert sft.startswith("openvino:sl-cai@") and sft != base
    assert {(row["system"], row["model"]) for row in answers} == {("base", base), ("sl-cai", sft)}
    pairs = [row for row in records(run, "sample") if row["origin"] == "sampled"]
    assert pairs and {row[side] for row in pairs for side in ("a_model", "b_model")} == {sft}
    own = [row["kl"] for row in answers if row["system"] == "sl-cai" and row["text"]]
    assert own and all(isinstance(kl, float) and kl != 0 for kl in own)  # by torch, of the same weights


def test_traces_hold(run: Path) -> None:
    for stage in ("revise", "helpful", "answers"):
        told = trace(run, str(records(run, stage)[0]["id"]))
        assert problems(told) == []


@pytest.mark.parametrize("locked", ["openvino:policy@0000000000000000/f16", None], ids=["another", "torch"])
def test_a_text_of_another_model_or_engine_is_a_problem(run: Path, locked: str | None) -> None:
    base = next(row for row in records(run, "answers") if row["system"] == "base")
    texts = [str(row["id"]) for row in (records(run, "helpful")[0], records(run, "revise")[0], base)]
    lock = run / "lock.json"
    whole = lock.read_text()
    held = json.loads(whole)
    held["models"][POLICY_TEXT] = locked or held["models"]["policy"]
    lock.write_text(json.dumps(held))
    try:
        assert [len(problems(trace(run, one))) for one in texts] == [1, 1, 1]
    finally:
        lock.write_text(whole)


def test_a_policy_that_is_its_own_critic_writes_all_by_the_engine_and_judges_in_torch(tmp_path: Path) -> None:
    recipe = write_training_recipe(tmp_path / "in")
    steps = ("stages=[revise, sample, gate, judge, label]", "policy_engine=openvino", "feedback=self")
    run = tmp_path / "run"
    run_recipe(training_recipe(recipe, *steps, "sampling.feedback={max_tokens: 6}"), recipe, run)
    models = json.loads((run / "lock.json").read_text())["models"]
    assert {row["critic"] for row in records(run, "revise")} == {models[POLICY_TEXT]} != {models["feedback"]}
    judged = records(run, "judge")
    assert {row["judge"] for row in judged} == {models["judge"]} == {models["policy"]}
    for row in (judged[0], records(run, "revise")[0]):
        assert problems(trace(run, str(row["id"]))) == []


def test_the_answers_that_forgetting_is_measured_on_are_the_engines_and_measured_in_torch(tmp_path: Path) -> None:
    recipe = write_training_recipe(tmp_path / "in")
    steps = ("stages=[revise, helpful, sft, answers, evaluate]", "policy_engine=openvino")
    run = tmp_path / "run"
    measured = "evaluation={max_tokens: 6, temperature: 1.0, perplexity: {}}"
    run_recipe(training_recipe(recipe, *steps, measured), recipe, run)
    base = json.loads((run / "lock.json").read_text())["models"][POLICY_TEXT]
    assert {row["model"] for row in records(run, "references")} == {base}
    assert records(run, "perplexity")


def test_a_second_run_makes_nothing_and_another_engine_makes_all_anew(tmp_path: Path) -> None:
    recipe = write_training_recipe(tmp_path / "in")
    steps = ("stages=[helpful]", "helpful={draws: 1}")
    folder = tmp_path / "run"
    keys = []
    for engine in ("openvino", "openvino", "torch"):
        run_recipe(training_recipe(recipe, *steps, f"policy_engine={engine}"), recipe, folder)
        keys.append({made: made.stat().st_mtime_ns for made in (folder / "stages").glob("*-helpful/*/data.jsonl")})
    assert keys[0] == keys[1] and len(keys[1]) == 1 and len(keys[2]) == 2


def test_the_recipe_of_before_is_written_as_before(tmp_path: Path) -> None:
    recipe = training_recipe(write_training_recipe(tmp_path))
    assert "policy_engine" not in recipe.model_dump(mode="json")
    assert training_recipe(tmp_path / "recipe.yaml", "policy_engine=openvino").model_dump()["policy_engine"]


def test_a_folder_is_read_as_torch_reads_it_and_does_not_judge(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    theirs, ours = (open_backend(f"{kind}:{folder}", dtype="float32") for kind in ("openvino", "local"))
    asked: list[Dialogue] = [(user("Why is the sky blue?"),), (user("Name fruits."), assistant("Apples"))]
    with pytest.raises(BackendError, match=r"judge with `embedded:NAME` or `local:PATH`"):
        theirs.loglikelihood(asked, [["yes", "no"], ["maybe", "never"]])
    assert [theirs.room(one) for one in asked] == [ours.room(one) for one in asked]
    assert theirs.model == identify(f"openvino:{folder}", "float32")
    before = theirs.model
    save_tiny_model(folder, seed=1)
    assert identify(f"openvino:{folder}", "float32") != before


@pytest.mark.slow
def test_greedy_text_of_a_folder_is_that_of_torch() -> None:
    """Weights, tokenizer, template and ends of turns survive the way through GGUF."""
    require(NAME)
    folder = embedded.converted_folder(NAME)
    theirs, ours = (open_backend(f"{kind}:{folder}", dtype="float32") for kind in ("openvino", "local"))
    assert theirs.model.startswith(f"openvino:{NAME}@")
    topics = ("bread", "Rome", "a lock", "rust", "a good night's sleep", "tea", "snow", "an old bicycle")
    asked: list[Dialogue] = [(user(f"{ask} {topic}."),) for ask in ("Describe", "Say yes to") for topic in topics]
    greedy = Sampling(max_tokens=16)
    found = [backend.generate(asked, greedy) for backend in (theirs, ours)]
    assert [one.text for one in found[0]] == [one.text for one in found[1]]
    assert [one.finish_reason for one in found[0]] == [one.finish_reason for one in found[1]]


def test_what_cannot_be_had_is_said_before_the_first_step(tmp_path: Path) -> None:
    recipe = write_training_recipe(tmp_path)
    refused = training_recipe(recipe, "policy_engine=openvino", "stages=[revise]", "policy=scripted:model.yaml")
    with pytest.raises(ConfigError, match=r"^policy_engine: openvino writes from a model folder or an embedded model"):
        run_recipe(refused, recipe, tmp_path / "run")
    config = tmp_path / "policy" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "gemma3_text"}))
    with pytest.raises(BackendError, match=r"model type 'gemma3_text' \(llama and qwen2 can\) cannot be exported"):
        run_recipe(training_recipe(recipe, "policy_engine=openvino"), recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
