import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from constitutional.errors import RunError
from constitutional.records import Answer, Failure, Prompt, Usage, digest, user
from constitutional.runs import RunFolder, Stage, StageResult, load_result, open_run
from constitutional.runs.manifest import git_commit, package_versions


@pytest.fixture
def run(tmp_path: Path) -> Iterable[RunFolder]:
    with open_run(tmp_path / "run") as folder:
        yield folder


def answer(item: int, text: str = "") -> Answer:
    return Answer(prompt_id=str(item), model="m", text=text, finish_reason="stop", seed=0, usage=Usage())


def work(items: Sequence[int], chunk: int) -> Iterable[Answer | Failure]:
    for item in items:
        if item % 4 == 3:
            yield Failure(item_id=str(item), stage="s", kind=f"kind{item % 8}", message="\u2028\ud800")
        else:
            yield answer(item, f"chunk {chunk}\n\u2028\x85\r\x00é")


def done(stage: Stage, items: int = 10, chunk_size: int = 3) -> StageResult:
    if result := stage.result():
        return result
    stage.run_chunks(range(items), work, chunk_size=chunk_size, output_type=Answer)
    return stage.finish()


def chain(run: RunFolder, first: object = 1, last: object = 1) -> dict[str, str]:
    """Runs a -> b -> d and a side branch c -> d; gives each stage's build stamp."""
    a = done(run.stage(1, "a", {"x": first}))
    b = done(run.stage(2, "b", {}, {"a": a}))
    c = done(run.stage(3, "c", {}))
    d = done(run.stage(4, "d", {"y": last}, {"b": b, "c": c}))
    return {name: result.manifest.built for name, result in zip("abcd", (a, b, c, d), strict=True)}


def test_a_stage_gives_back_its_records_and_failures_in_order(run: RunFolder) -> None:
    result = done(run.stage(1, "sample", {"seed": 5, "t": (1, 2)}))
    wanted = [item for chunk in range(4) for item in work(range(10)[chunk * 3 : chunk * 3 + 3], chunk)]
    assert result.records(Answer) == [item for item in wanted if isinstance(item, Answer)]
    assert result.failures() == [item for item in wanted if isinstance(item, Failure)]
    assert result.folder == run.path / "stages" / "01-sample" / result.key
    assert sorted(p.name for p in result.folder.iterdir()) == ["data.jsonl", "failures.jsonl", "manifest.json"]
    lines = (result.folder / "data.jsonl").read_bytes().split(b"\n")
    assert lines[0].decode() == result.records(Answer)[0].to_json()


def test_the_manifest_says_what_was_made_from_what(run: RunFolder) -> None:
    first = done(run.stage(1, "sample", {"seed": 5}))
    stage = run.stage(2, "judge", {"k": [1, {"z": None}]}, {"sample": first})
    stage.run_chunks(range(10), work, chunk_size=3, output_type=Answer)
    manifest = stage.finish({"asked": 20}, ledger_head="f" * 64).manifest
    assert (
        manifest.key
        == digest({"stage": "judge", "settings": {"k": [1, {"z": None}]}, "inputs": {"sample": first.key}})[:16]
    )
    assert manifest.counts == {"asked": 20, "records": 8, "failures": 2}
    assert manifest.failures == {"kind3": 1, "kind7": 1}
    assert {n: (i.key, i.built) for n, i in manifest.inputs.items()} == {"sample": (first.key, first.manifest.built)}
    assert (manifest.seed, first.manifest.seed, manifest.ledger_head) == (None, 5, "f" * 64)
    assert manifest.versions == package_versions() and manifest.versions["torch"]
    assert manifest.git == git_commit()
    assert manifest.started < manifest.ended and manifest.built.startswith(manifest.started)
    text = (run.path / "stages" / "02-judge" / manifest.key / "manifest.json").read_text()
    assert text.startswith('{\n  "stage": "judge",\n  "key"')
    assert set(manifest.outputs) == {"data.jsonl", "failures.jsonl"}


def test_the_merged_file_is_readable_by_datasets(run: RunFolder, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    result = done(run.stage(1, "sample", {}))
    file = str(result.folder / "data.jsonl")
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["id"] for row in rows] == [record.id for record in result.records(Answer)]
    assert rows[0]["text"] == result.records(Answer)[0].text


def test_a_second_time_nothing_is_recomputed(run: RunFolder) -> None:
    assert chain(run) == chain(run)
    stage = run.stage(1, "a", {"x": 1})
    stage.run_chunks(range(10), lambda *_: pytest.fail("redone"), chunk_size=3, output_type=Answer)
    assert stage.finish() == stage.result()


