"""Exchange on whatever texts a constitution may hold: no writer crashes, and what a file says of itself is true."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constitutional.errors import ConstitutionError
from constitutional.interop import FORMATS, export_constitution
from constitutional.interop.documents import Source
from constitutional.interop.icai import REQUEST
from constitutional.interop.traits import RULE, TRAIT
from constitutional.principles import TEXTS, Constitution

PIECES = [
    "a", "B c", " ", "\n", "\n\n", "\r\n", "1. ", "  2. x", "```", "~~~", "~~~xml\n", "# x", "## y {#z authority=root}",
    "!!! meta", "é", "    ", "**Example**: x", "<user>", "</user>", "<comparison>\n", "</comparison>",
    "</assistant>", "```CONSTITUTION\n",
    "\u2028", "\x0c", "\x00", '"', "\\", " Options:", "{", "}", "\t",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join).filter(lambda text: bool(text.strip()))
REQUESTS = st.tuples(st.sampled_from(["", REQUEST, RULE, TRAIT]), TEXT).map("".join)
EXAMPLES = st.lists(st.fixed_dictionaries({"prompt": TEXT, "better": TEXT, "worse": TEXT}), max_size=2)
FIELDS = st.fixed_dictionaries(
    {"title": st.one_of(TEXT, st.just("")), "comparison_request": REQUESTS},
    optional={
        "critique_request": TEXT,
        "revision_request": TEXT,
        "negated_comparison_request": REQUESTS,
        "paraphrases": st.lists(REQUESTS, max_size=2),
        "tags": st.lists(st.one_of(TEXT, st.sampled_from(["guidelines", "_PRINCIPLES_DATA_V2"])), max_size=2),
        "source": TEXT,
        "tier": st.integers(1, 7),
        "examples": EXAMPLES,
    },
)


@pytest.mark.parametrize("format", sorted(name for name, (_, write) in FORMATS.items() if write))
@settings(max_examples=60, deadline=None)
@given(st.lists(FIELDS, min_size=1, max_size=4, unique_by=lambda given: given["comparison_request"]))
def test_what_is_not_told_as_lost_comes_back(format: str, fields: list[dict[str, object]]) -> None:
    principles = [{"id": f"p{index}", "version": "1.0.0", **given} for index, given in enumerate(fields)]
    data = {"id": "mine", "version": "1.0.0", "title": "mine", "principles": principles}
    constitution = Constitution.model_validate(data)
    try:
        exported = export_constitution(constitution, format)
    except ConstitutionError as error:
        assert str(error).startswith("mine: no principle fits the format: 'p0': ") and "\n" not in str(error)
        return
    again = FORMATS[format][0](Source("mine.json", exported.text)).constitution
    left_out = {line.split("'")[1] for line in exported.lost if line.startswith("principle '")}
    written = [principle for principle in constitution.principles if principle.id not in left_out]
    if "the order of the principles" in exported.lost:  # paired by their texts: a format may count the ids anew
        written.sort(key=lambda principle: principle.comparison_request or "")
        again = again.model_copy(
            update={"principles": tuple(sorted(again.principles, key=lambda p: p.comparison_request or ""))}
        )
    assert len(written) == len(again.principles)
    for before, after in zip(written, again.principles, strict=True):
        for name in ("title", "tags", "examples", "tier", "source", *TEXTS):
            told = any(line.startswith(f"{name} of ") for line in exported.lost)
            assert told or getattr(before, name) == getattr(after, name)
        # a text that a format holds is never bent to fit it
        assert after.comparison_request in (before.comparison_request, None)
        assert after.critique_request in (before.critique_request, None)
        assert after.revision_request in (before.revision_request, None)
        assert set(after.examples) <= set(before.examples)
