"""A scripted recipe that uses all that chunks can hold: cases of principles, two judges, revisions among the pairs."""

from __future__ import annotations

import json
from pathlib import Path

from recipes import write_recipe

from constitutional.ledger import open_ledger_read_only
from constitutional.runs import load_result

CASE = "It has a one in it."
_YES, _NO = '{"Yes": -0.22, "No": -1.61}', '{"Yes": -2.30, "No": -0.36}'
_APPLIES = f"""likelihood:
  - {{contains: "a one in it", anywhere: "red 1", logprobs: {_YES}}}
  - {{contains: "a one in it", anywhere: "kind ", logprobs: {_YES}}}
  - {{contains: "a one in it", logprobs: {_NO}}}
"""


def write_scale_recipe(folder: Path, *, delay: float = 0.0, prompts: int = 14, chunk_size: int = 4) -> Path:
    """As `write_recipe`; the first principle has a case, and a second judge with a bias judges beside the first."""
    recipe = write_recipe(folder, delay=delay, prompts=prompts)
    constitution, model = folder / "constitution.yaml", folder / "model.yaml"
    text = constitution.read_text()
    constitution.write_text(text.replace("    title: kind\n", f"    title: kind\n    applies_when: {CASE}\n"))
    model.write_text(model.read_text().replace("likelihood:\n", _APPLIES))
    biased = model.read_text().replace("keyword: sorry, p: 0.85", 'prefer_option: "A", p: 0.7')
    (folder / "second.yaml").write_text(biased)
    settings = f"sample: {{revisions: true}}\nchunk_size: {chunk_size}"
    second = "judging:\n  principles_per_comparison: 2\n  judges: [{name: second, model: 'scripted:second.yaml'}]"
    text = recipe.read_text().replace("chunk_size: 4", settings)
    recipe.write_text(text.replace("judging: {principles_per_comparison: 2}", second))
    return recipe


def left(folder: Path) -> dict[str, str]:
    """What a run left, without times: the digest of every file of every stage, and the ledger's head."""
    found: dict[str, str] = {}
    for manifest in sorted(folder.glob("stages/*/*/manifest.json")):
        result = load_result(manifest.parent)
        assert result is not None
        place = manifest.parent.relative_to(folder).as_posix()
        found |= {f"{place}/{file}": sha for file, sha in result.manifest.outputs.items()}
        found[f"{place} counts"] = json.dumps([result.manifest.counts, result.manifest.failures])
    with open_ledger_read_only(folder / "ledger.sqlite") as ledger:
        assert ledger.verify() == []
        return found | {"head": ledger.head}
