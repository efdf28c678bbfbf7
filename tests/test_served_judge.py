"""The example of a served judge: its recipe is one, and its script starts vLLM as its README says."""

import os
import subprocess
from pathlib import Path

from constitutional.config import load_recipe
from constitutional.pipeline.inputs import load_inputs

FOLDER = Path(__file__).parents[1] / "examples" / "05_served_judge"


def test_the_recipe_asks_the_server_that_the_script_starts(tmp_path: Path) -> None:
    recipe = FOLDER / "recipe.yaml"
    inputs = load_inputs(load_recipe(recipe), recipe)
    assert inputs.spec("feedback") == inputs.spec("judge")
    assert inputs.identity("judge").startswith("openai:Qwen/Qwen2.5-7B-Instruct@")
    vllm = tmp_path / "bin" / "vllm"
    vllm.parent.mkdir()
    vllm.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    vllm.chmod(0o755)
    environment = os.environ | {"VENV": str(tmp_path)}
    command = ["sh", str(FOLDER / "serve.sh"), "--max-model-len", "4096"]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
    assert said[0] == "serve" and f"openai:{said[1]}@http://127.0.0.1:8000/v1" == inputs.spec("judge")
    assert said[said.index("--port") + 1] == "8000" and said[-2:] == ["--max-model-len", "4096"]
    assert said[said.index("--host") + 1] == "127.0.0.1"
    opened = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"LISTEN": "0.0.0.0"}, check=True
    )
    assert "0.0.0.0" in opened.stdout.splitlines()  # for runs on other machines, as README says
    readme = (FOLDER / "README.md").read_text()
    flags = {word for word in said if word.startswith("--")}
    for flag in ("--enable-prefix-caching", "--logprobs-mode", "--generation-config", "--max-logprobs"):
        assert flag in flags and flag in readme
