"""What a server refuses: whether it is the account, the item, or a wait, live and in batch files."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("openai")
pytest.importorskip("tenacity")
pytest.importorskip("aiolimiter")

from api_server import with_short_pauses
from plain_server import PlainServer, chat, error

from constitutional.backends import Unanswered
from constitutional.backends.endpoint import asking
from constitutional.backends.endpoint.backend import EndpointBackend
from constitutional.backends.endpoint.batch_files import read_batch
from constitutional.backends.endpoint.calls import Calls
from constitutional.backends.endpoint.wire import retry_after
from constitutional.errors import BackendError, PendingError
from constitutional.records import Sampling, user
from constitutional.settings import EndpointSettings

SAMPLING = Sampling(temperature=1.0, max_tokens=8, seed=3)
SETTINGS = EndpointSettings(timeout=60.0, patience=60.0)
UNPAID = [
    error(402, "Insufficient credits. Add more", code=402),
    (407, b"<html>Proxy Authentication Required</html>"),
    error(429, "You exceeded your current quota", code="insufficient_quota"),
    error(400, "Billing hard limit has been reached", code="billing_hard_limit_reached"),
    error(403, "Insufficient Balance", type="unknown_error"),
    error(400, "Your credit balance is too low to access the API", type="invalid_request_error"),
]
GEMINI = "You exceeded your current quota, please check your plan and billing details."
LLAMA = "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    with_short_pauses(monkeypatch)


def opened(server, settings=SETTINGS, calls=None):
    return EndpointBackend(f"m@{server.url}", settings, calls)


def prompts(*texts):
    return [(user(text),) for text in texts]


@pytest.mark.parametrize("told", UNPAID)
def test_an_account_without_money_ends_the_run_and_is_no_items_failure(told):
    with PlainServer(lambda path, body: chat() if "good" in str(body) else told) as server:
        backend = opened(server)
        backend.generate(prompts("good"), SAMPLING)
        with pytest.raises(BackendError, match="resume when") as caught:
            backend.generate_each(prompts("other", "third"), SAMPLING)
        assert caught.value.retryable


@pytest.mark.parametrize("status", [400, 422])
def test_an_item_that_speaks_of_money_is_rejected_alone_though_the_server_repeats_it(status):
    def say(path, body):
        told = f"Failed to parse messages: bad role; messages = {json.dumps(body['messages'])}"
        return error(status, told, type="invalid_request_error") if "odd" in str(body) else chat()

    with PlainServer(say) as server:
        odd = ("odd: what is my credit balance?", "odd: Insufficient quota!", "odd: your billing hard limit")
        found = opened(server).generate_each(prompts(*odd, "good"), SAMPLING)
        assert [getattr(one, "kind", None) for one in found] == ["rejected"] * 3 + [None]


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}, {"Retry-After": "1"}])
def test_a_rate_limit_that_speaks_of_billing_is_waited_for(headers):
    """Gemini's: a list of one error."""
    limited = [{"error": {"code": 429, "message": GEMINI, "status": "RESOURCE_EXHAUSTED"}}]

    def say(path, body):
        return chat() if len(server.asked) > 2 else (429, limited, headers)

    with PlainServer(say) as server:
        (found,) = opened(server).generate(prompts("one"), SAMPLING)
        assert found.text == "fine" and len(server.asked) == 3


def test_a_code_of_the_account_ends_the_run_though_the_server_asks_to_wait():
    told = (*error(429, "No more", code="insufficient_quota"), {"Retry-After": "1"})
    with PlainServer(lambda path, body: told) as server, pytest.raises(BackendError, match="has credit"):
        opened(server).generate(prompts("one"), SAMPLING)


def test_llamacpp_says_too_long_in_its_own_words_and_no_record_names_the_host():
    def say(path, body):
        if "long" in str(body):
            return error(400, LLAMA, code=400, type="exceed_context_size_error")
        return error(400, "roles must alternate") if "odd" in str(body) else chat()

    with PlainServer(say) as server:
        found = opened(server).generate_each(prompts("good", "long", "odd"), SAMPLING)
        assert [getattr(one, "kind", None) for one in found] == [None, "too_long", "rejected"]
        assert found[2].message == "the server says 400: roles must alternate"
        assert not any("127.0.0.1" in one.message for one in found if isinstance(one, Unanswered))


def test_batch_answers_about_the_account_are_asked_again(tmp_path):
    calls = Calls(None, offline=True)
    backend = EndpointBackend("m@http://h/v1", SETTINGS, calls)
    texts = [f"Prompt {i}" for i in range(len(UNPAID) + 2)]
    with pytest.raises(PendingError):
        backend.generate_each(prompts(*texts), SAMPLING)
    keys = [key for _, key, _ in calls.noted(waiting=True)]
    told = [*UNPAID[:1], (407, {}), *UNPAID[2:], error(400, LLAMA, type="exceed_context_size_error"), chat()]
    lines = [
        json.dumps({"custom_id": key, "response": {"status_code": status, "body": body}})
        for key, (status, body) in zip(keys, told, strict=True)
    ]
    (tmp_path / "answers.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")  # with a byte-order mark
    found = read_batch(calls, tmp_path / "answers.jsonl")
    assert (found.kept, found.rejected, found.unused) == (1, 1, {"not answered": len(UNPAID)})
    (why,) = calls.refused(backend.model, keys).values()
    assert why.kind == "too_long"
    assert len(calls.noted(waiting=True)) == len(UNPAID)


def test_pauses_stay_finite_however_many_attempts_were_made():
    state = SimpleNamespace(attempt_number=1030, outcome=SimpleNamespace(exception=lambda: None))
    assert 0 < asking._pause(state) <= asking.LONGEST_PAUSE


def test_milliseconds_that_cannot_be_read_hide_no_seconds():
    assert retry_after({"retry-after-ms": "soon", "retry-after": "5"}) == 5
    assert retry_after({"retry-after-ms": "", "retry-after": "7"}) == 7
