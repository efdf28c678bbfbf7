"""Exchange on small files of our own: what is told as lost, and what wrong files say."""

import json
from pathlib import Path

import pytest

from constitutional.constitution import load_constitution
from constitutional.errors import ConfigError, ConstitutionError
from constitutional.interop import (
    FEW_SHOT_FORMATS,
    FORMATS,
    LabelledShot,
    export_constitution,
    export_few_shots,
    import_constitution,
    import_few_shots,
    paper_requests,
)
from constitutional.principles import Constitution, Principle

SL = {
    "kind0": {
        "prompt": ["\n\nCritiqueRequest: Is it kind?\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Be kind.\n\nRevision:",
    }
}
LANGCHAIN = {"My Rule": {"name": "My Rule", "critique_request": "Is it kind?", "revision_request": "Be kind."}}
SWARM = {
    "constitutions": [{"critic": "Is it kind?", "revision": "Be kind."}],
    "system_chat": [[{"role": "user", "content": ""}]],
}
ICAI = {"_PRINCIPLES_DATA_V1": [{"info": "By hand", "principles_short_version": ["is kind", "is short"]}]}
PAIRS = {
    "metadata": {"version": "2.0"},
    "annotators": {
        "aa": {"description": "Select the kind one.", "type": "principle"},
        "bb": {"name": "me", "type": "human"},
    },
    "comparisons": [{"annotations": {"aa": {"pref": "a"}, "bb": {"pref": "b"}}}],
}
EVALS = {
    "schema_version": "1.1",
    "id": "kind",
    "title": "Kind",
    "version": "2.0.0",
    "criteria": ["Prefer the kinder."],
    "license": "CC0",
}
DRAFT = {
    "criteria": [{"comparative": "Prefer the kinder.", "reasoning": "r"}],
    "guidelines": [{"comparative": "Be it."}],
}
TRAITS = [{"trait": "I am kind.", "questions": ["Are you?"]}]
TYPO = {
    "kind": {"definition": "Be kind.", "paraphrases": ["Be nice."], "paraphrases_antithesis": ["Be rude.", "Be mean."]}
}
PROMPT = (
    "Judge.\n\n```CONSTITUTION\nRules:\n\n  1. Is it kind?\n\n  2. Is it true,\n     or not?\n\nThat is all.\n```\n"
)
SPEC = """# Start {#start}

Words.

## Be kind {#be_kind authority=root tags=young,old}

The assistant is kind.
```
# no heading
```

!!! meta "Commentary"
    Why: it is.

    So.

It stays kind.

**Example**: rude

~~~xml
<user>
Hello </user> there
</user>
<comparison>
<assistant> <!-- BAD: rude -->
Go.
</assistant>
<assistant> <!-- OK -->
Hm.
</assistant>
<assistant> <!-- GOOD -->
Hello!

You?
</assistant>
</comparison>
~~~

**Example**: two turns

~~~xml
<system>
X
</system>
<user>
Hello
</user>
<comparison>
<assistant> <!-- GOOD -->
Hi.
</assistant>
</comparison>
~~~

## Be brief {#be_brief authority=guideline}

Be brief.
"""
TRAIT_QUESTION = "Which response shows more of this trait of its author?\n\n"
RULE_QUESTION = "Which response follows this rule better?\n\n"


def _write(folder: Path, value: object, name: str = "file.json") -> Path:
    path = folder / name
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_bytes(text.encode())
    return path


def _principle(id: str, **fields: object) -> Principle:
    return Principle.model_validate({"id": id, "version": "1.0.0", "title": id, **fields})


def _constitution(*principles: Principle) -> Constitution:
    return Constitution(id="mine", version="1.0.0", title="mine", principles=principles)


CASES = [
    ("cai-sl", SL, [{"id": "kind0", "critique_request": "Is it kind?", "revision_request": "Be kind."}], ()),
    ("cai-rl", ["\nWhich is kind? Options:"], [{"id": "rl0", "comparison_request": "Which is kind?"}], ()),
    (
        "langchain",
        LANGCHAIN,
        [{"id": "my-rule", "title": "My Rule", "critique_request": "Is it kind?", "revision_request": "Be kind."}],
        (),
    ),
    (
        "llm-swarm",
        SWARM,
        [{"id": "rule-0", "critique_request": "Is it kind?", "revision_request": "Be kind."}],
        ("few-shot 0: not of the form that a constitution's few-shots have",),
    ),
    (
        "icai",
        ICAI,
        [
            {
                "id": f"is-{word}",
                "title": f"is {word}",
                "comparison_request": f"Select the response that is {word}",
                "source": "By hand",
                "tags": ("_PRINCIPLES_DATA_V1",),
            }
            for word in ("kind", "short")
        ],
        (),
    ),
    (
        "annotated-pairs",
        PAIRS,
        [{"id": "aa", "comparison_request": "Select the kind one."}],
        ("1 comparisons with 2 annotations", "1 annotators that are no principle", "key 'metadata' of 1 file"),
    ),
    (
        "constitutional-evals",
        EVALS,
        [{"id": "criteria-1", "comparison_request": "Prefer the kinder.", "tags": ("criteria",)}],
        ("key 'license' of 1 file",),
    ),
    (
        "constitutional-evals",
        DRAFT,
        [
            {"id": "criteria-1", "comparison_request": "Prefer the kinder.", "tags": ("criteria",)},
            {"id": "guidelines-1", "comparison_request": "Be it.", "tags": ("guidelines",)},
        ],
        ("key 'reasoning' of 1 criteria",),
    ),
    (
        "open-character",
        TRAITS,
        [{"id": "trait-0", "comparison_request": TRAIT_QUESTION + "I am kind."}],
        ("key 'questions' of 1 traits",),
    ),
    (
        "typo",
        TYPO,
        [
            {
                "id": "kind",
                "comparison_request": RULE_QUESTION + "Be kind.",
                "paraphrases": (RULE_QUESTION + "Be nice.",),
                "negated_comparison_request": RULE_QUESTION + "Be rude.",
            }
        ],
        ("1 antitheses beyond the first of a rule",),
    ),
    (
        "nemo-prompt",
        PROMPT,
        [
            {"id": "rl0", "comparison_request": "Is it kind?"},
            {"id": "rl1", "comparison_request": "Is it true,\n     or not?"},
        ],
        ("the system prompt around the principles (46 characters)",),
    ),
    (
        "model-spec",
        SPEC,
        [
            {
                "id": "be_kind",
                "title": "Be kind",
                "comparison_request": RULE_QUESTION
                + "The assistant is kind.\n```\n# no heading\n```\n\nIt stays kind.",
                "tags": ("young", "old"),
                "examples": ({"prompt": "Hello </user> there", "better": "Hello!\n\nYou?", "worse": "Go."},),
            },
            {"id": "be_brief", "title": "Be brief", "comparison_request": f"{RULE_QUESTION}Be brief.", "tier": 5},
        ],
        (
            "1 sections without authority: Start",
            "1 blocks of commentary",
            "captions, notes, places and OK answers of 2 example blocks",
            "1 example blocks that are no single user turn with a good and a bad answer",
        ),
    ),
]


@pytest.mark.parametrize(("format", "file", "principles", "lost"), CASES)
def test_what_a_file_becomes_and_what_is_lost(
    tmp_path: Path, format: str, file: object, principles: list[dict[str, object]], lost: tuple[str, ...]
) -> None:
    path = _write(tmp_path, file)
    imported = import_constitution(path, format)
    assert imported.constitution.principles == tuple(
        _principle(str(fields.pop("id")), **fields) for fields in map(dict, principles)
    )
    assert imported.lost == lost
    if FORMATS[format][1] is not None and format != "nemo-prompt":
        exported = export_constitution(imported.constitution, format, original=path)
        assert exported.lost == ()
        assert exported.text == file if format == "model-spec" else json.loads(exported.text) == file


def test_the_cases_cover_every_format() -> None:
    assert {format for format, *_ in CASES} | {"nemo-sl"} == set(FORMATS)


def test_the_header_of_an_evals_file_is_the_constitutions(tmp_path: Path) -> None:
    path = _write(tmp_path, EVALS)
    constitution = import_constitution(path, "constitutional-evals").constitution
    assert (constitution.id, constitution.version, constitution.title) == ("kind", "2.0.0", "Kind")
    newer = constitution.model_copy(update={"version": "2.1.0"})
    text = export_constitution(newer, "constitutional-evals", original=path).text
    assert json.loads(text) == {**EVALS, "version": "2.1.0"}


def test_every_field_a_format_cannot_hold_is_told() -> None:
    full = _principle(
        "full",
        title="All of it",
        critique_request="Is it kind?",
        revision_request="Be kind.",
        comparison_request="Which is kind?",
        weight=2.0,
        tier=3,
        tags=["x"],
        examples=[{"prompt": "p", "better": "b", "worse": "w"}],
    )
    bare = _principle("bare", comparison_request="Which is bare?")
    constitution = _constitution(full, bare).model_copy(update={"title": "My own", "version": "3.0.0"})
    assert export_constitution(constitution, "langchain").lost == (
        "principle 'bare': has no critique_request and no revision_request",
        "version of the constitution: 3.0.0",
        "title of the constitution: My own",
        *(
            f"{name} of 1 principles: full"
            for name in ("title", "comparison_request", "weight", "tier", "tags", "examples")
        ),
    )


def test_model_spec_writes_what_it_can_hold(tmp_path: Path) -> None:
    rule = f"{RULE_QUESTION}Be kind."
    examples = [
        {"prompt": "p", "better": "a\n</assistant>\nb", "worse": "w"},
        {"prompt": "p", "better": "b", "worse": "w"},
    ]
    good = _principle("good", title="Good {x}", comparison_request=rule, tier=2, tags=["a", "b c"], examples=examples)
    bad = [
        _principle("asks", comparison_request="Which is kind?"),
        _principle("heading", comparison_request=f"{rule}\n# Now\nthis"),
        _principle("fence", comparison_request=f"{rule}\n```\nopen"),
        _principle("note", comparison_request=f'{rule}\n\n!!! meta "x"\n    y'),
    ]
    exported = export_constitution(_constitution(good, *bad), "model-spec")
    markup = "its text holds Markdown that would read as a heading, an example or commentary"
    assert exported.lost == (
        f"principle 'asks': its comparison_request does not begin with {RULE_QUESTION!r}",
        f"principle 'heading': {markup}",
        f"principle 'fence': {markup}",
        f"principle 'note': {markup}",
        "title of 1 principles: good",
        "tags of 1 principles: good",
        "examples of 1 principles: good",
    )
    again = import_constitution(_write(tmp_path, exported.text, "mine.md"), "model-spec").constitution
    assert again.principles[0] == good.model_copy(
        update={"title": "Good (x)", "tags": ("a",), "examples": good.examples[1:]}
    )


def test_model_spec_sections_change_drop_and_join_in_the_original(tmp_path: Path) -> None:
    path = _write(tmp_path, SPEC, "spec.md")
    kind, brief = import_constitution(path, "model-spec").constitution.principles
    new = _principle("new", comparison_request=f"{RULE_QUESTION}Be new.")
    shorter = brief.model_copy(update={"comparison_request": f"{RULE_QUESTION}Be short."})
    text = export_constitution(_constitution(kind, shorter, new), "model-spec", original=path).text
    assert text.startswith(SPEC[: SPEC.index("## Be brief")]) and "Be brief.\n" not in text
    assert "Be short.\n" in text and text.endswith("## new {#new authority=root}\n\nBe new.\n")
    dropped = export_constitution(_constitution(shorter), "model-spec", original=path).text
    assert "be_kind" not in dropped and dropped.startswith("# Start {#start}\n\nWords.\n\n## Be brief")


def test_harmlessness_goes_out_where_there_is_a_form_for_it() -> None:
    constitution = load_constitution("harmlessness")
    number = len(constitution.principles)
    for format in ("cai-sl", "cai-rl", "langchain", "llm-swarm", "nemo-prompt", "constitutional-evals"):
        exported = export_constitution(constitution, format)
        assert f"examples of {number} principles: no-violence, self-harm-care, " in "\n".join(exported.lost)
        first = constitution.principles[0]
        text = (
            first.comparison_request
            if format in ("cai-rl", "nemo-prompt", "constitutional-evals")
            else first.critique_request
        )
        assert json.dumps((text or "").strip())[1:-1] in exported.text
    for format in ("icai", "open-character", "typo", "model-spec"):
        with pytest.raises(ConstitutionError, match="no principle fits the format: 'no-violence': its comparison_req"):
            export_constitution(constitution, format)


def test_names_become_ids_and_come_back(tmp_path: Path) -> None:
    names = ["My Rule!", "my rule", "无害", "x" * 100, "x" * 101]
    file = {name: {**LANGCHAIN["My Rule"], "name": name} for name in names}
    path = _write(tmp_path, file, "Mein Buch.v2.json")
    constitution = import_constitution(path, "langchain").constitution
    assert (constitution.id, constitution.title) == ("mein-buch.v2", "mein-buch.v2")
    assert [p.id for p in constitution.principles] == ["my-rule", "my-rule-2", "principle", "x" * 80, "x" * 74 + "-2"]
    exported = export_constitution(constitution, "langchain")
    assert json.loads(exported.text) == file
    assert exported.lost == ()


def test_an_order_that_does_not_come_back_is_told(tmp_path: Path) -> None:
    path = _write(tmp_path, SPEC, "spec.md")
    constitution = import_constitution(path, "model-spec").constitution
    turned = constitution.model_copy(update={"principles": constitution.principles[::-1]})
    assert export_constitution(turned, "model-spec", original=path).lost == ("the order of the principles",)
    assert export_constitution(turned, "model-spec").lost == ()


def test_ids_that_a_format_counts_anew_are_told(tmp_path: Path) -> None:
    file = ["\nWhich is kind? Options:", "\nWhich is true? Options:"]
    constitution = import_constitution(_write(tmp_path, file), "cai-rl").constitution
    turned = constitution.model_copy(update={"principles": constitution.principles[::-1]})
    exported = export_constitution(turned, "cai-rl")
    assert json.loads(exported.text) == file[::-1]
    assert exported.lost == ("id of 2 principles: rl1, rl0", "title of 2 principles: rl1, rl0")


def test_paper_requests_are_the_words_of_the_transcript() -> None:
    principle = _principle("kind", critique_request="Is it kind?", revision_request="Be kind.")
    assert paper_requests(principle) == SL["kind0"]


SHOT = ["Hi", "Hello", "Be kinder?", "It is curt.", "Again, please.", "Hello there!"]
CHAT = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(SHOT)]


