"""One process of PPO runs on the tiny model: `python ppo_process.py POLICY SCORER OUTPUT`, alone or under torchrun."""

import json
import sys
from pathlib import Path

import torch
from rl_tasks import PROMPTS, SMALL, letters_source
from training_tasks import watching

from constitutional.processes import end_groups, leads, rank
from constitutional.settings import PpoSettings
from constitutional.training.ppo.stage import train_ppo


def main(policy: str, scorer: str, output: str) -> None:
    torch.set_num_threads(1)
    cases = {
        "full": {"critic": "policy", "learning_rate": 1e-3},
        "adapters": {"critic": "preference_model", "learning_rate": 3e-3, "critic_learning_rate": 3e-3},
    }
    for name, settings in cases.items():
        logs, heard = [], []
        added = {}
        if name == "adapters":
            added["lora"] = {"r": 4, "dropout": 0.0}
            added["watching"] = watching(lambda records, heard=heard: heard.extend(r.to_json() for r in records))
        result = train_ppo(
            PROMPTS,
            policy=policy,
            rewards=[letters_source()],
            preference_model=scorer,
            output=Path(output, name),
            settings=PpoSettings(minibatches=1, epochs=2, **settings),
            on_log=logs.append,
            **SMALL,
            **added,
        )
        Path(output, f"{name}-heard-{rank()}.json").write_text(json.dumps(heard))
        if leads():
            told = {"logs": logs, "completions": result.completions}
            Path(output, f"{name}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_groups()
