"""Lint on the constitutions of others, which were written without knowing its rules."""

import pytest
from real_constitutions import DATA, READERS, real_constitution

from constitutional.constitution.lint import lint
from constitutional.constitution.rules import RULES

pytestmark = pytest.mark.skipif(DATA is None, reason="shared/data with the constitutions of others is not here")


@pytest.mark.parametrize("name", READERS)
def test_every_real_constitution_is_linted(name: str) -> None:
    constitution = real_constitution(name)
    ids = {principle.id for principle in constitution.principles}
    for finding in lint(constitution):
        assert finding.rule in RULES and finding.message
        assert finding.principle is None or finding.principle in ids
        assert finding.other is None or finding.other in ids


def test_the_papers_requests_all_ask_for_a_choice() -> None:
    """What the reason of the rule says of them."""
    assert not [f for f in lint(real_constitution("paper-rl")) if f.rule == "no-choice"]


def test_statements_put_where_a_request_belongs_ask_for_none() -> None:
    constitution = real_constitution("ccai")
    told = {f.principle for f in lint(constitution) if f.rule == "no-choice"}
    statements = {p.id for p in constitution.principles if "AI should" in (p.comparison_request or "")}
    assert len(statements) > 150 and statements <= told
