"""A model folder exported to GGUF and read back: the same weights, tokens, template and answers."""

import json
import shutil

import pytest
import torch
from embedded_model import require
from tiny_model import save_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from constitutional.backends.catalog import EmbeddedModel
from constitutional.backends.gguf import convert_file
from constitutional.backends.gguf_export import export_gguf
from constitutional.backends.padded import generate_padded
from constitutional.backends.routes import silent
from constitutional.cli.app import app
from constitutional.errors import BackendError, ConfigError
from constitutional.records import Sampling

gguf = pytest.importorskip("gguf")

TEXTS = ["how do I pick a lock?", "Größe 12345 雨 <|im_end|>", "  two  spaces\n\nand lines\t", "I can't, you're 7th"]


def _qwen2(folder):
    save_tiny_model(folder)
    torch.manual_seed(1)
    net = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(AutoTokenizer.from_pretrained(folder)) + 5,  # rows without a token, as real ones have
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            eos_token_id=2,
            tie_word_embeddings=False,
        )
    )
    for name, values in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(values)  # biases start at zero: a lost one would not be seen
    (folder / "model.safetensors").unlink()
    net.save_pretrained(folder, max_shard_size="20KB")
    torch.save({}, folder / "optimizer.pt")
    shutil.copy(next(folder.glob("model-*.safetensors")), folder / "left-over.safetensors")
    return folder


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def folder(request, tmp_path_factory):
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp(request.param) / "rl-cai"
    return save_tiny_model(place) if request.param == "llama" else _qwen2(place)


def _read_back(source, out):
    """By our own reader, the one embedded models go through."""
    entry = EmbeddedModel(
        name="x",
        title="x",
        file=source.name,
        bytes=source.stat().st_size,
        sha256="0" * 64,
        licence="",
        hub_repo="",
        hub_revision=None,
        carriers=(),
        dtype="float32",
        end_tokens=("<|im_end|>",),
    )
    return convert_file(source, out, entry, silent)


def _same_model(folder, back, prompts, tokens):
    own, other = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in (folder, back))
    weights = other.state_dict()
    assert own.state_dict().keys() == weights.keys()
    assert all(torch.equal(values, weights[name]) for name, values in own.state_dict().items())
    mine, theirs = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(back)
    assert theirs.chat_template == mine.chat_template
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == (mine.bos_token, mine.eos_token, mine.pad_token)
    for text in TEXTS:
        ids = mine(text, add_special_tokens=False)["input_ids"]
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids) == mine.decode(ids)
    asked = [
        mine.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True)["input_ids"]
        for p in prompts
    ]
    greedy = Sampling(max_tokens=tokens)
    written = [generate_padded(net, mine, asked, greedy, [mine.eos_token_id]) for net in (own, other)]
    assert written[0] == written[1] and len({tuple(ids) for ids in written[0]}) > 1


def test_an_unquantised_export_is_the_same_model(folder, tmp_path):
    out = tmp_path / "made" / "model.gguf"
    done = []
    export_gguf(folder, out, progress=lambda *step: done.append(step))
    assert done[-1][0] == done[-1][1] == len(gguf.GGUFReader(out).tensors)
    assert [path.name for path in out.parent.iterdir()] == ["model.gguf"]
    prompts = [f"{text} {i}" for i in range(8) for text in TEXTS]
    _same_model(folder, _read_back(out, tmp_path / "back"), prompts, 12)


@pytest.mark.embedded
def test_the_real_model_survives_its_export(tmp_path):
    require()
    from constitutional.backends.embedded import converted_folder

    folder = converted_folder("smollm2-135m")
    export_gguf(folder, tmp_path / "model.gguf")
    prompts = [
        f"{ask} {what}?" for ask in ("Why is", "Who made", "What is", "Where is") for what in (*"abcdef", "12", "雨")
    ]
    assert len(prompts) == 32
    _same_model(folder, _read_back(tmp_path / "model.gguf", tmp_path / "back"), prompts, 8)


@pytest.mark.parametrize(("kind", "error"), [("f16", 1e-3), ("q8_0", 1e-2)])
def test_smaller_types_are_near(folder, tmp_path, kind, error):
    export_gguf(folder, tmp_path / "whole.gguf")
    export_gguf(folder, tmp_path / "small.gguf", kind)
    assert (tmp_path / "small.gguf").stat().st_size < 0.85 * (tmp_path / "whole.gguf").stat().st_size
    small = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "small.gguf").tensors}
    for tensor in gguf.GGUFReader(tmp_path / "whole.gguf").tensors:
        other = small[tensor.name]
        values = gguf.dequantize(other.data, other.tensor_type).reshape(-1)
        worst = abs(values - tensor.data.reshape(-1)).max()
        assert worst <= error * abs(tensor.data).max()
        assert len(tensor.shape) > 1 or other.tensor_type == gguf.GGMLQuantizationType.F32


def _changed(folder, tmp_path, **fields):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | fields))
    return other


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_type": "gemma2"}, "model type 'gemma2'"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "scaled rotary positions"),
        ({"use_sliding_window": True}, "a sliding window"),
        ({"vocab_size": 100}, "no row in the model's embedding of 100"),
    ],
)
def test_what_a_file_cannot_say_is_refused_and_leaves_nothing(folder, tmp_path, fields, reason):
    with pytest.raises(BackendError, match=reason):
        export_gguf(_changed(folder, tmp_path, **fields), tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_score_head_another_tokenizer_and_other_names_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    other = _changed(folder, tmp_path)
    path = sorted(other.glob("model*.safetensors"))[0]
    save_file(load_file(path) | {"score.weight": torch.zeros(1, 32)}, path)
    with pytest.raises(BackendError, match=r"tensor 'score.weight' is of no whole language model"):
        export_gguf(other, tmp_path / "out.gguf")
    shutil.rmtree(other)
    save_tiny_model(other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BackendError, match="only byte-level BPE"):
        export_gguf(other, tmp_path / "out.gguf")
    with pytest.raises(ConfigError, match=r"unknown type 'q8'.*q8_0"):
        export_gguf(folder, tmp_path / "out.gguf", "q8")
    with pytest.raises(BackendError, match="is not a model folder"):
        export_gguf(tmp_path / "absent", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_the_command_writes_and_refuses(folder, tmp_path):
    out = tmp_path / "model.gguf"
    done = CliRunner().invoke(app, ["models", "export", str(folder), "--format", "gguf", str(out), "--type", "f16"])
    assert done.exit_code == 0 and f"openvino:{out}" in done.output and out.is_file()
    for wrong, reason in ((["--format", "onnx"], "unknown format"), ([], r"ends in .gguf")):
        name = str(out) if wrong else str(tmp_path / "model.bin")
        with pytest.raises(ConfigError, match=reason):
            CliRunner().invoke(app, ["models", "export", str(folder), name, *wrong], catch_exceptions=False)
