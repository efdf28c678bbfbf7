"""Every mode of judging on scripted judges, its arithmetic against hand-computed values and brute force."""

import itertools
import json
import math

import pytest

from constitutional.audit.agreement import probability_agrees
from constitutional.backends import open_backend
from constitutional.feedback.judge import judge, questions
from constitutional.feedback.judging.by_model import score_preference
from constitutional.feedback.judging.cot import concluded
from constitutional.feedback.judging.drawn import declines, one_opinion
from constitutional.feedback.judging.score import expected_score, grade, grade_shares, superiority
from constitutional.feedback.judging.vote import verdict
from constitutional.feedback.judging.ways import Way
from constitutional.feedback.label import label, opinions
from constitutional.few_shots import ComparisonShot, FewShots
from constitutional.pack_settings import GRADES
from constitutional.principles import Principle
from constitutional.records import Comparison, Judgment, JudgmentSample, Sampling, assistant, user
from constitutional.templates import load_pack

PACK = load_pack("chat")
KIND = Principle(
    id="kind", version="1.0.0", title="t", comparison_request="Which is kinder?", score_request="How kind?"
)
DRAW = Sampling(temperature=1.0, max_tokens=40, seed=3)
COT, VOTE = Way("cot", samples=4, sampling=DRAW), Way("vote", samples=5, sampling=DRAW)
ONE_TOKEN = dict.fromkeys((str(i) for i in range(1, 11)), 0.0)


def comparison(i=0, a="sorry, no", b="yes, do it"):
    return Comparison(prompt_id=f"{i:016x}", messages=(user(f"Question {i}?"),), a=a, b=b, origin="sampled")


