"""The quickstart recipe on real red-team prompts: 24 to train on, the next 12 held out.

    python benchmarks/real_prompts.py [--out runs/real-prompts] [--until STEP]

Same as `constitutional run examples/01_quickstart/recipe.yaml --prompts FILE --limit 24`; prints the evaluation table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from constitutional.cli.running import run_command

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "prompts" / "harmless_train_clean.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/real-prompts"))
    parser.add_argument("--until")
    arguments = parser.parse_args()
    if not DATA.exists():
        print(f"skipped: {DATA.name} is not there")
        return
    sets = ["name=real-prompts", "prompts.red_team.heldout_limit=12", "prompts.helpful.heldout_limit=12"]
    recipe = ROOT / "examples" / "01_quickstart" / "recipe.yaml"
    run_command(recipe, arguments.out, sets, 24, str(DATA), arguments.until, "plain")


if __name__ == "__main__":
    main()
