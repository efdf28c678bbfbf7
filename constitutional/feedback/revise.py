"""Critique and revision (Bai et al. 2022, section 3.1): answer, then K rounds of critique and revision.

Each round draws a principle, asks the feedback model what is wrong with the last answer, and asks for a fresh answer.
The next round sees only the prompt and the last revision. All rounds are kept. Where the principle is code, its check
looks at the answer first: one that passes, or that the check says nothing of, is not revised, and the round says so.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from constitutional.backends import Backend, Unanswered, kept_dialogues
from constitutional.checks import NO_CHECKS, Check, Score, coded_digest, score
from constitutional.feedback.applies import Applicability
from constitutional.feedback.checked import unrevised_round
from constitutional.feedback.flags import revision_flags
from constitutional.feedback.respond import generate_fitting, respond, unanswered
from constitutional.principles import Principle
from constitutional.records import (
    Answer,
    Completion,
    Failure,
    Prompt,
    Revision,
    RevisionRound,
    Sampling,
    Usage,
    seed_for,
)
from constitutional.templates import Rendered, TemplatePack, Value


@dataclass
class _Item:
    """One prompt on its way through the rounds; `failure` ends its way."""

    prompt: Prompt
    answer: Answer
    principles: list[Principle]
    """One a round; fewer than rounds where fewer apply."""
    rounds: list[RevisionRound] = field(default_factory=list)
    score: Score | None = None
    """What this round's check says of the answer so far; None without a check."""
    code: str | None = None
    """Identity of this round's check."""
    failure: Failure | None = None

    @property
    def text(self) -> str:
        return self.rounds[-1].revision if self.rounds else self.answer.text


@dataclass(frozen=True)
class _Draft:
    """A candidate revision with its flags and the seed it was drawn with."""

    text: str
    flags: tuple[str, ...]
    number: int
    seed: int


def draw_principles(
    prompt_id: str, principles: Sequence[Principle], rounds: int, *, replacement: bool, seed: int
) -> list[Principle]:
    """The principle of each round, seeded by prompt and round: it does not depend on which other prompts are there."""
    if replacement:
        return [random.Random(seed_for(seed, "principle", prompt_id, k)).choice(principles) for k in range(rounds)]
    return random.Random(seed_for(seed, "principle", prompt_id)).sample(list(principles), rounds)


def revise(
    prompts: Sequence[Prompt],
    *,
    policy: Backend,
    critic: Backend,
    pack: TemplatePack,
    principles: Sequence[Principle],
    policy_sampling: Sampling,
    critic_sampling: Sampling,
    rounds: int = 1,
    replacement: bool = True,
    critique: bool = True,
    candidates: int = 1,
    seed: int,
    chunk: int = 0,
    checks: Mapping[str, Check] = NO_CHECKS,
    verdicts: Iterable[Applicability] = (),
) -> Iterator[Revision | Failure]:
    """Answers every prompt and revises each answer `rounds` times, save where a principle's check sees no need.

    Args:
        prompts: one chunk of prompts.
        policy: the model that gives the first answer.
        critic: the feedback model that criticises and revises.
        pack: templates `respond`, `critique`, `revise`, `revise_direct`.
        principles: those with a revision_request (and a critique_request unless `critique` is False).
        policy_sampling: how first answers are drawn.
        critic_sampling: how critiques and revisions are drawn.
        rounds: K, the critique-revision rounds per prompt.
        replacement: draw principles with replacement over the rounds.
        critique: False for direct revisions (Bai et al. 2022, figure 7: "no critique").
        candidates: most drafts of a revision; a new one is drawn while the best so far carries a flag.
        seed: the run's seed.
        chunk: number of this chunk, part of every sampling seed.
        checks: the opened checks of principles that are code, by `id@version`.
        verdicts: of principles with an `applies_when`, whether they apply to these prompts. What does not, or was not
            said to, is not drawn; a prompt to which nothing applies keeps its answer, in a Revision without rounds.
            A principle without a verdict applies.

    Yields:
        One Revision or Failure per prompt, in input order.
    """
    left_out = {(verdict.prompt_id, verdict.principle) for verdict in verdicts if not verdict.applies}
    items: list[_Item] = []
    failures: dict[str, Failure] = {}
    with kept_dialogues(policy, critic):
        for outcome in respond(prompts, policy=policy, pack=pack, sampling=policy_sampling, seed=seed, chunk=chunk):
            if isinstance(outcome, Failure):
                failures[outcome.item_id] = outcome
                continue
            prompt = next(p for p in prompts if p.id == outcome.prompt_id)
            fitting = [principle for principle in principles if (prompt.id, principle.ref) not in left_out]
            count = min(rounds, rounds if replacement and fitting else len(fitting))
            drawn = draw_principles(prompt.id, fitting, count, replacement=replacement, seed=seed)
            items.append(_Item(prompt, outcome, drawn))
        for k in range(rounds):
            here = [one for one in items if k < len(one.principles)]
            for one in here:
                _ask_check(one, one.principles[k], checks.get(one.principles[k].ref))
            draw = seed_for(seed, "revise", chunk, k)
            _revise_round(k, here, critic, pack, critic_sampling, critique, candidates, draw)
    used = ("respond", "critique", "revise") if critique else ("respond", "revise_direct")
    digests = tuple(pack.digest(name) for name in used)
    by_prompt = {item.prompt.id: item for item in items}
    for prompt in prompts:
        item = by_prompt.get(prompt.id)
        failure = failures.get(prompt.id) if item is None else item.failure
        if failure is not None:
            yield failure.model_copy(update={"stage": "revise"})
        elif item is not None:
            yield Revision(
                prompt_id=prompt.id,
                initial=item.answer.text,
                initial_finish=item.answer.finish_reason,
                initial_usage=item.answer.usage,
                rounds=tuple(item.rounds),
                policy=policy.model,
                critic=critic.model,
                template_digests=digests,
                seed=item.answer.seed,
            )


