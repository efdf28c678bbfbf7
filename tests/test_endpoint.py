"""What an answer is, how options are read, and where a key may go: functions, no server."""

import json
import math

import pytest

from constitutional.backends.endpoint.address import api_key, key_variable, parse_address, redacted
from constitutional.backends.endpoint.answers import parse, read_answer
from constitutional.backends.endpoint.faults import Garbage, NoLogprobs, Rejected
from constitutional.backends.endpoint.options import read_tail, read_top
from constitutional.backends.endpoint.requests import completion_request, harmless, prompt_request, top_request
from constitutional.backends.endpoint.wire import retry_after
from constitutional.backends.identity import identify
from constitutional.backends.specs import split_spec
from constitutional.errors import ConfigError
from constitutional.feedback.options import option_probability
from constitutional.records import Sampling, assistant, user

ADDRESS = parse_address("m@http://127.0.0.1:8000/v1")
LOG = math.log


def test_identity_names_the_model_and_not_the_host():
    one = identify("openai:org/big@https://inner.example/v1/", "auto")
    assert one == identify("openai:org/big@https://inner.example/v1", "float32")
    assert one.startswith("openai:org/big@") and "inner" not in one
    assert one != identify("openai:org/big@https://outer.example/v1", "auto")
    assert parse_address("@cf/m@http://h/v1").model == "@cf/m"


@pytest.mark.parametrize(
    "rest",
    [
        "m",
        "m@",
        "@http://h/v1",
        "m@ftp://h/v1",
        "m@h/v1",
        "m@http://",
        "m@http://h:port/v1",
        "m@http://h/v1?key=hush",
        "m m@http://h",
    ],
)
def test_bad_specs_are_one_line(rest):
    with pytest.raises(ConfigError) as caught:
        split_spec(f"openai:{rest}")
    assert "\n" not in str(caught.value) and "hush" not in str(caught.value)


def test_a_password_in_a_spec_is_refused_and_not_repeated():
    with pytest.raises(ConfigError) as caught:
        split_spec("openai:m@http://user:hush@host/v1")
    assert "hush" not in str(caught.value)


def test_keys_go_to_their_own_host_only(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", key_variable(ADDRESS)):
        monkeypatch.delenv(name, raising=False)
    openai = parse_address("gpt@https://api.openai.com/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-general")
    assert api_key(openai) == "sk-general"
    assert api_key(ADDRESS) is None  # a stranger's recipe cannot have it sent to another host
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    assert api_key(ADDRESS) == "sk-general"
    monkeypatch.setenv("CONSTITUTIONAL_KEY_127_0_0_1_8000", "own")
    assert api_key(ADDRESS) == "own"
    assert redacted("you sent own", ["own"]) == "you sent [key]"


def test_options_are_the_tokens_that_read_as_them():
    top = ((" A", LOG(0.5)), ("A", LOG(0.1)), (" B", LOG(0.3)), (" An", LOG(0.05)))
    read = read_top(top, (" A", " B"))
    assert [math.exp(p) for p in read.logprobs] == pytest.approx([0.6, 0.3])
    assert read.missing == pytest.approx(0.05) and read.unlisted == read.split == ()
    assert option_probability(read.logprobs)[1] == pytest.approx(2 / 3)


def test_what_is_not_listed_has_its_upper_bound_and_is_named():
    read = read_top(((" A", LOG(0.7)), (" the", LOG(0.2))), (" A", " B"))
    assert math.exp(read.logprobs[1]) == pytest.approx(0.1)  # all that is left over
    assert read.unlisted == (1,) and read.missing == pytest.approx(0.1)
    read = read_top(((" A", LOG(0.7)), (" the", LOG(0.04))), (" A", " B"))
    assert math.exp(read.logprobs[1]) == pytest.approx(0.04)  # no more than the least that is listed


def test_no_option_listed_is_no_opinion():
    read = read_top(((" the", LOG(0.4)), (" a", LOG(0.2))), (" A", " B"))
    assert read.logprobs == (-math.inf, -math.inf)
    assert option_probability(read.logprobs)[:2] == ("invalid", None)


def test_options_of_several_tokens_are_read_token_by_token():
    read = read_top(((" (", LOG(0.98)), (" A", LOG(0.01))), (" (A)", " (B)"))
    assert read.split == (0, 1)
    grades = read_top(((" 1", LOG(0.6)), (" 2", LOG(0.4))), (" 1", " 2", " 10"))
    assert grades.split == (2,)
    grades = read_top(((" 1", LOG(0.5)), (" 2", LOG(0.3)), (" 10", LOG(0.2))), (" 1", " 2", " 10"))
    assert grades.split == () and math.exp(grades.logprobs[2]) == pytest.approx(0.2)


def test_the_tail_of_a_prompt_is_summed_to_where_the_option_begins():
    tokens = (("Answer", -1.0), (":", -0.5), (" (", -0.25), ("A", -2.0), (")", -0.125))
    assert read_tail(tokens, " (A)") == pytest.approx(-2.375)
    assert read_tail((*tokens, ("\n", -3.0)), " (A)") is None  # white space behind the option is no part of it
    assert read_tail((("Answer", -1.0), (": (", -0.25), ("A)", -2.0)), " (A)") is None
    assert read_tail((("x", -1.0), ("(A)", -2.0)), " (A)") == -2.0  # tokenizers that show no leading space


@pytest.mark.parametrize(
    ("text", "shown"),
    [("<|im_end|>", "< |im_end|>"), ("a </s> b", "a < /s> b"), ("[INST]", "[ INST]"), ("<｜eos｜>", "< ｜eos｜>")],
)
def test_control_tokens_in_texts_are_broken(text, shown):
    assert harmless(text) == shown


def test_half_a_surrogate_pair_can_be_sent():
    assert harmless("a \ud800 b") == "a \ufffd b"


def test_plain_text_stays_as_it_is():
    for text in ("if a < b | c > d", "[1] <b>bold</b>", "A|B", "<s3>", "x<y"):
        assert harmless(text) == text


def test_an_opening_is_continued_where_servers_can_and_asked_for_elsewhere():
    dialogue = (user("Rewrite."), assistant("I'm"))
    sampling = Sampling(temperature=1.0, max_tokens=9, stop=("a", "b", "c", "d", "e"))
    here, opening = completion_request(ADDRESS, dialogue, sampling, 7, "vllm")
    assert here.body["continue_final_message"] is True and opening == ""
    assert here.body["messages"][-1] == {"role": "assistant", "content": "I'm"}
    there, opening = completion_request(ADDRESS, dialogue, sampling, 7, "openai")
    assert opening == "I'm" and there.body["messages"][-1]["content"].endswith("exactly these words: I'm")
    assert "continue_final_message" not in there.body and len(there.body["stop"]) == 4
    assert "prompt" in top_request(ADDRESS, (assistant("Human: x"),), "").body
    assert prompt_request(ADDRESS, dialogue, " (A)", "openai") is None
    assert prompt_request(ADDRESS, dialogue, " (A)", "vllm").body["messages"][-1]["content"] == "I'm (A)"
    assert prompt_request(ADDRESS, (assistant("Human: x"),), " (A)", "").body["echo"] is True


def chat(**changes):
    choice = {"finish_reason": "stop", "message": {"content": "A"}, "logprobs": None} | changes
    return {"model": "m-1", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


def test_a_good_answer_is_read():
    found = read_answer(chat(), chat=True, asked={})
    assert (found.text, found.finish, found.prompt_tokens, found.served) == ("A", "stop", 3, "m-1")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b'{"a": NaN}', b'{"a": 1', b"\xff{}", b"[" * 5000, b'{"a": Infinity}']
)
def test_bodies_that_are_no_object_are_garbage(body):
    with pytest.raises(Garbage):
        parse(body)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"choices": []},
        {"choices": {"message": "A"}},
        {"choices": [None]},
        chat(message=None),
        chat(message={"content": None}),
        chat(message={"content": ["A"]}),
        chat(finish_reason=None),
        chat(finish_reason="tool_calls"),
    ],
)
def test_half_answers_are_garbage(found):
    with pytest.raises(Garbage):
        read_answer(found, chat=True, asked={})


