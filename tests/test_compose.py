from pathlib import Path

import pytest
from constitution_files import HEAD, principle, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from constitutional import yamlfile
from constitutional.constitution import load_composed, load_constitution
from constitutional.constitution.show import show
from constitutional.constitution.source import ConstitutionFile
from constitutional.errors import ConstitutionError
from constitutional.principles import Constitution
from constitutional.yamlfile import load_model

KIND = principle("kind", "Which is kinder?")
TRUTH = principle("truth", "Which is truer?")


def problems(path: Path) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(str(path))
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def texts(path: Path) -> dict[str, str | None]:
    return {p.ref: p.comparison_request for p in load_constitution(str(path)).principles}


def test_later_files_win_by_id_and_keep_the_order(tmp_path: Path) -> None:
    write(tmp_path, "base/one.yaml", KIND, TRUTH)
    write(tmp_path, "two.yaml", principle("kind", "Which is gentler?", "2.0.0"), principle("brief"))
    mine = write(tmp_path, "mine.yaml", principle("own"), head="extends: [base/one.yaml, two.yaml]\n")
    assert texts(mine) == {
        "kind@2.0.0": "Which is gentler?",
        "truth@1.0.0": "Which is truer?",
        "brief@1.0.0": "Which is better?",
        "own@1.0.0": "Which is better?",
    }
    own = write(tmp_path, "own.yaml", principle("kind", "Mine?", "3.0.0"), head="extends: mine.yaml\nremove: [truth]\n")
    assert list(texts(own)) == ["kind@3.0.0", "brief@1.0.0", "own@1.0.0"]


