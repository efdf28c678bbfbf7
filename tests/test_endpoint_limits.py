"""Rates, patience and budgets of calls: on a clock that runs only while nothing else is to do, and on a real server."""

import asyncio
import math
import time

import pytest

pytest.importorskip("openai")
pytest.importorskip("tenacity")
pytest.importorskip("aiolimiter")

from api_server import scripted_server, with_short_pauses

from constitutional.backends import Unanswered
from constitutional.backends.endpoint import asking
from constitutional.backends.endpoint.asking import Asker
from constitutional.backends.endpoint.backend import EndpointBackend
from constitutional.backends.endpoint.calls import Calls, Price
from constitutional.backends.endpoint.requests import Request
from constitutional.errors import BackendError, BudgetError
from constitutional.records import Sampling, user
from constitutional.settings import EndpointSettings

SAMPLING = Sampling(temperature=1.0, max_tokens=40, seed=3)
PLAIN = EndpointSettings(timeout=600.0, patience=3600.0)
PRICE = Price(prompt=1000.0, completion=2000.0)


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while all wait, and then at once."""

    def __init__(self):
        super().__init__()
        self.now, select = 0.0, self._selector.select

        def at_once(timeout=None):
            self.now += max(timeout or 0.0, 1e-6)  # as a real clock: a timer may be less ahead than a float can tell
            return select(0)

        self._selector.select = at_once

    def time(self):
        return self.now


def sent(settings, sizes, attempt=None):
    """When calls of so many tokens were sent, in minutes of the clock: (seconds, tokens)."""
    found = []

    async def one(asker, i, size):
        async def send(seconds):
            found.append((asyncio.get_running_loop().time(), size))
            if attempt is not None:
                await attempt(i)

        await asker.ask(send, size)

    async def every():
        asker = Asker(settings)
        await asyncio.gather(*(one(asker, i, size) for i, size in enumerate(sizes)))

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(every())
    return found


def most(times, seconds):
    """The most that any so many seconds hold."""
    return max(sum(n for t, n in times if start <= t < start + seconds - 1e-6) for start, _ in times)


@pytest.mark.parametrize("rate", [0.25, 0.5, 1.0, 2.5, 30.0, 90.0, 600.0])
def test_no_minute_has_more_requests_than_are_allowed(rate):
    calls = int(3 * rate) + 5
    times = sent(EndpointSettings(requests_per_minute=rate), [9] * calls)
    assert len(times) == calls
    assert most([(t, 1) for t, _ in times], 60) <= math.ceil(rate)
    assert most([(t, 1) for t, _ in times], 1) <= max(1, rate / 60 * 2)
    assert times[-1][0] <= 1.05 * calls / rate * 60  # and not much fewer


def test_no_minute_has_more_tokens_than_are_allowed_and_one_call():
    sizes = [10, 500, 40, 3000] * 8  # one is larger than a minute's tokens
    times = sent(EndpointSettings(tokens_per_minute=1200.0), sizes)
    assert [size for _, size in times] == sizes  # small calls do not overtake large ones for ever
    assert most(times, 60) <= 1200 + max(sizes)
    assert 0.9 * sum(sizes) / 20 <= times[-1][0] <= 1.05 * sum(sizes) / 20


def test_a_server_that_stalls_gets_no_burst_when_it_answers_again():
    async def stalled(i):
        if i < 4:
            await asyncio.sleep(100)

    times = sent(EndpointSettings(requests_per_minute=60.0, concurrency=4), [9] * 200, stalled)
    assert len([t for t, _ in times if t < 100]) == 4
    assert most([(t, 1) for t, _ in times], 10) <= 11


@pytest.fixture
def server(tmp_path, monkeypatch):
    with_short_pauses(monkeypatch)
    (tmp_path / "prices.yaml").write_text("m: {prompt: 1000.0, completion: 2000.0}\n")
    with scripted_server(tmp_path) as found:
        yield found


def opened(server, settings=PLAIN, calls=None):
    prices = str(server.path.parent / "prices.yaml") if calls is not None else None
    return EndpointBackend(f"m@{server.url}", settings.model_copy(update={"prices": prices}), calls)


def prompts(n):
    return [(user(f"Prompt {i}"),) for i in range(n)]


def worst(prompt):
    return PRICE.of(Request(True, {"messages": [{"role": "user", "content": prompt}]}).most_tokens, 40)


@pytest.mark.slow
def test_tokens_a_minute_are_kept(server):
    """Each call counts 40 tokens to draw and 2 or 3 to read, of 6,000 a minute; 100 of them may go at once."""
    started = time.monotonic()
    opened(server, PLAIN.model_copy(update={"tokens_per_minute": 6000.0})).generate(prompts(8), SAMPLING)
    assert time.monotonic() - started > 2.3 and len(server.answered) == 8
    started = time.monotonic()  # and a call that is larger than what goes at once, and than a minute's tokens
    long = Sampling(temperature=1.0, max_tokens=150, seed=4)
    opened(server, PLAIN.model_copy(update={"tokens_per_minute": 6000.0})).generate(prompts(3), long)
    assert time.monotonic() - started > 3.5 and len(server.answered) == 11


@pytest.mark.slow
def test_a_run_that_ends_does_not_wait_for_its_turn(server):
    """A call a second, of which the fourth or so is too dear: the other 196 are not waited for."""
    calls = Calls(None, budget=0.2)
    started = time.monotonic()
    with pytest.raises(BudgetError, match="are spent"):
        opened(server, PLAIN.model_copy(update={"requests_per_minute": 60.0}), calls).generate(prompts(200), SAMPLING)
    assert time.monotonic() - started < 60
    assert 0 < sum(server.asked.values()) < 20 and 0 < calls.spent <= 0.2


@pytest.mark.slow
def test_a_stalled_attempt_ends_with_the_patience(server):
    """H5: the limit of an attempt is far away; the server would hold it for half a minute."""
    server.always = ("stall", "Prompt 3")
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"endpoint.patience \(1 s\): no whole answer within 1 s") as caught:
        opened(server, EndpointSettings(timeout=600.0, patience=1.0)).generate(prompts(5), SAMPLING)
    assert caught.value.retryable
    assert 1.0 <= time.monotonic() - started < 25
    assert server.planted["stall"] == 1 and len(server.answered) == 4


@pytest.mark.slow
def test_what_a_service_does_not_tell_the_tokens_of_is_charged_the_most_it_can_cost(server):
    server.usage = False
    calls = Calls(None, budget=100.0)
    opened(server, calls=calls).generate(prompts(3), SAMPLING)
    assert calls.spent == pytest.approx(3 * worst("Prompt 0"))
    server.always = ("null_content", "Prompt 3")  # an answer, though none that can be read, each of six times
    opened(server, calls=calls).generate_each(prompts(4), SAMPLING)
    assert calls.spent == pytest.approx((3 + asking.GARBAGE) * worst("Prompt 0"))
    little = Calls(None, budget=1.0)
    with pytest.raises(BudgetError):
        opened(server, calls=little).generate(prompts(200), SAMPLING)
    assert 1.0 - worst("Prompt 199") < little.spent <= 1.0


@pytest.mark.slow
def test_an_answer_that_was_taken_away_is_paid_and_a_rejected_call_is_not(server):
    server.always = ("filtered", "Prompt 1")
    calls = Calls(None, budget=100.0)
    found = opened(server, calls=calls).generate_each(prompts(2), SAMPLING)
    assert [getattr(one, "kind", None) for one in found] == [None, "content_filter"]
    rows = calls._db.execute("SELECT key IS NULL, prompt_tokens, completion_tokens, usd FROM calls").fetchall()
    assert sorted(row[0] for row in rows) == [0, 1]
    for _, read, drawn, usd in rows:
        assert read == 2 and drawn > 0 and usd == pytest.approx(PRICE.of(read, drawn))
    spent, server.always = calls.spent, ("400", "Prompt 5")
    (found,) = opened(server, calls=calls).generate_each(prompts(6)[5:], SAMPLING)
    (control,) = calls._db.execute("SELECT usd FROM calls ORDER BY seq DESC LIMIT 1").fetchone()
    assert isinstance(found, Unanswered) and calls.spent == pytest.approx(spent + control)


def test_the_most_a_call_can_read_is_no_less_than_its_bytes_and_what_a_template_adds():
    for text in ("1234567890" * 50, "\N{SNOWMAN}" * 100, "a b"):
        one = Request(True, {"messages": [{"role": "user", "content": text}]})
        two = Request(True, {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]})
        assert one.most_tokens >= len(text.encode()) + 16 and two.most_tokens > one.most_tokens


@pytest.mark.slow
def test_calls_wait_for_what_others_may_leave_of_the_budget(server):
    """64 calls at their dearest are more than the budget, all 200 as they are less: none is refused."""
    calls = Calls(None, budget=4.0)
    assert 64 * worst("Prompt 199") > 4.0
    opened(server, calls=calls).generate(prompts(200), SAMPLING)
    assert calls.count() == 200 and calls.spent < 4.0
