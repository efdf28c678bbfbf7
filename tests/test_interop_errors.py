"""Exchange on wrong files: each stops with one line that says where and what."""

import json
from pathlib import Path

import pytest

from constitutional.errors import ConfigError, ConstitutionError
from constitutional.interop import export_constitution, import_constitution, import_few_shots
from constitutional.principles import Constitution, Principle

RULE = {"name": "My Rule", "critique_request": "Is it kind?", "revision_request": "Be kind."}
SWARM = {"constitutions": [{"critic": "Is it kind?", "revision": "Be kind."}]}


def write(folder: Path, value: object) -> Path:
    path = folder / "file.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


BAD = [
    ("cai-sl", b"\xff", ":1: not valid UTF-8"),
    ("cai-sl", '{\n"a": }', ":2: broken JSON at column 6: Expecting value"),
    ("cai-sl", "[" * 100_000, ": broken JSON: nested too deeply or a number too long"),
    ("cai-sl", "[" + "1" * 5000 + "]", ": broken JSON: nested too deeply or a number too long"),
    ("cai-sl", "NaN", ": NaN is no JSON number"),
    ("cai-sl", '"\\ud800"', ": half of a surrogate pair, which is no text"),
    ("cai-sl", '{"a": {"b": 1, "b": 2}}', ": duplicate key 'b'"),
    ("cai-sl", "{}", ": holds no principle"),
    ("cai-sl", "[]", ": expected a JSON object (got a list)"),
    ("cai-sl", {"a": 1}, ": a: expected a JSON object (got a number)"),
    ("cai-sl", {"a": {}}, ": a: missing key 'prompt'"),
    ("cai-sl", {"a\n\x1b\u2028é": {}}, r": a\n\x1b\u2028é: missing key 'prompt'"),
    ("cai-sl", {"a": {"prompt": []}}, ": a.prompt: expected a list of one text (got 0)"),
    ("cai-sl", {"a": {"prompt": [None]}}, ": a.prompt.0: expected a text (got null)"),
    (
        "cai-sl",
        {"a": {"prompt": ["x"]}},
        r": a.prompt.0: expected a text that begins with '\n\nCritiqueRequest: ' and ends with '\n\nCritique:'",
    ),
    ("cai-sl", {"a": {"prompt": ["\n\nCritiqueRequest: \n\nCritique:"]}}, ": a.prompt.0: empty text"),
    ("cai-rl", ["\n Options:"], ": 0: empty text"),
    ("cai-rl", ["\n" + "x"], r": 0: expected a text that begins with '\n' and ends with ' Options:'"),
    ("langchain", {"a": RULE}, ": a.name: differs from its key 'a'"),
    ("langchain", {"a": {"name": "a"}}, ": a: missing key 'critique_request'"),
    ("llm-swarm", {"constitutions": []}, ": holds no principle"),
    (
        "llm-swarm",
        {**SWARM, "system_chat": [[{"role": "x", "content": "y"}]]},
        ": system_chat.0.0.role: expected one of system, user, assistant",
    ),
    (
        "llm-swarm",
        {**SWARM, "system_chat": [[{"role": [], "content": "y"}]]},
        ": system_chat.0.0.role: expected one of system, user, assistant",
    ),
    (
        "llm-swarm",
        {**SWARM, "system_chat": [[{"role": "user", "content": 1}]]},
        ": system_chat.0.0.content: expected a text",
    ),
    ("icai", {"other": []}, ": unknown key 'other' (expected _PRINCIPLES_DATA_V1 and on)"),
    (
        "icai",
        {"_PRINCIPLES_DATA_V1": [{"info": "x", "principles_short_version": []}]},
        ": _PRINCIPLES_DATA_V1.0: a group without principles",
    ),
    ("annotated-pairs", {"annotators": {}, "comparisons": []}, ": holds no principle"),
    ("constitutional-evals", {}, ": missing key 'criteria'"),
    ("constitutional-evals", {"criteria": [{}]}, ": criteria.0: missing key 'comparative'"),
    ("constitutional-evals", {"criteria": ["x"], "id": 3}, ": id: expected a text (got a number)"),
    ("open-character", [{"trait": True}], ": 0.trait: expected a text (got true or false)"),
    ("typo", {"a": {"definition": "x"}}, ": a: missing key 'paraphrases'"),
    ("nemo-prompt", "1. Be kind.", ": no fenced block ```CONSTITUTION"),
    ("nemo-prompt", "\n```CONSTITUTION\n-\n```", ":2: holds no principle"),
    ("model-spec", "# One\n", ": holds no principle"),
    ("model-spec", "\n# One {#one authority=roote}\n\nx", ":2: unknown authority 'roote' (did you mean 'root'?)"),
    (
        "model-spec",
        "# One {#One authority=root}\n\nx",
        ":1: id 'One' is not of lower-case letters, digits, '_' and '-'",
    ),
    ("model-spec", "# One {#one authority=root}\n\n# Two", ":1: section 'one' has no text"),
    ("model-spec", "# 1 {#a authority=root}\nx\n# 2 {#a authority=user}\ny", ":3: duplicate id 'a' (first at line 1)"),
]


@pytest.mark.parametrize(("format", "file", "message"), BAD)
def test_wrong_files_are_one_located_line(tmp_path: Path, format: str, file: object, message: str) -> None:
    path = tmp_path / "file.json"
    if isinstance(file, bytes):
        path.write_bytes(file)
    else:
        write(tmp_path, file)
    with pytest.raises(ConstitutionError) as caught:
        import_constitution(path, format)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("format", "file", "message"),
    [
        ("cai-sl", [1], ": 0: expected a text (got a number)"),
        ("cai-rl", [{"prompt": "p"}], ": 0: missing key 'corrects'"),
        ("cai-rl", [{"promt": "p"}], ": 0: unknown key 'promt' (did you mean 'prompt'?)"),
        ("cai-cot", [{"prompt": "no slot"}], ": 0.prompt: expected one '{}', where the request goes"),
        ("nemo", {"samples": [[{"role": "user"}]]}, ": samples.0.0.role: expected one of System, User, Assistant"),
    ],
)
def test_wrong_few_shots_are_one_located_line(tmp_path: Path, format: str, file: object, message: str) -> None:
    path = write(tmp_path, file)
    with pytest.raises(ConstitutionError) as caught:
        import_few_shots(path, format)
    assert str(caught.value) == f"{path}{message}"


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionError, match="cannot be read: No such file"):
        import_constitution(tmp_path / "none.json", "cai-sl")
    with pytest.raises(ConfigError, match=r"no format 'langchian' \(did you mean 'langchain'"):
        import_constitution(tmp_path / "none.json", "langchian")
    kind = Principle(id="kind", version="1.0.0", title="kind", comparison_request="Which?")
    constitution = Constitution(id="mine", version="1.0.0", title="mine", principles=(kind,))
    with pytest.raises(ConfigError, match="format 'annotated-pairs' can be imported, not exported"):
        export_constitution(constitution, "annotated-pairs")
    with pytest.raises(ConstitutionError, match="expected a list"):
        export_constitution(constitution, "cai-rl", original=write(tmp_path, SWARM))
