"""Whether a record says the same as the records it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence

from constitutional.audit.current import RunView
from constitutional.audit.index import Entry, Index
from constitutional.audit.trace_node import PROBLEM, Fact, check
from constitutional.evaluation.answers import EvaluatedAnswer
from constitutional.feedback.applies import APPLIES
from constitutional.feedback.checked import compare_scores
from constitutional.feedback.gate import Labelled, sureness
from constitutional.feedback.judging.reread import reread
from constitutional.feedback.judging.score import expected_score, grade_shares
from constitutional.feedback.label import CLAMP, Clamp, clamped, opinions
from constitutional.feedback.label.calibration import CALIBRATIONS, Calibration, calibrated, calibration_lines
from constitutional.feedback.label.rules import combined
from constitutional.feedback.label.weights import WEIGHTS, FittedWeights
from constitutional.feedback.options import option_probability
from constitutional.records import Answer, Comparison, Judgment, Preference, Revision, Said
from constitutional.settings import LabelSettings
from constitutional.training.rows import PreferenceRow, RewardPart, RewardRow, SftRow, weighted_sum

_CLOSE = 1e-9


def parents_agree(ix: Index, comparison: Comparison) -> list[Fact]:
    """A comparison's texts against the revision, or the evaluated answers, it names."""
    found = [entry.record for parent in comparison.parents if (entry := ix.get(parent)) is not None]
    texts: list[str] = []
    for record in found:
        if isinstance(record, Revision):
            texts += [record.final] if comparison.origin == "contrast" else [record.final, record.initial]
        elif isinstance(record, Answer | EvaluatedAnswer):
            texts.append(record.text)
    same = not texts or texts == [comparison.a, comparison.b]
    return check(same, "its texts are not those of the records it names")


def label_agrees(ix: Index, preference: Preference, judgments: Sequence[Judgment]) -> list[Fact]:
    """The label made again from the judgments it names."""
    facts = check(
        all(j.comparison_id == preference.comparison_id for j in judgments), "it cites judgments of another comparison"
    )
    calibrations = ix.view.rows("label", CALIBRATIONS, Calibration)
    read = opinions(judgments, calibrated(calibrations)).get(preference.comparison_id, [])
    found = [clamped(opinion, _clamp(ix)) for opinion in read]
    if preference.rule == "contrast":
        return facts + _sureness_agrees(ix, preference)
    if preference.p_a is None or not found:
        return facts
    weights = label_weights(ix.view, preference.rule)
    if preference.rule == "calibrated" and not (weights and all(o.principle in weights for o in found)):
        return [*facts, (PROBLEM, "the label step holds no fitted weights of its principles")]
    p_a = combined(found, preference.rule, weights)
    facts += [("calibrated judge", line) for line in calibration_lines(calibrations)]
    facts.append(("made again from its judgments", f"{p_a:.4f}"))
    return facts + check(abs(p_a - preference.p_a) < _CLOSE, f"its judgments give {p_a:.4f}, not {preference.p_a:.4f}")


def label_weights(view: RunView, rule: str) -> dict[str, float] | None:
    """The weights a label rule of a run counts principles with; None where it counts them alike, or they are gone."""
    if rule == "calibrated":
        fitted = view.figures("label", WEIGHTS, FittedWeights)
        return fitted.by_ref if fitted else None
    return {p.ref: p.weight for p in view.constitution.principles} if rule == "weighted" else None


def _sureness_agrees(ix: Index, preference: Preference) -> list[Fact]:
    """A contrast pair's p against the judge's answers in the gate; it is certain where no judge labels."""
    gate = ix.view.step("gate")
    if gate is None or preference.p_a in (None, 1.0):
        return []
    p = sureness(ix.view.rows("gate", "labelled.jsonl", Labelled), gate.records(Judgment), _clamp(ix))
    facts = [("p of contrast pairs", f"{p:.4f}, the judge's mean on the comparisons of the gate it got right")]
    return facts + check(abs(p - (preference.p_a or 0)) < _CLOSE, f"the gate gives {p:.4f}, not {preference.p_a:.4f}")


def _clamp(ix: Index) -> Clamp:
    """The ends of reasoned opinions, as the recipe of the run has them."""
    return LabelSettings.model_validate({"clamp": ix.view.recipe.get("label", {}).get("clamp", CLAMP)}).clamp


def applies_said(judgment: Judgment) -> Said | None:
    """What the judge said when it was asked first whether the principle applies; None where a judgment holds none."""
    try:
        raw = json.loads(judgment.raw or "null")
        return Said.model_validate(raw["applies"]) if isinstance(raw, dict) and "applies" in raw else None
    except (ValueError, RecursionError):  # plain text: what went wrong
        return None


def said_agrees(said: Said) -> list[Fact]:
    """Whether the p of "applies" follows from its log-probabilities."""
    if len(said.logprobs) != 2:  # infinite ones are not recorded
        return []
    p = option_probability(said.logprobs)[1]
    same = p is not None and said.p is not None and abs(p - said.p) < _CLOSE
    return check(same, f"p of applies is {said.p}, but its log-probabilities give {p}")


