"""The constitutions we ship keep the rules we set for others: validated, locked, linted, measurable."""

import json
import re
from pathlib import Path

import pytest

from constitutional.constitution import load_composed
from constitutional.constitution.lint import lint
from constitutional.constitution.lock import check_lock, lock_path
from constitutional.principles import Example

FOLDER = Path(__file__).parents[1] / "constitutions"
SHIPPED = sorted(FOLDER.glob("*.yaml"))
OURS = [path for path in SHIPPED if path.stem in ("helpful_honest", "young_learners")]


def test_there_are_constitutions_of_different_purposes() -> None:
    assert {path.stem for path in SHIPPED} == {"harmlessness", "helpful_honest", "minimal", "young_learners"}
    for path in SHIPPED:
        assert load_composed(str(path)).constitution.id == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_is_as_it_was_locked(path: Path) -> None:
    assert check_lock(str(path)) == ()
    locked = json.loads(lock_path(path).read_text())
    composed = load_composed(str(path))
    for principle in composed.constitution.principles:
        assert locked["principles"][principle.ref]["digest"] == principle.digest  # a new version is locked, too
    assert {name: locked["files"][name] for name in locked["files"]} == {
        file.path.name: file.digest for file in composed.extended
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_lints_clean_and_says_why_where_a_rule_is_silenced(path: Path) -> None:
    assert lint(load_composed(str(path)).constitution) == ()
    lines = path.read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if line.strip().startswith("lint_ignore:"):
            assert "#" in line or before.strip().startswith("#"), line


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_the_two_newer_ones_use_the_whole_of_a_principle(path: Path) -> None:
    constitution = load_composed(str(path)).constitution
    assert 8 <= len(constitution.principles) <= 12 and len(constitution.tags) >= 4
    for principle in constitution.principles:
        assert principle.critique_request and principle.revision_request and principle.comparison_request
        assert len(principle.examples) >= 4 and any(e.split == "gate" for e in principle.examples)
        assert all(_similar(example) for example in principle.examples), principle.id
        longer = sum(len(e.better) > len(e.worse) for e in principle.examples)
        assert longer * 2 == len(principle.examples), principle.id
    assert sum(p.negated_comparison_request is not None for p in constitution.principles) >= 7
    assert any(p.paraphrases for p in constitution.principles) and any(p.applies_when for p in constitution.principles)
    splits = {e.split for p in constitution.principles for e in p.examples}
    assert splits == {"gate", "tuning"}


def _similar(example: Example) -> bool:
    return 0.7 <= len(example.better) / len(example.worse) <= 1 / 0.7


def test_young_learners_shows_composition() -> None:
    composed = load_composed(str(FOLDER / "young_learners.yaml"))
    by_id = {p.id: p for p in composed.constitution.principles}
    assert (
        "kind" not in by_id
        and by_id["honest"].ref == "honest@1.1.0"
        and by_id["not-harmful"].ref == "not-harmful@1.0.0"
    )
    assert {p.tier for p in by_id.values()} == {1, 2, 3}
    assert {p.check for p in by_id.values() if p.check} == {
        "constitutional.checks:no_private_data",
        "constitutional.checks:complete",
    }
    coded = {p.id: [(e.better, e.worse) for e in p.examples] for p in by_id.values() if p.check}
    number = re.compile(r"\d{3,} ?\d{3,}")  # what the one check looks for; and the end of a sentence, for the other
    assert all(number.search(worse) and not number.search(better) for better, worse in coded["no-numbers-of-people"])
    assert all(better[-1] in ".?!" and worse[-1].isalpha() for better, worse in coded["comes-to-an-end"])
    assert [file.path.name for file in composed.extended] == ["minimal.yaml"] and composed.notes == ()
