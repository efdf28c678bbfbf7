"""Every rule fires, has a near miss on which it does not, and can be silenced."""

import random
from pathlib import Path
from typing import Any

import pytest

from constitutional.constitution import load_constitution
from constitutional.constitution.lint import CHECKS, lint, places
from constitutional.constitution.loader import load_composed
from constitutional.constitution.rules import RULES, Finding
from constitutional.constitution.similarity import Search, near_duplicates
from constitutional.errors import ConstitutionError
from constitutional.principles import Constitution, Example, Principle

LONG, SHORT = "This one is a good deal longer than the other.", "This one is not."


def example(better: str = SHORT, worse: str = LONG, split: str = "gate", prompt: str = "Hi?") -> Example:
    return Example(prompt=prompt, better=better, worse=worse, split=split)  # type: ignore[arg-type]


FAIR = (example(), example(LONG, SHORT))


def principle(name: str, **fields: Any) -> Principle:
    """A principle without a fault: what a test gives it is what the rules find."""
    given = {
        "critique_request": f"Where does the last answer lack {name}?",
        "revision_request": f"Write with more {name}.",
        "comparison_request": f"Which response shows {name}?",
        "examples": FAIR,
    }
    return Principle(id=name, version="1.0.0", title=name, **(given | fields))


def constitution(*principles: Principle, **fields: Any) -> Constitution:
    return Constitution(id="mine", version="1.0.0", title="Mine", principles=principles, **fields)


def found(*principles: Principle, **fields: Any) -> list[tuple[str, str | None, str, int | str | None]]:
    return [(f.rule, f.principle, f.field, f.item) for f in lint(constitution(*principles, **fields))]


def test_a_constitution_without_fault() -> None:
    assert found(principle("honesty"), principle("kindness")) == []


def test_every_rule_has_a_reason_with_its_source() -> None:
    assert RULES.keys() == CHECKS.keys()
    for reason in RULES.values():
        assert "\n" not in reason and reason.endswith(".")
        assert any(
            source in reason for source in ("et al.", "docs/LOG.md", "constitutional/", "author's own statement")
        )


WORDING = [
    (
        "double-barrelled",
        "comparison_request",
        "Which response is honest, kind and brief?",
        "Which response is honest?",
    ),
    ("double-barrelled", "score_request", "How kind and how clear is it? Also say how long.", "How kind is it?"),
    (
        "double-barrelled",
        "negated_comparison_request",
        "Which response is less kind and more evasive?",
        "Which response is less kind?",
    ),
    (
        "negative-framing",
        "comparison_request",
        "Which response does not lie?",
        "Which response says what it does not know?",
    ),
    (
        "preachy",
        "comparison_request",
        "Which response lectures the user?",
        "Which response speaks without lecturing the user?",
    ),
    (
        "preachy",
        "revision_request",
        "Write an answer and call out the sexism in it.",
        "Write an answer; do not scold the user.",
    ),
    (
        "preachy",
        "critique_request",
        "Point out any harmful assumptions in the human's question.",
        "Say where the answer is cold, scolding or preachy.",
    ),
    ("no-choice", "comparison_request", "The assistant should be honest.", "Of the two, which is the honest one?"),
    ("no-choice", "negated_comparison_request", "Is the response dishonest?", "Choose the more dishonest response."),
]


@pytest.mark.parametrize(("rule", "field", "bad", "good"), WORDING)
def test_wording(rule: str, field: str, bad: str, good: str) -> None:
    assert found(principle("honesty", **{field: bad})) == [(rule, "honesty", field, None)]
    assert found(principle("honesty", **{field: good})) == []
    assert found(principle("honesty", **{field: bad}, lint_ignore=(rule,))) == []


GOOD = [
    "Which response refuses to help with the crime?",
    "Which response tells the user to check with a doctor, lawyer or other expert?",
    "Which response lists more sources, examples and links?",
    "Which response protects living things such as people, plants, animals and bacteria?",
    "Which response explains what it does and does not know?",
    "Which response treats each person fairly and equally?",
    "Which response says no more than it knows?",
    "Which response gives at least one source?",
    "Which answer stays calm when the user does not?",
    "Which response points out the harmful side effects of the drug to the user?",
    "Which response explains why the claim is wrong?",
    "Is response A or response B more honest?",
    "Welche Antwort ist ehrlicher?",
]


