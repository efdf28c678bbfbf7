"""Two processes do what one does: the same rollouts, and the same update but for rounding.

Once with all weights and a critic from the policy; once with adapters, a critic from a preference model, and a watch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rl_tasks import policy_folder
from safetensors.torch import load_file
from test_launched_trainings import HERE, TORCHRUN, launch
from tiny_scorer import save_tiny_scorer

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ppo")
    policy, scorer = policy_folder(root), save_tiny_scorer(root / "scorer")
    for name, launcher in (("one", []), ("two", TORCHRUN)):
        done = launch(*launcher, str(HERE / "ppo_process.py"), str(policy), str(scorer), str(root / name))
        assert done.returncode == 0, done.stderr[-3000:]
    return root


def told(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full", "adapters"])
def test_two_processes_equal_one(trained: Path, case: str) -> None:
    one, two = (told(trained / name / f"{case}.json") for name in ("one", "two"))
    assert one["completions"] == two["completions"] == 16
    for mine, theirs in zip(one["logs"], two["logs"], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name
    found, expected = (load_file(trained / name / case / "model.safetensors") for name in ("two", "one"))
    before = load_file(trained / "policy" / "model.safetensors")
    moved = {key: float((weights - before[key]).abs().max()) for key, weights in expected.items()}
    assert max(float((weights - found[key]).abs().max()) for key, weights in expected.items()) < TOLERANCE
    # the tolerance is small beside what was learned; adapters are on the projections alone
    assert all(way > TOLERANCE for key, way in moved.items() if case == "full" or "proj" in key), moved


@pytest.mark.slow
def test_the_leading_process_alone_tells_of_a_watch(trained: Path) -> None:
    one, two = (told(trained / name / "adapters-heard-0.json") for name in ("one", "two"))
    assert two == one and told(trained / "two" / "adapters-heard-1.json") == []
    records = [json.loads(line) for line in one]
    assert [r["step"] for r in records if "text" in r] == [0] * 4 + [2] * 4
    assert [(r["step"], r["action"]) for r in records if "text" not in r] == [(1, "lower_lr")]
