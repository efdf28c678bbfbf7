"""The recipe's label section as a labeller, and two rules compared on a run that is left as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

from constitutional.audit.current import open_view
from constitutional.config import resolve_path
from constitutional.constitution import load_constitution
from constitutional.errors import ConfigError, RunError, nearest
from constitutional.feedback.gate import Labelled
from constitutional.feedback.label import Limits, label
from constitutional.feedback.label.calibration import (
    CALIBRATIONS,
    Calibration,
    calibrated,
    calibration_lines,
    fit_calibrations,
)
from constitutional.feedback.label.compare import RuleComparison, compare_labels
from constitutional.feedback.label.opinions import Reading, as_stored
from constitutional.feedback.label.truths import Truth
from constitutional.feedback.label.weights import WEIGHTS, FittedWeights, fit_weights, weight_lines
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, Preference
from constitutional.settings import LabelSettings, Recipe


@dataclass(frozen=True)
class Labeller:
    """How a recipe labels; what it fits, it fits to the gate's labelled comparisons when it is first asked for."""

    settings: LabelSettings
    principles: Sequence[Principle]
    seed: int
    labelled: Sequence[Labelled]
    answered: Sequence[Judgment]
    """The judge's answers to the labelled comparisons."""

    @cached_property
    def calibrations(self) -> tuple[Calibration, ...]:
        """The judges' calibrations; none where the recipe wants none."""
        method = self.settings.calibration
        return fit_calibrations(self._truths, self.answered, method) if method else ()

    @cached_property
    def weights(self) -> FittedWeights | None:
        """The fitted weights; None unless the rule is `calibrated`."""
        if self.settings.rule != "calibrated":
            return None
        refs = [p.ref for p in self.principles]
        return fit_weights(self._truths, self.answered, refs, self._reading, self.settings.clamp)

    def __call__(self, comparisons: Sequence[Comparison], judgments: Sequence[Judgment]) -> Iterator[Preference]:
        """One label per comparison."""
        settings = self.settings
        return label(
            comparisons,
            judgments,
            principles=self.principles,
            rule=settings.rule,
            margin=settings.margin,
            seed=self.seed,
            veto=settings.veto,
            weights=self.weights.by_ref if self.weights else None,
            reading=self._reading,
            limits=Limits(settings.order_gap, settings.min_mass, settings.disagreement),
            clamp=settings.clamp,
        )

    @property
    def fits(self) -> dict[str, str]:
        """The files of a label step that hold what was fitted, by name."""
        found = {CALIBRATIONS: "".join(c.to_json() + "\n" for c in self.calibrations)} if self.calibrations else {}
        return found | ({WEIGHTS: self.weights.to_json() + "\n"} if self.weights else {})

    @property
    def lines(self) -> list[str]:
        """What was fitted, as lines of text."""
        if not self.weights:
            return calibration_lines(self.calibrations)
        # each fold's weights are fitted without it, the calibration once to all
        seen = ["(opinions calibrated on these very prompts: on unseen ones less is to be expected)"]
        return [
            *calibration_lines(self.calibrations),
            *weight_lines(self.weights),
            *(seen if self.calibrations else []),
        ]

    @property
    def _reading(self) -> Reading:
        return calibrated(self.calibrations) if self.calibrations else as_stored

    @property
    def _truths(self) -> list[Truth]:
        wanted = ("examples", "human") if self.settings.fitted_to == "all" else (self.settings.fitted_to,)
        pairs = [item.comparison for item in self.labelled if item.source in wanted]
        return [Truth(pair.id, pair.prompt_id, a_better=True) for pair in pairs]


def label_key(settings: LabelSettings, principles: Sequence[Principle]) -> dict[str, object]:
    """What a label step's key holds of these settings: what the rule goes by, and nothing of what it does not."""
    rule, margin = settings.rule, {"margin": settings.margin}
    parts: dict[str, object] = {"rule": rule}
    parts["weights"] = [[p.ref, p.weight] for p in principles] if rule == "weighted" else []
    if rule in ("tiers", "veto"):
        parts |= {"tiers": [[p.ref, p.tier] for p in principles], **margin}
    if rule == "veto":
        parts["veto"] = settings.veto
    if rule == "calibrated":
        parts["fitted"] = [p.ref for p in principles]
    if rule == "calibrated" or settings.calibration:
        parts["fitted_to"] = settings.fitted_to
    limits = settings.model_dump(include={"calibration", "order_gap", "min_mass", "disagreement"}, exclude_none=True)
    return parts | limits


def judging_principles(principles: Sequence[Principle]) -> list[Principle]:
    """Those that take part in judging: what they ask of a judge, or their check."""
    return [p for p in principles if "judge" in p.phases and (p.comparison_request or p.check)]


def compare_rules(
    recipe: Recipe, recipe_file: Path, run_folder: Path, first: str | None, second: str
) -> tuple[RuleComparison, list[Labeller]]:
    """Labels a run's comparisons by two rules and says what differs. Nothing in the run folder is locked or changed.

    Args:
        recipe: the settings of both, apart from the rule, and the constitution whose weights and tiers count.
        recipe_file: where the recipe stands.
        run_folder: a run with the steps gate, sample and judge.
        first: a rule; the recipe's own when None.
        second: another one.

    Raises:
        ConfigError: no such rule.
        RunError: a step is missing, or a file is damaged.
        DataError: a rule must be fitted, and there is too little to fit it to.
    """
    rules = [recipe.label.rule if first is None else first, second]
    settings = [_with_rule(recipe.label, rule) for rule in rules]
    constitution = load_constitution(str(resolve_path(recipe_file, recipe.constitution)))
    with open_view(run_folder) as view:
        for step in ("gate", "sample", "judge"):
            if view.step(step) is None:
                raise RunError(f"{run_folder}: the step '{step}' is not finished: there is nothing to label yet")
        comparisons = view.rows("sample", "data.jsonl", Comparison)[: recipe.judging.limit]
        judgments = view.rows("judge", "data.jsonl", Judgment)
        labelled = view.rows("gate", "labelled.jsonl", Labelled)
        answered = view.rows("gate", "data.jsonl", Judgment)
    principles = judging_principles(constitution.principles)
    makers = [Labeller(one, principles, recipe.seed, labelled, answered) for one in settings]
    made = [list(maker(comparisons, judgments)) for maker in makers]
    return compare_labels(made[0], made[1], rules=(rules[0], rules[1])), makers


def _with_rule(settings: LabelSettings, rule: str) -> LabelSettings:
    known = get_args(LabelSettings.model_fields["rule"].annotation)
    if rule not in known:
        raise ConfigError(f"no label rule '{rule}'{nearest(rule, known)}")
    return LabelSettings.model_validate({**settings.model_dump(), "rule": rule})