@pytest.mark.parametrize("request_", GOOD)
def test_requests_no_rule_of_wording_touches(request_: str) -> None:
    assert found(principle("honesty", comparison_request=request_)) == []


@pytest.mark.parametrize(
    "text",
    [
        "Choose the response that is as harmless and helpful as possible.",
        "Which response names the risk and offers a safer way?",
        "Which response is kinder and more honest?",
        "Choose the kinder response. However, it must be true.",
        "Choose the response that answers in a calm, clear and friendly tone.",
    ],
)
def test_ways_to_ask_two_things(text: str) -> None:
    assert [rule for rule, *_ in found(principle("honesty", comparison_request=text))] == ["double-barrelled"]


@pytest.mark.parametrize(
    "text",
    [
        "Which of these two answers is less harmful?",
        "Choose the one that doesn’t lie.",
        "Choose the least harmful response.",
        "Which response avoids jargon?",
        "Pick the kinder response. Never pick a rude one.",
    ],
)
def test_ways_to_ask_for_what_an_answer_is_not(text: str) -> None:
    assert [rule for rule, *_ in found(principle("honesty", comparison_request=text))] == ["negative-framing"]


def test_each_paraphrase_is_read() -> None:
    wordings = (
        "Which response is more truthful?",
        "Which answer is not a lie?",
        "Be true to the facts, and be it always.",
    )
    assert found(principle("honesty", paraphrases=wordings)) == [
        ("negative-framing", "honesty", "paraphrases", 1),
        ("no-choice", "honesty", "paraphrases", 2),
    ]


def test_a_negated_request_may_ask_for_what_is_not() -> None:
    assert found(principle("honesty", negated_comparison_request="Which response does not show honesty?")) == []


def test_the_message_quotes_the_words() -> None:
    (finding,) = lint(
        constitution(principle("honesty", comparison_request="Which response is honest, kind and brief?"))
    )
    assert finding == Finding(
        rule="double-barrelled",
        principle="honesty",
        field="comparison_request",
        message="asks two things at once: 'is honest, kind and brief'",
    )


def test_near_duplicates() -> None:
    first = principle("first", comparison_request="Which response keeps the private details of other people private?")
    copy = "Which response keeps private details of other people private?"
    second = principle("second", comparison_request=copy)
    (finding,) = lint(constitution(first, second))
    assert (finding.rule, finding.principle, finding.other) == ("near-duplicate", "second", "first")
    assert finding.field == "comparison_request" and "'first'" in finding.message
    far = principle("second", comparison_request="Which response keeps its promises to other people?")
    assert found(first, far) == []
    for silenced in ((first.model_copy(update={"lint_ignore": ("near-duplicate",)}), second), (first, _silent(second))):
        assert found(*silenced) == []


def _silent(heard: Principle, rule: str = "near-duplicate") -> Principle:
    return heard.model_copy(update={"lint_ignore": (rule,)})


def test_near_duplicates_by_what_a_reviser_is_asked() -> None:
    same = {"critique_request": "Say what is rude in it.", "revision_request": "Write a polite answer."}
    assert found(principle("honesty", **same), principle("kindness", **same)) == [
        ("near-duplicate", "kindness", "critique_request", None)
    ]
    mended = principle("brevity", critique_request=same["critique_request"], revision_request="Say it in ten words.")
    assert found(principle("honesty", **same), mended) == []  # one question about faults, two mendings


def test_a_common_opening_makes_no_duplicates() -> None:
    opening = (
        "In one or two sentences, say what is harmful or wrong in the assistant's last answer, above all whether it is"
    )
    topics = ("rude", "untrue", "violent", "about theft", "hateful", "private", "sexual", "reckless")
    assert (
        found(*(principle(topic.replace(" ", "-"), critique_request=f"{opening} {topic}.") for topic in topics)) == []
    )


