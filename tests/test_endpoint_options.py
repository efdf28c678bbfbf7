"""Options that a server does not list among the likeliest first tokens: bounded, finite, and no end of the run."""

import math

import pytest

pytest.importorskip("openai")
pytest.importorskip("tenacity")
pytest.importorskip("aiolimiter")

from plain_server import PlainServer, chat

from constitutional.backends.endpoint.backend import EndpointBackend
from constitutional.backends.endpoint.options import FLOOR, read_top
from constitutional.errors import BackendError
from constitutional.feedback.judging.score import grade, superiority
from constitutional.feedback.options import option_probability
from constitutional.records import assistant, user
from constitutional.settings import EndpointSettings

JUNK = tuple((f"t{i}", -9.0) for i in range(17))
LISTED = ((" A", -0.1), (" B", -3.0))
OPTIONS = (" A", " B")
GRADES = tuple(f" {i}" for i in range(1, 11))
QUESTIONS = [(user("first"),), (user("second"),)]


def likelihoods(server, options, batch=QUESTIONS):
    backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0))
    return backend.loglikelihood(batch, [options] * len(batch))


@pytest.mark.parametrize("blank", ["", "\n", " "])
def test_a_blank_token_beside_a_listed_option_begins_no_other(blank):
    top = (("A", -0.01), (blank, -5.3), *JUNK)
    assert read_top(top, OPTIONS).split == ()
    assert read_top(((blank, -0.01), *JUNK), OPTIONS).split == (0, 1)
    with PlainServer(lambda path, body: chat("A", top)) as server:
        found = likelihoods(server, OPTIONS)
        assert [one.fault for one in found] == [None, None] and len(server.asked) == 2
        assert found[0].logprobs == pytest.approx((-0.01, -9.0)) and found[0].note["unlisted"] == ["B"]


def test_a_grade_of_ten_that_is_not_listed_keeps_its_bound_where_prompts_have_no_logprobs():
    top = (("1", -0.001), *((f"t{i}", -10.0) for i in range(19)))

    with PlainServer(lambda path, body: chat("1", top)) as server:
        for one in likelihoods(server, GRADES):
            assert one.logprobs[0] == pytest.approx(-0.001) and one.logprobs[9] == pytest.approx(-10.0)


def test_a_question_of_which_no_option_is_listed_is_no_opinion_where_another_was_answered():
    def say(path, body):
        return chat("A", (("A", -0.1), ("B", -3.0)) if "second" in str(body) else (("\n", -0.01), *JUNK))

    with PlainServer(say) as server:
        first, second = likelihoods(server, OPTIONS)
        assert first.logprobs == (-math.inf, -math.inf) and second.logprobs == pytest.approx((-0.1, -3.0))


def test_a_grade_written_digit_by_digit_has_what_follows_its_first_digit():
    junk = [(f"t{i}", -14.0) for i in range(15)]

    def say(path, body):
        if body["messages"][-1]["role"] == "assistant":  # after the first digit
            return chat("0", [("0", math.log(0.95)), ("\n", math.log(0.0499)), *junk])
        first, other = ("1", "8") if "good" in str(body) else ("7", "6")
        return chat(first, [(first, math.log(0.98)), (other, math.log(0.0199)), *junk])

    with PlainServer(say) as server:
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0))
        asked = [(user("good"),), (user("middling"),)]
        ten, seven = grade(asked, backend, GRADES)
    assert ten.shares[9] == pytest.approx(0.98 * 0.95, abs=1e-3) and ten.mass == pytest.approx(1, abs=1e-3)
    assert superiority(ten.shares, seven.shares) == pytest.approx(0.98 * 0.95 + 0.0199, abs=1e-3)


@pytest.mark.parametrize(("after", "ten"), [(0.95, 0.98 * 0.95), (1e-9, 1e-6)])  # what follows "1"; a bound
def test_a_grade_that_is_not_listed_has_the_greater_of_its_bound_and_what_follows_its_first_digit(after, ten):
    def say(path, body):
        if body["messages"][-1]["role"] == "assistant":
            return chat("0", [("0", math.log(after)), ("\n", math.log(0.0499))])
        return chat("1", [("1", math.log(0.98)), ("8", math.log(0.0199)), ("x", math.log(1e-6))])

    with PlainServer(say) as server:
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0))
        (found,) = grade([(user("x"),)], backend, GRADES)
    assert math.exp(found.logprobs[9]) == pytest.approx(ten)


