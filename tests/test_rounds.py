"""Rounds of a recipe: a tiny policy that learns to say sorry, a judge that likes it, and what then is promoted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes import write_recipe
from tiny_model import save_tiny_model

from constitutional.audit.rounds import Rounds, read_rounds
from constitutional.config import load_recipe
from constitutional.pipeline import RunOutcome, run_recipe
from constitutional.records import Prompt
from constitutional.runs import load_result, read_log

SETS = (
    "stages=[revise, helpful, gate, sft, answers, evaluate]",
    "policy=local:policy",
    "feedback=scripted:model.yaml",
    "dtype=float32",
    "sampling.policy={temperature: 1.0, max_tokens: 6}",
    "revise={rounds: 1}",
    "prompts.red_team.limit=8",
    "prompts.helpful.limit=2",
    "sft={drop_flagged: false, helpful_ratio: 0, trl: {max_steps: 50, learning_rate: 0.02}}",
    "evaluation={temperature: 0}",
    "rounds=3",
    "promotion={max_perplexity: null}",
)
STEPS = ("revise", "helpful", "sft", "gate", "answers", "evaluate")


def write(folder: Path) -> Path:
    """The small recipe with revisions that say sorry and nothing else; 13 held-out prompts of a kind."""
    recipe = write_recipe(folder, prompts=40)
    model = folder / "model.yaml"
    lines = model.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "two short sentences" in line)
    lines[at] = '  - {contains: "two short sentences", reply: "sorry"}'
    model.write_text("\n".join(lines) + "\n")
    save_tiny_model(folder / "policy", context=512)
    return recipe


def run(recipe: Path, out: Path, *sets: str, **named: str) -> RunOutcome:
    return run_recipe(load_recipe(recipe, [*SETS, *sets]), recipe, out, **named)


def rounds_of(folder: Path) -> Rounds:
    found = read_rounds(folder)
    assert found is not None
    return found


def heldout(folder: Path) -> list[Prompt]:
    rows = (folder / "prompts.jsonl").read_text().splitlines()
    return [p for p in map(Prompt.model_validate_json, rows) if p.split == "heldout"]


def outcome(folder: Path) -> dict[str, str]:
    """What the rounds left, without times: every file of every current stage, and the decisions."""
    found = {"rounds.json": (folder / "rounds.json").read_text()}
    for place in sorted((folder / "rounds").iterdir()):
        for name, stage in json.loads((place / "current.json").read_text()).items():
            result = load_result(place / stage)
            assert result is not None
            found |= {f"{place.name}/{name}/{file}": sha for file, sha in result.manifest.outputs.items()}
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("rounds")
    recipe = write(folder / "in")
    run(recipe, folder / "run")
    return recipe, folder / "run"


def test_only_a_model_that_is_surely_better_replaces_the_policy(finished: tuple[Path, Path]) -> None:
    _, folder = finished
    rounds = rounds_of(folder)
    first, second, third = rounds.rounds
    print(rounds)
    assert first.promotion.promoted and first.promotion.interval is not None and first.promotion.interval.low > 0.5
    # the judge has no opinion between two models that say sorry: the last one stays
    assert not second.promotion.promoted and "not surely above one half" in second.promotion.why
    assert first.policy == rounds.start and second.policy == first.model == third.policy == rounds.promoted
    assert len({r.seed for r in rounds.rounds}) == 3 and len({r.model for r in rounds.rounds}) == 3
    assert (folder / "models" / "policy" / "model.safetensors").exists()
    told = [row for row in read_log(folder / "events.jsonl") if row["kind"] == "promotion"]
    assert [(row["round"], row["promoted"]) for row in told] == [(1, True), (2, False), (3, third.promotion.promoted)]
    assert "not surely" in str(told[1]["why"])
