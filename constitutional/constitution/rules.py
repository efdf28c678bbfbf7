"""The lint rules by name, each with why it is one, and what a finding looks like.

A reason names its source: a paper, a measurement of ours, or the code that makes it so. Where there is none it says so.
"""

from __future__ import annotations

from constitutional.records import Record


class Finding(Record):
    """One thing a rule found. `item` is the place in a field that holds several: an index, or a key."""

    rule: str
    principle: str | None
    """Id of the principle it is about; None is the constitution as a whole."""
    field: str
    item: int | str | None = None
    message: str
    other: str | None = None
    """Id of the second principle, where it takes two."""


RULES = {
    "double-barrelled": (
        "One verdict cannot answer two questions: 'less harmful, more ethical and more honest' got the same answer in "
        "both orders for 0.03 of the pairs, requests for one behaviour for 0.84 (docs/LOG.md, wording of the judge's "
        "question)."
    ),
    "negative-framing": (
        "Positively framed, behaviour-based principles agree more with people's preferences than negatively framed "
        "ones; models once tuned followed the negative ones better, so this is about what is asked of a judge (C3AI, "
        "Kyrychenko et al. 2025, arXiv 2502.15861, abstract)."
    ),
    "preachy": (
        "Policies trained long on AI feedback turn preachy and repeat boilerplate, and the wording of the principles "
        "eases it (Constitutional AI, Bai et al. 2022, arXiv 2212.08073)."
    ),
    "near-duplicate": (
        "A principle written twice counts twice: near-duplicates change the weights silently (Collective "
        "Constitutional AI, Huang et al. 2024, arXiv 2406.07814)."
    ),
    "no-examples": (
        "The gate measures a judge under a principle on that principle's own examples; by wording alone one judge's "
        "accuracy went from 0.81 to 0.91 (docs/LOG.md, wording of the judge's question)."
    ),
    "length-leak": (
        "If the better answer is nearly always the longer one, or the shorter, a judge that looks at length only "
        "passes the gate (follows from the gate's bar, constitutional/feedback/gate.py; not a measurement)."
    ),
    "no-choice": (
        "A judge is read by the probabilities of its two options, so the request has to ask for one of two answers, as "
        "all 16 principles of the RL phase do in Constitutional AI (Bai et al. 2022, arXiv 2212.08073)."
    ),
    "one-phase": (
        "A principle is left out of every phase it has no request for, without a word: what answers are revised by is "
        "then never judged, or the reverse (constitutional/pipeline/context.py, `asking`)."
    ),
    "conflict": (
        "Under contradictory principles the same pair gets opposite labels; that these two are contradictory is the "
        "author's own statement (`conflicts`), there is no other source."
    ),
    "tag-coverage": (
        "Declared tags are the author's own list of what must be covered; that somebody has to check such a list is a "
        "lesson of Collective Constitutional AI, whose prompts did not cover every principle (Huang et al. 2024)."
    ),
}
"""Rule id, reason and source. `Principle.lint_ignore` holds such ids."""