@pytest.mark.parametrize(("deleted", "redone"), [("a", "abd"), ("b", "bd"), ("c", "cd"), ("d", "d")])
def test_deleting_a_stages_folder_recomputes_it_and_its_dependents_only(
    run: RunFolder, deleted: str, redone: str
) -> None:
    before = chain(run)
    (folder,) = (run.path / "stages").glob(f"*-{deleted}")
    shutil.rmtree(folder)
    after = chain(run)
    assert {name for name in "abcd" if before[name] != after[name]} == set(redone) and after == chain(run)


def test_a_changed_setting_recomputes_dependents_and_the_old_results_stay(run: RunFolder) -> None:
    before = chain(run, last=1)
    changed = chain(run, last=2)
    assert {name for name in "abcd" if before[name] != changed[name]} == {"d"}
    assert {name for name in "abcd" if chain(run, first=2)[name] != before[name]} == {"a", "b", "d"}
    assert chain(run) == before


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace("{", '{"later": 1, ', 1)])
def test_what_a_manifest_that_cannot_be_read_is_of_is_not_removed(run: RunFolder, damage: Callable[[str], str]) -> None:
    """It may be of a later version, and the stage a trained model."""
    result = done(run.stage(1, "a", {}))
    manifest = result.folder / "manifest.json"
    manifest.write_text(damage(manifest.read_text()))
    assert load_result(result.folder) is None
    with pytest.raises(RunError, match=rf"manifest\.json: not a manifest .*; delete {result.folder} to redo the stage"):
        done(run.stage(1, "a", {}))
    assert (result.folder / "data.jsonl").exists()
    shutil.rmtree(result.folder)
    assert done(run.stage(1, "a", {})).manifest.outputs == result.manifest.outputs


def test_a_missing_output_is_not_a_result(run: RunFolder) -> None:
    result = done(run.stage(1, "a", {}))
    (result.folder / "data.jsonl").unlink()
    assert load_result(result.folder) is None
    stage = run.stage(1, "a", {})
    assert stage.result() is None
    again = done(stage)
    assert again.manifest.built != result.manifest.built
    assert again.manifest.outputs == result.manifest.outputs


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda data: data[:-5], r"data\.jsonl:8: damaged line"),
        (
            lambda data: data.replace(b'"model":"m"', b'"model":"n"', 1),
            r"data\.jsonl:1: damaged line: .*does not match",
        ),
        (lambda data: b"[]\n" + data, r"data\.jsonl:1: damaged line: not a JSON object"),
        (lambda data: b"\xff\n" + data, r"data\.jsonl:1: damaged line"),
        (lambda data: data[: data.rfind(b"\n", 0, -1) + 1], r"data\.jsonl: not the file its manifest names"),
    ],
)
def test_damaged_data_stops_with_file_and_line(run: RunFolder, edit, where: str) -> None:
    result = done(run.stage(1, "a", {}))
    path = result.folder / "data.jsonl"
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(RunError, match=where) as caught:
        result.records(Answer)
    assert "\n" not in str(caught.value)


def test_what_a_kill_after_the_manifest_left_behind_is_tidied(run: RunFolder) -> None:
    result = done(run.stage(1, "a", {}))
    (result.folder / "chunks").mkdir()
    for left in ("started.json", ".data.jsonl.1.tmp", "chunks/000000.jsonl"):
        (result.folder / left).write_text("{}")
    assert run.stage(1, "a", {}).result() == result
    assert sorted(p.name for p in result.folder.iterdir()) == ["data.jsonl", "failures.jsonl", "manifest.json"]


def stopped(stage: Stage, after: int) -> list[int]:
    """Runs chunks until `after` of them are done, then stops as a crash would; gives the chunks that were begun."""
    begun: list[int] = []

    def failing(items: Sequence[int], chunk: int) -> Iterable[Answer | Failure]:
        begun.append(chunk)
        if len(begun) > after:
            raise KeyboardInterrupt
        return work(items, chunk)

    with pytest.raises(KeyboardInterrupt):
        stage.run_chunks(range(10), failing, chunk_size=3, output_type=Answer)
    return begun


def test_finished_chunks_are_not_redone_and_the_bytes_are_the_same(run: RunFolder, tmp_path: Path) -> None:
    whole = done(run.stage(1, "a", {}))
    with open_run(tmp_path / "other") as other:
        assert stopped(other.stage(1, "a", {}), 2) == [0, 1, 2]
        assert other.stage(1, "a", {}).result() is None
        assert stopped(other.stage(1, "a", {}), 0) == [2]
        with pytest.raises(RunError, match=r"000002\.jsonl"):
            other.stage(1, "a", {}).finish()
        stage, seen = other.stage(1, "a", {}), []
        progress = lambda *counts: seen.append(counts)  # noqa: E731
        stage.run_chunks(range(10), work, chunk_size=3, output_type=Answer, progress=progress)
        resumed = stage.finish()
    assert seen == [(6, 10), (9, 10), (10, 10)]
    assert resumed.manifest.outputs == whole.manifest.outputs
    assert not list((tmp_path / "other").rglob("*.tmp"))


