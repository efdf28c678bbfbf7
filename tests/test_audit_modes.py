"""The audit and its diff of judges asked in other modes, and of people's pairs; judge-pairs under kill -9."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_modes_run import DRAW, run, write
from typer.testing import CliRunner

from constitutional.audit.measures.change_records import VersionDiff
from constitutional.audit.measures.records import Audit
from constitutional.cli.app import app
from constitutional.ledger import open_ledger_read_only
from constitutional.runs import load_result

PEOPLE = [{"prompt": f"q{i}", "chosen": f"sorry, no {i}", "rejected": f"sure, yes {i}"} for i in range(24)]
KILLS = 6


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("mode", ["cot", "vote", "score"])
def test_a_run_in_another_mode_is_audited_and_compared_in_that_mode(tmp_path: Path, mode: str) -> None:
    recipe = write(tmp_path / "recipe")
    extra = [DRAW, "judging.samples=3"] if mode in ("cot", "vote") else []
    run(recipe, tmp_path / "run", f"judging.mode={mode}", *extra)
    audit = Audit.model_validate_json(shown("audit", str(tmp_path / "run"), "--json", "--resamples", "20"))
    assert {row.mode for row in audit.principles} == {mode}
    assert audit.outcomes["preference"] > 0
    new = tmp_path / "new.yaml"
    asked = "How kind is the response?" if mode == "score" else "Which response is more kind?"
    text = (tmp_path / "recipe" / "constitution.yaml").read_text()
    new.write_text(text.replace(asked, asked.replace("kind", "gentle")))
    judge = ["--judge", f"scripted:{tmp_path / 'recipe' / 'model.yaml'}", "--display", "none"]
    words = ["audit", "diff", "--constitution", str(new), "--run", str(tmp_path / "run"), *judge, "--resamples", "20"]
    found = VersionDiff.model_validate_json(shown(*words, "--yes", "--json"))
    (row,) = found.principles
    assert row.fields == (("score_request",) if mode == "score" else ("comparison_request",))
    assert found.missing == 0 and found.cost.to_ask > 0
    with open_ledger_read_only(tmp_path / "run.diff.sqlite") as ledger:
        anew = list(ledger.judgments())
    assert len(anew) == found.cost.judgments and {j.mode for j in anew} == {mode}
    assert row.old_outcomes.keys() == row.new_outcomes.keys()
    assert row.comparisons > 0


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PEOPLE))
    (folder / "judge.yaml").write_text("delay: 0.2\njitter: 1.0\nlikelihood:\n  - {keyword: sorry, p: 0.8}\n")
    return folder


def command(people: Path, out: Path) -> list[str]:
    words = [str(people / "pairs.jsonl"), "--constitution", "minimal", "--judge", f"scripted:{people / 'judge.yaml'}"]
    return ["judge-pairs", *words, "--out", str(out), "--set", "chunk_size=4", "--display", "none"]


def outcome(run: Path) -> tuple[list[str], str]:
    """Digests of every step's merged files, and the head of the ledger's chain."""
    found = []
    for manifest in sorted(run.glob("stages/*/*/manifest.json")):
        result = load_result(manifest.parent)
        assert result is not None
        found += [f"{manifest.parent.parent.name}/{name} {sha}" for name, sha in result.manifest.outputs.items()]
    with open_ledger_read_only(run / "ledger.sqlite") as ledger:
        return found, ledger.head


def test_peoples_pairs_are_audited_against_their_labels(people: Path, tmp_path: Path) -> None:
    shown(*command(people, tmp_path / "run"))
    audit = Audit.model_validate_json(shown("audit", str(tmp_path / "run"), "--json", "--resamples", "20"))
    assert len(audit.principles) == 3
    for row in audit.principles:
        assert row.labels is not None
        assert row.labels.accuracy.count == row.labels.accuracy.n == len(PEOPLE)
        assert row.figures.order_consistency.value == 1.0
        assert row.labels.expected_calibration_error.value == pytest.approx(0.2)  # always right, and 0.8 sure


def chunks(run: Path) -> int:
    """Chunks that stages of a run folder have in store."""
    return len(list(run.glob("stages/*/*/chunks/0*.jsonl")))


def test_judge_pairs_killed_anywhere_ends_with_the_same_bytes(people: Path, tmp_path: Path) -> None:
    shown(*command(people, tmp_path / "whole"))
    expected, draw, kills, half_done, trial = outcome(tmp_path / "whole"), random.Random(3), 0, set(), 0
    while kills < KILLS:
        out, trial = tmp_path / f"killed{trial}", trial + 1
        while True:
            before, wanted = chunks(out), draw.randint(0, 2)  # so far it may come before it is killed
            child = subprocess.Popen([sys.executable, "-m", "constitutional", *command(people, out)])
            while child.poll() is None and (kills == KILLS or chunks(out) < before + wanted or not out.exists()):
                time.sleep(0.002)
            if kills < KILLS:
                time.sleep(draw.random() * 0.3)  # not only where a chunk has just been written
            if child.poll() is None:
                child.kill()
                kills += 1
                half_done.add(chunks(out))
            elif child.returncode == 0:
                break
            assert child.wait() == -signal.SIGKILL
        assert outcome(out) == expected
    assert half_done - {0}, "no kill fell into the work"
