"""The presets validate, say what they keep and change of their source, and hold the numbers their headers name."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from constitutional.cli.app import app
from constitutional.config import load_recipe

FOLDER = Path(__file__).parents[1] / "examples" / "presets"
PRESETS = sorted(FOLDER.glob("*.yaml"))


def test_there_are_presets() -> None:
    assert {path.stem for path in PRESETS} == {
        *("bai2022-sl", "bai2022-rl", "lee2023-rlaif", "nemo-2024"),
        *("d-rlaif", "hf-cai-2024", "rlcd", "self-rewarding"),
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_each_validates(path: Path) -> None:
    result = CliRunner().invoke(app, ["validate", str(path)])
    assert result.exit_code == 0, result.output
    assert f"recipe '{path.stem}'" in result.output and result.output.strip().endswith("ok")


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_each_says_what_it_keeps_and_changes(path: Path) -> None:
    header = [line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#")]
    text = "\n".join(header)
    assert "# Keeps:" in text and "# Changes:" in text and text.index("# Keeps:") < text.index("# Changes:")
    assert f"constitutional run examples/presets/{path.name} --limit" in text


def test_the_papers_numbers() -> None:
    recipes = {path.stem: load_recipe(path) for path in PRESETS}
    sl, rl, lee = (recipes[name] for name in ("bai2022-sl", "bai2022-rl", "lee2023-rlaif"))
    assert sl.sft.helpful_ratio == pytest.approx(270_592 / 731_324, abs=0.001)
    assert (
        (sl.revise.rounds, sl.revise.replacement, sl.sft.rounds)
        == (4, True, "all")
        == (
            rl.revise.rounds,
            rl.revise.replacement,
            rl.sft.rounds,
        )
    )
    assert rl.pm.contrast == pytest.approx(135_296 / 182_831, abs=0.001)
    assert (rl.label.rule, rl.judging.principles_per_comparison) == ("sampled", 1)
    assert lee.rl.kl == pytest.approx(0.05 / 0.95, abs=1e-4)
    assert {r.sampling.policy.temperature for r in (sl, rl)} == {1.0}
    assert {r.sampling.feedback.temperature for r in (sl, rl)} == {1.0} and rl.sample.temperature == 1.0
    assert (sl.helpful.draws, rl.sample.n) == (2, 2)
    assert (sl.sft.trl["num_train_epochs"], sl.sft.trl["lr_scheduler_type"]) == (1, "constant")


def test_the_numbers_of_the_paper_of_two_ways_of_rlaif() -> None:
    lee = load_recipe(FOLDER / "lee2023-rlaif.yaml")
    assert lee.pm.trl == {"optim": "adafactor", "learning_rate": 1e-5, "num_train_epochs": 3, "max_length": 1152}
    assert (lee.sampling.policy.temperature, lee.sample.temperature, lee.sample.n) == (0.9, 0.9, 2)
    assert lee.rl.trl == {"learning_rate": 1e-5} and lee.label.rule == "mean"
    assert lee.stages is not None and not {"sft", "helpful"} & set(lee.stages)


def test_the_numbers_of_the_nemo_tutorial() -> None:
    nemo = load_recipe(FOLDER / "nemo-2024.yaml")
    assert (nemo.rl.kl, nemo.rl.trl) == (0.02, {"learning_rate": 9e-8})
    assert (nemo.sft.trl, nemo.sft.rounds, nemo.revise.rounds) == ({"learning_rate": 1e-6}, "final", 1)
    assert nemo.sampling.policy.temperature == nemo.sampling.feedback.temperature == 0.0
    assert (nemo.sample.n, nemo.sample.temperature) == (4, 1.0)


def test_the_numbers_of_the_later_presets() -> None:
    recipes = {path.stem: load_recipe(path) for path in PRESETS}
    direct, hf, rlcd, own = (recipes[name] for name in ("d-rlaif", "hf-cai-2024", "rlcd", "self-rewarding"))
    assert direct.rl.kl == pytest.approx(0.05 / 0.95, abs=1e-4) and direct.rl.trl["learning_rate"] == 1e-5
    assert [part.kind for part in direct.rl.rewards] == ["judge"] and not direct.rl.needs_preference_model
    assert (direct.sampling.policy.temperature, direct.judging.mode, direct.feedback) == (0.9, "score", "self")
    assert (hf.sampling.policy.temperature, hf.revise.rounds, hf.label.source) == (1.0, 1, "provenance")
    sft = {"learning_rate": 2e-5, "lr_scheduler_type": "cosine", "num_train_epochs": 1, "max_length": 2048}
    assert hf.sft.trl == sft and hf.rl.trl == {"learning_rate": 5e-7, "num_train_epochs": 3}
    assert hf.rl.dpo is not None and (hf.rl.algorithm, hf.rl.dpo.beta) == ("dpo", 0.1)
    assert rlcd.sample.contrast and rlcd.label.source == "provenance" and rlcd.rl.algorithm == "ppo"
    assert (own.rounds, own.sample.n, own.judging.mode, own.rl.algorithm) == (3, 4, "score", "dpo")
    assert own.rl.dpo is not None and own.rl.dpo.beta == 0.1 and own.feedback == "self"
