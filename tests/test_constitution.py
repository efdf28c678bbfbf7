from pathlib import Path

import pytest

from constitutional.constitution import load_constitution
from constitutional.errors import ConfigError, ConstitutionError

HEAD = "id: mine\nversion: 1.0.0\ntitle: Mine\nprinciples:\n"
GOOD = "  - id: kind\n    version: 1.0.0\n    title: Kind\n    comparison_request: Which is kinder?\n"

BAD = [
    (HEAD + GOOD + GOOD, ["9:5: principles.1.id: duplicate principle id 'kind' (first at {path}:5:5)"]),
    (
        HEAD + "  - id: idle\n    version: 1.0.0\n    title: Idle\n",
        [
            "5:5: principles.0: principle 'idle' has no request "
            "(give one of critique_request, revision_request, comparison_request, check)"
        ],
    ),
    (HEAD + GOOD.replace("Which is kinder?", '" "'), ["8:5: principles.0.comparison_request: empty text"]),
    (
        HEAD + GOOD + "    examples:\n      - {prompt: '', better: same, worse: 'same '}\n",
        [
            "10:10: principles.0.examples.0.prompt: empty text",
            "10:36: principles.0.examples.0.worse: the same text as 'better': nothing to judge",
        ],
    ),
    (HEAD + GOOD + "    wieght: 2\n", ["9:5: principles.0.wieght: unknown key 'wieght' (did you mean 'weight'?)"]),
    (
        HEAD.replace("1.0.0", "1.0") + GOOD,
        ["2:1: version: Input should be a valid string (got 1.0: quote it)"],
    ),
    (HEAD + GOOD + "    weight: heavy\n", ['9:5: principles.0.weight: Input should be a valid number (got "heavy")']),
    (HEAD + GOOD.replace("    title: Kind\n", ""), ["5:5: principles.0: missing key 'title'"]),
    (
        HEAD.rstrip("\n") + " []\n",
        ["4:1: principles: Tuple should have at least 1 item after validation, not 0 (got a list)"],
    ),
    (HEAD + GOOD + "id: again\n", ["9:1: duplicate key 'id' (first at {path}:1:1)"]),
]


@pytest.mark.parametrize(("text", "lines"), BAD)
def test_bad_constitutions_say_where(tmp_path: Path, text: str, lines: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(str(path))
    assert str(caught.value).splitlines() == [f"{path}:{line.format(path=path)}" for line in lines]


def test_the_spellings_of_a_good_constitution_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + GOOD)
    constitution = load_constitution(str(path))
    assert constitution.ref == "mine@1.0.0"
    assert constitution.principle("kind@1.0.0").comparison_request == "Which is kinder?"


def test_shipped_constitutions_are_usable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # by name from anywhere
    assert len(load_constitution("minimal").principles) == 3
    big = load_constitution("harmlessness")
    assert len(big.principles) >= 16
    for principle in big.principles:
        assert principle.critique_request and principle.revision_request and principle.comparison_request
        assert principle.tags and len(principle.examples) >= 4
        assert {example.split for example in principle.examples} == {"gate", "tuning"}


def test_working_directory_goes_before_the_packaged_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "constitutions").mkdir()
    (tmp_path / "constitutions" / "minimal.yaml").write_text(HEAD + GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_constitution("minimal").id == "mine"


def test_unknown_names_say_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_constitution("minimall")
    assert str(caught.value) == "no constitution 'minimall' (did you mean 'minimal'?)"
    for odd in ("", "x" * 5000, "a\0b"):
        with pytest.raises(ConfigError, match=r"^no constitution"):
            load_constitution(odd)
