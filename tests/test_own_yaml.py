"""Our own YAML written: whatever is in a constitution loads back equal, and an author can read it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constitutional.constitution import load_constitution
from constitutional.errors import ConstitutionError
from constitutional.few_shots import ComparisonShot, FewShots, Turn
from constitutional.interop import to_yaml
from constitutional.principles import Constitution
from constitutional.validation import validate
from constitutional.yamlfile import parse_yaml

AWKWARD = [
    "yes", "null", "~", "true", "1", "1.0", "010", "1e999", "9" * 70, "- a", "a: b", "a #b", "#", "'", '"', "\\",
    "{x}", "[x]",     "&a", "*a",
    "!x", "%x", "@x", "`x", "|", ">", "? x", ": ", "---", "...", "=", "<<", "x:", "x,", " x", "x ", "x  y",
    "a\nb", "a\nb\n", "a\n\nb\n\n", "\na\nb", " a\nb", "a \nb", "a\n b\n  c", "a\tb\nc", "\ta\nb", "# a\nb", "a\n# b",
    "a\n---\nb",     "a\r\nb", "a\x85b", "a\u2028b\nc", "\ufeffa", "a\x00b", "a\x7fb", "é 无害 \U0001f600", "a\n\n\nb",
    "word " * 40 + "end", "two  spaces " * 20 + "end", "x" * 300, " " + "word " * 40 + "x", "word " * 40,
    "- dash " * 30 + "x", "# hash " * 30 + "x", "colon: " * 30 + "x", "long " * 40 + "\nand\n" + "more " * 40 + "x\n",
]  # fmt: skip


def _constitution(*texts: str) -> Constitution:
    principles = [
        {
            "id": f"p{index}",
            "version": "1.0.0",
            "title": text,
            "comparison_request": f"Which? {text}",
            "critique_request": f"{text}!",
            "paraphrases": [text, f"{text}?", f"?{text}"],
            "tags": [text, "plain"],
            "examples": [{"prompt": f"x{text}", "better": f"x{text}", "worse": "w", "split": "tuning"}],
            "weight": 0.1,
            "tier": 3,
            "changelog": [{"version": "1.0.0", "text": text}],
        }
        for index, text in enumerate(texts)
    ]
    data = {"id": "mine", "version": "1.0.0", "title": texts[0], "source": texts[-1], "principles": principles}
    return Constitution.model_validate(data)


def _again(text: str) -> Constitution:
    data, marks = parse_yaml(text, "mine.yaml", ConstitutionError)
    return validate(data, marks, Constitution, ConstitutionError)


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_come_back(text: str, tmp_path: Path) -> None:
    constitution = _constitution(text, "plain")
    path = tmp_path / "mine.yaml"
    path.write_bytes(to_yaml(constitution).encode())
    assert load_constitution(str(path)) == constitution


SIGNS = st.sampled_from(list(" \n\n\t\r:#-'\"|>ab1,.[]{}&*!%\\\x00\x85\u2028é"))
TEXTS = st.one_of(st.text(max_size=40), st.text(SIGNS, max_size=250))


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_any_texts_come_back(texts: list[str]) -> None:
    constitution = _constitution(*texts)
    assert _again(to_yaml(constitution)) == constitution


def test_every_field_is_written(tmp_path: Path) -> None:
    constitution = _constitution("a")
    shot = ComparisonShot(conversation=(Turn(role="user", content="q\nr"),), better="b: c", worse="# w")
    full = constitution.principles[0].model_copy(
        update={
            "revision_request": "r",
            "negated_comparison_request": "n",
            "score_request": "s",
            "applies_when": "w",
            "check": "package.module:function",
            "phases": ("judge",),
            "source": "me",
            "conflicts": ("other",),
            "lint_ignore": ("no-examples",),
            "few_shots": FewShots(comparison=(shot,)),
        }
    )
    defaults = {name: field.default for name, field in type(full).model_fields.items()}
    assert all(getattr(full, name) != default for name, default in defaults.items())
    other = constitution.principles[0].model_copy(update={"id": "other"})
    tags = {"a": "What a is: this.", "b: c": "Two words"}
    every = constitution.model_copy(update={"template_pack": "transcript", "tags": tags, "principles": (full, other)})
    assert _again(to_yaml(every)) == every


def test_the_shipped_constitutions_come_back() -> None:
    for name in ("minimal", "harmlessness", "helpful_honest", "young_learners"):
        constitution = load_constitution(name)
        assert _again(to_yaml(constitution)) == constitution


def test_it_reads_as_an_author_would_write_it() -> None:
    long = "This request is one sentence after another " * 3 + "and ends."
    data = {
        "id": "mine",
        "version": "1.0.0",
        "title": "Mine: all of them",
        "principles": [
            {"id": "a", "version": "1.0.0", "title": "First", "critique_request": long, "tags": ["x", "y z"]},
            {"id": "b", "version": "1.0.0", "title": "1", "revision_request": "One.\n\n  Two.\n", "weight": 2.0},
        ],
    }
    assert to_yaml(Constitution.model_validate(data)) == (
        'id: mine\nversion: 1.0.0\ntitle: "Mine: all of them"\nprinciples:\n'
        "  - id: a\n    version: 1.0.0\n    title: First\n    critique_request: >-\n"
        "      This request is one sentence after another This request is one sentence after another This\n"
        "      request is one sentence after another and ends.\n"
        "    tags: [x, y z]\n\n"
        '  - id: b\n    version: 1.0.0\n    title: "1"\n    revision_request: |\n'
        "      One.\n\n        Two.\n    weight: 2.0\n"
    )
