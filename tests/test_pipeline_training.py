"""What a changed training setting recomputes: the whole recipe with real trainers on a tiny random policy."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
from recipes import write_recipe
from test_pipeline import reused, run
from tiny_model import save_tiny_model

from constitutional.backends import Backend, open_backend
from constitutional.errors import GateError, TrainingError
from constitutional.pipeline import STEPS as STEP_FUNCTIONS
from constitutional.runs import StageResult, load_result

pytestmark = pytest.mark.slow

STEPS = ("revise", "helpful", "sft", "sample", "gate", "judge", "label", "pm", "rl", "answers", "evaluate")
AFTER_RL = {"rl", "answers", "evaluate"}
AFTER_PM = {"pm"} | AFTER_RL
AFTER_SFT = {"sft", "sample", "judge", "label"} | AFTER_PM
SETS = (
    f"stages=[{', '.join(STEPS)}]",
    "policy=local:policy",
    "feedback=scripted:model.yaml",
    "dtype=float32",
    "sampling.policy={temperature: 1.0, max_tokens: 6}",
    "revise={rounds: 1}",
    "sample={revisions: true}",  # the judge has an opinion on these alone, and half is a label that teaches nothing
    "sft={drop_flagged: false, trl: {max_steps: 1, learning_rate: 0.01}}",
    "pm={heldout: 0.3, trl: {max_steps: 1, learning_rate: 0.01}}",
    "rl={steps: 1, generations: 2, prompts_per_step: 2, max_tokens: 4, trl: {learning_rate: 0.01}}",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder / "in")
    save_tiny_model(folder / "in" / "policy", context=512)
    result = run(recipe, folder / "run", *SETS)
    assert tuple(step.name for step in result.steps) == STEPS and not any(step.reused for step in result.steps)
    return recipe, folder / "run"


def copied(finished: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """The recipe, and a copy of its run that a test may change."""
    recipe, original = finished
    return recipe, shutil.copytree(original, folder / "run", symlinks=True)


def redone(recipe: Path, folder: Path, *changes: str) -> set[str]:
    return {name for name, kept in reused(run(recipe, folder, *SETS, *changes)).items() if not kept}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("sft.trl.learning_rate=0.02", AFTER_SFT),
        ("sft.helpful_ratio=0.5", AFTER_SFT),
        ("pm.trl.learning_rate=0.02", AFTER_PM),
        ("pm.contrast=1.0", {"label"} | AFTER_PM),
        ("rl.kl=0.1", AFTER_RL),
        ("rl.algorithm=grpo", AFTER_RL),
        ("evaluation.judge_limit=2", {"evaluate"}),
    ],
)
def test_a_changed_setting_recomputes_what_depends_on_it_and_only_that(
    finished: tuple[Path, Path], change: str, expected: set[str]
) -> None:
    recipe, folder = finished
    assert redone(recipe, folder, change) == expected
    assert redone(recipe, folder) == set()  # and changing back finds everything again


def test_no_two_trained_models_are_in_memory_when_held_out_prompts_are_answered(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = copied(finished, tmp_path)
    shutil.rmtree(next(folder.glob("stages/*-answers")))
    opened: list[tuple[str, weakref.ref[Backend]]] = []
    together: list[list[str]] = []

    def watched(spec: str, **named: Any) -> Backend:
        backend = open_backend(spec, **named)
        opened.append((Path(spec).name, weakref.ref(backend)))
        together.append([name for name, alive in opened if alive() is not None])
        return backend

    monkeypatch.setattr("constitutional.pipeline.context.open_backend", watched)
    run(recipe, folder, *SETS)
    assert [names for names in together if "sl-cai" in names or "rl-cai" in names] == [
        ["policy", "sl-cai"],
        ["policy", "rl-cai"],
    ]


def test_a_model_has_its_card_whatever_becomes_of_the_steps_after_it(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = copied(finished, tmp_path)
    cards = {path.stem: path for path in sorted((folder / "models").glob("*.md"))}
    whole = {name: path.read_text() for name, path in cards.items()}
    assert set(whole) == {"sl-cai", "pm", "rl-cai"}

    changed, rate = "sft.trl.learning_rate=0.02", "learning_rate: 0.02"
    (tmp_path / "wrong.yaml").write_text("likelihood:\n  - {keyword: 'yes', p: 0.9}\n")
    with pytest.raises(GateError):
        run(recipe, folder, *SETS, changed, f"judge=scripted:{tmp_path}/wrong.yaml", "gate.fallback=stop")
    assert rate in cards["sl-cai"].read_text()
    assert rate not in cards["rl-cai"].read_text()  # as its model

    def broken(*_: object) -> StageResult:
        raise TrainingError("stopped here")

    monkeypatch.setitem(STEP_FUNCTIONS, "sample", broken)
    with pytest.raises(TrainingError, match="stopped here"):
        run(recipe, folder, *SETS)
    assert rate not in cards["sl-cai"].read_text()  # a model that is found again is shown again, and so is its card
    cards["sl-cai"].unlink()
    with pytest.raises(TrainingError, match="stopped here"):
        run(recipe, folder, *SETS)
    assert cards["sl-cai"].exists()

    monkeypatch.undo()
    run(recipe, folder, *SETS)
    assert {name: path.read_text() for name, path in cards.items()} == whole


@pytest.mark.parametrize(("stage", "expected"), [("sft", AFTER_SFT), ("pm", AFTER_PM), ("rl", AFTER_RL)])
def test_a_deleted_training_stage_is_rebuilt_with_what_depends_on_it(
    finished: tuple[Path, Path], tmp_path: Path, stage: str, expected: set[str]
) -> None:
    recipe, folder = copied(finished, tmp_path)
    place = next((folder / "stages").glob(f"*-{stage}"))
    shutil.rmtree(place)
    again = run(recipe, folder, *SETS)
    # a training repeated on the same machine gives the same bytes, so what follows from it may be found again
    redone = {step.name for step in again.steps if not step.reused}
    assert stage in redone and redone <= expected
    assert load_result(next(place.iterdir())) is not None