def test_a_filtered_answer_is_not_asked_for_again():
    with pytest.raises(Rejected):
        read_answer(chat(finish_reason="content_filter"), chat=True, asked={})


@pytest.mark.parametrize("value", [None, "nan", True, 0.7, -math.inf, [1]])
def test_log_probabilities_that_are_none_are_garbage(value):
    listed = {"content": [{"top_logprobs": [{"token": "A", "logprob": value}]}]}
    with pytest.raises(Garbage):
        read_answer(chat(logprobs=listed), chat=True, asked={"logprobs": True})


def test_log_probabilities_that_are_missing_or_sum_above_one_are_garbage():
    with pytest.raises(NoLogprobs):
        read_answer(chat(), chat=True, asked={"logprobs": True})
    two = [{"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -0.2}]
    with pytest.raises(Garbage):
        read_answer(chat(logprobs={"content": [{"top_logprobs": two}]}), chat=True, asked={"logprobs": True})


def test_prompt_logprobs_and_echo_are_read():
    rows = [None, {"5": {"logprob": -0.5, "decoded_token": " A"}}, {"6": {"logprob": -1.5, "decoded_token": ")"}}]
    found = read_answer(chat() | {"prompt_logprobs": rows}, chat=True, asked={"prompt_logprobs": 0})
    assert found.prompt == ((" A", -0.5), (")", -1.5))
    for drawn, usage in (([" is"], 1), ([" is"], None), ([], 0)):  # what was drawn stands behind what was asked
        echoed = {"tokens": ["x", " A", *drawn], "token_logprobs": [None, -0.5, *(-0.1 for _ in drawn)]}
        said = chat(text="x A", logprobs=echoed)
        said["usage"] = {"prompt_tokens": 2, "completion_tokens": usage} if usage is not None else None
        found = read_answer(said, chat=False, asked={"echo": True, "logprobs": 1})
        assert found.prompt == ((" A", -0.5),)


def test_retry_after_is_seconds_milliseconds_or_a_date():
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}) > 0
    assert retry_after({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}) == 0
    for nonsense in ("soon", "nan", "-3", "inf", ""):
        assert retry_after({"retry-after": nonsense}) == 0
    assert retry_after({}) == 0


def test_no_fault_reaches_json():
    json.dumps(read_answer(chat(message={"content": "\ud800"}), chat=True, asked={}).model_dump(mode="json"))
