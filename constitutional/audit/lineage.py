"""What each kind of record was made from, down to principle, template, model, order, seed and prompt."""

from __future__ import annotations

from constitutional.audit.agreement import (
    applies_said,
    completion_agrees,
    label_agrees,
    parents_agree,
    probability_agrees,
    reward_agrees,
    turned_as_labelled,
)
from constitutional.audit.index import Entry, Index
from constitutional.audit.lineage_rewards import part_node
from constitutional.audit.lineage_steps import judgments_behind, step_node, system_node
from constitutional.audit.trace_node import (
    Fact,
    TraceNode,
    check,
    code_of,
    dialogue_text,
    ledger_facts,
    logprobs_text,
    missing,
    model_facts,
    principle_node,
    prompt_node,
    said_by,
    said_facts,
    seed_facts,
    template_facts,
    where,
    writer_facts,
)
from constitutional.evaluation.answers import EvaluatedAnswer
from constitutional.evaluation.checked import CheckScore
from constitutional.feedback.gate import Labelled
from constitutional.records import (
    Answer,
    Comparison,
    Judgment,
    JudgmentSample,
    Preference,
    Prompt,
    Revision,
    RevisionRound,
)
from constitutional.runs import StageResult
from constitutional.training.pm_folder import weights_identity
from constitutional.training.rows import PreferenceModelResult, PreferenceRow, RewardRow, SftRow


def lineage(ix: Index, entry: Entry) -> TraceNode:
    """The tree of one record."""
    found, record = where(entry), entry.record
    match record:
        case Prompt():
            node = prompt_node(ix, record.id)
        case Revision():
            node = _revision(ix, record)
        case Answer():
            node = _answer(ix, record)
        case Comparison():
            node = _comparison(ix, record)
        case Labelled():
            node = _labelled(ix, record)
        case Judgment():
            node = _judgment(ix, record, whole=True)
        case Preference():
            node = _preference(ix, record)
        case SftRow():
            node = _sft_row(ix, record, entry.id)
        case PreferenceRow():
            node = _preference_row(ix, record, entry.id)
        case RewardRow():
            node = _reward_row(ix, record, entry.id)
        case EvaluatedAnswer():
            node = _evaluated(ix, record)
        case StageResult():
            node = step_node(ix, record.manifest.stage)
        case _:
            raise AssertionError(f"no lineage for {entry.kind}")
    return node.model_copy(update={"facts": (*node.facts, *found)})


def _follow(ix: Index, kind: str, record_id: str) -> TraceNode:
    entry = ix.get(record_id)
    return missing(kind, record_id) if entry is None else lineage(ix, entry)


def _revision(ix: Index, revision: Revision) -> TraceNode:
    facts = writer_facts(ix, "policy", revision.policy, "policy")
    facts += writer_facts(ix, "critic", revision.critic, "feedback")
    facts += template_facts(ix, revision.template_digests)
    facts += [("seed", str(revision.seed)), ("first answer", revision.initial)]
    facts += [("first answer ended", revision.initial_finish)]
    rounds = tuple(_round(ix, i, step) for i, step in enumerate(revision.rounds, start=1))
    facts += _verdicts(ix, revision.prompt_id)
    how = "usable" if revision.usable else "flagged" if revision.revised else "the answer stays as it was"
    title = f"{len(revision.rounds)} round(s), {how}"
    prompt = prompt_node(ix, revision.prompt_id)
    return TraceNode(kind="revision", id=revision.id, title=title, facts=tuple(facts), children=(prompt, *rounds))


def _verdicts(ix: Index, prompt_id: str) -> list[Fact]:
    """What the judge said to whether principles apply to a prompt, where it was asked before revising."""
    return [
        (f"applies: {verdict.principle}", verdict.outcome if verdict.p_applies is None else f"{verdict.p_applies:.4f}")
        for verdict in ix.view.verdicts("revise")
        if verdict.prompt_id == prompt_id
    ]


def _round(ix: Index, number: int, step: RevisionRound) -> TraceNode:
    facts = [("critique", step.critique or "none asked for"), ("revision", step.revision)]
    facts += [("flags", ", ".join(step.flags) or "none"), ("candidate", str(step.candidate + 1))]
    facts += seed_facts(critique=step.critique_seed, revision=step.revision_seed)
    facts += [("score by its check", f"{step.check_score:.4f}")] if step.check_score is not None else []
    principle = principle_node(ix, step.principle, step.principle_digest, ("critique_request", "revision_request"))
    title = f"under {step.principle}"
    return TraceNode(kind="round", id=str(number), title=title, facts=tuple(facts), children=(principle,))


