"""Exchange against the real files of others: what goes in comes out again."""

import gzip
import json
import re
from pathlib import Path

import pytest
from shared_data import sample

from constitutional.constitution import load_constitution
from constitutional.interop import (
    BESIDE,
    add_few_shots,
    export_constitution,
    export_few_shots,
    import_constitution,
    import_few_shots,
    paper_requests,
    to_yaml,
    write_few_shots,
)
from constitutional.records import user
from constitutional.templates import load_pack

WHOLE = [  # a constitution and its few-shots are all there is in the file
    ("cai_paper/CritiqueRevisionInstructions.json", "cai-sl", 16),
    ("cai_paper/RLMadisonInstructions.json", "cai-rl", 16),
    ("constitutions/icai_standard_principles.json", "icai", None),
    ("constitutions/langchain_principles.json", "langchain", 54),
    ("constitutions/llm_swarm_constituion_grok.json", "llm-swarm", 2),
    ("constitutions/llm_swarm_constitution_anthropic.json", "llm-swarm", 16),
    ("constitutions/nemo_aligner_CritiqueRevisionInstructions.json", "nemo-sl", 16),
]
MORE = [  # the file says more than a constitution holds
    ("constitutions/constitutional_evals_kantian.json", "constitutional-evals", None),
    ("constitutions/constitutional_evals_kindness.json", "constitutional-evals", 8),
    ("constitutions/constitutional_evals_utilitarianism.json", "constitutional-evals", None),
    ("constitutions/open_character_goodness.txt", "open-character", None),
    ("constitutions/open_character_humor.txt", "open-character", 10),
    ("constitutions/typo_principles.json", "typo", 5),
]
MARKUP = [
    ("constitutions/nemo_aligner_sys_prompt_constitution.txt", "nemo-prompt", 16),
    ("constitutions/openai_model_spec.md", "model-spec", 59),
]
ALL = [*WHOLE, *MORE, *MARKUP, ("icai/example_ap.json", "annotated-pairs", 3)]
ALL.append(("icai/feedback_forensics_example_annotations_train_ap.json", "annotated-pairs", None))


def _load(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _strings(value: object) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_strings, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(_strings, value)) if value else set()
    return {value} if isinstance(value, str) else set()


@pytest.mark.parametrize(("name", "format", "count"), WHOLE)
def test_files_that_are_constitutions_come_back_equal(name: str, format: str, count: int | None) -> None:
    path = sample(name)
    imported = import_constitution(path, format)
    exported = export_constitution(imported.constitution, format)
    assert json.loads(exported.text) == _load(path)
    assert list(json.loads(exported.text)) == list(_load(path))  # type: ignore[call-overload]
    assert imported.lost == exported.lost == ()
    assert count in (None, len(imported.constitution.principles))


