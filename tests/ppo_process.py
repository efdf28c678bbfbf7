"""One process of a PPO run on the tiny model: `python ppo_process.py POLICY OUTPUT`, alone or under torchrun."""

import json
import os
import sys
from pathlib import Path

import torch
from rl_tasks import PROMPTS, SMALL, letters_source

from constitutional.settings import PpoSettings
from constitutional.training.ppo.stage import train_ppo


def main(policy: str, output: str) -> None:
    torch.set_num_threads(1)
    logs = []
    result = train_ppo(
        PROMPTS,
        policy=policy,
        rewards=[letters_source()],
        preference_model=None,
        output=output,
        settings=PpoSettings(critic="policy", learning_rate=1e-3, minibatches=1, epochs=2),
        on_log=logs.append,
        **SMALL,
    )
    if os.environ.get("RANK", "0") == "0":
        Path(output, "told.json").write_text(json.dumps({"logs": logs, "completions": result.completions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
