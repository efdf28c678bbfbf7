"""What a run folder says of its recipe: the recipe as resolved, what it resolved to, and the texts it works under."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import yaml

from constitutional.audit.current import CHECKS_SUFFIX
from constitutional.audit.trace_node import POLICY_TEXT
from constitutional.backends.identity import identify
from constitutional.checks import coded_digest
from constitutional.errors import RunError
from constitutional.pipeline.inputs import Inputs
from constitutional.runs import RunFolder, write_atomic
from constitutional.runs.manifest import git_commit, package_versions

_UNFELT = ("versions", "python", "git", "stages", "checkpoint_every", "endpoint")
"""What a lock says of the machine, and settings that choose steps or say how they are made: no result depends on it."""


def write_lock(folder: RunFolder, inputs: Inputs) -> None:
    """Writes run.yaml (the recipe as resolved) and lock.json (what it resolved to), and the texts judgments cite.

    Where these are others than before, no step is current any more until the run has come to it: what was made under
    other settings is not shown as this recipe's, not even by a run that ends early.
    """
    recipe, constitution, pack = inputs.recipe, inputs.constitution, inputs.pack
    identities = {ref: check.identity for ref, check in inputs.checks.items()}
    settings = recipe.model_dump(mode="json")
    lock: dict[str, object] = {
        "constitution": {"ref": constitution.ref, "digest": constitution.digest},
        "principles": {p.ref: coded_digest(p, identities.get(p.ref)) for p in constitution.principles},
        **({"checks": identities} if identities else {}),
        "templates": {"pack": pack.ref, **{name: pack.digest(name) for name in pack.templates}},
        "models": {role: inputs.identity(role) for role in ("policy", "feedback", "judge")} | _policy_text(inputs),
        **_more_judges(inputs),
        "prompts": len(inputs.every_prompt),
        "seed": recipe.seed,
        "versions": package_versions(),
        "python": platform.python_version(),
        "git": git_commit(),
    }
    current = folder.path / "current.json"
    prompts = "".join(p.to_json() + "\n" for p in inputs.every_prompt)
    if current.exists() and not _same(folder.path, settings, lock, prompts):
        write_atomic(current, "{}\n")
    write_atomic(folder.path / "run.yaml", yaml.safe_dump(settings, sort_keys=False))
    write_atomic(folder.path / "lock.json", json.dumps(lock, indent=2) + "\n")
    kept = folder.path / "constitutions" / f"{constitution.digest}.json"  # one for every text a judgment may cite
    kept.parent.mkdir(exist_ok=True)
    for path in (kept, folder.path / "constitution.json"):
        write_atomic(path, constitution.to_json() + "\n")
    if identities:
        _keep_code(kept.with_name(kept.stem + CHECKS_SUFFIX), identities)
    write_atomic(folder.path / "prompts.jsonl", prompts)


def _same(path: Path, settings: dict[str, object], lock: dict[str, object], prompts: str) -> bool:
    """Whether a run folder was last run under this recipe, whichever of its steps, and all that it resolves to."""
    try:
        before = yaml.safe_load((path / "run.yaml").read_bytes())
        locked = json.loads((path / "lock.json").read_bytes())
        asked = (path / "prompts.jsonl").read_text("utf-8")
    except (OSError, ValueError, yaml.YAMLError):
        return False
    if not isinstance(before, dict) or not isinstance(locked, dict) or asked != prompts:
        return False
    return all(_felt(one) == _felt(other) for one, other in ((before, settings), (locked, lock)))


def _felt(said: Mapping[str, object]) -> dict[str, object]:
    found = {name: value for name, value in said.items() if name not in _UNFELT}
    if isinstance(rl := said.get("rl"), Mapping):
        found["rl"] = {name: value for name, value in rl.items() if name != "report_to"}
    return found


def _policy_text(inputs: Inputs) -> dict[str, str]:
    """What the policy's text says it was written by, where that is not the policy as judging and training open it."""
    if inputs.recipe.policy_engine == "torch":
        return {}
    return {POLICY_TEXT: identify(inputs.writer("policy"), inputs.recipe.dtype)}


def _more_judges(inputs: Inputs) -> dict[str, dict[str, str]]:
    """The judges besides the labels' one, by name; nothing where there are none."""
    found = {juror.name: juror.identity(inputs.recipe.dtype) for juror in inputs.jury[1:]}
    return {"judges": found} if found else {}


def _keep_code(path: Path, identities: dict[str, str]) -> None:
    """Adds what the code of a constitution's checks is now to what it was before under the same text."""
    try:
        known = json.loads(path.read_bytes())["checks"] if path.exists() else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: move the run folder aside") from error
    if identities not in known:
        write_atomic(path, json.dumps({"checks": [*known, identities]}, indent=2) + "\n")
