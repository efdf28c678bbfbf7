"""Whole runs on a real local server: faults, kills, budgets, outages, batch files, and a key that nobody may see."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("tenacity")
pytest.importorskip("aiolimiter")

from api_server import Server, with_short_pauses
from recipes import write_recipe
from test_pipeline import outcome

from constitutional.audit.trace import problems, trace
from constitutional.backends.endpoint.address import parse_address
from constitutional.backends.endpoint.calls import Calls
from constitutional.config import load_recipe
from constitutional.errors import BudgetError, PendingError, RunError
from constitutional.ledger import open_ledger_read_only
from constitutional.pipeline import chosen_steps, run_recipe
from constitutional.pipeline.estimate import estimate
from constitutional.pipeline.inputs import load_inputs
from constitutional.records import Revision
from constitutional.runs import load_result

pytestmark = pytest.mark.slow

KEY = "sk-planted-0123456789abcdef"
TIMEOUT = float(os.environ.get("ENDPOINT_TIMEOUT", "5"))
KILLS = int(os.environ.get("KILLS", "20")) // 4


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    with_short_pauses(monkeypatch)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server that wants a key, a recipe whose three roles it plays, and the key in the environment."""
    recipe = write_recipe(tmp_path / "in", prompts=8)
    with Server(tmp_path / "in" / "model.yaml", key=KEY) as server:
        spec = f"openai:m@{server.url}"
        settings = f"endpoint: {{timeout: {TIMEOUT}, patience: 600, concurrency: 16}}\n"
        recipe.write_text(recipe.read_text().replace("scripted:model.yaml", spec) + settings)
        monkeypatch.setenv(f"CONSTITUTIONAL_KEY_127_0_0_1_{server.port}", KEY)
        yield server, recipe


def run(recipe: Path, out: Path, *sets: str, **named):
    return run_recipe(load_recipe(recipe, sets), recipe, out, **named)


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def cli(*arguments: str, wait: float | None = None, sign: int = signal.SIGKILL) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "constitutional", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if wait is not None:
        time.sleep(wait)
        process.send_signal(sign)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def test_a_run_under_faults_is_the_run_without_and_the_key_is_nowhere(served, tmp_path, capfd):
    server, recipe = served
    run(recipe, tmp_path / "clean")
    server.share = 0.5
    run(recipe, tmp_path / "faulty")
    assert sum(server.planted.values()) > 30
    assert outcome(tmp_path / "faulty") == outcome(tmp_path / "clean")
    shown = "".join(capfd.readouterr())
    for kept in (bytes_of(tmp_path / "faulty"), bytes_of(tmp_path / "clean"), shown.encode()):
        assert KEY.encode() not in kept
    lock = json.loads((tmp_path / "clean" / "lock.json").read_text())
    assert set(lock["models"].values()) == {parse_address(f"m@{server.url}").identity}
    with open_ledger_read_only(tmp_path / "clean" / "ledger.sqlite") as ledger:
        judgments = list(ledger.judgments())
    assert judgments and {j.outcome for j in judgments} <= {"preference", "tie"}
    assert not any("127.0.0.1" in j.to_json() for j in judgments)
    note = json.loads(judgments[0].raw)["endpoint"]
    assert note["model"] == "m-2026" and note["fingerprint"] == "fp_1" and note["opening"] == "continued"
    assert 0 <= note["missing_mass"] < 0.01
    assert problems(trace(tmp_path / "clean", judgments[0].id)) == []
    events = [json.loads(line) for line in (tmp_path / "clean" / "events.jsonl").read_text().splitlines()]
    (told,) = [event for event in events if event["kind"] == "endpoint"]
    assert list(told["served"]) == [f"{lock['models']['judge']}: m-2026 fp_1"]


def test_a_wrong_key_is_told_by_the_name_of_its_variable_and_not_shown(served, tmp_path, monkeypatch):
    server, recipe = served
    wrong = "sk-wrong-0123456789"
    monkeypatch.setenv(f"CONSTITUTIONAL_KEY_127_0_0_1_{server.port}", wrong)
    code, said = cli("run", str(recipe), "--out", str(tmp_path / "run"), "--display", "none")
    assert code == 1 and f"set CONSTITUTIONAL_KEY_127_0_0_1_{server.port}" in said and "Traceback" not in said
    assert wrong not in said and wrong.encode() not in bytes_of(tmp_path / "run")  # the server repeats it


