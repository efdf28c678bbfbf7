"""The recipe on a scripted model: what is recomputed and what is not, kill -9, signals, the lock, full disks."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipes import write_recipe

from constitutional.audit.current import open_view
from constitutional.audit.ledger_check import check_ledger_of
from constitutional.audit.status import status
from constitutional.audit.trace import problems, trace
from constitutional.config import load_recipe
from constitutional.constitution import load_constitution
from constitutional.display import Silent
from constitutional.errors import LedgerError, RunError
from constitutional.ledger import open_ledger_read_only
from constitutional.pipeline import run_recipe
from constitutional.records import Comparison, Judgment, Preference, Revision
from constitutional.runs import RunFolder, load_result
from constitutional.runs.manifest import package_versions

KILLS = int(os.environ.get("KILLS", "20"))
DATA = ("revise", "helpful", "sample", "gate", "judge", "label", "answers", "evaluate")


def run(recipe: Path, out: Path, *sets: str, **named: str):
    return run_recipe(load_recipe(recipe, sets), recipe, out, **named)


def outcome(folder: Path) -> dict[str, str]:
    """What a run left, without times: every merged file's digest, and the ledger's head."""
    found = {}
    for name, place in json.loads((folder / "current.json").read_text()).items():
        result = load_result(folder / place)
        assert result is not None
        found |= {f"{name}/{file}": sha for file, sha in result.manifest.outputs.items()}
    with open_ledger_read_only(folder / "ledger.sqlite") as ledger:
        assert ledger.verify() == []
        return found | {"head": ledger.head}


def reused(result) -> dict[str, bool]:
    return {step.name: step.reused for step in result.steps}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_recipe(folder / "in")
    return recipe, folder / "run", run(recipe, folder / "run")


@pytest.mark.parametrize("change", ["seed", "prompts"])
def test_what_other_settings_made_is_not_shown_as_this_recipes(tmp_path, change):
    recipe, out = write_recipe(tmp_path / "in"), tmp_path / "run"
    run(recipe, out)
    run_recipe(load_recipe(recipe), recipe, out, until="revise")
    assert open_view(out).step("evaluate") is not None  # of these very settings
    if change == "seed":
        run_recipe(load_recipe(recipe, ["seed=5"]), recipe, out, until="revise")
    else:
        path = next(recipe.parent.glob("*red*.jsonl"))
        kept = path.read_text()
        path.write_text(kept.replace("red 0", "red 00", 1))
        run_recipe(load_recipe(recipe), recipe, out, until="revise")
        path.write_text(kept)
    view = open_view(out)
    assert view.step("revise") is not None and view.step("evaluate") is None and view.step("gate") is None
    locked, prompts = json.loads((out / "lock.json").read_text()), (out / "prompts.jsonl").read_text()
    assert (locked["seed"], "red 00" in prompts) == ((5, False) if change == "seed" else (0, True))
    assert "evaluate" not in {step.name for step in status(out).steps if step.state == "done"}
    assert all(reused(run(recipe, out)).values())  # nothing was lost


@pytest.mark.parametrize("setting", ["checkpoint_every=7", "endpoint.timeout=7", "rl.report_to=[tensorboard]"])
def test_a_setting_that_no_result_depends_on_leaves_all_steps_current(tmp_path, setting):
    recipe, out = write_recipe(tmp_path / "in"), tmp_path / "run"
    run(recipe, out)
    before = json.loads((out / "current.json").read_text())
    run_recipe(load_recipe(recipe, [setting]), recipe, out, until="revise")
    assert len(before) > 4 and json.loads((out / "current.json").read_text()) == before
    run_recipe(load_recipe(recipe, [setting, "rl.steps=7"]), recipe, out, until="revise")
    assert list(json.loads((out / "current.json").read_text())) == ["revise"]


def test_a_gate_measured_when_ties_had_a_side_is_measured_again(tmp_path, monkeypatch):
    recipe, out = write_recipe(tmp_path / "in"), tmp_path / "run"
    stage = RunFolder.stage

    def before(self, number, name, key, inputs):
        return stage(self, number, name, {part: said for part, said in key.items() if part != "ties"}, inputs)

    with monkeypatch.context() as then:
        then.setattr(RunFolder, "stage", before)
        run(recipe, out)
    again = reused(run(recipe, out))
    assert not again["gate"] and not again["label"] and again["judge"]  # its judgments are what they were


@pytest.mark.parametrize("text", ["", "[1]", '{"revise": 3}', '{"revise'])
def test_a_broken_list_of_current_steps_is_one_line(tmp_path, text):
    recipe, out = write_recipe(tmp_path / "in"), tmp_path / "run"
    run_recipe(load_recipe(recipe), recipe, out, until="revise")
    (out / "current.json").write_text(text)
    with pytest.raises(RunError, match=r"current\.json: cannot be read; delete it"):
        run(recipe, out)
    (out / "current.json").unlink()
    assert reused(run(recipe, out))["revise"]


def test_a_gate_that_was_edited_is_not_believed(tmp_path):
    recipe, out = write_recipe(tmp_path / "in"), tmp_path / "run"
    found = run_recipe(load_recipe(recipe), recipe, out, until="gate")
    path = next(step.result.folder for step in found.steps if step.name == "gate") / "gate.json"
    path.write_text(path.read_text().replace('"passed":true', '"passed":false'))
    with pytest.raises(RunError, match=r"gate\.json: not the file its manifest names"):
        run(recipe, out)


def test_the_limit_of_judging_is_part_of_labels_from_contrast_pairs(tmp_path):
    recipe = write_recipe(tmp_path / "in")
    path = recipe.with_name("constitution.yaml")
    asked = re.compile(r"( +)comparison_request: Which response is more (\w+)\?\n")
    path.write_text(asked.sub(r"\g<0>\1negated_comparison_request: Which response is less \2?\n", path.read_text()))
    sets = ["stages=[sample, label]", "label.source=provenance", "sample.contrast=true"]
    counts = [
        next(s.result.manifest.counts["records"] for s in run(recipe, tmp_path / "run", *sets, *more).steps[1:])
        for more in ([], ["judging.limit=3"])
    ]
    assert counts[0] > counts[1] == 3


def test_every_step_leaves_its_records(finished):
    _, folder, result = finished
    steps = {step.name: step.result for step in result.steps}
    assert tuple(steps) == DATA
    revisions = steps["revise"].records(Revision)
    assert len(revisions) == 10 and all(len(r.rounds) == 2 for r in revisions)
    judgments = steps["judge"].records(Judgment)
    assert judgments and len(judgments) % 4 == 0
    preferences = steps["label"].records(Preference)
    assert preferences and all(p.p_a is not None for p in preferences)
    known = {j.id for j in judgments}
    assert all(set(p.judgment_ids) <= known for p in preferences if p.rule != "provenance")
    assert (folder / "report.html").stat().st_size > 1000 and result.bad_items == 0


def test_a_second_run_recomputes_nothing(finished):
    recipe, folder, _ = finished
    before = outcome(folder)
    assert set(reused(run(recipe, folder)).values()) == {True}
    assert outcome(folder) == before


def test_a_reused_step_tells_when_its_packages_were_others(finished, monkeypatch):
    recipe, folder, _ = finished
    said, display = [], Silent()
    monkeypatch.setattr(display, "say", said.append)
    run_recipe(load_recipe(recipe, ()), recipe, folder, display=display)
    assert "revise: reused, " in "\n".join(said)
    now = package_versions()
    monkeypatch.setattr("constitutional.pipeline.steps.package_versions", lambda: now | {"constitutional": "9.9"})
    run_recipe(load_recipe(recipe, ()), recipe, folder, display=display)
    assert f"revise: reused (made with constitutional {now['constitutional']}), " in "\n".join(said)


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("evaluation.principles_per_comparison=2", {"evaluate"}),
        ("evaluation.temperature=0.5", {"answers", "evaluate"}),
        ("label.rule=weighted", {"label"}),
        ("judging.principles_per_comparison=1", {"judge", "label"}),
        ("gate.min_order_consistency=0.5", {"gate", "label"}),
        ("sample.n=4", {"sample", "judge", "label"}),
        ("revise.rounds=1", {"revise"}),
        ("seed=1", set(DATA)),
    ],
)
def test_a_change_recomputes_what_depends_on_it_and_only_that(finished, change, redone):
    recipe, folder, _ = finished
    again = reused(run(recipe, folder, change))
    assert {name for name, kept in again.items() if not kept} == redone
    assert set(reused(run(recipe, folder)).values()) == {True}  # and changing back finds everything again


def test_revisions_are_judged_against_what_they_revise_when_asked(finished):
    recipe, folder, _ = finished
    result = run(recipe, folder, "sample.revisions=true", "judging.limit=8")
    assert {step.name for step in result.steps if not step.reused} == {"sample", "judge", "label"}
    steps = {step.name: step.result for step in result.steps}
    comparisons = {c.id: c for c in steps["sample"].records(Comparison)}
    revisions = {r.id: r for r in steps["revise"].records(Revision)}
    added = [c for c in comparisons.values() if c.origin == "revision"]
    assert added and all(revisions[c.parents[0]].final == c.a for c in added)
    assert {c.origin for c in list(comparisons.values())[:4]} == {"revision", "sampled"}  # a limit takes both kinds
    labelled = [p for p in steps["label"].records(Preference) if comparisons[p.comparison_id].origin == "revision"]
    assert labelled and all(p.judgment_ids and p.rule == "mean" for p in labelled)
    code, text = cli("trace", str(folder), labelled[0].id)
    assert code == 0 and "PROBLEM" not in text and labelled[0].judgment_ids[0] in text


ASKED = "conversation: [{role: user, content: Hm}]"
REVISED = f"revision: [{{{ASKED}, answer: No, critique: Curt., revision: 'No, sorry.'}}]"
COMPARED = f"comparison: [{{{ASKED}, better: sorry no, worse: sure yes}}]"


@pytest.mark.parametrize(
    ("file", "old", "new", "redone"),
    [
        ("constitution.yaml", "is more kind?", "is kinder?", {"gate", "judge", "label", "evaluate"}),
        ("constitution.yaml", "Write a kind answer.", "Write kindly.", {"revise"}),
        ("constitution.yaml", "title: Tiny", "title: Small", set()),
        ("constitution.yaml", "title: Tiny", f"title: Tiny\nfew_shots: {{{REVISED}}}", {"revise"}),
        (
            "constitution.yaml",
            "title: Tiny",
            f"title: Tiny\nfew_shots: {{{COMPARED}}}",
            {"gate", "judge", "label", "evaluate"},
        ),
        ("constitution.yaml", "    title: kind\n", f"    title: kind\n    few_shots: {{{REVISED}}}\n", {"revise"}),
        (
            "constitution.yaml",
            "    title: kind\n",
            f"    title: kind\n    few_shots: {{{COMPARED}}}\n",
            {"gate", "judge", "label", "evaluate"},
        ),
        ("help.jsonl", "Prompt help 0", "Prompt help zero", {"helpful"}),
        ("red.jsonl", "Prompt red 2", "Prompt red two", {"answers", "evaluate"}),
        ("model.yaml", "Maybe", "Perhaps", set(DATA)),
    ],
)
def test_a_changed_file_recomputes_what_reads_it(tmp_path, file, old, new, redone):
    recipe = write_recipe(tmp_path / "in")
    run(recipe, tmp_path / "run")
    path = tmp_path / "in" / file
    text = path.read_text()
    path.write_text(text.replace(old, new))
    assert path.read_text() != text
    again = run(recipe, tmp_path / "run", accept_constitution=constitution_digest(tmp_path))
    assert {name for name, kept in reused(again).items() if not kept} == redone
    for step in again.steps:
        assert problems(trace(tmp_path / "run", step.result.key)) == []


def constitution_digest(folder: Path) -> str:
    return load_constitution(str(folder / "in" / "constitution.yaml")).digest


def test_a_run_goes_on_under_another_constitution_only_when_that_is_asked_for_by_name(tmp_path):
    recipe = write_recipe(tmp_path / "in")
    arguments = ("run", str(recipe), "--out", str(tmp_path / "run"))
    assert cli(*arguments)[0] == 0
    before, first = outcome(tmp_path / "run"), constitution_digest(tmp_path)
    with open_view(tmp_path / "run") as view:
        judged = next(j.id for j in view.rows("judge", "data.jsonl", Judgment) if j.principle == "kind@1.0.0")
        under = {r.id: [step.principle for step in r.rounds] for r in view.rows("revise", "data.jsonl", Revision)}
        revised = next(revision for revision, refs in under.items() if "kind@1.0.0" in refs)
    path = tmp_path / "in" / "constitution.yaml"
    path.write_text(path.read_text().replace("is more kind?", "is kinder?"))
    second = constitution_digest(tmp_path)
    code, text = cli(*arguments)
    assert code != 0 and text.count("\n") == 1
    assert first in text and f"{second}; principles: 1 changed)" in text and f"--accept-constitution {second}" in text
    for other in (first, "tiny@1.0.0"):  # the name of both tells them not apart
        assert cli(*arguments, "--accept-constitution", other)[0] != 0
    assert outcome(tmp_path / "run") == before and not (tmp_path / "run" / "constitutions" / f"{second}.json").exists()
    assert cli(*arguments, "--accept-constitution", second)[0] == 0
    kept = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "run" / "constitutions").iterdir()}
    asked = {digest: text["principles"][0]["comparison_request"] for digest, text in kept.items()}
    assert asked == {first: "Which response is more kind?", second: "Which response is kinder?"}
    for cited in (judged, revised):
        code, text = cli("trace", str(tmp_path / "run"), cited)
        assert code == 0 and "PROBLEM" not in text, text
        assert f"constitution: tiny@1.0.0 digest {first}, not the present one ({second})" in text
    assert "comparison_request: Which response is more kind?" in cli("trace", str(tmp_path / "run"), judged)[1]
    by_name = cli("trace", str(tmp_path / "run"), "--principle", "kind@1.0.0")[1]
    (line,) = [line for line in by_name.splitlines() if "its text was changed under one name" in line]
    counts = [int(count) for count in re.findall(r"(\d+) under [0-9a-f]{16}", line)]
    total = re.search(r"ledger: (\d+) judgments", by_name)
    assert total is not None and len(counts) == 2 and sum(counts) == int(total.group(1)) and all(counts)
    (tmp_path / "run" / "constitutions" / f"{first}.json").rename(tmp_path / "aside.json")
    assert "PROBLEM: recorded with digest" in cli("trace", str(tmp_path / "run"), judged)[1]
    (tmp_path / "aside.json").rename(tmp_path / "run" / "constitutions" / f"{first}.json")
    path.write_text(path.read_text().replace("version: 1.0.0\ntitle: Tiny", "version: 2.0.0\ntitle: Tiny"))
    assert "--accept-constitution tiny@2.0.0" in cli(*arguments)[1]
    assert cli(*arguments, "--accept-constitution", "tiny@2.0.0")[0] == 0


def test_a_run_does_not_go_among_other_files(tmp_path):
    recipe, out = write_recipe(tmp_path / "in"), tmp_path / "mine"
    out.mkdir()
    (out / ".gitkeep").touch()
    (out / "notes.txt").write_text("mine\n")
    code, text = cli("run", str(recipe), "--out", str(out), "--until", "revise")
    assert code == 1 and f"{out}: holds other files and no run: give another --out" in text
    assert sorted(path.name for path in out.iterdir()) == [".gitkeep", "notes.txt"]
    (out / "notes.txt").unlink()
    assert cli("run", str(recipe), "--out", str(out), "--until", "revise")[0] == 0
    (out / "notes.txt").write_text("beside a run\n")
    assert cli("run", str(recipe), "--out", str(out), "--until", "revise")[0] == 0


def test_a_deleted_stage_is_rebuilt_with_what_depends_on_it(tmp_path):
    recipe = write_recipe(tmp_path / "in")
    run(recipe, tmp_path / "run")
    before = outcome(tmp_path / "run")
    import shutil

    shutil.rmtree(tmp_path / "run" / "stages" / "04-sample")
    again = reused(run(recipe, tmp_path / "run"))
    assert {name for name, kept in again.items() if not kept} == {"sample", "judge", "label"}
    assert outcome(tmp_path / "run") == before  # judgments were read back from the ledger


def test_a_judge_that_fails_its_gate_stops_or_falls_back_as_told(tmp_path):
    recipe = write_recipe(tmp_path / "in")
    model = tmp_path / "in" / "model.yaml"
    model.write_text(model.read_text().replace("keyword: sorry, p: 0.85", 'prefer_option: "A", p: 0.9'))
    result = run(recipe, tmp_path / "fallback")
    labels = {s.name: s.result for s in result.steps}["label"].records(Preference)
    assert labels and {(p.rule, p.p_a) for p in labels} == {("provenance", 1.0)}
    code, text = cli("run", str(recipe), "--out", str(tmp_path / "stop"), "--set", "gate.fallback=stop")
    assert code == 1 and "did not pass its gate" in text and "Traceback" not in text
    assert (tmp_path / "stop" / "stages" / "01-revise").exists()
    assert "did not pass" in (tmp_path / "stop" / "report.html").read_text("utf-8").lower()


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "constitutional", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def cli(*arguments: str) -> tuple[int, str]:
    child = start(*arguments)
    text, _ = child.communicate(timeout=300)
    return child.returncode, text


@pytest.mark.slow
def test_killed_anywhere_and_resumed_gives_the_same_bytes(tmp_path):
    recipe = write_recipe(tmp_path / "in", delay=0.02)
    begun = time.monotonic()
    assert cli("run", str(recipe), "--out", str(tmp_path / "whole"), "--display", "none")[0] == 0
    whole = time.monotonic() - begun  # kills fall anywhere in it, however slow the machine is
    expected, draw, kills, trial = outcome(tmp_path / "whole"), random.Random(3), 0, 0
    while kills < KILLS:
        folder, trial = tmp_path / f"killed{trial}", trial + 1
        while True:
            child = start("run", str(recipe), "--out", str(folder), "--display", "none")
            try:
                child.communicate(timeout=whole * (0.2 + 0.7 * draw.random()) if kills < KILLS else None)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
                kills += 1
                continue
            assert child.returncode == 0
            break
        assert outcome(folder) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("times", [1, 6])  # `timeout` sends two
def test_signals_end_the_run_with_the_resume_command(tmp_path, number, code, times):
    recipe = write_recipe(tmp_path / "in", delay=0.3)
    child = start("run", str(recipe), "--out", str(tmp_path / "run"))
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("run/stages/01-revise/*/chunks/0*.jsonl")):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    sent = time.monotonic()
    for _ in range(times):
        child.send_signal(number)
        time.sleep(0.01)
    text, _ = child.communicate(timeout=30)
    assert time.monotonic() - sent < 5 and child.returncode == code
    assert f"constitutional run {recipe} --out {tmp_path / 'run'}" in text and "Traceback" not in text


STOPPED = """
import signal, sys, time
from constitutional import cli
signal.signal(signal.SIGTERM, cli._stop)
try:
    print("ready", flush=True)
    time.sleep(60)
