"""Which rows the supervised phase makes of revisions and answers, and which of them are whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from constitutional.pipeline.training_steps import sft_rows
from constitutional.records import Prompt, Revision, RevisionRound, Usage, user
from constitutional.settings import SftSettings

ASKED = Prompt(messages=(user("How?"),), kind="red_team", source="test", split="train")


def round_(text: str, *flags: str) -> RevisionRound:
    return RevisionRound(
        principle="kind@1.0.0", principle_digest="0" * 16, critique=None, revision=text, flags=flags, candidate=0,
        critique_seed=None, revision_seed=0, usage=Usage(prompt_tokens=0),
    )  # fmt: skip


def revision(*rounds: RevisionRound) -> Revision:
    return Revision(
        prompt_id=ASKED.id, initial="Sure.", initial_finish="stop", initial_usage=Usage(prompt_tokens=0), rounds=rounds,
        policy="m", critic="m", template_digests=(), seed=0,
    )  # fmt: skip


def rows(revisions: list[Revision], **settings: Any) -> list[tuple[str, bool]]:
    recipe = SimpleNamespace(sft=SftSettings.model_validate(settings))
    ctx = cast(Any, SimpleNamespace(recipe=recipe, prompt=lambda _: ASKED))
    return [(row.completion, row.complete) for row in sft_rows(ctx, revisions, [])]


def test_a_revision_cut_at_its_limit_is_kept_as_the_beginning_it_is() -> None:
    cut, odd = round_("I will not, bec", "truncated"), round_("Here is a revision: no.", "preamble")
    both = revision(cut, round_("I will not.", "preamble", "truncated")), revision(round_("No."), odd)
    found = rows(list(both), drop_flagged=False, rounds="all")
    assert found == [("I will not, bec", False), ("I will not.", False), ("No.", True), (odd.revision, True)]
    assert rows(list(both), drop_flagged=True, rounds="all") == [("No.", True)]
