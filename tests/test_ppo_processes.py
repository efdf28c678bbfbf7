"""Two processes do what one does: the same rollouts, and the same update but for rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rl_tasks import policy_folder
from safetensors.torch import load_file

HERE = Path(__file__).parent


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    policy = policy_folder(tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone"]
    told = {}
    for name, launcher in (("one", []), ("two", torchrun)):
        words = [sys.executable, *launcher, str(HERE / "ppo_process.py"), str(policy), str(tmp_path / name)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        told[name] = json.loads((tmp_path / name / "told.json").read_text())
    assert told["one"]["completions"] == told["two"]["completions"] == 16
    for one, two in zip(told["one"]["logs"], told["two"]["logs"], strict=True):
        assert one.keys() == two.keys()
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    before = load_file(policy / "model.safetensors")
    for key, weights in one.items():
        moved = (weights - before[key]).abs().max()
        assert torch.allclose(weights, two[key], atol=1e-4), key
        assert moved > 1e-4, key  # the tolerance is small beside what was learned
