"""What leaves the machine with a call: keys and headers, to whom; and what of a key may come back."""

import itertools
import json

import pytest

pytest.importorskip("openai")
pytest.importorskip("tenacity")
pytest.importorskip("aiolimiter")

from api_server import with_short_pauses
from plain_server import PlainServer, chat, error

from constitutional.backends.endpoint.address import api_key, parse_address
from constitutional.backends.endpoint.backend import EndpointBackend
from constitutional.backends.endpoint.calls import Calls
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Sampling, user
from constitutional.settings import EndpointSettings

SAMPLING = Sampling(temperature=1.0, max_tokens=8, seed=3)
HEADERS = "X-Gateway: corp-secret\nAuthorization: Bearer corp-other"
KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    with_short_pauses(monkeypatch)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)


def asked(server, calls=None, text="one"):
    backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0), calls)
    return backend.generate([(user(text),)], SAMPLING)[0]


def own(monkeypatch, server, key):
    monkeypatch.setenv(f"CONSTITUTIONAL_KEY_127_0_0_1_{server.port}", key)


@pytest.mark.parametrize("key", [None, "sk-own"])
def test_the_environments_headers_go_to_no_stranger(monkeypatch, key):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", HEADERS)
    with PlainServer(lambda path, body: chat()) as server:
        if key:
            own(monkeypatch, server, key)
        asked(server)
        (sent,) = server.headers
        assert "corp" not in str(sent) and sent["authorization"] == f"Bearer {key or 'none'}"


def test_the_environments_headers_go_to_the_host_of_the_base_url_but_our_key_wins(monkeypatch):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", HEADERS)
    with PlainServer(lambda path, body: chat()) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-general")
        asked(server)
        own(monkeypatch, server, "sk-own")
        asked(server)
        assert [sent["authorization"] for sent in server.headers] == ["Bearer sk-general", "Bearer sk-own"]
        assert {sent["x-gateway"] for sent in server.headers} == {"corp-secret"}


@pytest.mark.parametrize("key", ["sk-hush1\nsk-hush2", "sk-hush é", "sk-hush\x7f", "sk-\thush", "sk-h\u200bush"])
def test_a_key_that_no_header_can_hold_is_told_at_once_and_not_shown(monkeypatch, key):
    with PlainServer(lambda path, body: chat()) as server:
        own(monkeypatch, server, key)
        with pytest.raises(ConfigError, match=f"CONSTITUTIONAL_KEY_127_0_0_1_{server.port}") as caught:
            asked(server)
        assert "hush" not in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        api_key(parse_address("m@https://api.openai.com/v1"))


@pytest.mark.parametrize("key", ["x", "test", "token", "content", "EMPTY"])
def test_a_short_key_changes_no_answer(monkeypatch, key):
    text = "This test is an EMPTY text of content: token"
    with PlainServer(lambda path, body: chat(text, (("A", -0.1), ("B", -3.0)))) as server:
        own(monkeypatch, server, key)
        assert asked(server).text == text
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0))
        (found,) = backend.loglikelihood([(user("q"),)], [(" A", " B")])
        assert found.logprobs == pytest.approx((-0.1, -3.0))


def test_a_short_key_does_not_hide_what_a_refusal_means(monkeypatch):
    with PlainServer(lambda path, body: error(400, "exceed_context of x")) as server:
        own(monkeypatch, server, "x")
        with pytest.raises(BackendError, match=r"e\[key\]ceed_conte\[key\]t of \[key\]"):
            asked(server)
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=60.0))
        assert backend.generate_each([(user("one"),)], SAMPLING)[0].kind == "too_long"


def test_an_echoed_key_is_nowhere(monkeypatch, tmp_path):
    """Written as JSON may write it, too: with escapes."""
    status, body = chat(f"you sent {KEY}")
    body |= {"model": KEY, "system_fingerprint": f"fp {KEY}"}
    raw = json.dumps(body).replace("sk-planted", "\\u0073k-planted").encode()
    with PlainServer(lambda path, sent: (status, raw)) as server:
        own(monkeypatch, server, KEY)
        calls = Calls(tmp_path / "calls.sqlite")
        assert asked(server, calls).text == "you sent [key]"
        calls.close()
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize("status", [200, 400, 401, 503])
def test_what_the_environments_headers_hold_is_nowhere(monkeypatch, tmp_path, status):
    gateway, bearer = "corp-secret-0123456789abcdef", "corp-other-0123456789abcdef"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Gateway: {gateway}\nX-Token: Bearer {bearer}\nX-Stage: test")
    told = f"in test {gateway} and Bearer {bearer}"
    with PlainServer(lambda path, sent: chat(told) if status == 200 else error(status, told)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        calls = Calls(tmp_path / "calls.sqlite")
        settings = EndpointSettings(timeout=60.0, patience=0.5)
        backend = EndpointBackend(f"m@{server.url}", settings, calls)
        try:
            shown = str(backend.generate_each([(user("one"),)], SAMPLING))
        except BackendError as caught:
            shown = str(caught)
        calls.close()
    assert "in test [key] and Bearer [key]" in shown
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert gateway not in shown and gateway.encode() not in kept and bearer.encode() not in kept


@pytest.mark.parametrize("status", [401, 403, 404, 501, 500])
def test_a_server_may_give_no_list_of_models(status):
    with PlainServer(lambda path, body: chat(), error(status, "Missing scopes: api.model.read")) as server:
        assert asked(server).text == "fine"


@pytest.mark.parametrize("status", [502, 504])
def test_a_server_that_starts_anew_behind_its_gateway_is_waited_for(status, monkeypatch):
    monkeypatch.setattr("constitutional.backends.endpoint.asking.LONGEST_PAUSE", 0.1)
    lists = itertools.count()

    class Restarting(PlainServer):
        def _answer(self, handler, told):
            if handler.command == "GET":
                row = {"id": "m", "object": "model", "created": 0, "owned_by": "vllm"}
                down = next(lists) < 9  # more often than garbage is asked for again
                told = (status, b"<html>Bad Gateway</html>") if down else (200, {"object": "list", "data": [row]})
            super()._answer(handler, told)

    with Restarting(lambda path, body: chat()) as server:
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=60.0, patience=600.0))
        assert backend._server.owner() == "vllm" and next(lists) == 10


def test_a_bad_key_is_told_though_the_list_of_models_is_refused_first():
    wrong = error(401, "Incorrect API key provided")
    with (
        PlainServer(lambda path, body: wrong, wrong) as server,
        pytest.raises(BackendError, match="set C") as caught,
    ):
        asked(server)
    assert caught.value.retryable


@pytest.mark.parametrize("rest", ["m@http://[::1/v1", "m@http://[zz]:1/v1", "m@http://::1]/v1"])
def test_a_url_with_half_a_bracket_is_a_bad_spec(rest):
    with pytest.raises(ConfigError, match="unknown model spec") as caught:
        parse_address(rest)
    assert "\n" not in str(caught.value)


def test_a_broken_base_url_in_the_environment_is_no_host(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://[::1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-general")
    assert api_key(parse_address("m@http://127.0.0.1:8000/v1")) is None
    assert api_key(parse_address("m@https://api.openai.com/v1")) == "sk-general"
