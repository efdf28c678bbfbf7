"""Items that a server will not answer, live and in batch files, and judgments read from a prompt's own tokens."""

import json
import math

import pytest

pytest.importorskip("openai")
pytest.importorskip("tenacity")
pytest.importorskip("aiolimiter")

from api_server import scripted_server, with_short_pauses

from constitutional.backends import Likelihood, Unanswered, open_backend
from constitutional.backends.endpoint import batch_files
from constitutional.backends.endpoint.backend import EndpointBackend
from constitutional.backends.endpoint.batch_files import read_batch, write_batches
from constitutional.backends.endpoint.calls import NAME, Calls
from constitutional.cli.endpoints import batch_command
from constitutional.errors import BackendError, PendingError
from constitutional.feedback.judge import judge
from constitutional.feedback.judging.direct import grade_answers
from constitutional.feedback.judging.ways import Way
from constitutional.principles import Principle
from constitutional.records import Comparison, Sampling, assistant, user
from constitutional.runs import open_run
from constitutional.settings import EndpointSettings
from constitutional.templates import load_pack

pytestmark = pytest.mark.slow

SAMPLING = Sampling(temperature=1.0, max_tokens=40, seed=3)
SETTINGS = EndpointSettings(timeout=600.0, patience=3600.0)
OPTIONS = (" A", " B")
KIND = Principle(
    id="kind", version="1.0.0", title="t", comparison_request="Which is kinder?", score_request="How kind is it?"
)


@pytest.fixture
def server(tmp_path, monkeypatch):
    with_short_pauses(monkeypatch)
    with scripted_server(tmp_path) as found:
        yield found


def opened(server, calls=None):
    return EndpointBackend(f"m@{server.url}", SETTINGS, calls)


def prompts(n):
    return [(user(f"Prompt {i}"),) for i in range(n)]


def questions(n):
    texts = [f"Which is kinder? {i}\n\nResponse A: sorry\n\nResponse B: sure" for i in range(n)]
    return [(user(text), assistant("Answer:")) for text in texts]


@pytest.mark.parametrize(("owner", "asked"), [("somebody", "echo"), ("vllm", "prompt_logprobs")])
def test_a_transcript_judge_behind_a_server_says_what_it_says_here(server, owner, asked):
    """Options of several tokens, read from the prompt's own; `echo` tells of what was drawn behind them too."""
    server.owner = owner
    answers = ["sorry, no", "sure, do it", "sorry that"]
    pairs = [
        Comparison(
            prompt_id=f"{i:016x}",
            messages=(user(f"Question {i}?"),),
            a=f"{answers[i % 3]} {i}",
            b=f"{answers[(i + 1) % 3]} {i}",
            origin="sampled",
        )
        for i in range(12)
    ]
    found = []
    for backend in (open_backend(f"scripted:{server.path}"), opened(server)):
        way = {"backend": backend, "pack": load_pack("transcript"), "seed": 0, "way": Way()}
        found.append(list(judge(pairs, assigned=[[KIND]] * len(pairs), **way)))
    here, served = found
    assert [(j.comparison_id, j.order, j.outcome) for j in served] == [
        (j.comparison_id, j.order, j.outcome) for j in here
    ]
    assert {j.outcome for j in here} == {"preference", "tie"}
    assert [j.p_a for j in served] == pytest.approx([j.p_a for j in here])
    assert [j.mass for j in served] == pytest.approx([j.mass for j in here])
    for one, other in zip(served, here, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs)
    assert sum(asked in body for body in server.bodies) == 2 * len(here)


def test_rejected_first_questions_are_their_own_failure(server):
    server.always = ("400", "kinder? 0")
    found = opened(server).loglikelihood(questions(5), [OPTIONS] * 5)
    assert [one.fault is not None for one in found] == [True, False, False, False, False]
    assert found[0].fault.startswith("rejected: ") and all(map(math.isnan, found[0].logprobs))
    assert max(server.asked.values()) == 1  # H4: a rejected call is not made again
    assert sum(server.asked.values()) == 6  # and one with nothing of an item in it


def test_a_resumed_run_may_begin_with_nothing_but_rejected_items(server):
    server.always = ("422", "Prompt 0")
    for backend in (opened(server), opened(server)):
        (found,) = backend.generate_each(prompts(1), SAMPLING)
        assert isinstance(found, Unanswered) and found.kind == "rejected" and "says 422" in found.message
        (found,) = backend.generate_each(prompts(1), SAMPLING)
        assert found.kind == "rejected"
    assert sum(server.asked.values()) == 4  # each asked once, and once without the item


def test_a_server_that_rejects_every_call_ends_the_run(server):
    server.always = ("400", '"model"')
    for ask in (
        lambda backend: backend.generate_each(prompts(3), SAMPLING),
        lambda backend: backend.loglikelihood(questions(3), [OPTIONS] * 3),
    ):
        with pytest.raises(BackendError, match=r"every request is rejected: .* says 400: planted"):
            ask(opened(server))
    assert sum(server.asked.values()) <= 6 and max(server.asked.values()) == 1