except cli.Stopped:
    print("farewell", flush=True)
    time.sleep(60)  # it cannot be said
"""


def test_a_signal_a_second_after_the_first_ends_a_process_whose_farewell_is_blocked():
    child = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.stdout.readline() == "farewell\n"
    child.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=1.2)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=10) == 143
    child.stdout.close()


def test_a_lost_ledger_is_found_though_no_step_is_current(tmp_path):
    recipe = write_recipe(tmp_path / "in")
    run(recipe, tmp_path / "run")
    run(recipe, tmp_path / "run", "seed=5", until="revise")  # under other settings no judging step is current
    kept = {path: path.read_bytes() for path in (tmp_path / "run").glob("ledger.sqlite*")}
    for path in kept:
        path.unlink()
    with pytest.raises(LedgerError, match="rows were cut off"):
        run(recipe, tmp_path / "run")
    told = check_ledger_of(tmp_path / "run")
    assert any("rows were cut off" in line for line in told.problems) and any(
        "06-judge" in line for line in told.remedies
    )
    for path in (tmp_path / "run").glob("ledger.sqlite*"):
        path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    assert all(step.reused for step in run(recipe, tmp_path / "run").steps)


def test_a_second_process_is_refused_with_the_holders_pid(tmp_path):
    recipe = write_recipe(tmp_path / "in", delay=0.3)
    holder = start("run", str(recipe), "--out", str(tmp_path / "run"))
    while not (tmp_path / "run" / ".holder.json").exists():
        time.sleep(0.05)
    code, text = cli("run", str(recipe), "--out", str(tmp_path / "run"))
    holder.kill()
    holder.communicate()
    assert code == 1 and f"in use by pid {holder.pid} on host" in text


def test_a_full_disk_is_one_line_and_nothing_done_is_lost(tmp_path):
    recipe = write_recipe(tmp_path / "in")
    command = f"ulimit -f 8; exec {sys.executable} -m constitutional run {recipe} --out {tmp_path / 'run'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot" in line and str(tmp_path / "run") in line
    assert not list(tmp_path.glob("run/**/*.tmp"))
    run(recipe, tmp_path / "run")
    fresh = run(recipe, tmp_path / "fresh")
    assert outcome(tmp_path / "run") == outcome(fresh.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("policy=skripted:model.yaml", "unknown model spec 'skripted:model.yaml'"),
        ("policy=embedded:smolm2-135m", "did you mean 'smollm2-135m'?"),
        ("revise.principles=[kinde]", "did you mean 'kind'?"),
        ("sampel.n=4", "unknown key 'sampel' (did you mean 'sample'?)"),
        ("sample.n=two", "sample.n"),
        ("constitution=harmlesness", "did you mean 'harmlessness'?"),
        ("prompts.red_team.path=none.jsonl", "none.jsonl"),
        ("stages=[revise, sampel]", "stages"),
    ],
)
def test_bad_settings_stop_before_anything_is_written(tmp_path, change, message):
    recipe = write_recipe(tmp_path / "in")
    code, text = cli("run", str(recipe), "--out", str(tmp_path / "run"), "--set", change)
    assert code == 1 and message in text and "Traceback" not in text
    assert not (tmp_path / "run").exists()