def test_killed_anywhere_nothing_answered_is_asked_again(served, tmp_path):
    server, recipe = served
    run(recipe, tmp_path / "clean")
    whole = sum(server.asked.values())
    server.forget()
    server.latency = 0.05
    folder, code, kept, kills = tmp_path / "killed", -9, set(), 0
    random.seed(5)
    while code != 0:
        wait = 1.5 + 3 * random.random() if kills < KILLS else None
        sign = signal.SIGINT if kills % 3 == 2 else signal.SIGKILL
        before = server.asked.copy()
        code, said = cli("run", str(recipe), "--out", str(folder), "--display", "none", wait=wait, sign=sign)
        assert not [key for key in kept if server.asked[key] > before[key]]
        if code == 130:
            assert "Resume with:" in said and "constitutional run" in said
        kills += code != 0
        if (folder / "calls.sqlite").exists():
            calls = Calls(folder / "calls.sqlite")
            kept = {key for (key,) in calls._db.execute("SELECT key FROM calls WHERE key IS NOT NULL")}
            calls.close()
        assert code in (0, 130, -9, 3), said
    assert sum(server.asked.values()) <= whole + kills * 16
    assert outcome(folder) == outcome(tmp_path / "clean")


def test_a_budget_stops_with_the_command_that_goes_on(served, tmp_path):
    server, recipe = served
    prices = tmp_path / "in" / "prices.yaml"
    prices.write_text("m: {prompt: 100.0, completion: 1000.0}\n")
    recipe.write_text(recipe.read_text().replace("concurrency: 16", "concurrency: 16, prices: prices.yaml"))
    command = ["run", str(recipe), "--out", str(tmp_path / "run"), "--display", "none", "--budget"]
    code, said = cli(*command, "0.5")
    assert code == 4 and "--budget" in said and "constitutional run" in said
    spent = Calls(tmp_path / "run" / "calls.sqlite").spent
    assert 0 < spent <= 0.5
    asked = sum(server.asked.values())
    code, said = cli(*command, "50")
    assert code in (0, 3), said
    assert max(server.asked.values()) == 1 and sum(server.asked.values()) > asked
    with pytest.raises(BudgetError):
        run(recipe, tmp_path / "other", budget=0.0)
    code, said = cli(*command, "50", "--set", "endpoint.prices=null", "--set", f"judge=openai:n@{server.url}")
    assert code == 1 and "no price is known for 'n'" in said


def test_an_outage_ends_resumably(served, tmp_path):
    """H5."""
    server, recipe = served
    server.always = ("reset_before", "Which response is more kind")
    command = ["run", str(recipe), "--out", str(tmp_path / "run"), "--display", "none"]
    code, said = cli(*command, "--set", "endpoint.patience=1.5")
    assert code == 1 and "endpoint.patience" in said and "Resume with:" in said
    server.always, before = None, server.answered.copy()
    code, said = cli(*command)
    assert code in (0, 3), said
    assert not [key for key in before if server.answered[key] > 1]


def test_a_principle_whose_calls_all_fail_is_counted_and_ends_the_run_where_asked(served, tmp_path):
    """H6."""
    server, recipe = served
    server.always = ("html", "Which response is more kind")
    result = run(recipe, tmp_path / "run")
    with open_ledger_read_only(tmp_path / "run" / "ledger.sqlite") as ledger:
        kind = [j for j in ledger.judgments() if j.principle == "kind@1.0.0"]
        others = [j for j in ledger.judgments() if j.principle != "kind@1.0.0"]
    assert kind and all(j.outcome == "invalid" and j.p_a is None and "HTML" in j.raw for j in kind)
    assert {j.outcome for j in others} <= {"preference", "tie"}
    assert "invalid" in Path(result.report).read_text()
    with pytest.raises(RunError, match=r"gate: 8 of 24 items failed \(33.3%\)"):
        run(recipe, tmp_path / "strict", fail_on_error=0.2)
    run(recipe, tmp_path / "strict", fail_on_error=0.9)


def test_items_that_are_not_answered_are_failures_of_their_own_kind(served, tmp_path):
    server, recipe = served
    server.always = ("broken_json", "Prompt red 1")
    result = run(recipe, tmp_path / "run")
    failures = {step.name: step.result.manifest.failures for step in result.steps}
    assert failures["revise"] == {"invalid_answer": 1} and failures["sample"]["invalid_answer"] == 1
    assert result.bad_items