def test_a_file_without_principles_of_its_own_overrides_single_fields(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", KIND, principle("truth", "Which is truer?", more="    applies_when: always\n"))
    edits = (
        "override:\n  kind: {weight: 2}\n  truth: {version: 1.1.0, comparison_request: Truer?, applies_when: null}\n"
    )
    mine = write(tmp_path, "mine.yaml", head="extends: base.yaml\nsource: me\n" + edits)
    constitution = load_constitution(str(mine))
    kind, truth = constitution.principles
    assert (kind.ref, kind.weight, kind.comparison_request) == ("kind@1.0.0", 2.0, "Which is kinder?")
    assert (truth.ref, truth.comparison_request, truth.applies_when) == ("truth@1.1.0", "Truer?", None)
    assert type(constitution) is Constitution and constitution.source == "me"


def test_the_origin_of_every_field(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", TRUTH, KIND, head="template_pack: transcript\n")
    edits = "remove: [truth]\noverride: {kind: {weight: 2}}\n"
    mine = write(tmp_path, "mine.yaml", principle("own"), head="extends: [base.yaml]\n" + edits)
    marks = load_composed(str(mine)).marks
    assert marks["template_pack",] == f"{base}:4:1"
    assert marks["title",] == f"{mine}:3:1"
    assert marks["principles", 0] == f"{base}:10:5"
    assert marks["principles", 0, "title"] == f"{base}:12:5"
    assert marks["principles", 0, "weight"] == f"{mine}:6:19"
    assert marks["principles", 1, "id"] == f"{mine}:8:5"
    assert ("principles", 1, "weight") not in marks


def test_show_says_where_each_field_comes_from_and_reads_back(tmp_path: Path) -> None:
    long = "Which of the two answers is kinder to the person who asked, above all where it has to say no to them?"
    odd = r'"tab\there, \"quotes\", \u0085 and # signs"'
    examples = '    examples:\n      - {prompt: "no", better: "1.5", worse: "a: b"}\n'
    more = f"    critique_request: {odd}\n    weight: 0.5\n    tags: [a, 'null', 'x, y']\n{examples}"
    write(tmp_path, "base.yaml", principle("kind", long, more=more), TRUTH)
    mine = write(tmp_path, "mine.yaml", head="extends: base.yaml\noverride: {truth: {title: The truth, weight: 3}}\n")
    composed = load_composed(str(mine))
    text = show(composed)
    assert text.replace(f"{tmp_path}/", "").splitlines() == [
        "# mine@1.0.0 of mine.yaml, base.yaml",
        "id: mine  # mine.yaml:1:1",
        "version: 1.0.0  # mine.yaml:2:1",
        "title: Mine  # mine.yaml:3:1",
        "principles:",
        "  - id: kind  # base.yaml:5:5",
        "    version: 1.0.0  # base.yaml:6:5",
        "    title: Kind  # base.yaml:7:5",
        r'    critique_request: "tab\there, \"quotes\", \N and # signs"  # base.yaml:9:5',
        "    comparison_request: >-  # base.yaml:8:5",
        "      Which of the two answers is kinder to the person who asked, above all where it has to",
        "      say no to them?",
        "    weight: 0.5  # base.yaml:10:5",
        '    tags: [a, "null", "x, y"]  # base.yaml:11:5',
        "    examples:  # base.yaml:12:5",
        '      - prompt: "no"',
        '        better: "1.5"',
        '        worse: "a: b"',
        "        split: gate",
        "  - id: truth  # base.yaml:14:5",
        "    version: 1.0.0  # base.yaml:15:5",
        "    title: The truth  # mine.yaml:5:20",
        '    comparison_request: "Which is truer?"  # base.yaml:17:5',
        "    weight: 3.0  # mine.yaml:5:38",
    ]
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert load_constitution(str(again)) == composed.constitution


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(str.strip))
@example("1.0")
@example("null")
@example(" lead")
@example("a\n\n b\n")
@example("word " * 40 + "end")
@example("- x")
@example("9" * 70)
def test_whatever_a_text_holds_show_reads_back(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "principles: [{id: a, version: 1.0.0, title: A, critique_request: x}]\n")
    composed = load_composed(str(path))
    first = composed.constitution.principles[0].model_copy(update={"critique_request": text, "tags": (text,)})
    constitution = composed.constitution.model_copy(update={"principles": (first,), "source": text})
    marks = composed.marks | {("source",): "f:1:1", ("principles", 0, "tags"): "f:1:2"}
    changed = type(composed)(path, constitution, marks, ())
    path.write_bytes(show(changed).encode())
    assert load_model(path, Constitution, ConstitutionError) == constitution


REFUSED = [
    (
        "extends: base.yaml\nremove: [knid]\n",
        "",
        ["mine.yaml:5:10: remove.0: no principle 'knid' in what this file extends (did you mean 'kind'?)"],
    ),
    (
        "extends: base.yaml\noverride: {trut: {weight: 2}}\n",
        "",
        ["mine.yaml:5:12: override.trut: no principle 'trut' in what this file extends (did you mean 'truth'?)"],
    ),
    (
        "remove: [kind]\n",
        TRUTH,
        ["mine.yaml:4:10: remove.0: no principle 'kind' in what this file extends (it extends nothing)"],
    ),
    (
        "extends: base.yaml\nremove: [kind, kind]\n",
        "",
        ["mine.yaml:5:16: remove.1: duplicate removed id 'kind' (first at mine.yaml:5:10)"],
    ),
    (
        "extends: base.yaml\nremove: [kind]\noverride: {kind: {weight: 2}}\n",
        "",
        ["mine.yaml:6:12: override.kind: 'kind' is overridden here and removed at mine.yaml:5:10: keep one of the two"],
    ),
    (
        "extends: base.yaml\nremove: [kind]\n",
        KIND,
        ["mine.yaml:5:10: remove.0: 'kind' is removed here and defined at mine.yaml:7:5: keep one of the two"],
    ),
    (
        "extends: base.yaml\noverride: {kind: {weight: 2}}\n",
        KIND,
        ["mine.yaml:5:12: override.kind: 'kind' is overridden here and defined at mine.yaml:7:5: keep one of the two"],
    ),
    (
        "extends: base.yaml\noverride: {kind: {id: other}}\n",
        "",
        ["mine.yaml:5:19: override.kind.id: an overridden principle keeps its id"],
    ),
    (
        "extends: base.yaml\noverride: {kind: {comparison_request: Other?}}\n",
        "",
        [
            "mine.yaml:5:19: override.kind.comparison_request: not the text of 'kind@1.0.0' at base.yaml:8:5: a "
            "version names one text, override its version too"
        ],
    ),
    (
        "extends: base.yaml\noverride: {kind: {version: 1.0.0, score_request: Grade it.}}\n",
        "",
        [
            "mine.yaml:5:35: override.kind.score_request: not the text of 'kind@1.0.0' at base.yaml:5:5: a "
            "version names one text, override its version too"
        ],
    ),
    (
        "extends: base.yaml\n",
        principle("kind", "Other?"),
        [
            "mine.yaml:9:5: principles.0.comparison_request: not the text of 'kind@1.0.0' at base.yaml:8:5: a "
            "version names one text, give it another version"
        ],
    ),
    (
        "extends: base.yaml\noverride: {kind: {wieght: 2}}\n",
        "",
        ["mine.yaml:5:19: override.kind.wieght: unknown key 'wieght' (did you mean 'weight'?)"],
    ),
    (
        "extends: base.yaml\noverride: {kind: {weight: heavy}}\n",
        "",
        ['mine.yaml:5:19: override.kind.weight: Input should be a valid number (got "heavy")'],
    ),
    (
        "extends: base.yaml\noverride: {kind: {examples: [{prompt: a, better: b, worse: b}]}}\n",
        "",
        ["mine.yaml:5:53: principles.0.examples.0.worse: the same text as 'better': nothing to judge"],
    ),
    (
        "extends: base.yaml\noverride: {kind: 3}\n",
        "",
        ["mine.yaml:5:12: override.kind: Input should be an object (got 3)"],
    ),
    (
        "extends: base.yaml\noverride: {kind: {version: 1.1.0, comparison_request: null}}\n",
        "",
        [
            "mine.yaml:5:35: principles.0.comparison_request: principle 'kind' has no request (give one of "
            "critique_request, revision_request, comparison_request, check)"
        ],
    ),
    (
        "extends: base.yaml\nremove: [kind, truth]\n",
        "",
        ["mine.yaml:4:1: principles: none here, and none left of what it extends"],
    ),
    (
        "extends: [base.yaml, bsae.yaml]\n",
        "",
        ["mine.yaml:4:22: extends: no such file 'bsae.yaml' beside it, nor packaged (did you mean 'base.yaml'?)"],
    ),
    (
        "extends: minimall\n",
        "",
        ["mine.yaml:4:1: extends: no such file 'minimall' beside it, nor packaged (did you mean 'minimal'?)"],
    ),
    ("extends: mine.yaml\n", "", ["mine.yaml:4:1: extends: goes in a circle (mine.yaml:4:1 -> mine.yaml:4:1)"]),
    (
        "extends: [base.yaml, 3]\n",
        "",
        [
            "mine.yaml:4:1: extends: Input should be a valid string (got a list)",
            "mine.yaml:4:22: extends.1: Input should be a valid string (got 3: quote it)",
        ],
    ),
    (
        'extends: base.yaml\nremove: ["a\\nb"]\n"odd\\ekey": 1\n',
        "",
        [
            r"mine.yaml:6:1: odd\x1bkey: unknown key 'odd\x1bkey' (known: extends, few_shots, id, override, "
            "principles, remove, source, tags, template_pack, title, version)"
        ],
    ),
    (
        'extends: base.yaml\nremove: ["a\\nb"]\n',
        "",
        [r"mine.yaml:5:10: remove.0: no principle 'a\nb' in what this file extends (known: kind, truth)"],
    ),
    ("extend: base.yaml\n", KIND, ["mine.yaml:4:1: extend: unknown key 'extend' (did you mean 'extends'?)"]),
    ("extends: &x base.yaml\n", KIND, ["mine.yaml:4:10: anchor '&x': anchors are not allowed"]),
    ("override: {a: &x {weight: 2}, b: *x}\n", KIND, ["mine.yaml:4:15: anchor '&x': anchors are not allowed"]),
]


@pytest.mark.parametrize(("head", "own", "lines"), REFUSED)
def test_what_leaves_a_reader_guessing_is_refused_with_both_places(
    tmp_path: Path, head: str, own: str, lines: list[str]
) -> None:
    write(tmp_path, "base.yaml", KIND, TRUTH)
    assert problems(write(tmp_path, "mine.yaml", *([own] if own else []), head=head)) == lines


def test_circles_through_other_files_name_every_step(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", KIND, head="extends: [mine.yaml]\n")
    mine = write(tmp_path, "mine.yaml", head="source: x\nextends: [a.yaml]\n")
    assert problems(mine) == [
        "a.yaml:4:11: extends: goes in a circle (mine.yaml:5:11 -> a.yaml:4:11 -> mine.yaml:5:11)"
    ]


def test_two_bases_may_not_say_two_things_under_one_version(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", KIND, head="template_pack: transcript\n")
    write(tmp_path, "b.yaml", principle("kind", "Other?"), head="template_pack: transcript\n")
    assert problems(write(tmp_path, "mine.yaml", head="extends: [a.yaml, b.yaml]\n")) == [
        "b.yaml:9:5: principles.0.comparison_request: not the text of 'kind@1.0.0' at a.yaml:9:5: "
        "a version names one text, give it another version"
    ]
    # and not even where neither of them is used in the end
    mine = write(tmp_path, "mine.yaml", principle("kind", "Mine?", "2.0.0"), head="extends: [a.yaml, b.yaml]\n")
    assert len(problems(mine)) == 1
    write(tmp_path, "b.yaml", TRUTH, head="template_pack: chat\n")
    mine = write(tmp_path, "mine.yaml", head="extends: [a.yaml, b.yaml]\n")
    assert problems(mine) == [
        "b.yaml:4:1: template_pack: differs from a.yaml:4:1, and a file that extends both must say which it shall be"
    ]
    mine = write(tmp_path, "mine.yaml", head="extends: [a.yaml, b.yaml]\ntemplate_pack: chat\n")
    assert load_constitution(str(mine)).template_pack == "chat"


def test_packaged_names_are_extended_from_anywhere_and_never_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "constitutions/minimal.yaml", TRUTH)
    monkeypatch.chdir(tmp_path)
    mine = write(tmp_path, "there/minimal.yaml", principle("own"), head="extends: minimal\n")
    assert len(load_constitution(str(mine)).principles) == 4


@pytest.mark.parametrize("name", ["../../etc/nothing", "two\\nlines", "/dev/null", "a\\0b", "x" * 300, ".", "../"])
def test_names_that_are_no_files(tmp_path: Path, name: str) -> None:
    (line,) = problems(write(tmp_path, "mine.yaml", KIND, head=f'extends: "{name}"\n'))
    assert line.startswith("mine.yaml:4:1: extends: no such file '")


def test_work_is_linear_in_files_and_depth_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder of diamonds has 2^15 paths through it and 31 files."""
    read = []
    parse = yamlfile.parse_yaml
    monkeypatch.setattr(yamlfile, "parse_yaml", lambda text, name, error: read.append(name) or parse(text, name, error))
    write(tmp_path, "0.yaml", KIND)
    for step in range(15):
        for side in "lr":
            write(tmp_path, f"{step}{side}.yaml", head=f"extends: {step}.yaml\n")
        write(tmp_path, f"{step + 1}.yaml", head=f"extends: [{step}l.yaml, {step}r.yaml]\n")
    assert list(texts(tmp_path / "15.yaml")) == ["kind@1.0.0"]
    assert len(read) == len(set(read)) == 46
    for step in range(15, 40):
        write(tmp_path, f"{step + 1}.yaml", head=f"extends: {step}.yaml\n")
    assert problems(tmp_path / "40.yaml") == ["11l.yaml:4:1: extends: more than 32 files deep"]


def test_two_thousand_principles_are_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work, not seconds (benchmarks/validate_speed.py prints those): each file parsed once."""
    read = []
    parse = yamlfile.parse_yaml
    monkeypatch.setattr(yamlfile, "parse_yaml", lambda text, name, error: read.append(name) or parse(text, name, error))
    big = write(tmp_path, "big.yaml", *(principle(f"p{i}", f"Which is better in way {i}?") for i in range(2000)))
    mine = write(tmp_path, "mine.yaml", head="extends: big.yaml\nremove: [p7]\noverride: {p9: {weight: 2}}\n")
    assert len(load_constitution(str(mine)).principles) == 1999
    assert read == [str(mine), str(big)]


def test_a_file_may_say_all_that_a_constitution_holds() -> None:
    assert set(ConstitutionFile.model_fields) - set(Constitution.model_fields) == {"extends", "remove", "override"}


BASE = HEAD + "template_pack: chat\nprinciples:\n" + KIND + TRUTH
WHOLE = (
    HEAD
    + "extends: base.yaml\nremove: [truth]\noverride:\n  kind: {version: 1.1.0, title: New}\n"
    + "principles:\n"
    + principle("own", more="    weight: 2.5\n    tags: [a, b]\n    changelog: [{version: 1.0.0, text: x}]\n")
    + '    examples:\n      - prompt: "p"\n        better: b\n        worse: w\n        split: tuning\n'
)
KEYS = ["id", "version", "extends", "remove", "override", "principles", "kind", "weight", "tags", "examples", "prompt"]
VALUES = ["null", "[]", "{}", "3", "1.5", "true", "text", "[a, [b]]", "{a: {b: c}}", "''", '"\\ud800"', "|\n  x"]

BYTES = b" \t\n\r:-#{}[],'\"|>&*!?%@`ab01.\\\x00\x1b\x85\xc3\xff"


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    raw = WHOLE.encode()
    kind = draw(st.sampled_from(["byte", "cut", "rename", "value", "double"]))
    if kind == "byte":
        at, byte = draw(st.integers(0, len(raw) - 1)), draw(st.sampled_from(BYTES))
        return raw[:at] + bytes([byte]) + raw[at + draw(st.integers(0, 1)) :]
    if kind == "cut":
        start = draw(st.integers(0, len(raw) - 1))
        return raw[:start] + raw[start + draw(st.integers(1, 40)) :]
    if kind == "rename":
        return WHOLE.replace(draw(st.sampled_from(KEYS)), draw(st.sampled_from([*KEYS, "exstends", "", "<<"]))).encode()
    lines = WHOLE.splitlines(keepends=True)
    index = draw(st.integers(0, len(lines) - 1))
    if kind == "double":
        return "".join([*lines[:index], lines[index], *lines[index:]]).encode()
    start = lines[index].partition(":")[0]
    return "".join([*lines[:index], f"{start}: {draw(st.sampled_from(VALUES))}\n", *lines[index + 1 :]]).encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=mutations())
def test_a_mutated_file_is_accepted_or_refused_with_a_place(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "mine.yaml"
    path.write_bytes(raw)
    try:
        constitution = load_constitution(str(path))
    except ConstitutionError as error:
        for line in str(error).splitlines():
            assert line.startswith((f"{path}:", f"{tmp_path}/base.yaml:")), line
            assert all(part.isdigit() for part in line.split("yaml:", 1)[1].split(":")[:2]), line
    else:
        assert constitution.principles
