"""vLLM itself, on this processor: in a process of its own and behind HTTP, against torch.

`make vllm-check` sets it up and runs this file; elsewhere it is skipped, as vLLM pins packages that are not ours.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from embedded_model import require
from vllm_process import DIALOGUES, GREEDY, OPTIONS

from constitutional.audit.trace import trace
from constitutional.audit.trace_node import problems
from constitutional.backends import Backend, embedded, open_backend
from constitutional.config import load_recipe
from constitutional.pipeline import run_recipe
from constitutional.records import Completion
from constitutional.runs.logs import read_rows

VENV = os.environ.get("VLLM_VENV", "")
pytestmark = [
    pytest.mark.skipif(not VENV, reason="needs VLLM_VENV, an environment with vLLM (make vllm-check)"),
    pytest.mark.embedded,
    pytest.mark.slow,
]
ROOT = Path(__file__).parents[1]
NAME = "smollm2-135m"
OPENING_S = 600
CLOSE = 2e-3
"""Greatest difference of a log-probability, in nats: keys and values are read in another order."""
SERVED = ROOT / "examples" / "05_served_judge"
SETS = (
    "stages=[revise, sample, gate, judge, label]",
    "prompts.red_team={path: ../prompts/red_team.jsonl, limit: 4}",
    "revise={rounds: 1, candidates: 1}",
    "sample={n: 2, temperature: 0.7, revisions: true}",
    "gate={fallback: provenance, examples_per_principle: 1}",
    "judging={principles_per_comparison: 2}",
    "pm={contrast: 0}",
)


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """The environment of vLLM's processes."""
    require(NAME)
    return {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def local() -> Backend:
    require(NAME)
    return open_backend(f"embedded:{NAME}", dtype="float32")


@pytest.fixture(scope="module")
def told(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vLLM said in a process of its own."""
    out = tmp_path_factory.mktemp("vllm") / "told.json"
    child = [f"{VENV}/bin/python", str(ROOT / "tests" / "vllm_process.py"), str(embedded.converted_folder(NAME)), out]
    done = subprocess.run(child, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=OPENING_S)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_in_process_it_writes_what_torch_writes(told: dict[str, Any], local: Backend) -> None:
    mine = [Completion.model_validate(one) for one in told["greedy"]]
    theirs = local.generate(DIALOGUES, GREEDY)
    for one, other in zip(mine, theirs, strict=True):
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert (one.prompt_tokens, one.completion_tokens) == (other.prompt_tokens, other.completion_tokens)
    assert told["model"].startswith("vllm:") and "/vllm-" in told["model"]
    assert told["room"] == [local.room(dialogue) for dialogue in DIALOGUES]
    assert told["again"] == [one.text for one in theirs]
    assert told["opened"] == 1  # the engine outlived the first backend


def test_in_process_rows_draw_with_seeds_of_their_own(told: dict[str, Any]) -> None:
    once, again = told["drawn"]
    assert once == again and len(set(once)) > 1


def test_in_process_log_probabilities_are_those_of_torch(told: dict[str, Any], local: Backend) -> None:
    expected = local.loglikelihood(DIALOGUES, OPTIONS)
    for found, one in zip(told["logprobs"], expected, strict=True):
        assert found == pytest.approx(one.logprobs, abs=CLOSE)


def test_in_process_what_questions_share_is_read_once(told: dict[str, Any]) -> None:
    first, *later = told["cached"]
    assert first == 0 and min(later) >= 128


@pytest.fixture(scope="module")
def server(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server that the example's own script starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    model = str(embedded.converted_folder(NAME))
    script = ["sh", str(SERVED / "serve.sh"), "--served-model-name", NAME, "--dtype", "float32"]
    own = {**settings, "VENV": VENV, "MODEL": model, "PORT": str(port)}
    with (
        log.open("w") as stream,
        subprocess.Popen(
            script, env=own, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        ) as child,
    ):
        try:
            until = time.monotonic() + OPENING_S
            while not _answers(f"http://127.0.0.1:{port}/health"):
                assert child.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(1)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_a_server_writes_what_torch_writes(server: str, local: Backend) -> None:
    plain = [dialogue for dialogue in DIALOGUES if "<|im_end|>" not in dialogue[-1].content]
    mine, theirs = (one.generate(plain, GREEDY) for one in (open_backend(f"openai:{NAME}@{server}/v1"), local))
    told = [(one.text, one.finish_reason, one.prompt_tokens) for one in mine]
    assert told == [(one.text, one.finish_reason, one.prompt_tokens) for one in theirs]


def test_control_tokens_in_text_reach_no_server(server: str, local: Backend) -> None:
    """The server's tokenizer would make a turn's end of them: the text would be three turns of fewer tokens."""
    (hostile,) = [dialogue for dialogue in DIALOGUES if "<|im_end|>" in dialogue[-1].content]
    (mine,), (theirs,) = (
        one.generate([hostile], GREEDY) for one in (open_backend(f"openai:{NAME}@{server}/v1"), local)
    )
    assert abs(mine.prompt_tokens - theirs.prompt_tokens) <= 4  # a space is put into each of four
    assert theirs.prompt_tokens > 50


def test_a_servers_log_probabilities_are_those_of_torch_or_said_to_be_unlisted(server: str, local: Backend) -> None:
    mine, theirs = (
        one.loglikelihood(DIALOGUES, OPTIONS) for one in (open_backend(f"openai:{NAME}@{server}/v1"), local)
    )
    compared = 0
    for dialogue, options, found, expected in zip(DIALOGUES, OPTIONS, mine, theirs, strict=True):
        assert found.fault is None and found.note is not None
        unlisted = found.note.get("unlisted", [])
        assert isinstance(unlisted, list)
        if "<|im_end|>" in dialogue[-1].content:
            continue  # another text: see above
        for option, one, other in zip(options, found.logprobs, expected.logprobs, strict=True):
            if option.strip() not in unlisted:
                assert one == pytest.approx(other, abs=CLOSE)
                compared += 1
    assert compared >= 6


def test_the_examples_recipe_runs_on_its_server_and_questions_share_what_they_begin_with(
    server: str, tmp_path: Path
) -> None:
    recipe = SERVED / "recipe.yaml"
    chosen = load_recipe(recipe, [*SETS, f"feedback=openai:{NAME}@{server}/v1"])
    before = _cached(server)
    run_recipe(chosen, recipe, tmp_path / "run")
    (stage,) = (tmp_path / "run" / "stages").glob("*-judge/*")
    comparisons = [str(row["comparison_id"]) for _, row in read_rows(stage / "data.jsonl")]
    judged = [str(row["id"]) for _, row in read_rows(stage / "data.jsonl")]
    assert judged and len(set(comparisons)) > 1
    assert problems(trace(tmp_path / "run", judged[0])) == []
    assert _cached(server) - before > 1000
    asked = _asked(server)
    run_recipe(chosen, recipe, tmp_path / "run")
    assert _asked(server) == asked  # nothing is asked again


def _cached(server: str) -> float:
    return _metric(server, "vllm:prefix_cache_hits_total")


def _asked(server: str) -> float:
    return _metric(server, "vllm:prefix_cache_queries_total")


def _metric(server: str, name: str) -> float:
    with urlopen(f"{server}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))