def waiting(server, calls, folder, n):
    """The lines of the batch files of so many prompts, by prompt."""
    with pytest.raises(PendingError):
        opened(server, calls).generate_each(prompts(n), SAMPLING)
    lines = [json.loads(line) for file, _ in write_batches(calls, folder) for line in file.read_text().splitlines()]
    return {line["body"]["messages"][0]["content"]: line for line in lines}


def written(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def answered(server, line):
    body = server.reply("/chat/completions", line["body"])
    return {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


def refused(line, status, **error):
    response = {"status_code": status, "request_id": "r", "body": {"error": error}}
    return {"custom_id": line["custom_id"], "response": response, "error": None}


def test_what_a_batch_service_rejects_for_good_is_the_items_failure(server, tmp_path, capsys):
    folder = tmp_path / "run"
    with open_run(folder):
        calls = Calls(folder / NAME, offline=True)
        lines = waiting(server, calls, tmp_path / "batch", 8)
        calls.close()
    told = [answered(server, lines[f"Prompt {i}"]) for i in (0, 7)]
    told.append(refused(lines["Prompt 1"], 400, code="context_length_exceeded", message="9000 tokens"))
    told.append(refused(lines["Prompt 2"], 400, code=None, message="roles must alternate"))
    told.append(answered(server, lines["Prompt 3"]))
    told[-1]["response"]["body"]["choices"][0]["finish_reason"] = "content_filter"
    # vLLM says it in `error`
    unlike = {"error": {"message": "maximum context length is 9", "type": "BadRequestError", "code": 400}}
    told.append({"custom_id": lines["Prompt 4"]["custom_id"], "response": {"status_code": 400}, "error": unlike})
    told.append(refused(lines["Prompt 5"], 429, code="rate_limit_exceeded", message="slow down"))
    expired = {"code": "batch_expired", "message": "not in time"}
    told.append({"custom_id": lines["Prompt 6"]["custom_id"], "response": None, "error": expired})
    file = written(tmp_path / "answers.jsonl", told)
    for _ in range(2):  # reading twice is reading once
        batch_command(folder, [file])
        said = capsys.readouterr().out
        assert "2 answers read; 4 rejected for good" in said and "2 unused: not answered" in said
        assert "2 calls wait" in said
    calls = Calls(folder / NAME, offline=True)
    left = waiting(server, calls, tmp_path / "again", 8)
    assert set(left) == {"Prompt 5", "Prompt 6"}
    file = written(tmp_path / "rest.jsonl", [answered(server, line) for line in left.values()])
    assert read_batch(calls, file).kept == 2
    found = opened(server, calls).generate_each(prompts(8), SAMPLING)
    kinds = [getattr(one, "kind", None) for one in found]
    assert kinds == [None, "too_long", "rejected", "content_filter", "too_long", None, None, None]
    assert found[2].message == "the service says 400: roles must alternate"
    assert sum(server.asked.values()) == 0


def test_a_batch_of_which_every_call_is_rejected_goes_on_waiting(server, tmp_path):
    """Live that ends the run: it may be a setting of ours that the service does not take."""
    calls = Calls(None, offline=True)
    lines = waiting(server, calls, tmp_path / "batch", 3)
    told = [refused(line, 400, code=None, message="unknown field: seed") for line in lines.values()]
    found = read_batch(calls, written(tmp_path / "answers.jsonl", told))
    assert (found.kept, found.rejected, sum(found.unused.values())) == (0, 0, 3)
    assert "unknown field: seed; no call to this model was answered yet" in next(iter(found.unused))
    assert len(calls.noted(waiting=True)) == 3


def test_batch_files_are_no_larger_than_services_take(server, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_files, "MOST_BYTES", 2000)
    calls = Calls(None, offline=True)
    with pytest.raises(PendingError):
        opened(server, calls).generate_each([*prompts(30), (user("long " * 900),)], SAMPLING)
    files = write_batches(calls, tmp_path)
    lines = [line for file, _ in files for line in file.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 31 == sum(count for _, count in files)
    sizes = sorted(file.stat().st_size for file, _ in files)
    assert sizes[-1] > 4500 and all(1500 < size <= 2000 for size in sizes[1:-1])  # but the last, and one long call
    monkeypatch.setattr(batch_files, "MOST_LINES", 3)
    assert [count for _, count in write_batches(calls, tmp_path / "few")] == [3] * 10 + [1]


class Faulty:
    """A judge whose server sends no answers."""

    model = "openai:m@0"

    def loglikelihood(self, batch, options):
        fault = "invalid_answer: the answer is HTML (9 bytes)"
        return [Likelihood(logprobs=(math.nan,) * len(o), prompt_tokens=0, fault=fault) for o in options]

    def room(self, dialogue):
        return 10**9


def test_a_grade_that_no_server_gave_is_invalid_with_its_reason():
    pair = Comparison(prompt_id="0" * 16, messages=(user("Q?"),), a="one", b="two", origin="sampled")
    pack = load_pack("chat")
    found = list(judge([pair], assigned=[[KIND]], backend=Faulty(), pack=pack, seed=0, way=Way("score")))
    assert {(j.outcome, j.p_a, j.raw) for j in found} == {
        ("invalid", None, "invalid_answer: the answer is HTML (9 bytes)")
    }
    (graded,) = grade_answers([pair.messages], ["one"], KIND, backend=Faulty(), pack=pack)
    assert graded.value is None and "HTML" in graded.error
