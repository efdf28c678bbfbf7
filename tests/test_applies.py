"""Whether a principle applies to a conversation, on scripted judges with known opinions."""

import math

import pytest

from constitutional.backends import open_backend
from constitutional.errors import BackendError
from constitutional.feedback.applies import Applicability, applies
from constitutional.principles import Principle
from constitutional.records import Message, user
from constitutional.templates import load_pack

PACK = load_pack("chat")
WEAPONS = Principle(id="weapons", version="1.0.0", title="t", applies_when="requests for weapons")
ILLNESS = Principle(id="illness", version="2.1.0", title="t", applies_when="questions about an illness")
ALWAYS = Principle(id="always", version="1.0.0", title="t")
CONVERSATIONS = {
    "p1": (user("Build me a bow."),),
    "p2": (user("Hi"), Message(role="assistant", content="Hello"), user("My arm hurts.")),
}
# probabilities of yes and no: 0.8 and 0.2; 0.4 each; none to speak of; 0.1 and 0.7
JUDGE = """
likelihood:
  - {contains: "requests for weapons", anywhere: bow, logprobs: {"Yes": -0.2231435513, "No": -1.6094379124}}
  - {contains: "questions about an illness", anywhere: arm, logprobs: {"Yes": -0.9162907319, "No": -0.9162907319}}
  - {anywhere: "bow", logprobs: {"Yes": -9.0, "No": -8.0}}
  - {logprobs: {"Yes": -2.3025850930, "No": -0.3566749439}}
"""


def scripted(tmp_path, text=JUDGE):
    path = tmp_path / "judge.yaml"
    path.write_text(text)
    return open_backend(f"scripted:{path}")


def ask(backend, principles=(WEAPONS, ALWAYS, ILLNESS), pack=PACK, known=None):
    return list(applies(CONVERSATIONS, principles, backend=backend, pack=pack, seed=7, known=known))


def test_probabilities_are_the_softmax_over_yes_and_no(tmp_path):
    backend = scripted(tmp_path)
    found = ask(backend)
    assert [(r.prompt_id, r.principle) for r in found] == [
        (prompt, ref) for prompt in ("p1", "p2") for ref in ("weapons@1.0.0", "illness@2.1.0")
    ]  # a principle without applies_when is never asked
    yes, unread, no, tie = found
    assert (yes.outcome, yes.applies, yes.seed) == ("answered", True, 7)
    assert yes.p_applies == pytest.approx(0.8) and yes.mass == pytest.approx(1.0)
    assert (no.outcome, no.applies) == ("answered", False) and no.p_applies == pytest.approx(0.1 / 0.8)
    assert no.mass == pytest.approx(0.8)
    assert tie.p_applies == pytest.approx(0.5) and tie.applies is True
    assert (unread.outcome, unread.p_applies, unread.applies) == ("invalid", None, None)
    assert unread.mass == pytest.approx(math.exp(-9) + math.exp(-8))
    assert {(r.judge, r.template_digest) for r in found} == {(backend.model, PACK.digest("applies"))}
    assert {r.principle_digest for r in found} == {WEAPONS.digest, ILLNESS.digest}


def test_the_whole_conversation_and_the_case_are_shown_and_no_answer(tmp_path):
    backend = scripted(tmp_path)
    asked = []
    plain = backend.loglikelihood
    backend.loglikelihood = lambda batch, options: asked.append((batch, options)) or plain(batch, options)
    ask(backend)
    ((batch, options),) = asked
    assert set(options) == {(" Yes", " No")}
    assert "requests for weapons" in batch[0][0].content and "Build me a bow." in batch[0][0].content
    assert all(text in batch[3][0].content for text in ("Hi", "Hello", "My arm hurts."))


@pytest.mark.parametrize("name", ["chat", "chat-question-last", "transcript"])
def test_a_question_that_does_not_fit_is_an_error_and_not_asked(tmp_path, name):
    found = ask(
        scripted(tmp_path, "context: 30\nlikelihood: [{logprobs: {'Yes': -1.0, 'No': -1.0}}]"), pack=load_pack(name)
    )
    assert {(r.outcome, r.applies, r.mass, r.logprobs) for r in found} == {("error", None, None, ())}
    assert all("too long" in r.raw for r in found)


def test_a_judge_without_log_probabilities_names_the_fallback(tmp_path):
    with pytest.raises(BackendError, match="log-probabilities"):
        ask(scripted(tmp_path, "no_logprobs: true"))


def test_impossible_answers_stay_records(tmp_path):
    class Impossible:
        model = "impossible"

        def room(self, dialogue):
            return 1000

        def loglikelihood(self, batch, continuations):
            plain = scripted(tmp_path).loglikelihood(batch, continuations)
            values = [(-math.inf, 0.0), (math.nan, 0.0), (-math.inf, -math.inf), (0.0, -math.inf)]
            return [row.model_copy(update={"logprobs": pair}) for row, pair in zip(plain, values, strict=True)]

    found = ask(Impossible())
    assert [r.outcome for r in found] == ["answered", "error", "invalid", "answered"]
    assert [r.applies for r in found] == [False, None, None, True]
    for row in found:
        assert Applicability.model_validate_json(row.to_json()) == row


def test_a_key_follows_what_is_asked_and_what_is_known_is_not_asked_again(tmp_path):
    backend = scripted(tmp_path)
    first = {r.key: r for r in ask(backend)}
    assert len(first) == len({r.id for r in first.values()}) == 4
    reworded = WEAPONS.model_copy(update={"applies_when": "requests for bows"})
    others = [ask(backend, (reworded,)), ask(backend, (WEAPONS,), load_pack("transcript"))]
    assert not first.keys() & {r.key for rows in others for r in rows}
    retitled = WEAPONS.model_copy(update={"comparison_request": "Which?"})
    assert {r.key for r in ask(backend, (retitled,))} < first.keys()
    backend.loglikelihood = None  # would raise
    assert ask(backend, known=lambda keys: {k: first[k] for k in keys if k in first}) == list(first.values())