def _answer(ix: Index, answer: Answer) -> TraceNode:
    facts = writer_facts(ix, "model", answer.model, "policy")
    facts += [("seed", str(answer.seed)), ("draw", str(answer.index)), ("ended", answer.finish_reason)]
    facts.append(("text", answer.text))
    children = (prompt_node(ix, answer.prompt_id), step_node(ix, "helpful", inputs=False))
    return TraceNode(kind="answer", id=answer.id, title="helpful answer", facts=tuple(facts), children=children)


def _comparison(ix: Index, comparison: Comparison) -> TraceNode:
    facts: list[Fact] = [("origin", comparison.origin), ("a", comparison.a), ("b", comparison.b)]
    if comparison.principle is not None:
        facts.append(("asked under", f"{comparison.principle} (a), its negation (b)"))
    facts += [("model of a", comparison.a_model or "none"), ("model of b", comparison.b_model or "none")]
    facts += seed_facts(a=comparison.a_seed, b=comparison.b_seed)
    children: list[TraceNode] = []
    if comparison.origin in ("example", "human"):  # of no prompt of the run
        facts.append(("conversation", dialogue_text(comparison.messages)))
    else:
        children.append(prompt_node(ix, comparison.prompt_id, comparison.messages))
    if comparison.origin == "sampled":  # its answers are stored in the comparison itself, nowhere else
        facts.append(("answers drawn", ", ".join(comparison.parents)))
        children.append(step_node(ix, "sample"))
    elif comparison.parents:
        facts += parents_agree(ix, comparison)
        children += [_follow(ix, "parent", parent) for parent in comparison.parents]
    title = f"two answers to one prompt ({comparison.origin})"
    return TraceNode(kind="comparison", id=comparison.id, title=title, facts=tuple(facts), children=tuple(children))


def _labelled(ix: Index, labelled: Labelled) -> TraceNode:
    node = _comparison(ix, labelled.comparison)
    facts = (("labelled by", labelled.source), ("better", "a"), *node.facts)
    principles = [principle_node(ix, ref, None, ("comparison_request",)) for ref in labelled.principles]
    children = (*node.children, *principles)
    if labelled.source == "human":  # its conversation is not one of the run's prompts
        facts = (*facts, ("conversation", dialogue_text(labelled.comparison.messages)))
        children = tuple(principles)
    return node.model_copy(update={"kind": "labelled comparison", "facts": facts, "children": children})


def _judgment(ix: Index, judgment: Judgment, *, whole: bool) -> TraceNode:
    """`whole` puts the comparison under it as well."""
    p = "none" if judgment.p_a is None else f"{judgment.p_a:.4f}"
    mass = "none" if judgment.mass is None else f"{judgment.mass:.4f}"
    facts: list[Fact] = [("order", judgment.order), ("outcome", judgment.outcome), ("p of a", p)]
    facts += [
        ("log-probabilities", logprobs_text(judgment.logprobs)),
        ("mass", mass),
        ("mode", judgment.mode),
        ("key", judgment.key),
    ]
    facts += _asked(ix, judgment)
    facts += [("seed", str(judgment.seed)), *ledger_facts(ix, judgment)]
    facts += probability_agrees(judgment)
    requests = ("score_request" if judgment.mode == "score" else "comparison_request", "applies_when")
    children = [principle_node(ix, judgment.principle, judgment.principle_digest, requests)]
    if whole:
        children.append(_follow(ix, "comparison", judgment.comparison_id))
    title = f"{judgment.principle}, order {judgment.order}: {judgment.outcome}, p of a {p}"
    return TraceNode(kind="judgment", id=judgment.id, title=title, facts=tuple(facts), children=tuple(children))


def _asked(ix: Index, judgment: Judgment) -> list[Fact]:
    """Who judged, a model under a template or a check; and who said before that the principle applies, or does not."""
    applies = _applies(ix, judgment)
    if judgment.mode != "check":
        others = ix.view.lock.get("judges", {}).values()
        facts = [("judge", judgment.judge)]
        facts = facts if judgment.judge in others else model_facts(ix, "judge", judgment.judge, "judge")
        facts = facts + template_facts(ix, [judgment.template_digest] if judgment.template_digest else [])
        facts += [(f"sample {i}", _sample(sample)) for i, sample in enumerate(judgment.samples, start=1)]
        return facts + applies + ([("also said", judgment.raw)] if judgment.raw else [])
    known = code_of(ix, judgment.principle)
    same = check(judgment.judge in known, f"the run locked {known} as this principle's code, not {judgment.judge}")
    return [("judge", judgment.judge), ("scores", judgment.raw or "none"), *same, *applies]


def _sample(sample: JudgmentSample) -> str:
    """What a judge drew, and what was read from it."""
    p = "none" if sample.p_a is None else f"{sample.p_a:.4f}"
    return f"{sample.outcome}, p of a {p}, seed {sample.seed}: {sample.text}"