def scripted(tmp_path, text, name="judge.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return open_backend(f"scripted:{path}")


def ask(backend, way, comparisons=None, pack=PACK, **more):
    pairs = comparisons or [comparison()]
    return list(judge(pairs, assigned=[[KIND]] * len(pairs), backend=backend, pack=pack, seed=0, way=way, **more))


def traced(judgments):
    """Every judgment's p follows from what it keeps, and a changed p does not."""
    for judgment in judgments:
        assert probability_agrees(judgment) == []
        if judgment.p_a is not None:
            damaged = judgment.model_copy(update={"p_a": (judgment.p_a + 0.3) % 1})
            assert "PROBLEM" in dict(probability_agrees(damaged))


def test_the_first_mode_has_the_keys_and_ids_it_always_had(tmp_path):
    plain = Principle(id="p0", version="1.0.0", title="t", comparison_request="Which is better, number 0?")
    keys = {
        name: [q.key[:16] for q in questions([comparison()], [[plain]], pack=load_pack(name), judge_model="m")]
        for name in ("chat", "transcript")
    }
    assert keys == {
        "chat": ["d5e2dc27f41fa17d", "1e9bc8fc0271a751"],
        "transcript": ["e6f95bedd6426974", "4b39e82e63716da7"],
    }
    backend = scripted(tmp_path, "likelihood: [{keyword: sorry, p: 0.8}]")
    found = list(judge([comparison()], assigned=[[plain]], backend=backend, pack=PACK, seed=0))
    assert [j.id for j in found] == ["2c5f9c03d3d2b7f4", "46642d7c07650092"]
    assert "samples" not in json.loads(found[0].to_json())


REASONS = """
rules: [{contains: kinder, reply: ["First is rude {n}.", "Second is rude {n}.", "I'm sorry, but I can't judge this."]}]
likelihood:
  - {anywhere: "First is rude", logprobs: {A: -2.3025850929940455, B: -0.2231435513142097}}
  - {anywhere: "Second is rude", logprobs: {A: -0.10536051565782628, B: -2.3025850929940455}}
"""


def test_cot_reads_the_options_behind_each_reasoning_and_averages_them(tmp_path):
    found = ask(scripted(tmp_path, REASONS), COT, [comparison(i) for i in range(6)])
    seen = set()
    for judgment in found:
        assert judgment.mode == "cot" and len(judgment.samples) == 4 and not judgment.logprobs
        assert len({s.seed for s in judgment.samples}) == 4
        first = []
        for sample in judgment.samples:
            kind = sample.text.split()[0]
            seen.add(kind)
            if kind == "I'm":
                assert (sample.outcome, sample.p_a, sample.logprobs) == ("refused", None, ())
                continue
            # 0.1 of 0.9, and 0.9 of 1.0, for the answer shown first
            p = {"First": 0.1 / 0.9, "Second": 0.9}[kind]
            first.append(p)
            assert sample.p_a == pytest.approx(p if judgment.order == "ab" else 1 - p)
            assert sample.mass == pytest.approx({"First": 0.9, "Second": 1.0}[kind])
        mean = sum(first) / len(first) if first else None
        assert judgment.p_a == (None if mean is None else pytest.approx(mean if judgment.order == "ab" else 1 - mean))
        assert judgment.outcome == ("preference" if first else "refused")
        assert judgment.usage.completion_tokens > 0
    assert seen == {"First", "Second", "I'm"}
    traced(found)
    assert ask(scripted(tmp_path, REASONS), COT, [comparison(i) for i in range(6)]) == found


def test_the_conclusion_stands_between_reasoning_and_options():
    (question, _) = questions([comparison()], [[KIND]], pack=PACK, judge_model="m", way=COT)
    last = concluded(question.dialogue, " A is kind.\n", PACK.conclusion)
    assert last[:-1] == question.dialogue[:-1]
    assert last[-1] == assistant("Let's think step by step: A is kind.\n\nSo the answer is:")
    assert concluded((user("q"),), " x\n", " So:") == (user("q"), assistant("x So:"))
    raw = load_pack("transcript")
    (question, _) = questions([comparison()], [[KIND]], pack=raw, judge_model="m", way=COT)
    (text,) = concluded(question.dialogue, " x", raw.conclusion)
    assert text.content.endswith("Let's think step by step: x\n\nSo the answer is:")


def test_only_labels_clamp_and_only_what_was_reasoned(tmp_path):
    sure = 'rules: [{contains: kinder, reply: "hm {n}"}]\nlikelihood: [{keyword: sorry, p: 0.97}]'
    pairs = [comparison(0), comparison(1, a="yes", b="sorry")]
    reasoned = ask(scripted(tmp_path, sure), COT, pairs)
    assert [j.p_a for j in reasoned] == pytest.approx([0.97, 0.97, 0.03, 0.03])
    assert [o[0].p_a for o in opinions(reasoned).values()] == pytest.approx([0.97, 0.03])

    def labels(judgments, **settings):
        return [p.p_a for p in label(pairs, judgments, principles=[KIND], **settings)]

    assert labels(reasoned) == [0.6, 0.4]
    assert labels(reasoned, clamp=(0.2, 0.8)) == [0.8, 0.2]
    assert labels(reasoned, clamp=None) == pytest.approx([0.97, 0.03])
    plain = ask(scripted(tmp_path, sure), Way(), pairs)
    assert labels(plain) == pytest.approx([0.97, 0.03])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, 0) for text in ("A", " A\n", "(A)", "**A**", "A.", "Answer: A", "The answer is (A).", "Response A")),
        *((text, 0) for text in ("\n\nA\nbecause it is kind", "The better response is: A", "answer: response A")),
        *((text, 1) for text in ("B", " (B)", "Option B.", "Final answer: B")),
        *(
            (text, None)
            for text in ("", " \n", "C", "A or B", "AB", "A is better", "a", "Neither", "not A", "I think A")
        ),
        *((text, None) for text in ("A\u0301", "Assistant: A, no B", "Answer:", "Both (A) and (B)", "A" * 500)),
    ],
)
def test_a_verdict_is_read_strictly(text, said):
    assert verdict(text, (" A", " B")) == said
    assert verdict(text, (" (A)", " (B)")) == said


@pytest.mark.parametrize(
    ("text", "declined"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m sorry, I cannot judge this.", True),
        ("I cannot compare these.", True),
        ("As an AI language model, I am unable to choose.", True),
        ("Unfortunately, I won't answer.", True),
        ("I would rather not say.", True),
        ("Response A says: I'm sorry, I can't help. That is kind.", False),
        ("A", False),
        ("I can not only see that A is kind", True),  # a known miss of a rule on words
        ("I think that A is better.", False),
        ("Sorry is what A says first.", False),
    ],
)
def test_declining_is_read_from_how_a_reply_begins(text, declined):
    assert declines(text) == declined


