"""The estimate of a recipe against the calls that its run makes, counted at a scripted model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from recipes import CHECK, write_recipe
from test_modes_run import write as write_graded
from tiny_model import save_tiny_model
from tiny_scorer import save_tiny_scorer
from typer.testing import CliRunner

from constitutional.backends.scripted import ScriptedBackend
from constitutional.cli.app import app
from constitutional.config import load_recipe
from constitutional.errors import ConfigError
from constitutional.pipeline import chosen_steps, run_recipe
from constitutional.pipeline.estimate import Load, estimate
from constitutional.pipeline.inputs import load_inputs
from constitutional.training.rows import RlResult

STEPS = "stages=[sample, gate, judge]"
ALL = "judging.principles_per_comparison=all"
PAIRS = 10


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Dialogues that scripted models were given since it was cleared, by verb, and the characters of all."""
    found: Counter[str] = Counter()

    def counting(verb: str) -> Callable[..., object]:
        plain = getattr(ScriptedBackend, verb)

        def ask(self: ScriptedBackend, batch: list, *given: object) -> object:
            found[verb] += len(batch)
            found["characters"] += sum(len(message.content) for dialogue in batch for message in dialogue)
            return plain(self, batch, *given)

        return ask

    for verb in ("generate", "loglikelihood"):
        monkeypatch.setattr(ScriptedBackend, verb, counting(verb))
    return found


def estimated(recipe: Path, *sets: str) -> tuple[Load, ...]:
    loaded = load_recipe(recipe, [STEPS, *sets])
    return estimate(load_inputs(loaded, recipe), chosen_steps(loaded, None))


def calls(found: tuple[Load, ...], step: str) -> int:
    return sum(load.calls for load in found if load.step == step)


def counted(recipe: Path, made: Counter[str], *sets: str) -> dict[str, Counter[str]]:
    """What each step of a run asked."""
    loaded, found = load_recipe(recipe, [STEPS, *sets]), {}
    for step in chosen_steps(loaded, None):
        made.clear()
        run_recipe(loaded, recipe, recipe.parent / "run", until=step)
        found[step] = Counter(made)
    return found


def asked(found: Counter[str]) -> int:
    return found["generate"] + found["loglikelihood"]


def negated(recipe: Path) -> None:
    """Gives every principle a negated request, and the model answers to both."""
    constitution, model = recipe.with_name("constitution.yaml"), recipe.with_name("model.yaml")
    text = constitution.read_text()
    for name in ("kind", "honest", "safe"):
        request = f"    comparison_request: Which response is more {name}?\n"
        text = text.replace(request, f"{request}    negated_comparison_request: Which response is less {name}?\n")
    constitution.write_text(text)
    rules = '  - {anywhere: "is more", reply: "yes {n}."}\n  - {anywhere: "is less", reply: "no {n}."}\n'
    model.write_text(model.read_text().replace("rules:\n", f"rules:\n{rules}", 1))


def conditioned(recipe: Path) -> None:
    """The principle `kind` is for some conversations; the judge says that it is for all."""
    constitution, model = recipe.with_name("constitution.yaml"), recipe.with_name("model.yaml")
    request = "    comparison_request: Which response is more kind?\n"
    constitution.write_text(
        constitution.read_text().replace(request, request + "    applies_when: The user asks for something.\n")
    )
    model.write_text(
        model.read_text().replace(
            "likelihood:\n", 'likelihood:\n  - {contains: "asks for", logprobs: {Yes: -0.1, No: -3}}\n'
        )
    )


