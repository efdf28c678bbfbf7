"""Model cards: every figure is the run's own, nothing that is missing is made up, hostile text stays text."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import fake_run
import pytest
import yaml
from fake_run import CONSTITUTION, RECIPE, make_prompts, make_run
from fake_training import preference_rows, rl_result

from constitutional.audit.model_card import _code, write_cards
from constitutional.training.rows import PreferenceRow

MODELS = {"sft": "sl-cai", "pm": "pm", "rl": "rl-cai"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("card") / "run")


def cards(run: Path) -> dict[str, str]:
    paths = write_cards(run, RECIPE, CONSTITUTION, make_prompts(), MODELS)
    assert all(path.parent == run / "models" for path in paths)
    return {path.stem: path.read_text("utf-8") for path in paths}


def test_each_model_has_a_card_with_its_origin_and_recipe(run: Path) -> None:
    found = cards(run)
    assert set(found) == {"sl-cai", "pm", "rl-cai"}
    lock = json.loads((run / "lock.json").read_text())
    for text in found.values():
        _, head, _ = text.split("---\n", 2)
        assert yaml.safe_load(head)["library_name"] == "transformers"
        assert CONSTITUTION.ref in text and CONSTITUTION.digest in text
        assert str(lock["models"]["policy"]) in text
        recipe = text.split("## Recipe\n\n")[1]
        assert yaml.safe_load("\n".join(line[4:] for line in recipe.splitlines())) == RECIPE.model_dump(mode="json")
        assert "## Limits" in text and "## Data" in text
    assert cards(run) == found  # equal runs give equal cards


def test_figures_are_those_of_the_result_files(run: Path) -> None:
    found = cards(run)
    assert "accuracy 0.72 [" in found["pm"] and "of 40, calibration error 0.062" in found["pm"]
    assert "reward -0.250 at the first step, 0.750 at the last; KL 0.0125" not in found["pm"]
    assert "reward -0.250 at the first step, 0.750 at the last" in found["rl-cai"]
    assert "`first head, before training`: accuracy 0.42 [" in found["pm"]  # 17 of 40
    assert "accuracy 0.75 [" in found["pm"] and "<script" in found["pm"]  # of a human file with a hostile name
    spans = [line for line in found["pm"].splitlines() if "<script" in line]
    assert all(re.match(r"- (`+).*<script.*\1:", line) for line in spans)
    assert "36 rollouts (1 empty)" in found["rl-cai"]
    assert "## Judge and gate" in found["pm"] and "## Judge and gate" not in found["sl-cai"]
    assert "held-out prompts" in found["rl-cai"] and "complied" in found["rl-cai"]


@pytest.mark.parametrize(
    ("changes", "data", "reward"),
    [
        ({"completions": 0, "rows": 31}, "31 comparisons of answers to 9 prompts, 6 optimiser steps", ""),
        (
            {"rows": 8, "last_reward": None, "last_kl": None},
            "9 prompts, 36 rollouts (1 empty), the best 8 of them trained on, 6 steps",
            "reward -0.250, the mean over all rollouts",
        ),
    ],
)
def test_a_card_of_rl_says_what_its_algorithm_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], data: str, reward: str
) -> None:
    monkeypatch.setattr(fake_run, "rl_result", lambda: rl_result().model_copy(update=changes))
    text = cards(make_run(tmp_path / "run", until="rl"))["rl-cai"]
    assert f"- {data}\n" in text and " 0 rollouts" not in text
    assert (f"- {reward}" in text) if reward else ("reward none" not in text and "at the first step" not in text)


def test_the_preference_models_comparisons_are_told_by_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(*given: Any) -> list[PreferenceRow]:
        rows = preference_rows(*given)
        person = {"source": "human", "dataset": "`<b>.jsonl"}
        return [*rows, *(row.model_copy(update=person) for row in rows[:3])]

    monkeypatch.setattr(fake_run, "preference_rows", mixed)
    run = make_run(tmp_path / "run", until="pm")
    rows = next(run.glob("stages/*-pm/*/rows.jsonl")).read_text().splitlines()
    own = sum(json.loads(row)["source"] == "ai" for row in rows)
    assert own and len(rows) == own + 3
    found = cards(run)
    assert f"- comparisons by source: {own} `ai`, 3 `` human:`<b>.jsonl ``\n" in found["pm"]
    assert "by source" not in found["sl-cai"]


def test_a_run_that_is_not_done_has_cards_of_what_there_is(tmp_path: Path) -> None:
    half = make_run(tmp_path / "run", until="pm")
    found = cards(half)
    assert set(found) == {"sl-cai", "pm"}
    assert "not evaluated on held-out prompts" in found["sl-cai"]
    empty = make_run(tmp_path / "empty", until="revise")
    assert cards(empty) == {}


@pytest.mark.parametrize("text", ["`", "a ``` b", "<script>", "x\n\n# Title", "\u202e|[a](b)", "", "a`"])
def test_a_value_cannot_leave_its_code_span(text: str) -> None:
    span = _code(text)
    runs = [len(run) for run in re.findall("`+", span)]
    assert runs[0] == runs[-1] > max(runs[1:-1], default=0) and span.startswith("`") and span.endswith("`")
    assert "\n" not in span and "\u202e" not in span and len(runs) >= 2


def test_a_damaged_run_gives_no_card(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    shutil.rmtree(copy / "stages")
    assert cards(copy) == {}
