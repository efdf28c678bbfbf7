"""Calls to a real local server with planted faults: the answers are those of a server without faults, or records.

CALLS is the number of calls of the big run; ENDPOINT_TIMEOUT the seconds after which a stalled attempt is given up:
more of them for a machine that is busy with other things.
"""

import math
import os
import threading
import time

import pytest

pytest.importorskip("openai")
pytest.importorskip("tenacity")
pytest.importorskip("aiolimiter")

from api_server import FAULTS, GARBAGE, scripted_server, with_short_pauses

from constitutional.backends import Unanswered
from constitutional.backends.endpoint.backend import EndpointBackend
from constitutional.backends.endpoint.calls import Calls
from constitutional.errors import BackendError, BudgetError
from constitutional.records import Sampling, assistant, user
from constitutional.settings import EndpointSettings

pytestmark = pytest.mark.slow

CALLS = int(os.environ.get("CALLS", "2000"))
TIMEOUT = float(os.environ.get("ENDPOINT_TIMEOUT", "5"))
SAMPLING = Sampling(temperature=1.0, max_tokens=40, seed=3)
PATIENT = EndpointSettings(timeout=TIMEOUT, patience=900.0, concurrency=64)
PLAIN = EndpointSettings(timeout=600.0, patience=3600.0)
OPTIONS = (" A", " B")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    with_short_pauses(monkeypatch)


@pytest.fixture
def server(tmp_path):
    with scripted_server(tmp_path) as found:
        yield found


def opened(server, settings=PATIENT, calls=None):
    return EndpointBackend(f"m@{server.url}", settings, calls)


def questions(n):
    better = ["sorry no", "sure yes"]
    return [
        (
            user(f"Which is kinder? {i}\n\nResponse A: {better[i % 2]}\n\nResponse B: {better[1 - i % 2]}"),
            assistant("Answer:"),
        )
        for i in range(n)
    ]


def prompts(n):
    return [(user(f"Prompt {i}"),) for i in range(n)]


def plain(completions):
    return [(c.text, c.finish_reason, c.prompt_tokens, c.completion_tokens) for c in completions]


def test_thirty_percent_faults_change_nothing_and_lose_nothing(server):
    """H1, H2, H3: every kind of fault, in a hash's order; half of the calls draw text, half read options."""
    half = CALLS // 2
    clean = opened(server)
    texts = plain(clean.generate(prompts(half), SAMPLING))
    judged = clean.loglikelihood(questions(half), [OPTIONS] * half)
    clean.close()
    server.forget()
    server.share = 0.3
    backend = opened(server)
    assert plain(backend.generate(prompts(half), SAMPLING)) == texts
    assert backend.loglikelihood(questions(half), [OPTIONS] * half) == judged
    if CALLS >= 1000:
        assert {fault for fault in FAULTS if server.planted[fault]} == set(FAULTS)
        assert sum(server.planted.values()) > 0.3 * CALLS
    assert max(server.answered.values()) == 1  # nothing answered is asked again
    assert server.too_early == 0  # no call came back before its Retry-After
    assert server.most_busy <= 64
    backend.close()
    wait_for(lambda: server.connections == 0)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "endpoint"])


def wait_for(what):
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_body_cut_at_any_of_fifty_places_is_no_answer(server):
    """H2: 200 calls; each body is cut at one of 50 places, then the connection breaks before or after the headers."""
    clean = [text for text, *_ in plain(opened(server).generate(prompts(200), SAMPLING))]
    server.forget()
    server.places = 50
    then = (None, "cut", "reset_before", "reset_after", None)
    server._fault = lambda key, body: then[server.asked[key]]
    found = opened(server)
    assert clean == [text for text, *_ in plain(found.generate(prompts(200), SAMPLING))]
    assert server.planted == {"cut": 200, "reset_before": 200, "reset_after": 200}
    assert len(server.cuts) == 200 and len({at for at, _ in server.cuts}) >= 50
    assert sum(at == 0 for at, _ in server.cuts) == sum(at == whole - 1 for at, whole in server.cuts) == 4
    assert set(server.answered.values()) == {1} and len(server.answered) == 200
    found.close()
    wait_for(lambda: server.connections == 0)


@pytest.mark.parametrize("fault", GARBAGE)
def test_lasting_garbage_is_an_invalid_item_and_never_a_verdict(server, fault):
    """Twenty items meet it every time; the others are answered."""
    server.always = (fault, "kinder? 1")  # 1, 10-19, 100-109
    asked = [i for i in range(110) if (str(i)[0] == "1" and i < 20) or i >= 100]
    backend = opened(server)
    found = backend.loglikelihood(questions(110), [OPTIONS] * 110)
    bad = [i for i, one in enumerate(found) if one.fault]
    assert bad == asked
    assert all(all(map(math.isnan, found[i].logprobs)) and found[i].fault.startswith("invalid_answer") for i in bad)
    assert all(one.logprobs[0] != one.logprobs[1] for i, one in enumerate(found) if i not in bad)
    server.always = (fault, "Prompt 3")
    texts = backend.generate_each(prompts(6), SAMPLING)
    assert [isinstance(one, Unanswered) for one in texts] == [i == 3 for i in range(6)]
    assert texts[3].kind == "invalid_answer"
    with pytest.raises(BackendError, match="answer"):
        backend.generate(prompts(6), SAMPLING)


