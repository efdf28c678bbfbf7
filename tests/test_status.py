import json
import os
import socket
from pathlib import Path

import pytest
from fake_models import make_prompts
from fake_run import CONSTITUTION, RECIPE, make_run

from constitutional.audit.current import STEP_NAMES, open_view
from constitutional.audit.report import write_report
from constitutional.audit.status import render_status, status
from constitutional.errors import RunError
from constitutional.runs import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("status") / "run")


def _raw(run: Path, step: str, file: str = "data.jsonl") -> list[dict[str, object]]:
    folder = json.loads((run / "current.json").read_text())[step]
    return [json.loads(line) for line in (run / folder / file).read_bytes().split(b"\n")[:-1]]


def test_every_step_with_counts_failures_and_tokens(run: Path) -> None:
    found = status(run)
    steps = {step.name: step for step in found.steps}
    assert tuple(steps) == STEP_NAMES and {step.state for step in found.steps} == {"done"}
    revisions = _raw(run, "revise")
    usage = [r["usage"] for revision in revisions for r in revision["rounds"]]  # type: ignore[attr-defined]
    usage += [revision["initial_usage"] for revision in revisions]
    assert steps["revise"].tokens is not None and len(usage) == 3 * len(revisions)
    assert steps["revise"].tokens.completion_tokens == sum(u["completion_tokens"] for u in usage) > 0
    judged = _raw(run, "judge")
    assert steps["judge"].tokens is not None
    assert steps["judge"].tokens.prompt_tokens == sum(j["usage"]["prompt_tokens"] for j in judged)  # type: ignore[index]
    answered = _raw(run, "answers")
    assert steps["answers"].tokens is not None
    assert steps["answers"].tokens.prompt_tokens == sum(a["usage"]["prompt_tokens"] for a in answered) > 0  # type: ignore[index]
    assert steps["pm"].tokens is None and steps["sample"].tokens is None
    failed = _raw(run, "answers", "failures.jsonl")
    assert sum(steps["answers"].failures.values()) == len(failed) > 0
    assert steps["sft"].failures == {"too_long": 1}  # told by the trainer, not by a chunk
    assert found.failures == sum(sum(step.failures.values()) for step in found.steps)
    judgments = {row["id"] for step in ("gate", "judge", "evaluate") for row in _raw(run, step)}
    assert found.judgments == len(judgments) and found.holder is None
    assert found.seconds == sum(step.seconds or 0 for step in found.steps) > 0


def test_the_table_is_plain_text(run: Path) -> None:
    text = render_status(status(run))
    lines = text.splitlines()
    assert lines[1].split()[:2] == ["step", "state"] and lines[2].startswith("revise")
    assert [line.split()[0] for line in lines[2:13]] == list(STEP_NAMES)
    assert "ledger: " in text and "not in use" in text and "\x1b" not in text
    assert "tokens: without those of sample" in text


def test_the_peak_memory_is_that_of_the_largest_process(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="sample")
    assert status(run).peak_memory_mb is None
    events = [{"kind": "step", "peak_memory_mb": mb} for mb in (900, 4321, 700)]
    text = "".join(json.dumps(event) + "\n" for event in events) + '{"kind": "start"}\n{"peak_memory_mb": 99'
    (run / "events.jsonl").write_text(text)
    assert status(run).peak_memory_mb == 4321
    assert "peak memory: 4.3 GB" in render_status(status(run))


def test_a_partial_run_and_who_is_at_work_on_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run\x1b[2J", until="sample")
    with open_run(run) as folder:
        stage = folder.stage(6, "judge", {"seed": 1})

        def work(chunk: object, index: int) -> list[object]:
            if index == 2:
                raise KeyboardInterrupt
            return []

        with pytest.raises(KeyboardInterrupt):
            stage.run_chunks(list(range(9)), work, chunk_size=2, output_type=object)  # type: ignore[arg-type,type-var]
        held = status(run)
    states = {step.name: step.state for step in held.steps}
    assert [states[name] for name in ("sample", "gate", "judge", "evaluate")] == ["done", "absent", "running", "absent"]
    assert held.holder is not None and f"pid {os.getpid()} on host {socket.gethostname()}" in held.holder
    free = status(run)
    judge = next(step for step in free.steps if step.name == "judge")
    assert (judge.state, judge.chunks, free.holder) == ("unfinished", (2, 5), None)
    text = render_status(held)
    assert "2 of 5 chunks" in text and "in use by pid" in text and "\x1b" not in text


def test_steps_the_recipe_leaves_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="helpful")
    recipe = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(recipe.replace("stages: null", "stages: [revise, helpful, gate]"))
    states = {step.name: step.state for step in status(run).steps}
    assert (states["helpful"], states["gate"], states["rl"]) == ("done", "absent", "left out")


def test_steps_whose_folders_are_gone_or_stale(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    whole, current = status(run), json.loads((run / "current.json").read_text())
    (run / "current.json").write_text(
        json.dumps({**current, "renamed-step": "stages/12-renamed-step/0123456789abcdef"})
    )
    assert status(run) == whole
    for name, folder in current.items():
        (run / folder).rename(run / "aside")
        found = status(run)
        assert {s.name: s.state for s in found.steps} == {s: "absent" if s == name else "done" for s in STEP_NAMES}
        assert name in render_status(found)
        write_report(run, RECIPE, CONSTITUTION, make_prompts())
        steps = json.loads((run / "report.json").read_text())["steps"]
        assert [s["name"] for s in steps if s["state"] != "done"] == [name]
        (run / "aside").rename(run / folder)
    (run / "stages").rename(run / "aside")
    assert {s.state for s in status(run).steps} == {"absent"}
    write_report(run, RECIPE, CONSTITUTION, make_prompts())


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run folder: no such folder"):
        status(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"is not a run folder: no run.yaml in it"):
        status(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", until="revise")
    data = next((run / "stages").glob("*/*/data.jsonl"))
    text = data.read_bytes()
    data.write_bytes(text.replace(b"ladder", b"laddxx", 1))
    with pytest.raises(RunError, match=r"damaged line|not the file its manifest names"):
        status(run)
    data.write_bytes(text)
    (run / "current.json").write_text(json.dumps({"revise": "../elsewhere"}))
    with pytest.raises(RunError, match="lies outside the run folder"):
        status(run)
    (run / "prompts.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"prompts\.jsonl:1: damaged line"):
        open_view(run)
    (run / "lock.json").write_text("[")
    (run / "prompts.jsonl").write_text("")
    with pytest.raises(RunError, match=r"lock\.json: cannot be read"):
        open_view(run)
