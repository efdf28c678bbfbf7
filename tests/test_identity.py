"""A model's identity: changed by every file that shapes its answers, and by nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import save_tiny_model

from constitutional.backends import identity, open_backend
from constitutional.backends.folders import is_hub_id
from constitutional.backends.identity import identify
from constitutional.backends.local import LocalBackend
from constitutional.errors import BackendError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def _append(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        with (folder / name).open("a", encoding="utf-8") as stream:
            stream.write("\n")

    return edit


def _flip_a_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


EDITS = {
    "weights": _flip_a_weight,
    "more weights": lambda folder: shutil.copy(folder / "model.safetensors", folder / "more.safetensors"),
    "renamed weights": lambda folder: (folder / "model.safetensors").rename(folder / "other.safetensors"),
    "no template": lambda folder: (folder / "chat_template.jinja").unlink(),
    "special tokens": _append("special_tokens_map.json"),
    "old tokenizer": _append("merges.txt"),
    **{
        name: _append(name)
        for name in ("chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json")
    },
    "tokenizer_config": _append("tokenizer_config.json"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edit_that_shapes_answers_changes_the_identity(folder: Path, edit: Callable[[Path], None]) -> None:
    before = identify(f"local:{folder}", "float32")
    assert identify(f"local:{folder}", "float32") == before
    edit(folder)
    assert identify(f"local:{folder}", "float32") != before


def test_place_and_notes_do_not_change_the_identity(folder: Path, tmp_path: Path) -> None:
    before = identify(f"local:{folder}", "float32")
    assert str(tmp_path) not in before and identify(f"local:{folder}", "bfloat16") != before
    (folder / "README.md").write_text("a note")
    (folder / "training_args.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "tiny")
    assert identify(f"local:{moved}", "float32") == before
    assert open_backend(f"local:{moved}", dtype="float32").model == before


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.json", r"is not a model folder \(no config.json\)"),
        ("tokenizer.json", r"has no tokenizer \(no tokenizer.json\)"),
        ("model.safetensors", r"has no weights \(no \*.safetensors\)"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_alike_by_both(folder: Path, lost: str, message: str) -> None:
    (folder / lost).unlink()
    spec = f"local:{folder}"
    said = []
    for ask in (lambda: identify(spec, "float32"), lambda: LocalBackend(folder, name=spec, model="x")):
        with pytest.raises(BackendError, match=message) as caught:
            ask()
        said.append(str(caught.value))
    assert said[0] == said[1] and said[0].startswith(f"{spec}: ")


def test_a_missing_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (str(tmp_path / "absent"), "./absent", "../a/b", "models/a/b"):
        with pytest.raises(BackendError, match=r"absent' is not a model folder|a/b' is not a model folder"):
            identify(f"local:{text}", "float32")
    import transformers

    def nowhere(source: str, **_: object) -> None:
        raise OSError(f"{source} is not cached\nand there is no network")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", nowhere)
    for spec in ("local:owner/name", "local:absent"):  # might be a folder, might be on the hub
        with pytest.raises(
            BackendError, match=r"is not a model folder \(no config.json\), nor a model the hub gives: .*"
        ):
            open_backend(spec)


def test_a_hub_id_is_cited_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    class Config:
        _commit_hash = "0123456789abcdef0123"

    opened = []
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda source, **_: Config())
    monkeypatch.setattr("constitutional.backends.local.LocalBackend", lambda source, **kwargs: opened.append(kwargs))
    assert is_hub_id("owner/name") and is_hub_id("gpt2") and not is_hub_id(Path("owner/name"))
    open_backend("local:owner/name", dtype="float32")
    assert opened[0]["model"] == "local:owner/name@0123456789abcdef/float32"


def test_a_second_look_reads_no_file_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = identify(f"local:{folder}", "float32")
    monkeypatch.setattr(identity.hashlib, "file_digest", None)
    assert identify(f"local:{folder}", "float32") == first