@pytest.mark.parametrize(("name", "format", "count"), MORE)
def test_files_that_hold_more_come_back_equal_from_the_constitution_and_the_original(
    name: str, format: str, count: int | None
) -> None:
    path = sample(name)
    imported = import_constitution(path, format)
    assert json.loads(export_constitution(imported.constitution, format, original=path).text) == _load(path)
    assert count in (None, len(imported.constitution.principles))
    # and what the constitution lacks is exactly what the import said is lost
    alone = json.loads(export_constitution(imported.constitution, format).text)
    gone = _keys(_load(path)) - _keys(alone)
    told = {found for line in imported.lost for found in re.findall(r"key '(\w+)'", line)}
    nested = {"method", "derived_from", "researcher_pass", "date", "notes"}  # inside keys that are lost whole
    assert gone - nested - {"comparative"} <= told  # a comparative alone is written as a plain criterion
    assert imported.lost


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set().union(*map(_keys, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(("name", "format", "count"), MORE)
def test_an_export_with_an_original_still_writes_the_constitutions_texts(name: str, format: str, count: int) -> None:
    path = sample(name)
    constitution = import_constitution(path, format).constitution
    first, *rest = constitution.principles
    changed = first.model_copy(update={"comparison_request": f"{first.comparison_request} And briefly."})
    fewer = constitution.model_copy(update={"principles": (changed, *rest[1:])})
    text = export_constitution(fewer, format, original=path).text
    assert "And briefly." in text
    path_texts, texts = _strings(_load(path)), _strings(json.loads(text))
    gone = rest[0].comparison_request or ""
    assert not any(gone.endswith(found) for found in texts if len(found) > 20)
    assert any(gone.endswith(found) for found in path_texts if len(found) > 20)


@pytest.mark.parametrize(("name", "format", "count"), MARKUP)
def test_markup_comes_back_with_its_ids_texts_and_order(name: str, format: str, count: int, tmp_path: Path) -> None:
    path = sample(name)
    constitution = import_constitution(path, format).constitution
    assert len(constitution.principles) == count
    copy = tmp_path / path.name
    copy.write_bytes(export_constitution(constitution, format).text.encode())
    assert import_constitution(copy, format).constitution == constitution
    whole = export_constitution(constitution, format, original=path)
    assert whole.text.encode() == path.read_bytes() and whole.lost == ()


def test_the_numbered_list_is_the_papers_file() -> None:
    listed = import_constitution(sample(MARKUP[0][0]), "nemo-prompt").constitution
    paper = import_constitution(sample(WHOLE[1][0]), "cai-rl").constitution
    assert listed.principles == paper.principles


def test_model_spec_sections_are_principles_of_their_level() -> None:
    path = sample("constitutions/openai_model_spec.md")
    text = path.read_text(encoding="utf-8")
    principles = import_constitution(path, "model-spec").constitution.principles
    heads = re.findall(r"^#+ (.*) \{#(\w+) authority=(\w+)", text, re.MULTILINE)
    tiers = {"root": 1, "system": 2, "developer": 3, "user": 4, "guideline": 5}
    assert [(p.title, p.id, p.tier) for p in principles] == [(t, id, tiers[level]) for t, id, level in heads]
    for principle in principles:
        request = principle.comparison_request or ""
        paragraphs = request.split("\n\n")[1:]
        assert all(paragraph in text for paragraph in paragraphs)
        assert "<comparison>" not in request and "!!!" not in request and "**Example**" not in request
        for example in principle.examples:
            assert f"<user>\n{example.prompt}\n</user>" in re.sub("<user [^>]*>", "<user>", text)
            assert f"\n{example.better}\n</assistant>" in text and f"\n{example.worse}\n</assistant>" in text
            good, bad = (text.index(f"\n{answer}\n</assistant>") for answer in (example.better, example.worse))
            assert good != bad
    assert sum(len(p.examples) for p in principles) > 120
    # independently: the answer after each GOOD mark is never an example's worse one
    good = re.findall(r"<assistant> <!-- GOOD.*?-->\n(.*?)\n</assistant>", text, re.DOTALL)
    bad = re.findall(r"<assistant> <!-- BAD.*?-->\n(.*?)\n</assistant>", text, re.DOTALL)
    assert {e.better for p in principles for e in p.examples} <= set(good)
    assert {e.worse for p in principles for e in p.examples} <= set(bad)


@pytest.mark.parametrize(("name", "format", "count"), ALL)
def test_every_import_is_a_constitution_that_loads(name: str, format: str, count: int | None, tmp_path: Path) -> None:
    constitution = import_constitution(sample(name), format).constitution
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(constitution), encoding="utf-8", newline="")
    assert load_constitution(str(path)) == constitution


def test_the_papers_recorded_steps_are_rebuilt_from_the_principles() -> None:
    constitution = import_constitution(sample("cai_paper/CritiqueRevisionInstructions.json"), "cai-sl").constitution
    with gzip.open(sample("cai_paper/samples_with_pm_scores.jsonl.gz"), "rt", encoding="utf-8") as file:
        steps = [step for line in file for step in json.loads(line).get("cst", [])]
    assert len(steps) == 264
    for step in steps:
        assert paper_requests(constitution.principle(step["cst_key"])) == step["cst_value"]


FEW_SHOTS = [
    ("cai_paper/CritiqueRevisionFewShotPrompts.json", "cai-sl", 5),
    ("cai_paper/RLMadisonFewShotPrompts.json", "cai-rl", 5),
    ("cai_paper/RLMadisonPrecogFewShotPrompts.json", "cai-cot", 6),
    ("constitutions/nemo_aligner_few_shot_samples_example.json", "nemo", 2),
]


@pytest.mark.parametrize(("name", "format", "count"), FEW_SHOTS)
def test_few_shots_come_back_equal(name: str, format: str, count: int) -> None:
    path = sample(name)
    shots = import_few_shots(path, format)
    assert len(shots) == count
    assert json.loads(export_few_shots(shots, format)) == _load(path)


PAPER = [
    ("cai_paper/CritiqueRevisionInstructions.json", "cai-sl", "cai_paper/CritiqueRevisionFewShotPrompts.json", 5),
    ("cai_paper/RLMadisonInstructions.json", "cai-rl", "cai_paper/RLMadisonFewShotPrompts.json", 5),
    (
        "constitutions/nemo_aligner_CritiqueRevisionInstructions.json",
        "nemo-sl",
        "constitutions/nemo_aligner_few_shot_samples_example.json",
        2,
    ),
]


@pytest.mark.parametrize(("name", "format", "shots", "count"), PAPER)
def test_a_constitution_holds_the_few_shots_beside_it_byte_for_byte(
    name: str, format: str, shots: str, count: int, tmp_path: Path
) -> None:
    imported = import_constitution(sample(name), format).constitution
    constitution, lost = add_few_shots(imported, sample(shots), BESIDE[format])
    held = constitution.few_shots
    assert lost == [] and held is not None and len(held.revision) + len(held.comparison) == count
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(constitution), encoding="utf-8", newline="")
    again = load_constitution(str(path))
    assert again == constitution
    text, lost = write_few_shots(again, BESIDE[format])
    assert json.loads(text) == _load(sample(shots)) and lost == []


def test_the_transcript_pack_shows_the_papers_shots_as_they_stand() -> None:
    imported = import_constitution(sample(PAPER[0][0]), "cai-sl").constitution
    constitution, _ = add_few_shots(imported, sample(PAPER[0][2]), "cai-sl")
    pack = load_pack("transcript").with_few_shots(constitution.few_shots)
    values = {"answer": "a", "critique": "c", "critique_request": "q", "revision_request": "r"}
    (shown,) = pack.render("revise", conversation=(user("hello"),), **values).dialogue
    transcripts = [text.removesuffix("\n\nHuman:") for text in _load(sample(PAPER[0][2]))]  # type: ignore[attr-defined]
    assert shown.content.startswith("".join(transcripts) + "\n\nHuman: hello\n\nAssistant: a")


def test_reasoned_shots_have_no_form_and_each_is_told() -> None:
    imported = import_constitution(sample(PAPER[1][0]), "cai-rl").constitution
    constitution, lost = add_few_shots(imported, sample("cai_paper/RLMadisonPrecogFewShotPrompts.json"), "cai-cot")
    assert constitution == imported and len(lost) == 6 and all("not of the form" in line for line in lost)
