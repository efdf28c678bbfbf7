"""What README and the demo script say is what they do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from embedded_model import require

ROOT = Path(__file__).parents[1]


@pytest.mark.embedded
def test_the_notebook_snippet_runs():
    require()
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    quick = code.replace("max_tokens=64", "max_tokens=8")
    assert quick != code
    done = subprocess.run([sys.executable, "-c", quick], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("critique=") == 4


def demo(tmp_path, listed: str, exit_code: int = 0, **environment: str) -> tuple[int, str]:
    """Runs the demo's script against a stand-in command that prints what it is asked to do."""
    stub = tmp_path / "constitutional"
    answer = f'if [ "$1" = models ]; then echo "{listed}"; else echo "ASKED $*"; exit {exit_code}; fi'
    stub.write_text(f"#!/bin/sh\n{answer}\n")
    stub.chmod(0o755)
    done = subprocess.run(
        ["sh", "examples/01_quickstart/run.sh"],
        cwd=ROOT,
        env={**os.environ, "BIN": str(tmp_path), **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def test_the_demo_falls_back_to_self_and_says_so(tmp_path):
    code, text = demo(tmp_path, "qwen2.5-coder-1.5b absent")
    assert code == 0 and "falling back to feedback: self" in text
    assert "ASKED run examples/01_quickstart/recipe.yaml --set name=quickstart-self --set feedback=self" in text


def test_the_demo_uses_the_feedback_model_when_it_is_there_and_self_when_asked(tmp_path):
    code, text = demo(tmp_path, "qwen2.5-coder-1.5b ready")
    assert code == 0 and text.strip() == "ASKED run examples/01_quickstart/recipe.yaml"
    code, text = demo(tmp_path, "qwen2.5-coder-1.5b ready", FEEDBACK="self")
    assert code == 0 and "feedback=self" in text and "falling back" not in text


@pytest.mark.parametrize(("inner", "outer"), [(3, 0), (1, 1), (130, 1)])
def test_the_demo_passes_with_failed_items_and_fails_with_errors(tmp_path, inner, outer):
    code, _ = demo(tmp_path, "qwen2.5-coder-1.5b ready", inner)
    assert (code != 0) == bool(outer)