def write_pairs(recipe: Path) -> str:
    """Ready-made pairs, two to a prompt, with answers longer than the policy may write; the setting that names them."""
    rows = [
        {"prompt": f"Prompt pair {i // 2}", "chosen": f"sorry {'no ' * 90}{i}", "rejected": f"sure {'yes ' * 90}{i}"}
        for i in range(PAIRS)
    ]
    recipe.with_name("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "sample={pairs: {path: pairs.jsonl, kind: red_team}}"


@pytest.mark.parametrize(
    ("sets", "drawn", "pairs"),
    [
        (("sample.n=4",), 4, 2),
        (("sample={n: 4, compare: all}",), 4, 6),
        (("sample={n: 8, compare: all}",), 8, 28),
        (("sample={n: 8, contrast: true}",), 2, 1),
    ],
)
def test_as_many_pairs_are_judged_as_the_answers_to_a_prompt_make(
    tmp_path: Path, made: Counter[str], sets: tuple[str, ...], drawn: int, pairs: int
) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=8)
    negated(recipe)
    found, told = estimated(recipe, ALL, *sets), counted(recipe, made, ALL, *sets)
    assert calls(found, "sample") == told["sample"]["generate"] == 6 * drawn
    assert calls(found, "judge") == told["judge"]["loglikelihood"] == 6 * pairs * 3 * 2
    limited = (*sets, "judging={principles_per_comparison: all, limit: 5}")
    assert calls(estimated(recipe, *limited), "judge") == 5 * 3 * 2


@pytest.mark.parametrize("limit", ["null", "7"])
def test_a_conversation_is_asked_again_in_the_next_chunk_whether_a_principle_applies(
    tmp_path: Path, made: Counter[str], limit: str
) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=8)
    conditioned(recipe)
    sets = ("sample={n: 4, compare: all}", f"judging={{principles_per_comparison: all, limit: {limit}}}")
    found, told = calls(estimated(recipe, *sets), "judge"), asked(counted(recipe, made, *sets)["judge"])
    n, cases = (36, 18) if limit == "null" else (7, 4)  # of chunks of two; the first prompt has six pairs
    assert told == n * 3 * 2 + cases
    assert told <= found


@pytest.mark.parametrize("limit", ["null", "3"])
def test_pairs_of_a_file_are_judged_and_nothing_is_drawn(tmp_path: Path, made: Counter[str], limit: str) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=8)
    conditioned(recipe)
    sets = (write_pairs(recipe), f"judging={{principles_per_comparison: all, limit: {limit}}}", "chunk_size=6")
    found, told = estimated(recipe, *sets), counted(recipe, made, *sets)
    n = PAIRS if limit == "null" else int(limit)
    assert calls(found, "sample") == asked(told["sample"]) == 0
    cases = {10: 7, 3: 2}[n]  # pairs two to a prompt in chunks of three: 2 + 2 + 2 + 1
    assert calls(found, "judge") == asked(told["judge"]) == n * 3 * 2 + cases
    read = sum(load.prompt_tokens for load in found if load.step == "judge")
    assert read == pytest.approx(told["judge"]["characters"] / 4, rel=0.02)


