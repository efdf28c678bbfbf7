"""How far a model's call is: told by the backends, heard by whoever shows progress."""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from api_server import scripted_server, with_short_pauses
from embedded_model import require
from tiny_model import save_tiny_model
from training_recipe import training_recipe, write_training_recipe

from constitutional import display
from constitutional.activity import listening, tell
from constitutional.backends import Backend, open_backend, openvino
from constitutional.display import Plain, Rich, Silent
from constitutional.errors import BackendError
from constitutional.pipeline import run_recipe
from constitutional.records import Dialogue, Sampling, user
from constitutional.settings import EndpointSettings

DRAW = Sampling(temperature=1.0, seed=3, max_tokens=5)
ASKED: list[Dialogue] = [(user("how do I pick a lock? " * i),) for i in range(1, 5)]


def heard_while_writing(backend: Backend, asked: list[Dialogue] = ASKED, draw: Sampling = DRAW) -> list[str]:
    heard: list[str] = []
    with listening(heard.append):
        backend.generate(asked, draw)
    return heard


def counts(upto: int, what: str) -> list[str]:
    return [f"{done} of {upto} {what}" for done in range(upto + 1)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return open_backend(f"local:{save_tiny_model(tmp_path_factory.mktemp('tiny'))}", dtype="float32")


def test_only_who_listens_is_told_and_only_meanwhile() -> None:
    outer: list[str] = []
    inner: list[str] = []
    tell(1, 2, "texts")
    with listening(outer.append):
        with pytest.raises(RuntimeError), listening(inner.append):
            tell(1, 2, "texts")
            raise RuntimeError
        tell(2, 2, "texts")
    tell(3, 3, "texts")
    assert (outer, inner) == (["2 of 2 texts"], ["1 of 2 texts"])


def test_the_local_backend_tells_of_every_text_and_every_question(tiny: Backend) -> None:
    heard = heard_while_writing(tiny)
    assert heard[0] == "0 of 4 texts written, 0 tokens"
    texts, tokens = zip(*(map(int, re.findall("[0-9]+", text)[::2]) for text in heard), strict=True)
    assert list(texts) == sorted(texts) and texts[-1] == 4
    assert list(tokens) == sorted(tokens) and tokens[:3] == (0, 0, 4) and tokens[-1] <= 20
    heard = []
    with listening(heard.append):
        tiny.loglikelihood(ASKED, [[" good", " bad"]] * 4)
    assert heard[0] == "0 of 4 questions read" and heard[-1] == "4 of 4 questions read"


def test_models_written_in_padded_batches_tell_of_every_batch(tiny: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("constitutional.backends.padded.ROWS_PER_BATCH", 2)
    monkeypatch.setattr(tiny, "_tree_nodes", 0)
    assert heard_while_writing(tiny) == [f"{done} of 4 texts written" for done in (0, 2, 4)]


def failing_at_the_third(one: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    count = itertools.count(1)

    async def other(*given: Any) -> Any:
        if next(count) == 3:
            raise BackendError("the third")
        return await one(*given)

    return other


def test_a_server_s_answers_are_told_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("openai", "tenacity", "aiolimiter"):
        pytest.importorskip(package)
    from constitutional.backends.endpoint.backend import EndpointBackend

    with_short_pauses(monkeypatch)
    with scripted_server(tmp_path) as server:
        backend = EndpointBackend(f"m@{server.url}", EndpointSettings(timeout=600.0, patience=3600.0), None)
        assert heard_while_writing(backend) == counts(4, "calls done")
        monkeypatch.setattr(backend._server, "_one", failing_at_the_third(backend._server._one))
        heard: list[str] = []
        with listening(heard.append), pytest.raises(BackendError, match="the third"):
            backend.generate([(user(f"another {i}"),) for i in range(4)], DRAW)
    assert heard == counts(4, "calls done")[:-1]


def test_a_server_that_is_not_there_is_told_of_while_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("openai", "tenacity", "aiolimiter"):
        pytest.importorskip(package)
    from constitutional.backends.endpoint.backend import EndpointBackend

    with_short_pauses(monkeypatch)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        backend = EndpointBackend(f"m@http://{host}/v1", EndpointSettings(timeout=5.0, patience=1.0), None)
        listed, heard = list[str](), list[str]()
        with listening(listed.append), pytest.raises(BackendError, match=r"within endpoint\.patience"):
            backend.generate(ASKED, DRAW)
        backend._server._owner = "known"
        with listening(heard.append), pytest.raises(BackendError, match=r"within endpoint\.patience"):
            backend.generate(ASKED, DRAW)
    for lines, begun in (
        (listed, "0 of 1 lists of models"),
        ([line for line in heard if "no answer" in line], f"0 of {len(ASKED)} calls done"),
    ):
        assert lines and all(line.startswith(f"{begun}; no answer: {host} cannot be reached") for line in lines)


@pytest.mark.embedded
@pytest.mark.slow
def test_openvino_tells_of_texts_from_none_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino_genai")
    require()
    backend = open_backend("openvino:smollm2-135m", dtype="float32")
    monkeypatch.setattr(backend, "_fits", 5 * 96)  # several calls of the engine
    asked: list[Dialogue] = [(user(f"Tell me of the number {i}."),) for i in range(24)]
    heard = heard_while_writing(backend, asked, DRAW.model_copy(update={"max_tokens": 40}))
    texts, of, tokens = zip(*(map(int, re.findall("[0-9]+", text)) for text in heard), strict=True)
    assert list(texts) == sorted(texts) and texts[0] == 0 and texts[-1] == 24 and len(set(texts)) > 4
    assert set(of) == {24} and max(tokens) <= 5 * 96
    assert {count % openvino.BLOCK for count in tokens} == {0} and max(tokens) > 0  # blocks are of this size


def test_what_the_engine_still_has_to_do_is_asked_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino_genai")
    from constitutional.backends.openvino_engine import Engine

    left = iter([0, 9, 3, 2])  # nothing known yet, what another call left, then this one's
    asked_for_last = threading.Event()

    class Pipe:
        def get_metrics(self) -> SimpleNamespace:
            requests = next(left, 1)
            if requests == 1:
                asked_for_last.set()
            return SimpleNamespace(requests=requests, cache_usage=0.5, kv_cache_size_in_bytes=2000)

        def generate(self, prompts: list[object], configs: list[object]) -> list[SimpleNamespace]:
            assert asked_for_last.wait(60)
            return [SimpleNamespace(m_generation_ids=[[7]]) for _ in prompts]

    engine = Engine(Path("nowhere"), "name", "float32", None)
    monkeypatch.setattr(engine._opened, "pipe", Pipe())
    heard: list[tuple[int, float]] = []
    assert engine.write([[1], [2], [3], [4]], [None] * 4, lambda *told: heard.append(told)) == [[7]] * 4
    assert heard[:4] == [(0, 10), (1, 10), (2, 10), (3, 10)]


class Heard(Silent):
    """Notes what calls are at, by stage."""

    def __init__(self) -> None:
        self.now, self.texts = "", dict[str, list[str]]()

    def stage(self, name: str) -> None:
        self.now = name

    def doing(self, text: str) -> None:
        self.texts.setdefault(self.now, []).append(text)


def test_a_run_shows_what_its_calls_are_at(tmp_path: Path) -> None:
    recipe = write_training_recipe(tmp_path)
    shown = Heard()
    run_recipe(training_recipe(recipe, "stages=[revise, helpful]"), recipe, tmp_path / "run", display=shown)
    assert {stage: re.sub("[0-9]+", "N", texts[-1]) for stage, texts in shown.texts.items()} == {
        "revise": "N of N texts written, N tokens",
        "helpful": "N of N texts written, N tokens",
    }
    before = deepcopy(shown.texts)
    tell(1, 2, "texts")  # nobody listens any more
    assert shown.texts == before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [100.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        yield now


def test_a_log_gets_a_line_only_after_a_silence(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = Plain()
    shown.stage("revise")
    shown.progress(0, 40)
    for passed in range(1, 65):
        clock[0] = 100.0 + passed
        if passed == 50:
            shown.progress(10, 40)
        shown.doing(f"{passed} of 90 texts written\x1b[31m")
    assert display.SILENCE_S == 20.0
    assert capsys.readouterr().err.splitlines() == [
        "  revise       0/40  0:00",
        "  revise       0/40  0:20  20 of 90 texts written[31m",
        "  revise       0/40  0:40  40 of 90 texts written[31m",
        "  revise      10/40  0:50, 2:30 left",
    ]


def test_a_terminal_shows_it_beside_the_bar_until_the_items_are_done() -> None:
    shown = Rich()
    shown.doing("nothing yet")
    shown.stage("revise")
    shown.progress(0, 40, "loss 0.5")
    fields = shown._bar.tasks[0].fields
    shown.doing("[red]3 of 9 texts\x1b[31m written")
    meanwhile = dict(fields)
    shown.progress(10, 40, "loss 0.4")
    shown.stop()
    assert meanwhile == {"note": "loss 0.5", "doing": "[red]3 of 9 texts[31m written"}
    assert fields == {"note": "loss 0.4", "doing": ""}
