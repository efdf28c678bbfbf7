"""What has to be judged anew under changed principles, what that costs, and the judging itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from constitutional.audit.current import RunView
from constitutional.audit.measures.change_records import DiffCost
from constitutional.checks import Check, coded_digest
from constitutional.errors import ConfigError, RunError
from constitutional.feedback.judge import Known, judge, questions
from constitutional.feedback.judging.ways import PLAIN, Way
from constitutional.principles import Constitution, Principle
from constitutional.records import Comparison, Judgment

if TYPE_CHECKING:
    from collections.abc import Callable

    from constitutional.feedback.judging.ways import Judge
    from constitutional.ledger import Ledger
    from constitutional.templates import TemplatePack

_CHUNK = 8  # comparisons judged at a time: what an interruption can lose


@dataclass(frozen=True)
class Change:
    """A principle in the run's version and in the new one."""

    old: Principle
    new: Principle
    old_digest: str
    new_digest: str


@dataclass(frozen=True)
class Plan:
    """What has to be judged anew: comparisons, and for each the changed principles it was judged under."""

    view: RunView
    new: Constitution
    changes: tuple[Change, ...]
    comparisons: tuple[Comparison, ...]
    assigned: tuple[tuple[Principle, ...], ...]
    pack: TemplatePack
    checks: Mapping[str, Check]
    judge_model: str
    way: Way
    keys: tuple[str, ...]
    cost: DiffCost
    notes: tuple[str, ...]


def plan(
    view: RunView,
    new: Constitution,
    *,
    pack: TemplatePack,
    checks: Mapping[str, Check],
    judge_model: str,
    way: Way = PLAIN,
    known: Known | None = None,
) -> Plan:
    """Finds the changed principles and what judging under them costs; asks nothing.

    Args:
        view: the run.
        new: the other constitution. Principles are the same by id, changed by digest.
        pack: the templates to ask with.
        checks: the new constitution's opened checks, by `id@version`.
        judge_model: identity of the judge.
        way: how it is asked; as the run's judge was.
        known: looks judgments up that an earlier call has stored.

    Raises:
        RunError: the run has judged nothing, or by another judge.
        ConfigError: no principle that the run judged under has changed.
    """
    if view.step("judge") is None:
        raise RunError(f"{view.path}: the step 'judge' is not finished: there is nothing to compare with")
    judgments = view.rows("judge", "data.jsonl", Judgment)
    changes = _changes(view, new, checks, judgments, way)
    if not changes:
        raise ConfigError(f"{new.ref}: no principle that {view.path} was judged under has changed")
    old = {change.old.ref: change for change in changes}
    mine = [j for j in judgments if j.principle in old]
    _check_judge(view, mine, judge_model, way)
    under: dict[str, set[str]] = {}
    for judgment in mine:
        under.setdefault(judgment.comparison_id, set()).add(judgment.principle)
    comparisons = [c for c in view.rows("sample", "data.jsonl", Comparison) if c.id in under]
    assigned = [tuple(ch.new for ref, ch in old.items() if ref in under[c.id]) for c in comparisons]
    asked = questions(
        comparisons, assigned, pack=pack, judge_model=judge_model, checks=checks, ask_applies=True, way=way
    )
    keys = [question.key for question in asked]
    stored = set(known(keys)) if known is not None else set()
    spent = {ref: _mean_tokens([j for j in mine if j.principle == ref]) for ref in old}
    of_new = {change.new.ref: ref for ref, change in old.items()}
    missing = [spent[of_new[q.principle.ref]] for q in asked if q.key not in stored]
    notes = []
    if {j.template_digest for j in mine if j.mode == way.mode} - {way.template_digest(pack)}:
        notes.append("the judge's template is not the run's: what changes may come from it")
    return Plan(
        view=view,
        new=new,
        changes=tuple(changes),
        comparisons=tuple(comparisons),
        assigned=tuple(assigned),
        pack=pack,
        checks=checks,
        judge_model=judge_model,
        way=way,
        keys=tuple(keys),
        cost=DiffCost(
            judgments=len(keys), stored=len(keys) - len(missing), to_ask=len(missing), tokens=round(sum(missing))
        ),
        notes=tuple(notes),
    )


def judge_anew(made: Plan, backend: Judge, ledger: Ledger, progress: Callable[[int, int], object]) -> None:
    """Asks what the ledger does not hold yet, and stores it chunk by chunk: an interrupted call goes on where it was.

    Raises:
        BackendError: the judge gives no log-probabilities.
        LedgerError: the ledger cannot be written.
    """
    done = 0
    seed = int(made.view.recipe.get("seed", 0))
    for start in range(0, len(made.comparisons), _CHUNK):
        chunk = made.comparisons[start : start + _CHUNK]
        found = judge(
            chunk,
            assigned=made.assigned[start : start + _CHUNK],
            backend=backend,
            pack=made.pack,
            seed=seed,
            known=ledger.lookup,
            checks=made.checks,
            ask_applies=True,
            way=made.way,
        )
        ledger.append(list(found))
        done += len(chunk)
        progress(done, len(made.comparisons))


def _changes(
    view: RunView, new: Constitution, checks: Mapping[str, Check], judgments: Sequence[Judgment], way: Way
) -> list[Change]:
    judged = {j.principle for j in judgments}
    by_id = {p.id: p for p in new.principles}
    old_checks = view.lock.get("checks", {})
    found = []
    for old in view.constitution.principles:
        other = by_id.get(old.id)
        if other is None or old.ref not in judged or not (getattr(other, way.request) or other.ref in checks):
            continue
        old_digest = coded_digest(old, old_checks.get(old.ref))
        new_digest = coded_digest(other, checks[other.ref].identity if other.ref in checks else None)
        if old_digest != new_digest:
            found.append(Change(old, other, old_digest, new_digest))
    return found


def _check_judge(view: RunView, judgments: Sequence[Judgment], judge_model: str, way: Way) -> None:
    asked = [j for j in judgments if j.mode not in ("check", "applies")]
    modes = sorted({j.mode for j in asked} - {way.mode})
    if modes:
        raise RunError(f"{view.path}: judged in mode '{modes[0]}', not in '{way.mode}': that would compare modes")
    judges = sorted({j.judge for j in asked} - {judge_model})
    if judges:
        raise RunError(f"{view.path}: judged by {judges[0]}, not by {judge_model}: that would compare judges")


def _mean_tokens(judgments: Sequence[Judgment]) -> float:
    return sum(j.usage.prompt_tokens + j.usage.completion_tokens for j in judgments) / max(len(judgments), 1)