RL = (
    "stages=[gate, rl]",
    "policy=local:policy",
    "feedback=scripted:model.yaml",
    "dtype=float32",
    "sampling.policy={temperature: 1.0, max_tokens: 6}",
)
SMALL = "steps: 3, generations: 2, prompts_per_step: 2, max_tokens: 4"
PPO = f"algorithm: ppo, {SMALL}, ppo: {{critic: policy, learning_rate: 0.001, epochs: 1}}"
JUDGE = "rewards: [{kind: judge}]"
WATCH = "every: 2, prompts: 2, canaries: 0, temperature: 1.0"
A_GRADE = 2
"""Lookups: of all grades, and of what makes "10" of "1"."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rl", "graded", "cases"),
    [
        (f"{PPO}, {JUDGE}", 12 * 3, 6),
        (f"algorithm: grpo, {SMALL}, {JUDGE}, trl: {{learning_rate: 0.01, weight_decay: 0.1}}", 12 * 3, 6),
        (f"{PPO}, rewards: [{{kind: judge, draw: one}}]", 12, 6),
        (f"{PPO}, {JUDGE}, watch: {{{WATCH}}}", (12 + 3 * 2) * 3, 8),  # probes: before, after steps 2 and 3
        (f"{PPO}, rewards: [{{kind: check}}], watch: {{{WATCH}, heldout: judge}}", 3 * 2 * 3, 2),
        (
            f"algorithm: best_of_n, generations: 2, max_tokens: 4, {JUDGE}, trl: {{max_steps: 1, learning_rate: 0.01}}",
            12 * 2 * 3,
            12,
        ),
    ],
)
def test_a_judge_of_rollouts_is_counted(tmp_path: Path, made: Counter[str], rl: str, graded: int, cases: int) -> None:
    recipe = write_graded(tmp_path / "in")
    constitution = recipe.with_name("constitution.yaml")
    constitution.write_text(constitution.read_text() + CHECK)
    conditioned(recipe)
    save_tiny_model(recipe.with_name("policy"), context=512)
    sets = (*RL, f"rl={{{rl}}}")
    found, told = estimated(recipe, *sets), counted(recipe, made, *sets)["rl"]
    assert {load.role for load in found if load.step == "rl"} == {"judge"}
    assert calls(found, "rl") == graded * A_GRADE + cases
    (stage,) = (recipe.parent / "run" / "stages").glob("*-rl/*")
    said = RlResult.model_validate_json((stage / "result.json").read_bytes())
    missed = said.empty_completions * 3 * A_GRADE + (cases if said.empty_completions or "draw: one" in rl else 0)
    # what is empty is not graded; a draw may miss `kind`
    assert calls(found, "rl") - missed <= asked(told) <= calls(found, "rl")


def test_a_judge_that_cannot_say_whether_principles_apply_is_told_with_the_estimate(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=8)
    conditioned(recipe)
    save_tiny_scorer(recipe.with_name("pm"), context=512)
    told = CliRunner().invoke(app, ["estimate", str(recipe), "--set", "stages=[revise]", "--set", "judge=model:pm"])
    assert isinstance(told.exception, ConfigError) and "is a preference model: it can not be asked" in str(
        told.exception
    )


def test_the_engine_that_writes_the_policys_text_is_named(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=8)
    steps, own = "stages=[revise, sample, gate, judge]", "policy=local:policy"

    def models(*sets: str) -> set[tuple[str, str]]:
        return {(load.role, load.model) for load in estimated(recipe, steps, own, *sets)}

    plain = {("policy", "local:policy"), ("feedback", "local:policy"), ("judge", "local:policy")}
    assert models("feedback=self") == plain
    engine = {("policy", "openvino:policy"), ("feedback", "openvino:policy"), ("judge", "local:policy")}
    assert models("feedback=self", "policy_engine=openvino") == engine  # it judges as training opens it
    other = {("policy", "openvino:policy"), ("feedback", "scripted:model.yaml"), ("judge", "scripted:model.yaml")}
    assert models("feedback=scripted:model.yaml", "policy_engine=openvino") == other
    embedded = models("policy=embedded:smollm2-135m", "feedback=scripted:model.yaml", "policy_engine=openvino")
    assert ("policy", "openvino:smollm2-135m") in embedded


def test_held_out_answers_are_as_long_as_the_evaluation_lets_them_be(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=8)
    steps, read = "stages=[revise, helpful, sft, answers, evaluate]", []
    for most in (40, 400):
        found = estimated(recipe, steps, f"evaluation.max_tokens={most}")
        read.append(sum(load.prompt_tokens for load in found if load.step == "evaluate"))
    assert read[1] - read[0] == pytest.approx(calls(found, "evaluate") * 2 * 360, rel=0.01)


def test_a_preference_model_as_the_judge_is_no_call(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "in", prompts=8)
    conditioned(recipe)
    found = estimated(recipe, "stages=[sample, gate, judge, answers, evaluate]", "judge=model:pm")
    assert {load.step for load in found} == {"sample", "answers"}
