"""Lint: what makes a constitution worse without making it wrong.

Each rule of `rules.RULES` is a function from the constitution and the principles that listen to it (those whose
`lint_ignore` does not name it) to findings. A principle that silences a rule takes no part in it, so a pair is silenced
by either of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from constitutional.constitution.example_rules import length_leaks, without_examples
from constitutional.constitution.rules import Finding
from constitutional.constitution.similarity import near_duplicates
from constitutional.constitution.wording import asks_no_choice, negative, preachy, two_questions
from constitutional.errors import nearest, shortened
from constitutional.principles import Constitution, Principle
from constitutional.validation import Marks, locate

COMPARISONS = ("comparison_request", "paraphrases")
CHOICES = (*COMPARISONS, "negated_comparison_request")
VERDICTS = (*CHOICES, "score_request")
WRITING = ("revision_request", *COMPARISONS)
"""Requests whose wording the trained model comes to follow."""

Listening = Sequence[Principle]
Check = Callable[[Constitution, Listening], Iterable[Finding]]


def lint(constitution: Constitution) -> tuple[Finding, ...]:
    """What every rule finds, in the order of the file; findings about the constitution as a whole come first."""
    place = {principle.id: index for index, principle in enumerate(constitution.principles)}
    found: list[Finding] = []
    for rule, check in CHECKS.items():
        found += check(constitution, [p for p in constitution.principles if rule not in p.lint_ignore])
    return tuple(sorted(found, key=lambda finding: place[finding.principle] if finding.principle else -1))


def places(findings: Sequence[Finding], constitution: Constitution, marks: Marks) -> tuple[str, ...]:
    """Where each finding stands (`file:line:col`), by the marks of the file the constitution was read from."""
    index = {principle.id: i for i, principle in enumerate(constitution.principles)}
    found = []
    for finding in findings:
        owner = () if finding.principle is None else ("principles", index[finding.principle])
        inside = (finding.field,) if finding.item is None else (finding.field, finding.item)
        found.append(locate(marks, (*owner, *inside))[0])
    return tuple(found)


def _wording(
    rule: str,
    fields: Sequence[str],
    betrays: Callable[[str], str | None],
    message: str,
    _: Constitution,
    listening: Listening,
) -> Iterator[Finding]:
    for principle in listening:
        for field, item, text in _texts(principle, fields):
            words = betrays(text)
            if words is not None:
                yield Finding(
                    rule=rule,
                    principle=principle.id,
                    field=field,
                    item=item,
                    message=message.format(words=shortened(words, 80)),
                )


def _texts(principle: Principle, fields: Sequence[str]) -> Iterator[tuple[str, int | None, str]]:
    for field in fields:
        value: str | tuple[str, ...] | None = getattr(principle, field)
        if isinstance(value, str):
            yield field, None, value
        elif value is not None:
            yield from ((field, item, text) for item, text in enumerate(value))


def _preachy(constitution: Constitution, listening: Listening) -> Iterator[Finding]:
    message = "invites preaching or accusing: '{words}'"
    asked = partial(preachy, asks_for_faults=True)
    yield from _wording("preachy", ("critique_request",), asked, message, constitution, listening)
    yield from _wording("preachy", WRITING, preachy, message, constitution, listening)


def _near_duplicates(_: Constitution, listening: Listening) -> Iterator[Finding]:
    """By what a judge is asked, and by what a reviser is asked: the two phases draw principles separately."""
    seen: set[tuple[str, str]] = set()
    for fields in (("comparison_request",), ("critique_request", "revision_request")):
        asked = [(p, [f for f in fields if getattr(p, f)]) for p in listening]
        asked = [(principle, given) for principle, given in asked if given]
        texts = [" ".join(getattr(principle, field) for field in given) for principle, given in asked]
        for match in near_duplicates(texts).matches:
            (principle, given), (other, _given) = asked[match.index], asked[match.other]
            if (principle.id, other.id) in seen:
                continue
            seen.add((principle.id, other.id))
            yield Finding(
                rule="near-duplicate",
                principle=principle.id,
                field=given[0],
                message=f"asks nearly the same as '{other.id}' (similarity {match.similarity:.2f}): it counts twice",
                other=other.id,
            )


def _one_phase(constitution: Constitution, listening: Listening) -> Iterator[Finding]:
    """A principle that is code needs no request; one that names its `phases` has said what it is for."""
    for field, phases, left_out in (
        ("revision_request", {"revise"}, "revisions"),
        ("critique_request", {"revise"}, "critiqued revisions"),
        ("comparison_request", {"judge", "evaluate"}, "judging"),
    ):
        lacking = [p for p in listening if p.check is None and phases & set(p.phases) and getattr(p, field) is None]
        if field == "critique_request":
            lacking = [p for p in lacking if p.revision_request is not None]
        elif field == "comparison_request":
            lacking = [p for p in lacking if p.score_request is None]
        if len(lacking) > 1 and all(getattr(p, field) is None for p in constitution.principles):
            # One decision of the author's, told once.
            message = f"no principle has a {field}: none takes part in {left_out} (say so with `phases` if it is meant)"
            yield Finding(rule="one-phase", principle=None, field="principles", message=message)
            continue
        message = f"no {field}: left out of {left_out} (say so with `phases` if it is meant)"
        yield from (Finding(rule="one-phase", principle=p.id, field="phases", message=message) for p in lacking)


def _conflicts(_: Constitution, listening: Listening) -> Iterator[Finding]:
    ids = {principle.id for principle in listening}
    told: set[frozenset[str]] = set()
    for principle in listening:
        for item, other in enumerate(principle.conflicts):
            pair = frozenset((principle.id, other))
            if other in ids and pair not in told:
                told.add(pair)
                yield Finding(
                    rule="conflict",
                    principle=principle.id,
                    field="conflicts",
                    item=item,
                    message=f"contradicts '{other}', and the constitution carries both",
                    other=other,
                )


def _tags(constitution: Constitution, listening: Listening) -> Iterator[Finding]:
    if not constitution.tags:
        return
    carried = {tag for principle in constitution.principles for tag in principle.tags}
    for tag in constitution.tags:
        if tag not in carried:
            message = f"no principle carries the declared tag '{tag}'"
            yield Finding(rule="tag-coverage", principle=None, field="tags", item=tag, message=message)
    for principle in listening:
        for item, tag in enumerate(principle.tags):
            if tag not in constitution.tags:
                message = f"tag '{tag}' is not declared{nearest(tag, constitution.tags)}"
                yield Finding(rule="tag-coverage", principle=principle.id, field="tags", item=item, message=message)


CHECKS: dict[str, Check] = {
    "double-barrelled": partial(
        _wording, "double-barrelled", VERDICTS, two_questions, "asks two things at once: '{words}'"
    ),
    "negative-framing": partial(
        _wording,
        "negative-framing",
        COMPARISONS,
        negative,
        "asks for what an answer is not ('{words}'): say what it is",
    ),
    "preachy": _preachy,
    "near-duplicate": _near_duplicates,
    "no-examples": without_examples,
    "length-leak": length_leaks,
    "no-choice": partial(
        _wording, "no-choice", CHOICES, asks_no_choice, "does not ask which of two answers: '{words}'"
    ),
    "one-phase": _one_phase,
    "conflict": _conflicts,
    "tag-coverage": _tags,
}
