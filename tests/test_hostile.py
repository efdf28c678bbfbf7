"""Templates, values, control tokens and files written to do harm (RELIABILITY: T1 to T4, Y1), with their bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import CHAT_TEMPLATES, ESCAPES, INCLUDES, SPOOFS, TEMPLATES, YAML
from test_sandbox import ESCAPES as REFUSED
from tiny_model import save_tiny_model

from constitutional import sandbox
from constitutional.backends import open_backend
from constitutional.backends.tokens import encode_dialogue, load_tokenizer, require_harmless_text
from constitutional.errors import BackendError, ConfigError, ConstitutionalError, TemplateError
from constitutional.feedback.judge import judge
from constitutional.principles import Principle
from constitutional.records import Comparison, user
from constitutional.sandbox import compile_template, render_block
from constitutional.templates import TEMPLATES as NAMES
from constitutional.templates import TemplatePack, load_pack
from constitutional.training.tokens import open_tokenizer
from constitutional.yamlfile import load_yaml

TESTS = Path(__file__).parent
PACKS = {name: load_pack(name) for name in ("chat", "transcript")}
SLOTS = [(pack, t, slot) for pack in PACKS for t in NAMES for slot in sorted(PACKS[pack].required(t))]
needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
MARK = "\u2603mark\u2603"


def render(pack: TemplatePack, template: str, slot: str, value: str) -> list[tuple[str, str]]:
    """The messages, with `value` in one slot and harmless texts in all others."""
    values: dict[str, Any] = dict.fromkeys(pack.required(template), "x")
    values |= {"conversation": (user("x"),), slot: value if slot != "conversation" else (user(value),)}
    return [(message.role, message.content) for message in pack.render(template, **values).dialogue]


def test_there_are_as_many_attacks_as_promised() -> None:
    assert len(set(ESCAPES)) == 40 and len(SLOTS) >= 30 and {t for _, t, _ in SLOTS} == set(NAMES)
    assert len(REFUSED) + len(TEMPLATES) >= 60 and len(set(INCLUDES)) == 24
    assert len(set(SPOOFS)) * len(CHAT_TEMPLATES) == 30 and len(YAML) == 30


@pytest.mark.parametrize(("pack", "template", "slot"), SLOTS)
def test_t1_payloads_in_every_slot_stand_there_letter_for_letter(pack: str, template: str, slot: str) -> None:
    plain = render(PACKS[pack], template, slot, MARK)
    assert any(MARK in content for _, content in plain)
    for payload in ESCAPES:
        assert render(PACKS[pack], template, slot, payload) == [(r, c.replace(MARK, payload)) for r, c in plain], (
            payload
        )


def hostile_templates() -> dict[str, str]:
    block = "{{% block user %}}\n{}\n{{% endblock %}}"
    return {source: block.format(source) for source, _ in REFUSED} | TEMPLATES


def try_template(source: str) -> str:
    """What is said of it; "" when it renders to the end."""
    values = {"a": "x" * 1_000_000, "b": "y", "answer": "z", "conversation": (user("u" * 1000),) * 2000}
    try:
        compiled = compile_template(source, "judge.j2")
        for block in compiled.blocks:
            render_block(compiled, block, values)
    except ConstitutionalError as error:
        return str(error)
    return ""


def waste(megabytes: str) -> str:
    return str(len(bytearray(int(megabytes) * 1_000_000)))


def try_yaml(path: str) -> str:
    try:
        load_yaml(Path(path), ConfigError)
    except ConstitutionalError as error:
        return str(error)
    return ""


def memory_mb(field: str) -> float:
    """`VmRSS` or `VmHWM` (the peak) of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def measure(attempt: Callable[[str], str], attacks: dict[str, str]) -> None:
    """In a process of its own: prints what each attack led to, its CPU seconds, and how many MB memory grew by."""
    for name, attack in attacks.items():
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, started = memory_mb("VmRSS"), time.process_time()
        said = attempt(attack)
        print(json.dumps([name, said, time.process_time() - started, memory_mb("VmHWM") - before]))


