"""Arms of one recipe side by side: what each was trained on and came to, as a record and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from constitutional.audit.evaluation_table import KIND_TITLES
from constitutional.display import printable
from constitutional.evaluation.answers import System
from constitutional.evaluation.evaluate import Evaluation
from constitutional.feedback.gate import GateReport
from constitutional.records import PromptKind, Record
from constitutional.statistics import bracketed, with_interval


class ArmBudget(Record):
    """What one arm was trained with. `ai_rows` and `human_rows` were given to the step that learns from preferences.

    `rows` is how many of them it could use (the others are too long); `pm_steps` is None without a preference model.
    `rl_prompts` is a digest of the prompts whose answers are rewarded; None of DPO, which answers none.
    """

    arm: System
    ai_rows: int
    human_rows: int
    rows: int
    pm_steps: int | None
    rl_steps: int
    rollouts: int
    rl_prompts: str | None

    @property
    def spent(self) -> tuple[object, ...]:
        """What has to be equal between arms."""
        return (self.ai_rows + self.human_rows, self.rows, self.pm_steps, self.rl_steps, self.rl_prompts, self.rollouts)


class Arms(Record):
    """A comparison of arms. `against` is the model that RL started from in all of them."""

    recipe: str
    seed: int
    constitution: str
    against: System
    budgets: tuple[ArmBudget, ...]
    equal: bool
    ai_weight: float
    human_weights: dict[str, float]
    gate: GateReport | None
    """Of the labels' judge; None where no arm learns from its word."""
    judge: str
    """Who compares the arms: of none of them."""
    judge_is: str
    judge_gate: GateReport
    judge_note: str
    prompts: dict[PromptKind, int]
    left_out: int
    """Held-out prompts whose conversation an arm is trained on."""
    evaluation: Evaluation


def render_arms(found: Arms) -> str:
    """The comparison in Markdown: the table, then win rates between the arms, then budget and judges."""
    return printable("\n".join([*_table(found), "", *_wins(found), "", *_budget(found), *_judges(found)]))


def _table(found: Arms) -> list[str]:
    kinds = [kind for kind in ("red_team", "helpful") if found.prompts.get(kind)]
    arms = [budget.arm for budget in found.budgets]
    head = ["arm", "rows AI + people", "complied, red-team", "refused, benign", "refused, helpful"]
    head += [f"preferred to {found.against}, {KIND_TITLES[kind]}" for kind in kinds] + ["perplexity, times start's"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    budgets = {budget.arm: budget for budget in found.budgets}
    before: list[System] = ["base", *([found.against] if found.against != "base" else [])]
    for system in [*before, *arms]:
        cells = [system, f"{budgets[system].ai_rows} + {budgets[system].human_rows}" if system in budgets else "—"]
        for kind, rate in (("red_team", "compliance"), ("benign", "refusal"), ("helpful", "refusal")):
            row = next((r for r in found.evaluation.rows if (r.system, r.kind) == (system, kind)), None)
            cells.append(with_interval(getattr(row, rate)) if row else "—")
        cells += [_win(found, system, found.against, kind) for kind in kinds]
        cells.append(_forgotten(found, system))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _win(found: Arms, system: str, against: str, kind: str) -> str:
    for win in found.evaluation.wins:
        if (win.system, win.against, win.kind) == (system, against, kind):
            unusable = f", {win.unusable} unusable" if win.unusable else ""
            return f"{win.rate.mean:.2f} {bracketed(win.rate.interval)} of {win.rate.n}{unusable}"
    return "—"


def _forgotten(found: Arms, system: str) -> str:
    for row in found.evaluation.perplexity:
        if row.system == system:
            return f"{row.ratio:.2f}" + (f" {bracketed(row.interval)}" if row.interval else "")
    return "—"


def _wins(found: Arms) -> Iterator[str]:
    names = {budget.arm for budget in found.budgets}
    for win in found.evaluation.wins:
        if win.system in names and win.against in names:
            told = _win(found, win.system, win.against, win.kind)
            yield f"- {win.system} preferred to {win.against}, {KIND_TITLES[win.kind]}: {told}"


def _budget(found: Arms) -> Iterator[str]:
    held = ", ".join(f"{n} {KIND_TITLES[kind]}" for kind, n in found.prompts.items())
    yield f"- held-out prompts, the same for all: {held}; {found.left_out} left out, as they are trained on"
    for b in found.budgets:
        steps = "" if b.pm_steps is None else f"{b.pm_steps} steps of the preference model, "
        rollouts = f", {b.rollouts} rollouts" if b.rollouts else ""
        yield (
            f"- {b.arm}: {b.ai_rows} AI and {b.human_rows} human rows ({b.rows} used), {steps}{b.rl_steps} steps of RL"
            f"{rollouts}"
        )
    yield "- budgets: equal" if found.equal else "- budgets: NOT EQUAL, see the lines above"
    if any(b.ai_rows and b.human_rows for b in found.budgets):
        people = ", ".join(f"{name} {weight:g}" for name, weight in found.human_weights.items())
        yield f"- weights in hybrid: AI rows {found.ai_weight:g}; {people}"


def _judges(found: Arms) -> Sequence[str]:
    lines = [f"- arms compared by {found.judge_is} {found.judge}: {_gate(found.judge_gate)}; {found.judge_note}"]
    if found.gate is not None:
        labels = f"labels by {found.gate.labels}"
        lines.append(f"- AI labels: judge {found.gate.judge}: {_gate(found.gate)}; {labels}")
    elif any(budget.ai_rows for budget in found.budgets):
        lines.append("- AI labels: by provenance, as the recipe says; no judge was asked")
    return [*lines, "- intervals are 95 %, one by one; several comparisons are not corrected for"]


def _gate(gate: GateReport) -> str:
    rows = ", ".join(f"{row.name} {row.correct} of {row.n} right" for row in gate.sources)
    return f"gate {'passed' if gate.passed else 'FAILED (' + '; '.join(gate.reasons) + ')'} ({rows})"
