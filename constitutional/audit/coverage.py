"""Which prompts each principle applies to, and what is left uncovered on either side."""

from __future__ import annotations

from collections.abc import Sequence

from constitutional.audit.probes import Progress
from constitutional.backends import Backend
from constitutional.feedback.applies import Applicability, applies
from constitutional.principles import Constitution
from constitutional.records import Prompt, Record
from constitutional.statistics import Rate, rate
from constitutional.templates import TemplatePack

_CHUNK = 8  # prompts between two reports of progress


class PrincipleCoverage(Record):
    """How many prompts one principle applies to."""

    principle: str
    digest: str
    applies_when: str | None
    """None: it applies to all, and the judge was not asked."""
    applies: Rate
    """Of all prompts; one without a readable verdict does not count as applying."""
    unusable: int


class Coverage(Record):
    """What a constitution has to say to some prompts, and everything that was made from."""

    constitution: str
    constitution_digest: str
    templates: str
    template_digest: str
    judge: str
    seed: int
    principles: tuple[PrincipleCoverage, ...]
    said_yes: Rate
    """Of all readable verdicts: a judge that always says the same does not read the case."""
    unexercised: tuple[str, ...]
    """Principles that are not known to apply to any prompt."""
    uncovered: tuple[str, ...]
    """Ids of prompts that no principle applies to."""
    unknown: tuple[str, ...]
    """Ids of prompts that no principle is known to apply to, some verdict on them being unreadable."""
    prompts: tuple[Prompt, ...]
    verdicts: tuple[Applicability, ...]


def coverage(
    constitution: Constitution,
    prompts: Sequence[Prompt],
    *,
    backend: Backend,
    pack: TemplatePack,
    seed: int = 0,
    progress: Progress | None = None,
) -> Coverage:
    """Asks of every prompt which principles apply.

    Args:
        constitution: whose principles are asked.
        prompts: what to cover.
        backend: the judge; must give log-probabilities where a principle has an `applies_when`.
        pack: template `applies`.
        seed: recorded in the verdicts.
        progress: told after every few prompts.

    Raises:
        BackendError: the judge gives no log-probabilities.
    """
    verdicts: list[Applicability] = []
    for start in range(0, len(prompts), _CHUNK):
        chunk = {prompt.id: prompt.messages for prompt in prompts[start : start + _CHUNK]}
        verdicts += applies(chunk, constitution.principles, backend=backend, pack=pack, seed=seed)
        if progress is not None:
            progress(min(start + _CHUNK, len(prompts)), len(prompts))
    return measure_coverage(constitution, prompts, verdicts, judge=backend.model, pack=pack, seed=seed)


def measure_coverage(
    constitution: Constitution,
    prompts: Sequence[Prompt],
    verdicts: Sequence[Applicability],
    *,
    judge: str,
    pack: TemplatePack,
    seed: int,
) -> Coverage:
    """The figures, from the verdicts of `applies` on every prompt."""
    said = {(verdict.prompt_id, verdict.principle): verdict.applies for verdict in verdicts}
    rows = []
    for principle in constitution.principles:
        told = [principle.applies_when is None or said[prompt.id, principle.ref] for prompt in prompts]
        rows.append(
            PrincipleCoverage(
                principle=principle.ref,
                digest=principle.digest,
                applies_when=principle.applies_when,
                applies=rate(told.count(True), len(told)),
                unusable=told.count(None),
            )
        )
    universal = any(row.applies_when is None for row in rows)
    uncovered: list[str] = []
    unknown: list[str] = []
    for prompt in prompts if not universal else ():
        told = [said[prompt.id, row.principle] for row in rows]
        if True not in told:
            (unknown if None in told else uncovered).append(prompt.id)
    readable = [verdict.applies for verdict in verdicts if verdict.applies is not None]
    return Coverage(
        constitution=constitution.ref,
        constitution_digest=constitution.digest,
        templates=pack.ref,
        template_digest=pack.digest("applies"),
        judge=judge,
        seed=seed,
        principles=tuple(rows),
        said_yes=rate(sum(readable), len(readable)),
        unexercised=tuple(row.principle for row in rows if not row.applies.count),
        uncovered=tuple(uncovered),
        unknown=tuple(unknown),
        prompts=tuple(prompts),
        verdicts=tuple(verdicts),
    )
