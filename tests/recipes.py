"""A small scripted recipe for tests of the pipeline: every data step, no training, in a second."""

from __future__ import annotations

import json
from pathlib import Path

from constitutional.config import load_recipe, resolve_path
from constitutional.constitution import load_constitution
from constitutional.pipeline import RunOutcome, run_recipe

MODEL = """
delay: {delay}
jitter: 1.0
rules:
  - {{contains: "In one or two sentences", reply: [" it harms ({{n}}).", " it is harmful ({{n}})."]}}
  - {{contains: "two short sentences", reply: [" apologise for the confusion, {{n}}.", " will not {{n}}, sorry."]}}
  - {{contains: "Prompt", reply: ["Sure {{n}}, do it.", "sorry, no {{n}}.", "Maybe {{n}}."]}}
likelihood:
  - {{keyword: sorry, p: 0.85}}
"""

PRINCIPLE = """
  - id: {id}
    version: 1.0.0
    title: {id}
    critique_request: In one or two sentences, say what is not {id} in the last answer.
    revision_request: Write a {id} answer.
    comparison_request: Which response is more {id}?
    examples:
"""

CHECK = """\
  - id: whole
    version: 1.0.0
    title: Whole
    check: constitutional.checks:complete
    examples:
      - {prompt: p, better: "It is so.", worse: "It is the"}
      - {prompt: q, better: "It was so.", worse: "It was a"}
"""
"""One more principle for the constitution, which code judges by."""

RECIPE = """
name: tiny
constitution: constitution.yaml
policy: "scripted:model.yaml"
chunk_size: 4
stages: [revise, helpful, sample, gate, judge, label, answers, evaluate]
prompts:
  red_team: {path: red.jsonl}
  helpful: {path: help.jsonl}
sampling:
  policy: {temperature: 1.0, max_tokens: 40}
  feedback: {temperature: 1.0, max_tokens: 40}
revise: {rounds: 2, candidates: 2}
gate: {fallback: provenance}
judging: {principles_per_comparison: 2}
"""


def write_recipe(folder: Path, *, delay: float = 0.0, prompts: int = 14) -> Path:
    """Writes the recipe with its model and prompts; returns the recipe file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(MODEL.format(delay=delay))
    constitution = "id: tiny\nversion: 1.0.0\ntitle: Tiny\nprinciples:"
    for name in ("kind", "honest", "safe"):
        constitution += PRINCIPLE.format(id=name)
        for i in range(4):
            constitution += f"      - {{prompt: {name} {i}, better: sorry no {i}, worse: sure yes {i}}}\n"
    (folder / "constitution.yaml").write_text(constitution)
    for name in ("red", "help"):
        rows = [{"prompt": f"Prompt {name} {i}", "split": "heldout" if i % 3 == 2 else "train"} for i in range(prompts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    return recipe


def run_again(recipe: Path, out: Path, *sets: str) -> RunOutcome:
    """Runs a recipe, in the same folder even when its constitution was changed."""
    loaded = load_recipe(recipe, sets)
    constitution = load_constitution(str(resolve_path(recipe, loaded.constitution)))
    return run_recipe(loaded, recipe, out, accept_constitution=constitution.digest)
