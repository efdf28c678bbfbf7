"""Our per-principle metrics against Feedback Forensics 0.5.0, in an environment of its own.

Makes the environment, installs feedback_forensics, has it read AnnotatedPairs files and compute its metrics, and
compares each with `principle_metrics` of our own counts. Files: random votes (one principle never applies), and those
that are named. Its web page and its pipeline of language models are not installed (hundreds of packages): modules that
its reader and its metrics import and do not use stand empty.

    python benchmarks/feedback_forensics_oracle.py [--environment FOLDER] [EXPORT.json ...]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from pathlib import Path
from typing import Any

from constitutional.statistics.agreement import principle_metrics

PACKAGE = "feedback_forensics==0.5.0"
NEEDED = ("pandas", "scikit-learn", "scipy", "loguru", "ijson", "msgspec", "requests")
THEIRS = """
import json, pathlib, sys
from unittest.mock import MagicMock
unused = "gradio inverse_cai inverse_cai.data inverse_cai.data.annotated_pairs_format inverse_cai.data.loader"
for name in (unused + " inverse_cai.data.loader.standard").split():
    sys.modules[name] = MagicMock()
from feedback_forensics.app.metrics import compute_annotator_metrics
from feedback_forensics.data.loader import get_votes_dict_from_annotated_pairs_json
path = pathlib.Path(sys.argv[1])
reference = json.loads(path.read_text())["metadata"]["default_annotator"]
votes = get_votes_dict_from_annotated_pairs_json(path)
columns = votes["shown_annotator_rows"]
names = {c: votes["annotator_metadata"][c]["annotator_in_row_name"] for c in columns}
found = compute_annotator_metrics(votes["df"], votes["annotator_metadata"], columns, reference)["metrics"]
print("RESULT" + json.dumps({c: {
    "agreement": float(found["agreement"][names[c]]),
    "relevance": float(found["relevance"][names[c]]),
    "strength": float(found["strength"][names[c]]["strength"]),
    "kappa": float(found["cohens_kappa"][names[c]]),
} for c in columns}))
"""


def random_pairs(seed: int, comparisons: int) -> dict[str, Any]:
    """An AnnotatedPairs 2.0 document with five principles that agree with the reference more or less often."""
    rng = random.Random(seed)
    document: dict[str, Any] = {
        "metadata": {"version": "2.0", "default_annotator": "people"},
        "annotators": {"people": {"name": "people", "type": "human", "description": ""}},
        "comparisons": [],
    }
    for k in range(5):
        document["annotators"][f"p{k}"] = {"name": f"p{k}", "type": "principle", "description": f"Principle {k}"}
    for i in range(comparisons):
        preferred = rng.choice("ab")
        votes: dict[str, Any] = {"people": {"pref": preferred}}
        for k in range(5):
            pref = preferred if rng.random() < 0.3 + 0.15 * k else "b" if preferred == "a" else "a"
            votes[f"p{k}"] = {"pref": None if k == 4 or rng.random() < 0.2 else pref}  # the last one never applies
        document["comparisons"].append(
            {
                "id": f"c{i}",
                "prompt": f"prompt {i}",
                "response_a": {"text": f"answer {i}, one"},
                "response_b": {"text": f"answer {i}, other"},
                "annotations": votes,
            }
        )
    return document


def ours(document: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    reference = document["metadata"]["default_annotator"]
    principles = [name for name, a in document["annotators"].items() if a.get("type") == "principle"]
    found = {}
    for name in principles:
        counts: Counter[str] = Counter()
        for comparison in document["comparisons"]:
            notes = comparison["annotations"]
            said, preferred = (notes.get(who, {}).get("pref") for who in (name, reference))
            if preferred in ("a", "b"):
                counts["neither" if said not in ("a", "b") else "agree" if said == preferred else "disagree"] += 1
        metrics = principle_metrics(counts["agree"], counts["disagree"], counts["neither"])
        found[name] = metrics.model_dump()
    return found


def environment(folder: Path) -> Path | None:
    """The python of an environment that has the package; None, said on stdout, where it cannot be made."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    for what in (("--no-deps", PACKAGE), NEEDED):
        installed = subprocess.run([python, "-m", "pip", "install", "-q", *what], capture_output=True, text=True)
        if installed.returncode:
            print(f"skipped: {what} cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
            return None
    return python


def theirs(python: Path, file: Path) -> dict[str, dict[str, float]]:
    asked = {**os.environ, "FF_AVAIL_METRICS": '["agreement", "relevance", "strength", "cohens_kappa"]'}
    done = subprocess.run([python, "-c", THEIRS, file], capture_output=True, text=True, env=asked)
    result = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not result:
        sys.exit(f"feedback_forensics did not read {file}: {done.stderr[-2000:]}")
    found: dict[str, dict[str, float]] = json.loads(result[0].removeprefix("RESULT"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "feedback_forensics_0.5.0")
    parser.add_argument("files", type=Path, nargs="*")
    asked = parser.parse_args()
    python = environment(asked.environment)
    if python is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for seed, n in enumerate((1, 7, 300)):
            made.append(Path(folder) / f"random_{n}.json")
            made[-1].write_text(json.dumps(random_pairs(seed, n)), "utf-8")
        for file in [*made, *asked.files]:
            mine, other = ours(json.loads(file.read_text("utf-8"))), theirs(python, file)
            if mine.keys() != other.keys():
                sys.exit(f"{file}: we count {sorted(mine)}, they {sorted(other)}")
            worst = max((abs((mine[p][m] or 0.0) - other[p][m]) for p in mine for m in other[p]), default=0.0)
            print(f"{file.name:<24}{len(mine):>4} principles, greatest difference {worst:.1e}")
            if not worst < 1e-6:
                sys.exit(f"{file}: metrics differ: {mine} and {other}")


if __name__ == "__main__":
    main()
