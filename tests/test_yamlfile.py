import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from constitutional import yamlfile
from constitutional.errors import ConfigError
from constitutional.records import Record
from constitutional.yamlfile import load_model, load_yaml, parse_scalar, parse_yaml

ODDITIES = [
    ("yes", "yes"),
    ("no", "no"),
    ("on", "on"),
    ("off", "off"),
    ("Y", "Y"),
    ("1:30", "1:30"),
    ("010", "010"),
    ("0o17", "0o17"),
    ("0x1F", "0x1F"),
    ("1_000", "1_000"),
    ("2024-01-31", "2024-01-31"),
    ("1.0.0", "1.0.0"),
    (".inf", ".inf"),
    (".nan", ".nan"),
    ("=", "="),
    ("1e-6", 1e-6),
    ("1E5", 1e5),
    ("+2", 2),
    ("-0.5", -0.5),
    (".5", 0.5),
    ("1.", 1.0),
    ("0", 0),
    ("true", True),
    ("False", False),
    ("~", None),
    ("null", None),
    ("", None),
    ('"1"', "1"),
    ("'true'", "true"),
    ('"\\u00e9"', "é"),
    ("|\n  two\n  lines\n", "two\nlines\n"),
]

REFUSED = [
    ("id: a\nother: 1\nid: b\n", "f.yaml:3:1: duplicate key 'id' (first at f.yaml:1:1)"),
    ("a: {b: 1, b: 2}\n", "f.yaml:1:11: duplicate key 'b' (first at f.yaml:1:5)"),
    ("a: &x 1\n", "f.yaml:1:4: anchor '&x': anchors are not allowed"),
    ("a: 1\nb: *x\n", "f.yaml:2:4: alias '*x': aliases are not allowed, write the value out"),
    ("&k a: 1\n", "f.yaml:1:1: anchor '&k': anchors are not allowed"),
    ("*k : 1\n", "f.yaml:1:1: alias '*k': aliases are not allowed, write the value out"),
    ("<<: {a: 1}\n", "f.yaml:1:1: merge keys ('<<') are not allowed"),
    (
        "a: !!python/name:os.system x\n",
        "f.yaml:1:4: tag 'tag:yaml.org,2002:python/name:os.system': tags are not allowed",
    ),
    ("a: !mine x\n", "f.yaml:1:4: tag '!mine': tags are not allowed"),
    ("- !!map {}\n", "f.yaml:1:3: tag 'tag:yaml.org,2002:map': tags are not allowed"),
    ("? [a]\n: 1\n", "f.yaml:1:3: a key must be a text"),
    ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document in one file"),
    ("", "f.yaml:1:1: empty document"),
    ("# only a comment\n", "f.yaml:2:1: empty document"),
    ("---\n...\n", "f.yaml:2:1: empty document"),
    ("a: 1\nb: x\x00y\n", "f.yaml:2:5: control character U+0000"),
    ("a: 1\nb: [1\nc: 2\n", "f.yaml:3:2: did not find expected ',' or ']' while parsing a flow sequence"),
    ("a: b: c\n", "f.yaml:1:5: mapping values are not allowed in this context"),
    ("a: 1e999\n", "f.yaml:1:4: number out of range"),
    ("a: " + "9" * 65, "f.yaml:1:4: number of more than 64 digits (quote it if it is a text)"),
]


class Part(Record):
    weight: float = 1.0
    text: str | None = None


class Whole(Record):
    version: str
    count: int = Field(default=1, ge=1)
    which: int | str = 0
    flag: bool = False
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = Field(default_factory=dict)


def message_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml", ConfigError)
    return str(caught.value)


@pytest.mark.parametrize(("text", "value"), ODDITIES)
def test_scalars_mean_one_thing(text: str, value: object) -> None:
    data, _ = parse_yaml(f"key: {text}", "f.yaml", ConfigError)
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refused_with_place(text: str, message: str) -> None:
    assert message_of(text) == message


def test_keys_are_texts_and_a_quoted_merge_sign_is_only_a_key() -> None:
    data, marks = parse_yaml("yes: 1\n1: 2\n'<<': 3\n", "f.yaml", ConfigError)
    assert data == {"yes": 1, "1": 2, "<<": 3}
    assert marks[("1",)] == "f.yaml:2:1"