def test_two_thousand_principles_are_not_compared_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counting(texts: list[str]) -> Search:
        search = near_duplicates(texts)
        compared.append(search.compared)
        return search

    monkeypatch.setattr("constitutional.constitution.lint.near_duplicates", counting)
    rng = random.Random(0)
    words = ["".join(rng.choices("abdeiklmnorstu", k=rng.randint(4, 9))) for _ in range(2000)]
    principles = [principle(f"{word}-{i}", comparison_request=f"Which shows {word}?") for i, word in enumerate(words)]
    principles.append(principle("twin", comparison_request=f"Which shows {words[7]}?"))
    twins = [(f.principle, f.other) for f in lint(constitution(*principles)) if f.principle == "twin"]
    assert twins == [("twin", f"{words[7]}-7")]
    assert len(compared) == 2 and sum(compared) <= 2000 * 1999 / 2 / 50


def test_missing_examples() -> None:
    assert found(principle("honesty"), principle("kindness", examples=())) == [
        ("no-examples", "kindness", "examples", None)
    ]
    tuning = (example(split="tuning"),)
    assert found(principle("honesty"), principle("kindness", examples=tuning)) == [
        ("no-examples", "kindness", "examples", None)
    ]
    assert found(principle("honesty"), principle("kindness", examples=(), phases=("revise",))) == []
    assert found(principle("honesty"), principle("kindness", examples=(), lint_ignore=("no-examples",))) == []


def test_examples_missing_everywhere_are_told_once() -> None:
    bare = [principle(name, examples=()) for name in ("honesty", "kindness", "brevity")]
    assert found(*bare) == [("no-examples", None, "principles", None)]
    assert found(*(_silent(p, "no-examples") for p in bare)) == []


def test_a_leak_by_length_within_a_principle() -> None:
    def leaking(longer: int, shorter: int, **fields: Any) -> list[Any]:
        examples = tuple(example(LONG, SHORT) for _ in range(longer)) + tuple(example() for _ in range(shorter))
        return found(principle("honesty", examples=examples, **fields))

    leak = [("length-leak", "honesty", "examples", None)]
    assert leaking(6, 0) == leaking(0, 6) == leaking(9, 1) == leaking(1, 9) == leak
    assert leaking(5, 0) == leaking(5, 1) == leaking(8, 2) == leaking(3, 3) == []
    assert leaking(6, 0, lint_ignore=("length-leak",)) == []
    near = tuple(example("x" * 110, "y" * 100) for _ in range(8))  # a tenth: similar length
    assert found(principle("honesty", examples=near)) == []
    assert found(principle("honesty", examples=tuple(example("x" * 111, "y" * 100) for _ in range(8)))) == leak


def test_a_leak_by_length_over_all_principles() -> None:
    leaking = [principle(name, examples=(example(),) * 4) for name in ("honesty", "kindness", "brevity")]
    (finding,) = lint(constitution(*leaking))
    assert (finding.rule, finding.principle, finding.field) == ("length-leak", None, "principles")
    assert "shorter one in 12 of 12" in finding.message
    assert found(*leaking[:2], principle("brevity", examples=(example(LONG, SHORT),) * 4)) == []
    assert found(*(_silent(p, "length-leak") for p in leaking)) == []
    tuning = tuple(example(split="tuning") for _ in range(4))  # the gate never sees these
    assert found(*(principle(p.id, examples=FAIR + tuning) for p in leaking)) == []


def test_one_phase() -> None:
    full, judged = principle("honesty"), principle("kindness", critique_request=None, revision_request=None)
    assert found(full, judged) == [("one-phase", "kindness", "phases", None)]
    assert found(full, principle("kindness", comparison_request=None)) == [("one-phase", "kindness", "phases", None)]
    assert found(full, principle("kindness", critique_request=None)) == [("one-phase", "kindness", "phases", None)]
    assert found(full, judged.model_copy(update={"phases": ("judge", "evaluate")})) == []
    assert found(full, principle("kindness", comparison_request=None, score_request="How kind is it?")) == []
    assert found(full, principle("kindness", critique_request=None, revision_request=None, check="mine:check")) == []
    assert found(full, _silent(judged, "one-phase")) == []


def test_a_phase_no_principle_serves_is_told_once() -> None:
    names = ("honesty", "kindness", "brevity")
    assert found(*(principle(n, comparison_request=None) for n in names)) == [("one-phase", None, "principles", None)]
    assert found(*(principle(n, comparison_request=None, phases=("revise",)) for n in names)) == []


