"""Constitutions of others as ours, read from `shared/data`: their texts as they are, ids counted."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shared_data import shared_folder

from constitutional.principles import Constitution, Principle

DATA = shared_folder()

Requests = dict[str, Any]


def _read(path: str) -> Any:
    assert DATA is not None
    return json.loads((DATA / path).read_text())


def _paper_sl(path: str) -> Iterator[Requests]:
    for given in _read(path).values():
        critique = given["prompt"][0].removeprefix("\n\nCritiqueRequest: ").removesuffix("\n\nCritique:")
        revision = given["edit_request"].removeprefix("\n\nRevisionRequest: ").removesuffix("\n\nRevision:")
        yield {"critique_request": critique, "revision_request": revision}


def _paper_rl() -> Iterator[Requests]:
    for text in _read("cai_paper/RLMadisonInstructions.json"):
        yield {"comparison_request": text.strip().removesuffix(" Options:")}


def _langchain() -> Iterator[Requests]:
    for given in _read("constitutions/langchain_principles.json").values():
        yield {name: given[name] for name in ("critique_request", "revision_request")}


def _llm_swarm(path: str) -> Iterator[Requests]:
    for given in _read(path)["constitutions"]:
        yield {"critique_request": given["critic"], "revision_request": given["revision"]}


def _nemo_prompt() -> Iterator[Requests]:
    assert DATA is not None
    text = (DATA / "constitutions/nemo_aligner_sys_prompt_constitution.txt").read_text()
    yield from ({"comparison_request": line} for line in re.findall(r"^\s+\d+\. (.+)$", text, re.MULTILINE)[2:])


def _icai(version: str) -> Iterator[Requests]:
    for part in _read("constitutions/icai_standard_principles.json")[version]:
        for text in part["principles_short_version"]:
            yield {"comparison_request": f"Select the response that {text}."}


def _icai_annotators() -> Iterator[Requests]:
    for given in _read("icai/feedback_forensics_example_annotations_train_ap.json")["annotators"].values():
        if given.get("type") == "principle":
            yield {"comparison_request": given["description"]}


def _evals(name: str) -> Iterator[Requests]:
    for given in _read(f"constitutions/constitutional_evals_{name}.json")["criteria"]:
        yield {"comparison_request": given if isinstance(given, str) else given["comparative"]}


def _typo() -> Iterator[Requests]:
    for given in _read("constitutions/typo_principles.json").values():
        yield {"comparison_request": given["definition"], "paraphrases": tuple(given["paraphrases"])}


def _traits(name: str) -> Iterator[Requests]:
    yield from ({"comparison_request": g["trait"]} for g in _read(f"constitutions/open_character_{name}.txt"))


def _ccai() -> Iterator[Requests]:
    assert DATA is not None
    with (DATA / "ccai/clean_comments.csv").open(newline="") as file:
        yield from ({"comparison_request": row["comment-body"]} for row in csv.DictReader(file))


def _model_spec() -> Iterator[Requests]:
    assert DATA is not None
    text = (DATA / "constitutions/openai_model_spec.md").read_text()
    for title in re.findall(r"^#{2,} ([^{\n]+) \{#", text, re.MULTILINE):
        yield {"comparison_request": f"Which response follows this rule: {title}?"}


READERS: dict[str, Callable[[], Iterable[Requests]]] = {
    "paper-sl": lambda: _paper_sl("cai_paper/CritiqueRevisionInstructions.json"),
    "paper-rl": _paper_rl,
    "nemo-sl": lambda: _paper_sl("constitutions/nemo_aligner_CritiqueRevisionInstructions.json"),
    "nemo-rl": _nemo_prompt,
    "langchain": _langchain,
    "swarm-anthropic": lambda: _llm_swarm("constitutions/llm_swarm_constitution_anthropic.json"),
    "swarm-grok": lambda: _llm_swarm("constitutions/llm_swarm_constituion_grok.json"),
    "icai-v1": lambda: _icai("_PRINCIPLES_DATA_V1"),
    "icai-v2": lambda: _icai("_PRINCIPLES_DATA_V2"),
    "icai-v3": lambda: _icai("_PRINCIPLES_DATA_V3"),
    "icai-v4": lambda: _icai("_PRINCIPLES_DATA_V4"),
    "icai-annotators": _icai_annotators,
    "evals-kantian": lambda: _evals("kantian"),
    "evals-kindness": lambda: _evals("kindness"),
    "evals-utilitarianism": lambda: _evals("utilitarianism"),
    "typo": _typo,
    "character-goodness": lambda: _traits("goodness"),
    "character-humor": lambda: _traits("humor"),
    "ccai": _ccai,
    "model-spec": _model_spec,
}


def real_constitution(name: str) -> Constitution:
    principles = tuple(
        Principle(id=f"p{i}", version="1.0.0", title=f"{name} {i}", **requests)
        for i, requests in enumerate(READERS[name]())
    )
    return Constitution(id=name, version="1.0.0", title=name, principles=principles)
