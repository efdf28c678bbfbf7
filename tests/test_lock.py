import json
from pathlib import Path

import pytest
from constitution_files import principle, write

from constitutional.constitution.loader import load_constitution
from constitutional.constitution.lock import Lock, check_lock, lock, lock_path
from constitutional.errors import ConstitutionError
from constitutional.yamlfile import load_model

KIND = principle("kind", "Which is kinder?", more="    score_request: Grade the kindness.\n")
TRUTH = principle("truth", "Which is truer?")


def lines(path: Path) -> list[str]:
    return [problem.line.replace(f"{path.parent}/", "") for problem in check_lock(str(path))]


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_the_lock_is_stable_sorted_and_one_line_an_entry(tmp_path: Path) -> None:
    write(tmp_path, "base/b.yaml", TRUTH)
    own = KIND.replace("id: kind", "id: gentle")
    mine = write(tmp_path, "mine.yaml", own, principle("a"), head="extends: [base/b.yaml, minimal]\n")
    path = lock(str(mine))
    text = path.read_text()
    assert path == tmp_path / "mine.lock" == lock_path(mine)
    data = json.loads(text)
    assert list(data["files"]) == ["base/b.yaml", "packaged:minimal.yaml"]
    assert list(data["principles"]) == sorted(data["principles"])
    principles = {p.ref: p for p in load_constitution(str(mine)).principles}
    assert {ref: row["digest"] for ref, row in data["principles"].items()} == {
        r: p.digest for r, p in principles.items()
    }
    assert list(data["principles"]["gentle@1.0.0"]["fields"]) == ["comparison_request", "score_request"]
    assert sum(line.startswith('  "') for line in text.splitlines()) == 2 + len(principles)
    lock(str(mine))
    assert path.read_text() == text
    assert load_model(path, Lock, ConstitutionError).files == data["files"]


def test_a_text_changed_under_its_version_is_named_by_field(tmp_path: Path) -> None:
    mine = write(tmp_path, "mine.yaml", TRUTH, KIND)
    assert check_lock(str(mine)) == ()  # no lock promises nothing
    lock(str(mine))
    assert lines(mine) == []
    replace(mine, "kinder?", "gentler?")
    replace(mine, "    score_request: Grade the kindness.\n", "    applies_when: asked\n")
    end = "under the unchanged version 1.0.0 (see mine.lock): raise it, `constitutional bump kind mine.yaml`"
    said = "comparison_request changed and applies_when added and score_request removed"
    assert lines(mine) == [f"mine.yaml:12:5: principles.1: 'kind': {said} {end}"]
    (problem,) = check_lock(str(mine))
    assert (problem.principle, problem.fields) == ("kind", ("comparison_request", "applies_when", "score_request"))
    before = lock_path(mine).read_bytes()
    with pytest.raises(ConstitutionError, match="'kind': comparison_request changed"):
        lock(str(mine))
    assert lock_path(mine).read_bytes() == before


def test_what_no_model_reads_is_free(tmp_path: Path) -> None:
    mine = write(tmp_path, "mine.yaml", KIND)
    lock(str(mine))
    replace(mine, "title: Kind", "title: Kindness\n    weight: 2\n    tags: [a]  # a comment")
    assert lines(mine) == []


def test_a_version_is_remembered_for_ever(tmp_path: Path) -> None:
    mine = write(tmp_path, "mine.yaml", KIND)
    lock(str(mine))
    mine.write_text(mine.read_text().replace("kinder", "gentler").replace("    version: 1.0.0", "    version: 1.1.0"))
    assert lines(mine) == []
    lock(str(mine))
    replace(mine, "    version: 1.1.0", "    version: 1.0.0")  # the text of 1.1.0 under the old version
    assert [line.partition(" under")[0] for line in lines(mine)] == [
        "mine.yaml:5:5: principles.0: 'kind': the text changed"
    ]
    replace(mine, "gentler", "kinder")
    assert lines(mine) == []


def test_changes_in_what_is_extended(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", KIND, TRUTH)
    mine = write(tmp_path, "mine.yaml", head="extends:\n  - base.yaml\nremove: [truth]\n")
    lock(str(mine))
    base.write_text("# only the layout\n" + base.read_text().replace("\n", "\r\n"))
    assert lines(mine) == []
    replace(base, "truer?", "more true?")
    changed = "mine.yaml:5:5: extends: base.yaml changed since it was locked: look at it, then lock again"
    assert lines(mine) == [changed]
    replace(base, "kinder?", "gentler?")
    assert [line.partition(" under")[0] for line in lines(mine)] == [
        "base.yaml:9:5: principles.0: 'kind': comparison_request changed",
        changed,
    ]
    replace(base, "gentler?", "kinder?")
    lock(str(mine))  # a file that changed is taken over, a text is not
    assert lines(mine) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("<<<<<<< HEAD\n{}\n", "mine.lock:1:1: expected a mapping of keys at the top"),
        ('{"files": {}}', "mine.lock:1:1: missing key 'principles'"),
        (
            '{"files": {}, "principles": {"a@1.0.0": {"digset": "x"}}}',
            "mine.lock:1:30: principles.a@1.0.0: missing key 'digest'",
        ),
        (
            '{"files": {}, "principles": {"a@1.0.0": {"digest": "x"},\n"a@1.0.0": {"digest": "y"}}}',
            "mine.lock:2:1: duplicate key 'a@1.0.0' (first at mine.lock:1:30)",
        ),
    ],
)
def test_a_damaged_lock_says_where(tmp_path: Path, text: str, line: str) -> None:
    mine = write(tmp_path, "mine.yaml", KIND)
    lock_path(mine).write_text(text)
    for act in (check_lock, lock):
        with pytest.raises(ConstitutionError) as caught:
            act(str(mine))
        assert str(caught.value).replace(f"{tmp_path}/", "").startswith(line)


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = write(tmp_path, "mine.yaml", KIND)

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConstitutionError, match=r"cannot write .*mine.lock: No space left on device"):
        lock(str(mine))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