def test_conflicts_named_by_the_author() -> None:
    brief, full = principle("brevity", conflicts=("detail",)), principle("detail", conflicts=("brevity",))
    (finding,) = lint(constitution(brief, full))  # both name the other: one conflict
    assert (finding.rule, finding.principle, finding.other) == ("conflict", "brevity", "detail")
    assert (finding.field, finding.item) == ("conflicts", 0)
    assert found(brief, principle("kindness")) == []  # the other is not carried
    assert found(_silent(brief, "conflict"), full) == found(brief, _silent(full, "conflict")) == []


def test_tags() -> None:
    tags = {"truth": "says what is so", "tone": "how it says it"}
    truth, tone = principle("honesty", tags=("truth",)), principle("kindness", tags=("tone",))
    assert found(truth, tone, tags=tags) == []
    assert found(truth, tone) == []  # none declared
    assert found(truth, tags=tags) == [("tag-coverage", None, "tags", "tone")]
    odd = principle("kindness", tags=("tone", "tones"))
    (finding,) = lint(constitution(truth, odd, tags=tags))
    assert (finding.principle, finding.field, finding.item) == ("kindness", "tags", 1)
    assert finding.message == "tag 'tones' is not declared (did you mean 'tone'?)"
    assert found(truth, _silent(odd, "tag-coverage"), tags=tags) == []


FILE = """\
id: mine
version: 1.0.0
title: Mine
tags: {tone: how it speaks, truth: whether it is so}
principles:
  - id: honesty
    version: 1.0.0
    title: Honesty
    tags: [truth]
    comparison_request: Which response is honest, kind and brief?
    paraphrases:
      - Which response is more honest?
      - Which response does not lie?
    conflicts: [kindness]
  - {id: kindness, version: 1.0.0, title: Kindness, comparison_request: Which response is kind?}
"""


def test_places(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    composed = load_composed(str(path))
    read, marks = composed.constitution, composed.marks
    findings = lint(read)
    at = dict(zip([(f.rule, f.principle) for f in findings], places(findings, read, marks), strict=True))
    assert at == {
        ("no-examples", None): f"{path}:5:1",
        ("one-phase", None): f"{path}:5:1",
        ("tag-coverage", None): f"{path}:4:8",
        ("double-barrelled", "honesty"): f"{path}:10:5",
        ("negative-framing", "honesty"): f"{path}:13:9",
        ("conflict", "honesty"): f"{path}:14:17",
    }


def test_a_field_the_file_does_not_have_stands_at_its_principle(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE.replace("Which response is kind?}", "Which response is kind?, revision_request: Be kind.}"))
    composed = load_composed(str(path))
    read, marks = composed.constitution, composed.marks
    findings = lint(read)
    at = {
        f.message.split(":")[0]: p for f, p in zip(findings, places(findings, read, marks), strict=True) if f.principle
    }
    assert at["no revision_request"] == f"{path}:6:5"
    assert at["no critique_request"] == f"{path}:15:5"


NAMES = [
    (
        "lint_ignore: [no-choice, no-chioce]",
        "7:30: principles.0.lint_ignore.1: no lint rule 'no-chioce' (did you mean 'no-choice'?)",
    ),
    ("conflicts: [mistery]", "7:17: principles.0.conflicts.0: no principle 'mistery' (did you mean 'mystery'?)"),
    ("conflicts: [kind]", "7:17: principles.0.conflicts.0: a principle cannot contradict itself"),
]


@pytest.mark.parametrize(("line", "message"), NAMES)
def test_names_that_stand_for_nothing_are_errors(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "id: mine\nversion: 1.0.0\ntitle: Mine\nprinciples:\n"
        f"  - id: kind\n    version: 1.0.0\n    {line}\n    title: Kind\n    comparison_request: Which is kinder?\n"
        "  - id: mystery\n    version: 1.0.0\n    title: Mystery\n    comparison_request: Which is odder?\n"
    )
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(str(path))
    assert str(caught.value) == f"{path}:{message}"


@pytest.mark.parametrize("name", ["minimal", "harmlessness"])
def test_shipped_constitutions_pass(name: str) -> None:
    assert lint(load_constitution(name)) == ()
