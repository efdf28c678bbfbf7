"""Judgments, labels and the gate on scripted judges with known opinions."""

import math

import pytest

from constitutional.backends import open_backend
from constitutional.errors import BackendError, GateError
from constitutional.feedback.gate import labelled_examples, measure_gate, require, sureness
from constitutional.feedback.judge import choose_principles, judge, questions
from constitutional.feedback.label import label, label_by_origin, opinions
from constitutional.feedback.options import option_probability
from constitutional.feedback.sample import sample
from constitutional.principles import Constitution, Example, Principle
from constitutional.records import Comparison, Failure, Prompt, Sampling, user
from constitutional.statistics import wilson
from constitutional.templates import load_pack

PACK = load_pack("chat")
PRINCIPLES = [
    Principle(id=f"p{i}", version="1.0.0", title="t", comparison_request=f"Which is better, number {i}?", weight=i + 1)
    for i in range(3)
]


def comparison(i=0, a="sorry, no", b="yes, do it"):
    return Comparison(prompt_id=f"{i:016x}", messages=(user(f"Question {i}?"),), a=a, b=b, origin="sampled")


def scripted(tmp_path, text, name="judge.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return open_backend(f"scripted:{path}")


def ask(backend, comparisons, principles=PRINCIPLES, known=None):
    assigned = [principles] * len(comparisons)
    return list(judge(comparisons, assigned=assigned, backend=backend, pack=PACK, seed=0, known=known))


def test_a_judge_with_an_opinion_has_it_in_both_orders(tmp_path):
    backend = scripted(tmp_path, "likelihood: [{keyword: sorry, p: 0.8}]")
    found = ask(backend, [comparison(0), comparison(1, a="yes", b="sorry")])
    assert len(found) == 2 * 3 * 2
    assert [j.order for j in found[:2]] == ["ab", "ba"]
    for judgment in found:
        assert judgment.outcome == "preference" and judgment.mass == pytest.approx(1.0)
        expected = 0.8 if judgment.comparison_id == comparison(0).id else 0.2
        assert judgment.p_a == pytest.approx(expected)
    assert len({j.key for j in found}) == len({j.id for j in found}) == 12


def test_a_pure_position_judge_cancels_to_one_half(tmp_path):
    found = ask(scripted(tmp_path, 'likelihood: [{prefer_option: "A", p: 0.9}]'), [comparison()])
    assert [j.p_a for j in found] == pytest.approx([0.9, 0.1] * 3)
    for opinion in opinions(found)[comparison().id]:
        assert opinion.p_a == pytest.approx(0.5) and not opinion.consistent


def test_an_answer_without_mass_is_invalid_and_no_number(tmp_path):
    found = ask(scripted(tmp_path, "likelihood: [{keyword: sorry, p: 0.9, mass: 0.001}]"), [comparison()])
    assert {(j.outcome, j.p_a) for j in found} == {("invalid", None)}
    assert all(j.mass == pytest.approx(0.001) and len(j.logprobs) == 2 for j in found)
    (preference,) = label([comparison()], found, principles=PRINCIPLES)
    assert preference.p_a is None and preference.abstained and not preference.judgment_ids


def test_a_question_that_does_not_fit_is_an_error_judgment(tmp_path):
    backend = scripted(tmp_path, "context: 60\nlikelihood: [{keyword: sorry}]")
    found = ask(backend, [comparison(), comparison(1, a="sorry " * 100)])
    assert {j.outcome for j in found[:6]} == {"preference"} and {j.outcome for j in found[6:]} == {"error"}
    assert found[6].p_a is None and "too long" in found[6].raw


def test_a_backend_without_logprobs_names_the_fallback(tmp_path):
    with pytest.raises(BackendError, match="vote"):
        ask(scripted(tmp_path, "no_logprobs: true"), [comparison()])


def test_what_the_ledger_knows_is_not_asked_again(tmp_path):
    backend = scripted(tmp_path, "likelihood: [{keyword: sorry}]")
    first = {j.key: j for j in ask(backend, [comparison()])}

    def known(keys):
        return {k: first[k] for k in keys if k in first}

    backend.loglikelihood = None  # would raise
    assert ask(backend, [comparison()], known=known) == list(first.values())


def test_a_key_changes_with_everything_that_reaches_the_judge():
    changed = PRINCIPLES[0].model_copy(update={"comparison_request": "Which is worse?"})
    cases = [
        questions([comparison()], [[PRINCIPLES[0]]], pack=PACK, judge_model="m"),
        questions([comparison()], [[PRINCIPLES[0]]], pack=PACK, judge_model="other"),
        questions([comparison()], [[changed]], pack=PACK, judge_model="m"),
        questions([comparison(a="no")], [[PRINCIPLES[0]]], pack=PACK, judge_model="m"),
        questions([comparison()], [[PRINCIPLES[0]]], pack=load_pack("transcript"), judge_model="m"),
    ]
    keys = [question.key for case in cases for question in case]
    assert len(set(keys)) == len(keys) == 10


@pytest.mark.parametrize(
    ("logprobs", "outcome", "p", "mass"),
    [
        ((math.log(0.6), math.log(0.2)), "preference", 0.75, 0.8),
        ((math.log(0.4), math.log(0.4)), "tie", 0.5, 0.8),
        ((-1000.0, -1.0), "preference", 0.0, math.exp(-1)),
        ((float("-inf"), 0.0), "preference", 0.0, 1.0),
        ((float("nan"), -1.0), "error", None, None),
        ((-20.0, -21.0), "invalid", None, math.exp(-20) + math.exp(-21)),
        ((float("-inf"), float("-inf")), "invalid", None, 0.0),
    ],
)
def test_option_probability(logprobs, outcome, p, mass):
    got = option_probability(logprobs)
    assert got[0] == outcome
    assert got[1] == (None if p is None else pytest.approx(p, abs=1e-9))
    assert got[2] == (None if mass is None else pytest.approx(mass))


def test_label_rules_against_hand_computed_values(tmp_path):
    rules = "likelihood:\n" + "".join(
        f'  - {{anywhere: "number {i}", keyword: sorry, p: {p}}}\n' for i, p in enumerate((0.9, 0.6, 0.2))
    )
    found = ask(scripted(tmp_path, rules), [comparison()])
    (mean,) = label([comparison()], found, principles=PRINCIPLES, rule="mean")
    assert mean.p_a == pytest.approx((0.9 + 0.6 + 0.2) / 3) and mean.agreement == pytest.approx(2 / 3)
    assert set(mean.judgment_ids) == {j.id for j in found} and mean.a_chosen
    (weighted,) = label([comparison()], found, principles=PRINCIPLES, rule="weighted")
    assert weighted.p_a == pytest.approx((0.9 + 2 * 0.6 + 3 * 0.2) / 6)
    (sampled,) = label([comparison()], found, principles=PRINCIPLES, rule="sampled", seed=3)
    assert sampled.p_a in [pytest.approx(p) for p in (0.9, 0.6, 0.2)] and len(sampled.judgment_ids) == 2
    many = [comparison(i) for i in range(300)]
    judged = ask(scripted(tmp_path, rules, "two.yaml"), many)
    drawn = [p.principles[0] for p in label(many, judged, principles=PRINCIPLES, rule="sampled")]
    assert all(70 < drawn.count(p.ref) < 130 for p in PRINCIPLES)


def test_provenance_labels_need_no_judge():
    (found,) = label_by_origin([comparison()])
    assert found.p_a == 1.0 and found.rule == "provenance" and found.judgment_ids == ()
    pair = comparison().model_copy(update={"origin": "contrast"})
    assert [p.p_a for p in label_by_origin([pair])] == [1.0]
    assert [(p.p_a, p.rule) for p in label_by_origin([pair, comparison()], contrast=0.7)] == [
        (0.7, "contrast"),
        (1.0, "provenance"),
    ]


def test_how_sure_a_judge_is_where_it_is_right(tmp_path):
    examples = labelled_examples(constitution(3))
    rules = "likelihood:\n" + "".join(
        f"  - {{contains: Q{i}, keyword: sorry, p: {p}}}\n" for i, p in enumerate((0.9, 0.2, 0.6))
    )
    ref = constitution(3).principles[0]
    found = ask(scripted(tmp_path, rules), [e.comparison for e in examples], [ref])
    assert sureness(examples, found) == pytest.approx((0.9 + 0.6) / 2)
    with pytest.raises(GateError, match="right on none"):
        sureness(examples[1:2], found)
    unread = [j.model_copy(update={"outcome": "error", "p_a": None}) for j in found]
    with pytest.raises(GateError, match="right on none"):
        sureness(examples, unread)


def test_what_a_check_says_is_no_sureness_of_the_judge(tmp_path):
    by_text = constitution(3).principles[0]
    by_code = by_text.model_copy(update={"id": "code", "check": "complete"})
    examples = [
        e.model_copy(update={"principles": (by_text.ref, by_code.ref)}) for e in labelled_examples(constitution(3))
    ]
    asked = ask(
        scripted(tmp_path, "likelihood: [{keyword: sorry, p: 0.7}]"), [e.comparison for e in examples], [by_text]
    )
    certain = [j.model_copy(update={"mode": "check", "principle": by_code.ref, "p_a": 1.0}) for j in asked]
    assert sureness(examples, [*asked, *certain]) == pytest.approx(0.7)
    assert sureness(examples, certain) == 1.0  # all is code: nobody to measure
    wrong = [j.model_copy(update={"p_a": 0.2}) for j in asked]
    with pytest.raises(GateError, match="right on none"):
        sureness(examples, [*wrong, *certain])


def test_assigned_principles_depend_on_the_comparison_alone():
    chosen = choose_principles("abc", PRINCIPLES, 2, seed=0)
    assert len(chosen) == 2 and choose_principles("abc", PRINCIPLES, 2, seed=0) == chosen
    assert choose_principles("abc", PRINCIPLES, None, seed=0) == tuple(PRINCIPLES)
    assert len({choose_principles(f"{i}", PRINCIPLES, 2, seed=0) for i in range(50)}) == 3


def constitution(n):
    examples = tuple(Example(prompt=f"Q{i}", better=f"sorry {i}", worse=f"yes {i}") for i in range(n))
    principle = Principle(id="p", version="1.0.0", title="t", comparison_request="Which?", examples=examples)
    return Constitution(id="c", version="1.0.0", title="t", principles=(principle,))


def gate(tmp_path, text, n=24, fallback="stop"):
    backend = scripted(tmp_path, text)
    labelled = labelled_examples(constitution(n))
    principle = constitution(n).principles[0]
    judged = ask(backend, [item.comparison for item in labelled], [principle])
    return measure_gate(
        labelled,
        judged,
        judge=backend.model,
        template_digest=PACK.digest("judge"),
        min_order_consistency=0.6,
        fallback=fallback,
    )


def test_a_good_judge_passes_with_the_exact_interval(tmp_path):
    report = gate(tmp_path, "likelihood: [{keyword: sorry}]")
    assert report.passed and report.labels == "judge" and not report.reasons
    (row,) = report.sources
    assert (row.n, row.correct, row.accuracy, row.order_consistency) == (24, 24, 1.0, 1.0)
    assert row.interval == wilson(24, 24)
    require(report)


def test_a_position_judge_and_an_inverted_judge_fail(tmp_path):
    position = gate(tmp_path, 'likelihood: [{prefer_option: "A"}]')
    assert not position.passed and position.sources[0].same_position == 1.0
    assert any("order consistency" in reason for reason in position.reasons)
    inverted = gate(tmp_path, "likelihood: [{keyword: yes}]")
    assert not inverted.passed and inverted.sources[0].correct == 0
    with pytest.raises(GateError, match=r"did not pass its gate.*provenance"):
        require(inverted)


def test_invalid_answers_count_against_the_judge(tmp_path):
    report = gate(tmp_path, "likelihood: [{keyword: sorry, mass: 0.001}]", fallback="provenance")
    assert not report.passed and report.sources[0].unusable == 24 and report.labels == "provenance"
    require(report)


def test_sampled_pairs_and_what_makes_none(tmp_path):
    model = scripted(
        tmp_path,
        'rules:\n  - {contains: same, reply: always}\n  - {contains: empty, reply: " "}\n'
        "  - {contains: f, reply: [one, two, three, four, five]}\n  - {contains: s, reply: [one, two, three]}",
    )
    texts = ["first", "same", "empty", "second"]
    asked = [Prompt(messages=(user(t),), kind="red_team", source="t", split="train") for t in texts]
    found = list(sample(asked, policy=model, pack=PACK, sampling=Sampling(temperature=1, max_tokens=9), seed=2))
    pairs = [f for f in found if isinstance(f, Comparison)]
    kinds = [f.kind for f in found if isinstance(f, Failure)]
    assert {p.prompt_id for p in pairs} <= {asked[0].id, asked[3].id} and pairs
    assert kinds.count("identical_pair") >= 1 and kinds.count("empty_generation") == 2
    assert all(p.a != p.b and len(p.parents) == 2 and p.a_model == model.model for p in pairs)