def _ask_check(item: _Item, principle: Principle, check: Check | None) -> None:
    """Lets a principle's check say whether the answer so far needs a revision: below `PASSES` it does."""
    item.score = item.code = None
    if check is None or item.failure is not None:
        return
    item.score, item.code = score(check, item.prompt.messages, item.text), check.identity
    if item.score.error is not None:
        message = item.score.error
        item.failure = Failure(item_id=item.prompt.id, stage="revise", kind="check_error", message=message)
    elif item.score.value is None or item.score.passes:
        item.rounds.append(unrevised_round(principle, check, item.score, item.text))


def _revise_round(
    k: int,
    items: Sequence[_Item],
    critic: Backend,
    pack: TemplatePack,
    sampling: Sampling,
    with_critique: bool,
    candidates: int,
    seed: int,
) -> None:
    """One round for all items still on their way: critiques in one batch, then drafts until unflagged or used up."""
    alive = [item for item in items if item.failure is None and len(item.rounds) == k]
    critiques: dict[str, tuple[str | None, int | None]] = {item.prompt.id: (None, None) for item in alive}
    spent: dict[str, list[Completion]] = {item.prompt.id: [] for item in alive}
    if with_critique:
        asked = [
            pack.render(
                "critique",
                item.principles[k].few_shots,
                conversation=item.prompt.messages,
                answer=item.text,
                critique_request=item.principles[k].critique_request or "",
            )
            for item in alive
        ]
        draw = seed_for(seed, "critique")
        for item, question, completion in _ask(critic, alive, asked, pack, sampling, draw):
            critiques[item.prompt.id] = (_joined(question, completion), draw)
            spent[item.prompt.id].append(completion)
    drafts: dict[str, _Draft] = {}
    for number in range(candidates):
        waiting = [
            item
            for item in alive
            if item.failure is None and (item.prompt.id not in drafts or drafts[item.prompt.id].flags)
        ]
        asked = [_revision_question(pack, i, i.principles[k], critiques[i.prompt.id][0]) for i in waiting]
        draw = seed_for(seed, "revision", number)
        for item, question, completion in _ask(critic, waiting, asked, pack, sampling, draw):
            text = _joined(question, completion)
            critique = critiques[item.prompt.id][0]
            cut = completion.finish_reason == "length"
            flags = revision_flags(text, answer=item.text, critique=critique, truncated=cut)
            spent[item.prompt.id].append(completion)
            best = drafts.get(item.prompt.id)
            if best is None or len(flags) < len(best.flags):
                drafts[item.prompt.id] = _Draft(text, flags, number, draw)
    for item in alive:
        if item.failure is None:
            draft, (critique, critique_seed) = drafts[item.prompt.id], critiques[item.prompt.id]
            calls = spent[item.prompt.id]
            item.rounds.append(
                RevisionRound(
                    principle=item.principles[k].ref,
                    principle_digest=coded_digest(item.principles[k], item.code),
                    critique=critique,
                    revision=draft.text,
                    flags=draft.flags,
                    candidate=draft.number,
                    critique_seed=critique_seed,
                    revision_seed=draft.seed,
                    usage=Usage(
                        prompt_tokens=sum(call.prompt_tokens for call in calls),
                        completion_tokens=sum(call.completion_tokens for call in calls),
                    ),
                    check_score=item.score.value if item.score else None,
                )
            )


def _revision_question(pack: TemplatePack, item: _Item, principle: Principle, critique: str | None) -> Rendered:
    values: dict[str, Value] = {
        "conversation": item.prompt.messages,
        "answer": item.text,
        "revision_request": principle.revision_request or "",
    }
    if critique is None:
        return pack.render("revise_direct", principle.few_shots, **values)
    values |= {"critique": critique, "critique_request": principle.critique_request or ""}
    return pack.render("revise", principle.few_shots, **values)


def _ask(
    critic: Backend,
    items: Sequence[_Item],
    questions: Sequence[Rendered],
    pack: TemplatePack,
    sampling: Sampling,
    seed: int,
) -> Iterator[tuple[_Item, Rendered, Completion]]:
    """Asks one question per item; an item whose question does not fit ends as a Failure."""
    settings = sampling.model_copy(update={"seed": seed, "stop": pack.stop})
    completions = generate_fitting(critic, [question.dialogue for question in questions], settings)
    for item, question, completion in zip(items, questions, completions, strict=True):
        if isinstance(completion, Unanswered):
            item.failure = unanswered(item.prompt.id, "revise", completion)
        else:
            yield item, question, completion


def _joined(question: Rendered, completion: Completion) -> str:
    """The opening the template put into the model's mouth and what the model went on to say."""
    return (question.opening + completion.text).strip()