def test_votes_are_counted_and_the_unread_stay_in_sight(tmp_path):
    text = 'no_logprobs: true\nrules: [{contains: kinder, reply: ["A", "B", "(A)", "A is", "I cannot choose."]}]'
    found = ask(scripted(tmp_path, text), VOTE, [comparison(i) for i in range(20)])
    outcomes = set()
    for judgment in found:
        votes = [{"A": 1, "(A)": 1, "B": 0}.get(s.text) for s in judgment.samples]
        read = [vote for vote in votes if vote is not None]
        outcomes |= {s.outcome for s in judgment.samples}
        first = sum(read) / len(read)
        assert judgment.p_a == pytest.approx(first if judgment.order == "ab" else 1 - first)
        assert len(votes) == 5 and judgment.mass is None
        assert judgment.outcome == ("tie" if first == 0.5 else "preference")
    assert outcomes == {"preference", "invalid", "refused"}
    traced(found)
    for reply, outcome in (("I cannot choose.", "refused"), ("Hm.", "invalid")):
        nothing = ask(scripted(tmp_path, f'rules: [{{contains: kinder, reply: "{reply}"}}]', "n.yaml"), VOTE)
        assert {(j.outcome, j.p_a) for j in nothing} == {(outcome, None)}
        (given,) = label([comparison()], nothing, principles=[KIND])
        assert given.p_a is None
    (small, _) = ask(scripted(tmp_path, "context: 50", "s.yaml"), VOTE)
    assert (small.outcome, small.p_a, small.raw) == ("error", None, "too long for the judge's context")
    assert {(s.outcome, s.finish_reason) for s in small.samples} == {("error", None)}


def sample(outcome, p_a=None):
    return JudgmentSample(text="", finish_reason="stop", outcome=outcome, p_a=p_a, seed=0)


def test_one_opinion_out_of_many_samples():
    no, bad, lost = sample("refused"), sample("invalid"), sample("error")
    assert one_opinion([sample("preference", 0.9), no, bad, sample("preference", 0.2)]) == ("preference", 0.55)
    assert one_opinion([sample("preference", 1.0), sample("preference", 0.0)]) == ("tie", 0.5)
    assert one_opinion([no, bad]) == ("refused", None) and one_opinion([no, bad, bad]) == ("invalid", None)
    assert one_opinion([lost, lost]) == ("error", None) and one_opinion([lost, no]) == ("refused", None)


def test_scores_equal_brute_force():
    shares = grade_shares([math.log(weight) for weight in (1, 2, 3, 4, 10)])
    assert shares == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.5])
    assert expected_score(shares) == pytest.approx(
        sum(s * v for s, v in zip(shares, (-1, -0.5, 0, 0.5, 1), strict=True))
    )
    assert expected_score([1, 0, 0]) == -1 and expected_score([0, 0, 1]) == 1 and expected_score([0.5, 0, 0.5]) == 0
    other = [0.3, 0.3, 0.2, 0.1, 0.1]
    brute = sum(
        shares[i] * other[j] * (1 if i > j else 0.5 if i == j else 0) for i, j in itertools.product(range(5), repeat=2)
    )
    assert superiority(shares, other) == pytest.approx(brute)
    assert superiority(shares, other) + superiority(other, shares) == pytest.approx(1)
    assert superiority([0, 1], [1, 0]) == 1 and superiority([0.5, 0.5], [0.5, 0.5]) == 0.5