def test_chunks_from_an_older_input_or_another_cut_are_never_mixed_in(run: RunFolder) -> None:
    first = done(run.stage(1, "a", {}))
    stopped(run.stage(2, "b", {}, {"a": first}), 2)
    (first.folder / "manifest.json").unlink()
    second = done(run.stage(1, "a", {}))
    assert stopped(run.stage(2, "b", {}, {"a": second}), 1) == [0, 1], "input rebuilt: from the start"
    stage, begun = run.stage(2, "b", {}, {"a": second}), []
    noted = lambda items, chunk: begun.append(chunk) or work(items, chunk)  # noqa: E731
    stage.run_chunks(range(10), noted, chunk_size=5, output_type=Answer)
    assert begun == [0, 1], "cut differently: from the start"
    assert len(stage.finish().records(Answer)) == 8


def test_records_are_committed_before_their_chunk_exists(run: RunFolder) -> None:
    stage, committed = run.stage(1, "a", {}), []

    def commit(records: list[Answer]) -> None:
        assert not (stage.folder / "chunks" / f"{len(committed):06d}.jsonl").exists()
        if len(committed) == 2:
            raise KeyboardInterrupt
        committed.append(records)

    with pytest.raises(KeyboardInterrupt):
        stage.run_chunks(range(10), work, chunk_size=3, output_type=Answer, before_commit=commit)
    assert [len(records) for records in committed] == [3, 2]
    assert sorted(p.name for p in (stage.folder / "chunks").glob("0*")) == ["000000.jsonl", "000001.jsonl"]


def test_no_items_make_an_empty_result(run: RunFolder) -> None:
    result = done(run.stage(1, "a", {}), items=0)
    assert (result.records(Answer), result.failures(), result.manifest.counts["records"]) == ([], [], 0)


def test_a_record_of_another_type_is_refused(run: RunFolder) -> None:
    prompt = Prompt(messages=(user("x"),), kind="benign", source="s", split="train")
    with pytest.raises(TypeError, match="a stage of Answer records gave a Prompt"):
        run.stage(1, "a", {}).run_chunks([1], lambda *_: [prompt], chunk_size=1, output_type=Answer)
    with pytest.raises(RunError, match="chunk_size must be at least 1"):
        done(run.stage(1, "a", {}), chunk_size=0)


def test_a_stage_without_chunks_keeps_what_an_interrupted_attempt_left_unless_its_input_changed(run: RunFolder) -> None:
    first = done(run.stage(1, "a", {}))
    stage = run.stage(2, "sft", {}, {"a": first})
    (stage.folder / "checkpoint").write_text("step 3")
    assert (run.stage(2, "sft", {}, {"a": first}).folder / "checkpoint").exists()
    (first.folder / "manifest.json").unlink()
    stage = run.stage(2, "sft", {}, {"a": done(run.stage(1, "a", {}))})
    assert not (stage.folder / "checkpoint").exists()
    (stage.folder / "model" / "deep").mkdir(parents=True)
    (stage.folder / "model" / "deep" / "weights").write_bytes(b"w")
    with pytest.raises(RunError, match="output 'absent' is not in"):
        stage.finish(outputs=["absent"])
    with pytest.raises(RunError, match="is not in the stage's folder"):
        stage.finish(outputs=["../.."])
    result = stage.finish({"steps": 3}, ["model"])
    assert list(result.manifest.outputs) == ["model/deep/weights"]
    with pytest.raises(RunError, match=r"stage sft has no data\.jsonl"):
        result.records(Answer)


@pytest.mark.parametrize("harm", ["another", "gone"])
def test_nothing_is_made_from_a_file_that_is_not_the_one_that_was_made(run: RunFolder, harm: str) -> None:
    trained = run.stage(1, "sft", {})
    (trained.folder / "sl-cai").mkdir()
    weights = trained.folder / "sl-cai" / "model.safetensors"
    weights.write_bytes(b"weights")
    trained.finish(outputs=["sl-cai"])
    result = trained.result()
    assert result is not None and not result.fresh
    later, sound = run.stage(2, "pm", {}, {"sft": result}), run.stage(2, "pm", {"seed": 1}, {"sft": result})
    sound.folder.joinpath("x").write_text("x")
    assert sound.finish(outputs=["x"]).fresh
    if harm == "gone":
        weights.unlink()
    else:
        weights.write_bytes(b"WEIGHTS")
    told = {"gone": r"cannot read .*model\.safetensors", "another": r"sl-cai/model\.safetensors: not the file .*delete"}
    with pytest.raises(RunError, match=told[harm]):
        assert later.folder
    assert not (run.path / "stages" / "02-pm" / later.key).exists()
    assert sound.result() is not None  # what is finished stays