def test_a_grade_that_is_listed_is_taken_as_it_is_listed():
    def say(path, body):
        if body["messages"][-1]["role"] == "assistant":
            return chat("0", [("0", math.log(0.3)), ("\n", math.log(0.69))])
        return chat("1", [("1", math.log(0.6)), ("10", math.log(0.1)), ("7", math.log(0.29))])

    with PlainServer(say) as server:
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0))
        (found,) = grade([(user("x"),)], backend, GRADES)
    assert math.exp(found.logprobs[9]) == pytest.approx(0.1)
    assert math.exp(found.logprobs[0]) == pytest.approx(0.6 * 0.7)


def test_what_never_follows_a_digit_ends_no_run_where_letters_were_listed():
    """A server that tells nothing of a prompt's tokens; of the grades it lists two, and no 0 behind the 1."""

    def say(path, body):
        if body["messages"][-1]["role"] == "assistant":
            return chat("\n", [("\n", math.log(0.99)), (".", math.log(0.009))])
        return chat("7", [("7", math.log(0.6)), ("8", math.log(0.39))])

    with PlainServer(say) as server:
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0))
        (found,) = grade([(user("x"),)], backend, GRADES)
    assert found.shares[6] == pytest.approx(0.6, abs=0.01) and found.shares[7] == pytest.approx(0.39, abs=0.01)


def test_options_that_were_listed_say_nothing_of_others():
    def say(path, body):
        return chat("yes", (("yes", -0.1), ("no", -3.0)) if "applies" in str(body) else (("(", -0.01), *JUNK))

    with PlainServer(say) as server:
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0))
        backend.loglikelihood([(user("applies"),)], [(" yes", " no")])
        with pytest.raises(BackendError, match="more than one token"):
            backend.loglikelihood(QUESTIONS, [(" (A)", " (B)")] * 2)


def test_an_option_listed_as_next_to_impossible_makes_no_other_sure():
    read = read_top((("A", -9999.0), ("The", -0.2), ("x", -2.0)), OPTIONS)
    assert read.logprobs == (-math.inf, -math.inf)


def test_where_no_option_was_ever_listed_the_run_ends():
    told = chat("(", (("(", -0.01), *JUNK))
    with PlainServer(lambda path, body: told) as server, pytest.raises(BackendError, match="more than one token"):
        likelihoods(server, (" (A)", " (B)"))


@pytest.mark.parametrize(
    "top",
    [
        (("A", -0.0001), ("B", -9999.0)),
        (("A", 0.0), *((f"t{i}", -30.0) for i in range(19))),
        (("A", -0.2), ("x", -9999.0)),
        (("A", 0.0),),
    ],
)
def test_log_probabilities_stay_finite(top):
    read = read_top(top, OPTIONS)
    assert all(FLOOR <= value <= 0 for value in read.logprobs)
    assert option_probability(read.logprobs)[1] is not None
    assert read.unlisted == (() if top[1:] and top[1][0] == "B" else (1,))


def test_a_list_that_adds_up_to_one_bounds_by_its_least_token():
    read = read_top((("A", 0.0), *((f"t{i}", -12.0) for i in range(19))), OPTIONS)
    assert read.logprobs[1] == -12.0 and option_probability(read.logprobs)[1] < 1


def test_llamacpp_tells_of_a_completions_tokens_in_the_form_of_chats():
    listed = {"content": [{"token": " A", "top_logprobs": [{"token": t, "logprob": v} for t, v in LISTED]}]}
    choice = {"text": " A", "finish_reason": "length", "logprobs": listed}
    with PlainServer(lambda path, body: (200, {"model": "m", "choices": [choice]})) as server:
        (found,) = likelihoods(server, OPTIONS, [(assistant("The answer is:"),)])
        assert found.logprobs == pytest.approx((-0.1, -3.0))