def test_each_answer_is_graded_alone_and_once(tmp_path):
    def rule(where, low):
        logs = {grade.strip(): math.log(0.08 + 0.004 * i * low) for i, grade in enumerate(GRADES)}
        given = ", ".join(f'"{name}": {value}' for name, value in {**logs, "0": -2.0}.items())
        return f"  - {{anywhere: '{where}', logprobs: {{{given}}}}}\n", list(logs.values())

    kind, by_kind = rule("Response: sorry", 1)
    rude, by_rude = rule("Response: yes", -1)
    backend = scripted(tmp_path, f"likelihood:\n{kind}{rude}")
    pairs = [comparison(0), comparison(0, b="yes, at once")]
    calls = []
    plain = backend.loglikelihood
    backend.loglikelihood = lambda batch, options: calls.append(batch) or plain(batch, options)
    found = ask(backend, Way("score"), pairs)
    assert len(calls) == 1 and len(calls[0]) == 2 * 3  # three answers, and what follows "1" after each
    ends = math.log(1 - math.exp(-2.0))  # "1" counts where no "0" follows
    shares = [grade_shares([logs[0] + ends, *logs[1:]]) for logs in (by_kind, by_rude)]
    for judgment in found:
        assert judgment.p_a == pytest.approx(superiority(*shares)) and judgment.outcome == "preference"
        scores = json.loads(judgment.raw)
        assert scores == {"a": pytest.approx(expected_score(shares[0])), "b": pytest.approx(expected_score(shares[1]))}
        assert scores["a"] > scores["b"] and len(judgment.logprobs) == 20
        assert judgment.mass == pytest.approx(sum(map(math.exp, by_rude)) - math.exp(by_rude[0] - 2.0))
    assert sum(j.usage.prompt_tokens > 0 for j in found) == 2  # two pairs, both orders: paid once
    traced(found)
    none = ", ".join(f'"{name}": -9.0' for name in (*map(str.strip, GRADES), "0"))
    low = ask(scripted(tmp_path, f"likelihood: [{{contains: kind, logprobs: {{{none}}}}}]", "low.yaml"), Way("score"))
    assert {(j.outcome, j.p_a, j.raw) for j in low} == {("invalid", None, None)} and low[0].mass < 0.01
    small = ask(scripted(tmp_path, "context: 30", "small.yaml"), Way("score"))
    assert {(j.outcome, j.p_a, j.raw) for j in small} == {("error", None, "too long for the judge's context")}


def test_grades_that_no_other_begins_are_read_as_they_are(tmp_path):
    backend = scripted(
        tmp_path, 'likelihood: [{anywhere: q, logprobs: {"1": -1.0, "2": -2.0, "3": -.inf}}]'.replace("-.inf", "-90.0")
    )
    (found,) = grade([(user("q"),)], backend, (" 1", " 2", " 3"))
    assert found.logprobs == (-1.0, -2.0, -90.0) and found.mass == pytest.approx(math.exp(-1) + math.exp(-2))


class Scorer:
    """A preference model that likes long answers."""

    model = "pm-of-lengths"

    def __init__(self):
        self.scored = []

    def score(self, dialogues):
        self.scored += dialogues
        return [len(dialogue[-1].content) / 10 for dialogue in dialogues]


def test_a_preference_model_judges_by_the_difference_of_its_scores():
    scorer = Scorer()
    found = ask(scorer, Way("model"), [comparison(a="x" * 30, b="y" * 10), comparison(a="x" * 30, b="z" * 30)])
    assert [j.p_a for j in found] == pytest.approx([1 / (1 + math.exp(-2))] * 2 + [0.5] * 2)
    assert [j.outcome for j in found] == ["preference"] * 2 + ["tie"] * 2
    assert json.loads(found[0].raw) == {"a": 3.0, "b": 1.0} and found[0].template_digest == ""
    assert len(scorer.scored) == 3 and scorer.scored[0] == (user("Question 0?"), assistant("x" * 30))
    traced(found)
    assert score_preference(1e9, -1e9) == ("preference", pytest.approx(1.0))
    assert score_preference(-1e9, 1e9)[1] == pytest.approx(0.0)
    damaged = found[0].model_copy(update={"raw": "[not json"})
    assert "PROBLEM" in dict(probability_agrees(damaged))


WAYS = [COT, VOTE, Way("score"), Way("model")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.mode)
def test_what_the_ledger_knows_is_not_asked_again_in_any_mode(tmp_path, way):
    text = 'rules: [{contains: kinder, reply: ["A", "B"]}]'
    backend = Scorer() if way.mode == "model" else scripted(tmp_path, text)
    first = {j.key: j for j in ask(backend, way)}
    assert len(first) == 2

    class Silent:
        model = backend.model

    assert ask(Silent(), way, known=lambda keys: {k: first[k] for k in keys if k in first}) == list(first.values())
    for judgment in first.values():
        assert Judgment.model_validate_json(judgment.to_json()) == judgment