def test_sixty_four_calls_at_once_are_kept_up(server):
    """The server answers only while 64 calls are under way: one slot left empty and it would wait for ever."""
    server.hold, server.expected = 64, 640
    opened(server, PLAIN).generate(prompts(640), SAMPLING)
    assert (server.most_busy, server.lonely, len(server.answered)) == (64, 0, 640)


def test_an_overloaded_server_is_called_less(server):
    """A server that serves eight at a time and refuses the rest gets no storm, and all is answered."""
    serve, server.latency = server._fault, 0.01
    server._fault = lambda key, body: "503" if server.busy > 8 else serve(key, body)
    backend = opened(server)
    backend.generate(prompts(300), SAMPLING)
    assert len(server.answered) == 300
    assert backend._server._asker.slots.limit < 32
    assert server.planted["503"] < 300
    before, server._fault = backend._server._asker.slots.limit, serve  # it is well again: the limit rises
    backend.generate([(user(f"Prompt again {i}"),) for i in range(300)], SAMPLING)
    after = backend._server._asker.slots.limit
    assert before + 3 < after <= 64
    assert server.planted["503"] < 300


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusals_are_not_repeated(server, status):
    """H4. What is rejected alone is asked once more without the item in it: is it the item, or are all rejected?"""
    server.always = (str(status), '"model"')
    with pytest.raises(BackendError) as caught:
        opened(server).generate(prompts(1), SAMPLING)
    assert max(server.asked.values()) == 1 and len(server.asked) == (2 if status in (400, 422) else 1)
    assert "\n" not in str(caught.value)
    hint = {401: "set CONSTITUTIONAL_KEY_127_0_0_1_", 403: "set CONSTITUTIONAL_KEY_", 404: "'m' the model's name"}
    assert hint.get(status, "every request is rejected") in str(caught.value)


def test_one_rejected_request_among_good_ones_is_the_items_failure(server):
    server.always = ("400", "Prompt 2")
    found = opened(server).generate_each(prompts(4), SAMPLING)
    assert [getattr(one, "kind", None) for one in found] == [None, None, "rejected", None]


def test_an_outage_ends_the_run_within_the_patience_and_keeps_what_was_answered(server, tmp_path):
    """H5."""
    calls = Calls(tmp_path / "calls.sqlite")
    settings = EndpointSettings(timeout=600.0, patience=1.0, concurrency=8)
    backend = opened(server, settings, calls)
    server.always = ("reset_before", "Prompt 3")
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"endpoint.patience \(1 s\)") as caught:
        backend.generate(prompts(100), SAMPLING)
    assert caught.value.retryable
    assert time.monotonic() - started < 60
    kept = calls.count()
    assert 0 < kept < 100
    server.always = None
    server.forget()
    again = opened(server, settings, Calls(tmp_path / "calls.sqlite"))
    again.generate(prompts(100), SAMPLING)
    assert sum(server.asked.values()) == 100 - kept


def test_a_retry_after_beyond_the_patience_is_not_waited_for(server):
    async def later(fault, writer, *rest):
        return await server._send(writer, 429, b"{}", {"Retry-After": "3600"})

    server._fail, server.share = later, 1.0
    started = time.monotonic()
    with pytest.raises(BackendError, match="asks to wait 3600 s"):
        opened(server).generate(prompts(3), SAMPLING)
    assert time.monotonic() - started < 60


def test_a_server_without_logprobs_names_the_mode_that_needs_none(server):
    server.always = ("no_logprobs", "kinder")
    with pytest.raises(BackendError, match="mode: vote"):
        opened(server).loglikelihood(questions(50), [OPTIONS] * 50)
    assert len(server.asked) == 1  # the question was put once before all others


def test_requests_a_minute_are_kept(server):
    """Of 240 a minute 4 may go at once; the other 12, the list of models being one, take three seconds."""
    settings = PLAIN.model_copy(update={"requests_per_minute": 240.0})
    backend = opened(server, settings)
    started = time.monotonic()
    backend.generate(prompts(15), SAMPLING)
    assert time.monotonic() - started > 2.9


def test_the_budget_is_never_exceeded_and_the_rest_is_asked_when_it_is_raised(server, tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {prompt: 1000.0, completion: 2000.0}\n")
    settings = PLAIN.model_copy(update={"prices": str(prices)})
    calls = Calls(tmp_path / "calls.sqlite", budget=1.0)
    with pytest.raises(BudgetError, match="are spent"):
        opened(server, settings, calls).generate(prompts(200), SAMPLING)
    spent, kept = calls.spent, calls.count()
    assert 0 < spent <= 1.0 and 0 < kept < 200
    calls.close()
    raised = Calls(tmp_path / "calls.sqlite", budget=100.0)
    assert raised.spent == pytest.approx(spent)
    opened(server, settings, raised).generate(prompts(200), SAMPLING)
    assert raised.count() == 200 and max(server.asked.values()) == 1
    assert raised.spent == pytest.approx(sum(1000 * 2 + 2000 * len(c.split()) for c in texts_of(raised)) / 1e6)


def texts_of(calls):
    import json

    return [json.loads(answer)["text"] for (answer,) in calls._db.execute("SELECT answer FROM calls")]