def _applies(ix: Index, judgment: Judgment) -> list[Fact]:
    said = applies_said(judgment)
    if said is None:
        return []
    # of mode "applies" judge and template are told as the judgment's own
    return said_facts(said) + (said_by(ix, said) if judgment.mode != "applies" else [])


def _preference(ix: Index, preference: Preference) -> TraceNode:
    p = "none" if preference.p_a is None else f"{preference.p_a:.4f}"
    facts: list[Fact] = [("rule", preference.rule), ("p of a", p), ("principles", ", ".join(preference.principles))]
    facts += [("agreement", f"{preference.agreement:.2f}")] if preference.agreement is not None else []
    facts += [("abstained", preference.abstained)] if preference.abstained else []
    children = [_follow(ix, "comparison", preference.comparison_id)]
    judgments: list[Judgment] = []
    for judgment_id in preference.judgment_ids:
        entry = ix.get(judgment_id)
        if entry is None or not isinstance(entry.record, Judgment):
            children.append(missing("judgment", judgment_id))
            continue
        judgments.append(entry.record)
        children.append(_judgment(ix, entry.record, whole=False))
    facts += label_agrees(ix, preference, judgments)
    title = f"label by rule '{preference.rule}': p of a {p}"
    return TraceNode(kind="preference", id=preference.id, title=title, facts=tuple(facts), children=tuple(children))


def _sft_row(ix: Index, row: SftRow, row_id: str) -> TraceNode:
    facts: list[Fact] = [("origin", row.origin), ("completion", row.completion), ("source", row.source_id)]
    facts += completion_agrees(row, ix.get(row.source_id))
    title = f"{row.origin} row" + (f" under {row.principle}" if row.principle else "")
    children = (_follow(ix, "source", row.source_id),)
    return TraceNode(kind="sft row", id=row_id, title=title, facts=tuple(facts), children=children)


def _preference_row(ix: Index, row: PreferenceRow, row_id: str) -> TraceNode:
    facts: list[Fact] = [("source", row.source), ("probability", f"{row.probability:.4f}")]
    facts += [("chosen", row.chosen), ("rejected", row.rejected), ("principles", ", ".join(row.principles))]
    facts += turned_as_labelled(row, ix.get(row.preference_id), ix.get(row.comparison_id))
    title = f"chosen over rejected with probability {row.probability:.3f}"
    children = (_follow(ix, "preference", row.preference_id),)
    return TraceNode(kind="preference row", id=row_id, title=title, facts=tuple(facts), children=children)


def _reward_row(ix: Index, row: RewardRow, row_id: str) -> TraceNode:
    failed = [part.error for part in row.parts if part.error is not None]
    none = f"none ({failed[0]})" if failed else "none (empty completion)" if not row.parts else "none"
    score = none if row.score is None else f"{row.score:.4f}"
    facts: list[Fact] = [("rl step", str(row.step)), ("score", score), ("completion", row.completion)]
    facts += reward_agrees(row)
    followed = [part_node(ix, part) for part in row.parts]
    if row.preference_model is not None:
        facts.append(("preference model", row.preference_model))
        trained = ix.view.figures("pm", "result.json", PreferenceModelResult)
        if trained is not None:
            same = trained.model == weights_identity(row.preference_model)
            facts += check(same, f"scored by {row.preference_model}, but the run's preference model is {trained.model}")
        same_prompt, behind = judgments_behind(ix, row)
        facts += behind
        followed += [_follow(ix, "preference row", row_id) for row_id in same_prompt]
    children = (prompt_node(ix, row.prompt_id), *followed, step_node(ix, "rl"))
    title = f"reward {score} at step {row.step}"
    return TraceNode(kind="reward row", id=row_id, title=title, facts=tuple(facts), children=children)


def _evaluated(ix: Index, answer: EvaluatedAnswer) -> TraceNode:
    facts: list[Fact] = [("system", answer.system)]
    own = answer.system == "base"
    facts += writer_facts(ix, "model", answer.model, "policy") if own else [("model", answer.model)]
    facts += [("label", answer.label), ("text", answer.text)]
    facts += [("ended", answer.finish_reason), ("seed", str(answer.seed))]
    facts += [("KL to base per token", "none" if answer.kl is None else f"{answer.kl:.4f}")]
    for found in ix.view.rows("evaluate", "checks.jsonl", CheckScore):
        if found.answer_id == answer.id:
            said = "not applicable" if found.score is None else f"{found.score:.4f}"
            facts.append((f"score under {found.principle}", f"{found.error or said} by {found.check}"))
    children = (
        prompt_node(ix, answer.prompt_id),
        step_node(ix, "answers", inputs=False),
        *system_node(ix, answer.system),
    )
    title = f"{answer.system} on a held-out {answer.kind} prompt: {answer.label}"
    return TraceNode(kind="evaluated answer", id=answer.id, title=title, facts=tuple(facts), children=children)