def test_few_shots_inside_a_file_are_the_constitutions(tmp_path: Path) -> None:
    file = {**SWARM, "system_chat": [CHAT, [{"role": "user", "content": "Hi"}]]}
    path = _write(tmp_path, file)
    imported = import_constitution(path, "llm-swarm")
    assert imported.lost == ("few-shot 1: not of the form that a constitution's few-shots have",)
    few_shots = imported.constitution.few_shots
    assert few_shots is not None and few_shots.revision[0].critique == "It is curt."
    exported = export_constitution(imported.constitution, "llm-swarm")
    assert json.loads(exported.text)["system_chat"] == [CHAT] and exported.lost == ()
    with_original = export_constitution(imported.constitution, "llm-swarm", original=path)
    assert json.loads(with_original.text) == file  # what could not be held is kept
    assert export_constitution(imported.constitution, "langchain").lost == ("1 few-shots of a revision",)


@pytest.mark.parametrize(
    ("format", "file"),
    [
        ("cai-sl", ["\n\nHuman: Hi\u2028\r\n"]),
        ("cai-rl", [{"prompt": "p", "corrects": ["a", "b"], "incorrects": []}]),
        ("cai-cot", [{"prompt": "before {} after"}]),
        ("nemo", {"samples": [[{"role": "User", "content": "Hi"}, {"role": "Assistant", "content": ""}]]}),
    ],
)
def test_files_of_few_shots(tmp_path: Path, format: str, file: object) -> None:
    shots = import_few_shots(_write(tmp_path, file), format)
    assert json.loads(export_few_shots(shots, format)) == file


def test_few_shots_of_another_kind_are_refused() -> None:
    shot = LabelledShot(prompt="p", corrects=("a",), incorrects=("b",))
    for format in set(FEW_SHOT_FORMATS) - {"cai-rl"}:
        with pytest.raises(ConstitutionError, match=f"few-shot 0: format '{format}' holds no LabelledShot"):
            export_few_shots([shot], format)
    with pytest.raises(ConfigError, match="did you mean 'cai-rl'"):
        export_few_shots([shot], "cai-r")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_no_format_reads_another_ones_file(tmp_path: Path, format: str) -> None:
    for other, file, *_ in CASES:
        same = {other, "cai-sl" if other == "nemo-sl" else "nemo-sl" if other == "cai-sl" else other}
        if format not in same:
            with pytest.raises(ConstitutionError):
                import_constitution(_write(tmp_path, file), format)
