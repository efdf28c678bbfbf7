"""What a watched recipe measures: scores of a held-out preference model, refusals, and the figures trackers are told.

What the policy says to a probe is written down beforehand; all else is the recipe's own.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import tracking
from test_pipeline_rl import SETS, place, run, told  # noqa: F401
from test_watch_pipeline import BENIGN, ENSEMBLE, benign, watch
from tiny_scorer import save_tiny_scorer

from constitutional.config import load_recipe
from constitutional.errors import ConfigError
from constitutional.pipeline import run_recipe
from constitutional.pipeline.jury import scorer_identity
from constitutional.records import assistant, user
from constitutional.training.ppo.rollouts import Drawn
from constitutional.training.scorer import PreferenceModel
from constitutional.training.watch.probe import ProbeAnswer

REFUSING = "I'm sorry, but I can't help with that."
PPO = "algorithm: ppo, steps: 1, generations: 2, prompts_per_step: 2, max_tokens: 4, rewards: [{kind: check}]"
OWN = "ppo: {critic: head, learning_rate: 0.01, epochs: 1}"


class Kept(tracking.GeneralTracker):
    """A tracker that keeps what it is told."""

    name, requires_logging_directory, tracker = "wandb", False, None
    main_process_only = False
    said: list[tuple[int, dict[str, float]]] = []  # noqa: RUF012

    def __init__(self, run: str) -> None:
        super().__init__()
        self.said.append((-1, {}))

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        assert step is not None
        self.said.append((step, values))


def said(net: Any, tokenizer: Any, prompts: list[list[int]], sampling: Any) -> Drawn:
    """Refuses one of the benign prompts, and answers the others at different length."""
    asked = [tokenizer.decode(ids) for ids in prompts]
    texts = [REFUSING if "kill process 1" in text else f"Sure. {text[-30:]}" for text in asked]
    return Drawn(prompts, [[5] for _ in prompts], texts, [True for _ in prompts])


@pytest.fixture(scope="module")
def measured(place: Path) -> Iterator[SimpleNamespace]:  # noqa: F811
    benign(place)
    folder = save_tiny_scorer(place / "in" / "scorer", seed=3, context=512)
    trackers = "wandb, tensorboard" if find_spec("tensorboardX") else "wandb"
    recipe = f"{PPO}, {OWN}, report_to: [{trackers}], {watch(heldout='model:scorer')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("constitutional.training.watch.probe.draw", said)
        patch.setattr(
            "constitutional.training.watch.trackers.find_spec", lambda name: name == "wandb" or find_spec(name)
        )
        patch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Kept)
        patch.setattr(Kept, "said", [])
        _, stage = run(place, recipe, "stages=[rl]", BENIGN, out="measured")
        result, _ = told(stage)
        lines = (stage.folder / "probes.jsonl").read_text().splitlines()
        answers = [ProbeAnswer.model_validate_json(line) for line in lines]
        rows = [json.loads(line) for line in (place / "measured" / "metrics.jsonl").read_text().splitlines()]
        yield SimpleNamespace(
            folder=folder, stage=stage, result=result, answers=answers, rows=rows, said=list(Kept.said), run=place
        )


def test_a_held_out_preference_model_scores_what_the_probes_drew(measured: SimpleNamespace) -> None:
    model = PreferenceModel(measured.folder)
    assert measured.result.watch.heldout == model.model
    assert measured.stage.manifest.settings["watch"]["heldout"] == model.model
    lines = (measured.run / "measured" / "prompts.jsonl").read_text().splitlines()
    asked = {row["id"]: row["messages"][0]["content"] for row in map(json.loads, lines)}
    probed = [answer for answer in measured.answers if answer.kind != "benign"]
    expected = model.score([(user(asked[answer.prompt_id]), assistant(answer.text)) for answer in probed])
    assert len(probed) == 4 and len({round(score, 3) for score in expected}) == 2
    assert [answer.heldout_reward for answer in probed] == pytest.approx(expected, abs=1e-5)
    logged = [row["probe/heldout_reward"] for row in measured.rows if "probe/heldout_reward" in row]
    assert logged == pytest.approx([sum(expected[:2]) / 2, sum(expected[2:]) / 2], abs=1e-5)


def test_a_refused_canary_is_counted_as_one(measured: SimpleNamespace) -> None:
    canaries = [answer for answer in measured.answers if answer.kind == "benign"]
    assert [answer.refused for answer in canaries] == [False, True] * 2
    assert [answer.text == REFUSING for answer in canaries] == [False, True] * 2
    assert [row["probe/refusal"] for row in measured.rows if "probe/refusal" in row] == [0.5, 0.5]


def test_a_tracker_of_the_recipe_is_told_every_figure_of_steps_and_probes(measured: SimpleNamespace) -> None:
    (opened, *told_rows) = measured.said
    expected = [
        (row["step"], {k: v for k, v in row.items() if isinstance(v, float | int) and k not in ("step", "steps")})
        for row in measured.rows
    ]
    assert opened == (-1, {}) and told_rows == expected
    figures = {name for _, values in told_rows for name in values}
    assert {"kl", "loss", "probe/reward", "probe/heldout_reward", "probe/refusal"} <= figures
    assert "report_to" not in measured.stage.manifest.settings["settings"]


def test_tensorboard_finds_the_same_figures_in_its_file(measured: SimpleNamespace) -> None:
    """The event file is read back frame by frame: its length, a checksum, the event, a checksum."""
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    (file,) = (measured.run / "measured" / "tracking").rglob("events.out.tfevents.*")
    raw, at, found = file.read_bytes(), 0, []
    while at < len(raw):
        (length,) = struct.unpack_from("<Q", raw, at)
        event = events.Event.FromString(raw[at + 12 : at + 12 + length])
        found += [((event.step, value.tag), value.simple_value) for value in event.summary.value]
        at += length + 16
    # it writes 32 bits, and an underscore for the @ of a principle
    expected = [((step, name.replace("@", "_")), v) for step, row in measured.said[1:] for name, v in row.items()]
    assert dict(found) == pytest.approx(dict(expected), rel=1e-6) and len(found) == len(expected) > 20


def test_the_preference_model_that_rewards_holds_nothing_out(place: Path) -> None:  # noqa: F811
    """Told by its weights, wherever a copy of it stands; of an ensemble, too."""
    recipe = place / "in" / "recipe.yaml"
    sets = [*SETS, f"rl={{algorithm: rloo, steps: 1, {watch(canaries=0)}}}", ENSEMBLE]
    outcome = run_recipe(load_recipe(recipe, sets), recipe, place / "same", until="pm")
    trained = next(step.result for step in outcome.steps if step.name == "pm").folder / "pm"
    assert scorer_identity(f"model:{trained}") == PreferenceModel(trained).model
    shutil.copytree(trained, place / "in" / "copy")
    with pytest.raises(ConfigError, match=r"rl.watch.heldout: model:copy is the preference model that rewards"):
        run(place, f"algorithm: rloo, steps: 1, {watch(canaries=0, heldout='model:copy')}", ENSEMBLE, out="same")