def test_a_rejected_first_question_does_not_end_the_run(served, tmp_path):
    """The gate puts its questions one by one until one is answered; the first one never is."""
    server, recipe = served
    server.always = ("400", "kind 0")
    run(recipe, tmp_path / "run", until="gate")
    with open_ledger_read_only(tmp_path / "run" / "ledger.sqlite") as ledger:
        judgments = list(ledger.judgments())
    bad = [j for j in judgments if j.outcome == "invalid"]
    assert len(bad) == 2 and all("says 400: planted" in j.raw for j in bad)
    assert judgments[0] in bad and len(judgments) == 24
    assert max(server.asked.values()) == 1


def test_raw_text_goes_to_completions(served, tmp_path):
    """The transcript pack on the served model: dialogues are one text; its options, of several tokens, are echoed."""
    server, recipe = served
    run(recipe, tmp_path / "run", "templates=transcript", until="helpful")
    assert server.bodies and all("prompt" in body and "messages" not in body for body in server.bodies)
    steps = json.loads((tmp_path / "run" / "current.json").read_text())
    revised = load_result(tmp_path / "run" / steps["revise"]).records(Revision)
    assert revised and all(r.rounds for r in revised)


def test_vote_needs_no_log_probabilities(served, tmp_path):
    server, recipe = served
    server.always = ("no_logprobs", '"logprobs"')
    script = tmp_path / "in" / "model.yaml"
    script.write_text(
        script.read_text().replace("rules:", 'rules:\n  - {contains: "Reply with the letter", reply: "A"}', 1)
    )
    server.script = type(server.script)(script)
    run(recipe, tmp_path / "run", "judging.mode=vote", "judging.samples=1", "gate.min_order_consistency=0")
    with open_ledger_read_only(tmp_path / "run" / "ledger.sqlite") as ledger:
        judgments = list(ledger.judgments())
    assert {(j.mode, j.outcome) for j in judgments} == {("vote", "preference")}
    assert not any("logprobs" in body for body in server.bodies)


def test_the_estimate_is_what_a_run_asks_at_most(served, tmp_path):
    server, recipe = served
    loaded = load_recipe(recipe, ["revise.candidates=1"])
    inputs = load_inputs(loaded, recipe)
    loads = estimate(inputs, chosen_steps(loaded, None))
    assert sum(server.asked.values()) == 0
    run_recipe(loaded, recipe, tmp_path / "run")
    by_step = {name: sum(one.calls for one in loads if one.step == name) for name in chosen_steps(loaded, None)}
    calls = sum(server.answered.values())
    # two equal drafts, or pairs, are asked about once or not at all
    assert 0.8 * sum(by_step.values()) <= calls <= sum(by_step.values())
    characters = sum(len(json.dumps(body.get("messages"))) for body in server.bodies)
    assert 0.5 < sum(one.prompt_tokens for one in loads) / (characters / 4) < 2
    code, said = cli("estimate", str(recipe), "--set", "revise.candidates=1")
    assert code == 0 and f"total {sum(by_step.values())}" in " ".join(said.split())


def test_batch_files_answered_elsewhere_give_the_live_run(served, tmp_path):
    """Waves of calls go to files; a service answers them (here the server's own function); the run goes on."""
    server, recipe = served
    server.owner = "somebody"  # calls in files do not rely on what one server can do
    run(recipe, tmp_path / "live")
    server.forget()
    waves = 0
    while True:
        try:
            run(recipe, tmp_path / "run", batch=tmp_path / "batch")
            break
        except PendingError as error:
            assert "constitutional batch" in str(error)
        waves += 1
        assert waves < 20
        answers = tmp_path / f"answers{waves}.jsonl"
        lines = []
        for file in sorted((tmp_path / "batch").glob("*.jsonl")):
            for line in map(json.loads, file.read_text().splitlines()):
                body = server.reply(line["url"].removeprefix("/v1"), line["body"])
                lines.append({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}})
            file.unlink()
        if waves == 1:  # one answer is none: the call stays unanswered and is in the next file
            lines[0]["response"]["body"] = {"choices": []}
        answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
        code, said = cli("batch", str(tmp_path / "run"), str(answers))
        assert code == 0, said
    assert sum(server.asked.values()) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "live")
    (tmp_path / "bad.jsonl").write_text('{"custom_id": "x"}\n')
    code, said = cli("batch", str(tmp_path / "run"), str(tmp_path / "bad.jsonl"))
    assert code == 1 and "bad.jsonl:1: custom_id 'x'" in said


def test_a_missing_extra_is_one_line(served, tmp_path):
    _, recipe = served
    blocked = "import sys; sys.modules['openai'] = None; from constitutional.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", blocked, "run", str(recipe), "--out", str(tmp_path / "run"), "--display", "none"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "constitutional[api]" in done.stderr and done.stderr.count("\n") == 1