@given(st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_json_numbers_and_booleans_read_as_json(value: int | float | bool) -> None:
    read = parse_scalar(repr(value).lower())
    assert read == value and type(read) is type(value)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs"))),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
        max_leaves=12,
    )
)
def test_what_pyyaml_dumps_reads_back(value: object) -> None:
    """Oracle: PyYAML's own dumper, aliases off, which quotes whatever it would itself misread."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    data, _ = parse_yaml(yaml.dump({"k": value}, Dumper=Dumper, allow_unicode=True), "f.yaml", ConfigError)
    assert data == {"k": value}


def test_the_slow_loader_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "_LOADER", yaml.SafeLoader)
    for text, value in ODDITIES:
        assert parse_yaml(f"key: {text}", "f.yaml", ConfigError)[0] == {"key": value}
    for text, message in REFUSED:
        if "did not find" not in message and "mapping values" not in message:  # libyaml words its own errors
            assert message_of(text) == message


def test_alias_bomb_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    assert message_of(bomb) == "f.yaml:1:4: anchor '&a': anchors are not allowed"


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "[" * 5000 + "]" * 5000, "{a: " * 5000, "- " * 5000 + "x"])
def test_deep_nesting_is_refused_fast(text: str) -> None:
    start = time.perf_counter()
    assert message_of(text).endswith(": nested deeper than 32 levels")
    assert time.perf_counter() - start < 1


def test_depth_up_to_the_limit_is_read() -> None:
    assert parse_yaml("[" * 32 + "]" * 32, "f.yaml", ConfigError)[0] is not None
    assert message_of("[" * 33 + "]" * 33) == "f.yaml:1:33: nested deeper than 32 levels"


def test_files_bom_crlf_size_encoding(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  - x\r\n")
    data, marks = load_yaml(path, ConfigError)
    assert data == {"a": 1, "b": ["x"]}
    assert marks == {
        (): f"{path}:1:1",
        ("a",): f"{path}:1:1",
        ("b",): f"{path}:2:1",
        ("b", 0): f"{path}:3:5",
    }
    for raw, message in [
        (b"a: 1\nb: \xff\n", f"{path}:2:4: not valid UTF-8"),
        ("a: 1".encode("utf-16"), f"{path}:1:1: not valid UTF-8"),
        (b"a: '" + b"x" * (1 << 20) + b"'", f"{path}:1:1: larger than 1048576 bytes"),
    ]:
        path.write_bytes(raw)
        with pytest.raises(ConfigError) as caught:
            load_yaml(path, ConfigError)
        assert str(caught.value) == message
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_yaml(tmp_path / "none.yaml", ConfigError)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path, ConfigError)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "versoin: 1.0.0\n",
            ["1:1: missing key 'version'", "1:1: versoin: unknown key 'versoin' (did you mean 'version'?)"],
        ),
        ("version: 1.0\n", ["1:1: version: Input should be a valid string (got 1.0: quote it)"]),
        (
            "version: 1.0.0\ncount: 0\nflag: yes\n",
            [
                "2:1: count: Input should be greater than or equal to 1 (got 0)",
                '3:1: flag: Input should be a valid boolean (got "yes")',
            ],
        ),
        ('version: 1.0.0\ncount: "2"\n', ['2:1: count: Input should be a valid integer (got "2")']),
        (
            "version: 1.0.0\nwhich: [1]\n",
            ["2:1: which: Input should be a valid integer or Input should be a valid string (got a list)"],
        ),
        (
            "version: 1.0.0\nparts:\n  - weight: 1\n  - text: x\n    wieght: 2\n",
            ["5:5: parts.1.wieght: unknown key 'wieght' (did you mean 'weight'?)"],
        ),
        (
            "version: 1.0.0\nby_name:\n  x: {txt: 1}\n",
            ["3:7: by_name.x.txt: unknown key 'txt' (did you mean 'text'?)"],
        ),
        (
            "version: 1.0.0\nzzz: 1\n",
            ["2:1: zzz: unknown key 'zzz' (known: by_name, count, flag, parts, version, which)"],
        ),
        ("- 1\n", ["1:1: expected a mapping of keys at the top (got a list)"]),
        ("version: 1.0.0\nparts:\n  - 3\n", ["3:5: parts.0: Input should be an object (got 3)"]),
    ],
)
def test_every_pydantic_error_is_one_placed_line(tmp_path: Path, text: str, lines: list[str]) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_model(path, Whole, ConfigError)
    assert str(caught.value).splitlines() == [f"{path}:{line}" for line in lines]


def test_a_good_file_becomes_a_model(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("version: 1.0.0\nwhich: two\nparts: [{weight: 2}]\nby_name: {x: {text: y}}\n")
    expected = Whole(version="1.0.0", which="two", parts=(Part(weight=2.0),), by_name={"x": Part(text="y")})
    assert load_model(path, Whole, ConfigError) == expected