def test_a_key_changes_with_everything_a_mode_depends_on():
    shots = FewShots(comparison=(ComparisonShot.model_validate_json(SHOT),))
    other = KIND.model_copy(update={"score_request": "How very kind?"})

    def keys(way, principle=KIND, pack=PACK, model="m"):
        return [q.key for q in questions([comparison()], [[principle]], pack=pack, judge_model=model, way=way)]

    ways = [Way(), *WAYS, Way("cot", 5, DRAW), Way("vote", 4, DRAW)]
    ways += [
        Way("cot", 4, DRAW.model_copy(update=change))
        for change in ({"seed": 4}, {"temperature": 0.5}, {"max_tokens": 9})
    ]
    found = [key for way in ways for key in keys(way)]
    found += keys(Way("score"), other) + keys(Way("score"), model="n")
    found += [key for way in WAYS[:3] for key in keys(way, pack=load_pack("transcript"))]
    found += [key for way in (COT, VOTE) for key in keys(way, pack=PACK.with_few_shots(shots))]
    assert len(set(found)) == len(found)
    assert keys(COT, other) == keys(COT)  # another mode's request is not asked


SHOT = json.dumps(
    {
        "conversation": [{"role": "user", "content": "How?"}],
        "better": "Gently.",
        "worse": "Hard.",
        "reasoning": "(A) is gentle.",
    }
)


def test_few_shots_show_principles_drawn_for_each_of_them():
    shot = ComparisonShot.model_validate_json(SHOT)
    asked = shot.model_copy(update={"comparison_request": "Which is SHORTER?"})
    pack = load_pack("transcript").with_few_shots(FewShots(comparison=(shot, shot, shot, asked)))
    requests = ("Which is CALMER?", "Which is WISER?", "Which is kinder?")
    way = Way(shot_requests=requests, seed=1)

    def shown(way, i):
        pair = questions([comparison(i)], [[KIND]], pack=pack, judge_model="m", way=way)
        texts = [question.dialogue[0].content for question in pair]
        return [
            [next((r for r in (*requests, "Which is SHORTER?") if r in part), "") for part in t.split("Here is")[1:]]
            for t in texts
        ]

    same = shown(Way(), 0)
    assert same == [["Which is kinder?"] * 3 + ["Which is SHORTER?", "Which is kinder?"]] * 2
    drawn = [shown(way, i) for i in range(60)]
    assert all(ab == ba and ab[3:] == ["Which is SHORTER?", "Which is kinder?"] for ab, ba in drawn)
    combinations = {tuple(ab[:3]) for ab, _ in drawn}
    assert len(combinations) > 15  # of 27: independent of one another
    for request in requests:
        assert 40 < sum(ab[:3].count(request) for ab, _ in drawn) < 80
    keys = [questions([comparison()], [[KIND]], pack=pack, judge_model="m", way=w)[0].key for w in (Way(), way)]
    assert keys[0] != keys[1]


def test_a_judge_that_reasons_is_shown_reasonings_and_a_voter_letters():
    shot = ComparisonShot.model_validate_json(SHOT)
    bare = shot.model_copy(update={"reasoning": None})
    assert "reasoning" not in json.loads(bare.to_json())  # digests of shots without one stay
    pack = PACK.with_few_shots(FewShots(comparison=(shot, bare)))
    (cot, _) = questions([comparison()], [[KIND]], pack=pack, judge_model="m", way=COT)
    assert [m.content for m in cot.dialogue if m.role == "assistant"] == [
        "Let's think step by step: (A) is gentle.\n\nSo the answer is: A",
        "Let's think step by step:",
    ]
    (vote, _) = questions([comparison()], [[KIND]], pack=pack, judge_model="m", way=VOTE)
    assert [m.content for m in vote.dialogue if m.role == "assistant"] == ["A", "B"]