def reward_agrees(row: RewardRow) -> list[Fact]:
    """A reward against the parts it names."""
    if not row.parts:
        return []
    made = weighted_sum(row.parts)
    same = made == row.score if made is None or row.score is None else abs(made - row.score) < _CLOSE
    return check(same, f"its parts give {made}, not {row.score}")


def grade_agrees(part: RewardPart) -> list[Fact]:
    """A judge's score of a rollout against the grades it keeps, and whether it was to be asked for one."""
    grade = part.grade
    if grade is None:
        return []
    facts: list[Fact] = []
    if grade.logprobs and part.score is not None:
        made = expected_score(grade_shares(grade.logprobs))
        facts += check(abs(made - part.score) < _CLOSE, f"its log-probabilities give {made:.4f}, not {part.score:.4f}")
    if (said := grade.applies) is None or part.error is not None:
        return facts + check(not part.silent, "neither a score nor a word on why there is none")
    follows = said.p is not None and (said.p >= APPLIES) != part.silent
    return facts + said_agrees(said) + check(follows, f"score {part.score}, though p of applies is {said.p}")


def _applies_agrees(judgment: Judgment) -> list[Fact]:
    """Whether the p of "applies" follows from its log-probabilities, and the judgment from that p."""
    said = applies_said(judgment)
    if said is None:
        return []
    facts = said_agrees(said)
    if judgment.mode == "applies":
        own = (said.logprobs, said.mass, said.judge, said.template)
        recorded = (judgment.logprobs, judgment.mass, judgment.judge, judgment.template_digest)
        facts += check(own == recorded, "it holds another answer to whether its principle applies than its own")
    follows = said.p is not None and (said.p >= APPLIES) == (judgment.mode != "applies")
    return facts + check(follows, f"of mode {judgment.mode}, though p of applies is {said.p}")


def probability_agrees(judgment: Judgment) -> list[Fact]:
    """The p of a judgment against its own log-probabilities and order, or the scores of a check.

    Also that of what it rests on: whether its principle applies.
    """
    return _applies_agrees(judgment) + _preference_agrees(judgment)


def _preference_agrees(judgment: Judgment) -> list[Fact]:
    if judgment.mode == "check" and judgment.outcome != "error":
        scores = json.loads(judgment.raw or "{}")
        outcome = compare_scores(scores.get("a"), scores.get("b"))
        agrees = outcome == (judgment.outcome, judgment.p_a)
        return check(agrees, f"its scores give {outcome[0]}, p of a {outcome[1]}")
    if judgment.mode != "logprob":
        return _reading_agrees(judgment)
    if judgment.p_a is None or len(judgment.logprobs) != 2:
        return []
    first = option_probability(judgment.logprobs)[1]
    turned = first if first is None or judgment.order == "ab" else 1 - first
    agrees = turned is not None and abs(turned - judgment.p_a) < _CLOSE
    return check(agrees, f"p of a is {judgment.p_a:.4f}, but its log-probabilities give {turned}")


def _reading_agrees(judgment: Judgment) -> list[Fact]:
    """The p of a judgment of another mode against what it keeps: its samples, or the scores of the two answers."""
    facts: list[Fact] = []
    for sample in judgment.samples:
        if sample.p_a is not None and len(sample.logprobs) == 2:
            first = option_probability(sample.logprobs)[1]
            turned = first if first is None or judgment.order == "ab" else 1 - first
            agrees = turned is not None and abs(turned - sample.p_a) < _CLOSE
            facts += check(agrees, f"a sample's p of a is {sample.p_a:.4f}, but its log-probabilities give {turned}")
    found = reread(judgment)
    if found is None or judgment.mode == "applies":
        return facts
    outcome, p_a = found
    close = p_a == judgment.p_a or (p_a is not None and judgment.p_a is not None and abs(p_a - judgment.p_a) < _CLOSE)
    return facts + check(
        outcome == judgment.outcome and close, f"p of a is {judgment.p_a}, but what it keeps gives {outcome}, {p_a}"
    )


def completion_agrees(row: SftRow, source: Entry | None) -> list[Fact]:
    """A supervised row's completion against the revision or answer it was taken from."""
    record = source.record if source else None
    if isinstance(record, Revision):
        made = any(r.revision == row.completion and r.principle == row.principle for r in record.rounds)
        return check(made, "its completion is not one of its source's revisions under that principle")
    if isinstance(record, Answer):
        return check(record.text == row.completion, "its completion is not its source's text")
    return []


def turned_as_labelled(row: PreferenceRow, label: Entry | None, comparison: Entry | None) -> list[Fact]:
    """A preference row's probability and sides against its label and comparison."""
    preference = label.record if label else None
    if not isinstance(preference, Preference) or preference.p_a is None:
        return []
    expected = max(preference.p_a, 1 - preference.p_a)
    facts = check(expected == row.probability, f"its label gives probability {expected:.4f}")
    pair = comparison.record if comparison else None
    if isinstance(pair, Comparison):
        turned = (pair.a, pair.b) if preference.a_chosen else (pair.b, pair.a)
        facts += check(turned == (row.chosen, row.rejected), "its texts are not those its label chose and rejected")
    return facts