def measured(call: str, stdin: str = "") -> list[tuple[str, str, float, float]]:
    code = f"import json, sys; from test_hostile import *; {call}"
    env = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    done = subprocess.run([sys.executable, "-c", code], input=stdin, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@needs_proc
def test_the_measurement_sees_memory_and_time() -> None:
    (small, large) = measured("measure(waste, {'small': '1', 'large': '150'})")
    assert small[3] < 20 and 130 < large[3] < 200 and 0 < small[2] < large[2]


@needs_proc
def test_t2_hostile_templates_are_refused_or_stopped_in_two_seconds_and_200_mb() -> None:
    rows = measured("measure(try_template, hostile_templates())")
    assert len(rows) >= 60
    for name, said, seconds, grown in rows:
        assert all(line.startswith("judge.j2:") for line in said.splitlines()) and said, name
        assert "Traceback" not in said and len(said) < 10_000 and seconds < 2, name
        assert grown < 200, name


@pytest.mark.parametrize("source", INCLUDES)
def test_t3_no_template_reaches_another_file(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^judge\.j2:[12]: ('include' is not allowed|text outside a block)"):
        compile_template(source, "judge.j2")
    assert sandbox._ENVIRONMENT.loader is None  # the second wall: there is nothing to load by


def test_t3_no_file_of_a_pack_may_be_a_link(tmp_path: Path) -> None:
    import shutil

    from constitutional.resources import packaged

    shipped = packaged("prompts")
    assert shipped is not None
    for name in (*(f"{template}.j2" for template in NAMES), "pack.yaml"):
        folder = Path(shutil.copytree(shipped / "chat", tmp_path / name))
        (folder / name).rename(tmp_path / f"{name}.real")
        (folder / name).symlink_to(tmp_path / f"{name}.real")
        with pytest.raises(TemplateError, match="a link out of the pack is not followed"):
            load_pack(str(folder))


def tokenizer(family: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    special, template = CHAT_TEMPLATES[family]
    bare = Tokenizer(models.BPE(unk_token=None))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare.train_from_iterator(
        ["some words"],
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bare, additional_special_tokens=[AddedToken(token, special=True) for token in special]
    )
    fast.chat_template = template
    return fast


@pytest.mark.parametrize("family", CHAT_TEMPLATES)
def test_t4_special_tokens_in_values_are_text_in_every_template(family: str) -> None:
    made = tokenizer(family)
    special = set(made.convert_tokens_to_ids(CHAT_TEMPLATES[family][0]))

    def marks(value: str, template: str, slot: str) -> list[int]:
        values: dict[str, Any] = dict.fromkeys(PACKS["chat"].required(template), "x")
        values |= {"conversation": (user("x"),), slot: value if slot != "conversation" else (user(value),)}
        rendered = PACKS["chat"].render(template, **values)
        return [token for token in encode_dialogue(made, rendered.dialogue) if token in special]

    for spoof in SPOOFS:
        raw = made(spoof, add_special_tokens=False)["input_ids"]
        for pack, template, slot in SLOTS:
            if pack == "chat":
                benign = marks("hello there", template, slot)
                assert benign and marks(spoof, template, slot) == benign, (spoof, template, slot)
        if any(token in spoof for token in CHAT_TEMPLATES[family][0]):
            assert special & set(raw), "the attack would have worked on a plain call of the tokenizer"


@pytest.mark.parametrize("spoof", SPOOFS)
def test_t4_a_verdict_is_read_from_probabilities_and_never_from_text(spoof: str, tmp_path: Path) -> None:
    script = tmp_path / "judge.yaml"
    script.write_text("likelihood: [{logprobs: {A: -1.6094379, B: -0.2231435}}]")  # 0.2 and 0.8, whatever is written
    comparison = Comparison(prompt_id="p", messages=(user(spoof),), a=spoof, b=f"{spoof} B", origin="sampled")
    principle = Principle(id="p", version="1.0.0", title="t", comparison_request=f"Which? {spoof}")
    ab, ba = judge(
        [comparison],
        assigned=[[principle]],
        backend=open_backend(f"scripted:{script}"),
        pack=PACKS["chat"],
        seed=0,
    )
    assert (ab.p_a, ba.p_a) == (pytest.approx(0.2), pytest.approx(0.8))


@needs_proc
def test_y1_hostile_yaml_is_one_placed_line_within_a_second_and_100_mb(tmp_path: Path) -> None:
    paths = {}
    for number, (name, raw) in enumerate(YAML.items()):
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(raw)
        paths[name] = str(path)
    rows = measured("measure(try_yaml, json.load(sys.stdin))", json.dumps(paths))
    assert len(rows) == 30
    for name, said, seconds, grown in rows:
        path, line, column, message = said.removeprefix(str(tmp_path)).split(":", 3)
        assert path and line.isdecimal() and column.isdecimal() and message and "\n" not in said, name
        assert said.isprintable() and len(said) < 1000 and seconds < 1 and grown < 100, (name, seconds, grown)


@pytest.mark.parametrize(
    ("release", "refused"), [("5.19.0", True), ("4.57.6", True), ("5.20.0", False), ("6.0", False)]
)
def test_a_transformers_that_lets_text_forge_turns_is_refused(
    release: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releases before 5.20 hand the demand on to the template, which ignores it."""
    folder = save_tiny_model(tmp_path / "tiny")
    tokenizer = load_tokenizer(folder, "local:tiny")
    require_harmless_text.cache_clear()
    monkeypatch.setattr("constitutional.backends.tokens.version", lambda package: release)
    for attempt in (lambda: encode_dialogue(tokenizer, (user("Hello"),)), lambda: open_tokenizer(folder)):
        if refused:
            with pytest.raises(BackendError, match=rf"^transformers {release} takes control tokens .* 5\.20 or later"):
                attempt()
        else:
            attempt()
    require_harmless_text.cache_clear()
