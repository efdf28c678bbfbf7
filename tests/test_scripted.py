"""The scripted backend: rules, seeded draws, likelihoods with known biases, scripted failures."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from constitutional.backends import open_backend
from constitutional.backends.scripted import ScriptedBackend
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Dialogue, Sampling, assistant, user

WARM = Sampling(temperature=1.0, seed=7)
GREEDY = Sampling()


def script(folder: Path, text: str) -> ScriptedBackend:
    path = folder / "script.yaml"
    path.write_text(text, encoding="utf-8")
    return ScriptedBackend(path)


def ask(text: str) -> Dialogue:
    return (user(text),)


def test_first_fitting_rule_answers_and_the_default_answers_the_rest(tmp_path: Path) -> None:
    backend = script(
        tmp_path,
        """
        default: no rule
        rules:
          - {contains: critique, anywhere: lock, reply: both}
          - {contains: critique, reply: critique only, finish: length}
          - {anywhere: lock, reply: lock only}
        """,
    )
    lock, rest = user("How do I pick a lock?"), (assistant("So."), user("Write a critique."))
    dialogues = [(lock, *rest), (user("Hi"), *rest), (lock,), ask("Hi"), (user("critique"), assistant("a"), user("b"))]
    got = backend.generate(dialogues, GREEDY)
    assert [c.text for c in got] == ["both", "critique only", "lock only", "no rule", "no rule"]
    assert [c.finish_reason for c in got] == ["stop", "length", "stop", "stop", "stop"]
    assert [(c.prompt_tokens, c.completion_tokens) for c in got[:2]] == [(10, 1), (5, 2)]


def test_raw_text_is_matched_as_a_whole(tmp_path: Path) -> None:
    backend = script(tmp_path, "rules: [{contains: 'Human:', reply: raw}]")
    assert backend.generate([(assistant("Human: hello\n\nAssistant:"),)], GREEDY)[0].text == "raw"


def test_draws_depend_on_seed_and_occurrence_and_on_nothing_else(tmp_path: Path) -> None:
    backend = script(tmp_path, "rules: [{reply: ['a {n}', 'b {n}', 'c {n}']}]")
    first = [c.text for c in backend.generate([ask("x")] * 8 + [ask("y")], WARM)]
    assert len(set(first)) == 9
    assert [c.text for c in backend.generate([ask("y"), *[ask("x")] * 8], WARM)] == [first[8], *first[:8]]
    assert [c.text for c in backend.generate([ask("x")] * 8, WARM.model_copy(update={"seed": 8}))] != first[:8]
    cold = backend.generate([ask("x")] * 3, GREEDY) + backend.generate([ask("x")], Sampling(seed=5))
    assert len({c.text for c in cold}) == 1


def test_the_same_in_another_process(tmp_path: Path) -> None:
    backend = script(tmp_path, "rules: [{reply: ['a {n}', 'b {n}']}]")
    code = (
        "from constitutional.backends.scripted import ScriptedBackend as B\n"
        "from constitutional.records import *\n"
        f"b = B({str(tmp_path / 'script.yaml')!r})\n"
        "print(b.model, [c.text for c in b.generate([(user('x'),)] * 4, Sampling(temperature=1.0, seed=7))])\n"
        "import sys; assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert out.strip() == f"{backend.model} {[c.text for c in backend.generate([ask('x')] * 4, WARM)]}"


def test_stop_texts_and_the_token_limit_cut_the_reply(tmp_path: Path) -> None:
    backend = script(tmp_path, "default: 'one two.  three four STOP five'")

    def cut(**settings: object) -> tuple[str, str, int]:
        done = backend.generate([ask("x")], Sampling.model_validate(settings))[0]
        return done.text, done.finish_reason, done.completion_tokens

    assert cut(stop=("STOP", "five")) == ("one two.  three four ", "stop", 4)
    assert cut(max_tokens=3) == ("one two.  three", "length", 3)
    assert cut(max_tokens=3, stop=("two",)) == ("one ", "stop", 1)
    assert cut(max_tokens=6)[1:] == ("stop", 6)


def test_likelihood_rules(tmp_path: Path) -> None:
    backend = script(
        tmp_path,
        """
        likelihood:
          - {contains: fixed, logprobs: {A: -0.5, B: -2.0}}
          - {contains: position, prefer_option: A, p: 0.7, mass: 0.5}
          - {anywhere: which, keyword: sorry, p: 0.8}
        """,
    )
    pair = "which?\n(A) {}\n(B) {}\n"
    texts = ["fixed", "position", pair.format("sorry, no", "sure"), pair.format("sure", "sorry"), pair.format("x", "y")]
    got = backend.loglikelihood([ask(t) for t in texts], [[" A", " B"], ["(A)", "(B)"], *[["A", "B"]] * 3])
    assert got[0].logprobs == (-0.5, -2.0)
    probabilities = [[round(math.exp(v), 9) for v in row.logprobs] for row in got]
    assert probabilities[1:] == [[0.35, 0.15], [0.8, 0.2], [0.2, 0.8], [0.5, 0.5]]
    assert got[1].prompt_tokens == 1
    free = backend.loglikelihood([ask("other")], [["one", "one two"]])[0].logprobs
    assert free == pytest.approx((-math.log(2), -2 * math.log(2)))


@pytest.mark.parametrize(
    ("text", "holder"),
    [
        ("Answer with (A) or (B).\n\nResponse A:\nsorry\n\nResponse B:\nsure", 0.9),
        ("**Response A**\nsure\n**Response B**\nsorry", 0.1),
        ("A: sure\nB: sorry", 0.1),
        ("Example.\nA: sorry\nB: sure\nNow.\nA: sure\nB: sorry", 0.1),
    ],
)
def test_keyword_rule_finds_the_responses(tmp_path: Path, text: str, holder: float) -> None:
    backend = script(tmp_path, "likelihood: [{keyword: sorry}]")
    (row,) = backend.loglikelihood([ask(text)], [["A", "B"]])
    assert math.exp(row.logprobs[0]) == pytest.approx(holder)


def test_keyword_rule_with_markers_and_without_responses(tmp_path: Path) -> None:
    marked = script(tmp_path, "likelihood: [{keyword: sorry, markers: ['1)', '2)']}]")
    assert math.exp(marked.loglikelihood([ask("1) x 2) sorry")], [["A", "B"]])[0].logprobs[1]) == pytest.approx(0.9)
    with pytest.raises(BackendError, match="markers"):
        marked.loglikelihood([ask("nothing here")], [["A", "B"]])


def test_scripted_failures(tmp_path: Path) -> None:
    backend = script(tmp_path, "fail: [boom]\nlikelihood: [{logprobs: {A: -1.0}}]")
    assert backend.generate([ask("fine")], GREEDY)
    for call in (
        lambda: backend.generate([ask("fine"), ask("boom")], GREEDY),
        lambda: backend.loglikelihood([ask("boom")], [["A"]]),
    ):
        with pytest.raises(BackendError, match="boom") as caught:
            call()
        assert caught.value.retryable
    with pytest.raises(BackendError, match="'C'"):
        backend.loglikelihood([ask("x")], [["A", "C"]])


def test_a_backend_without_logprobs_names_the_fallback(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="mode: vote"):
        script(tmp_path, "no_logprobs: true").loglikelihood([ask("x")], [["A"]])


def test_room_and_delay(tmp_path: Path) -> None:
    backend = script(tmp_path, "context: 5\ndelay: 0.05\njitter: 0.2")
    assert backend.room(ask("one two three")) == 2
    assert backend.room(ask("1 2 3 4 5 6 7")) == -2
    started = time.monotonic()
    backend.generate([ask("x")] * 10, GREEDY)
    assert time.monotonic() - started >= 0.04


def test_identity_changes_with_the_script_and_not_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two, three = (
        script(tmp_path, "default: a"),
        script(tmp_path / "other", "default: a"),
        script(tmp_path, "default: b"),
    )
    assert one.model == two.model != three.model
    assert one.model.startswith("scripted:") and str(tmp_path) not in one.model
    assert open_backend(f"scripted:{tmp_path / 'script.yaml'}").model == three.model


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("defualt: x", ":1:1:", "default"),
        ("rules:\n  - {reply: x, contain: y}", ":2:", "contains"),
        ("rules: [{reply: []}]", ":1:", "reply"),
        ("likelihood:\n  - {p: 0.5}", ":2:", "exactly one"),
        ("likelihood: [{prefer_option: C}]", ":1:", "prefer_option"),
        ("delay: -1", ":1:", "delay"),
    ],
)
def test_a_bad_script_is_told_in_one_line(tmp_path: Path, text: str, place: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        script(tmp_path, text)
    assert place in str(caught.value) and message in str(caught.value)


def test_a_missing_script(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        ScriptedBackend(tmp_path / "absent.yaml")
