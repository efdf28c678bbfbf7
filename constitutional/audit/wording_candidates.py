"""Which wordings compete: a principle's own `paraphrases`, or those of a small YAML file.

The file is a mapping of principle ids to lists of texts, each another comparison_request for that principle:

    kind:
      - Which response is warmer?
      - Which response would hurt the user's feelings less?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from constitutional.audit.wording_trial import Contest
from constitutional.errors import ConfigError, ConstitutionError, nearest, one_line
from constitutional.principles import Constitution
from constitutional.validation import locate
from constitutional.yamlfile import load_yaml

PARAPHRASES = "paraphrases"
TOGETHER = "all principles together"


def candidates(constitution: Constitution, source: str) -> dict[str, tuple[str, ...]]:
    """Other wordings by principle id.

    Args:
        constitution: what they are wordings of.
        source: `paraphrases`, or a file.

    Raises:
        ConfigError: one line `file:line:col: key: message` for each thing wrong in the file.
        ConstitutionError: no principle has paraphrases of a comparison_request.
    """
    if source != PARAPHRASES:
        return _read(constitution, Path(source))
    found = {p.id: p.paraphrases for p in constitution.principles if p.comparison_request and p.paraphrases}
    if not found:
        raise ConstitutionError(
            f"{constitution.ref}: no principle has paraphrases to try: add some, or give a file of wordings"
        )
    return found


def contests(constitution: Constitution, wordings: Mapping[str, Sequence[str]]) -> tuple[list[Contest], list[str]]:
    """One contest a principle, before them one of all together where each has equally many; and what is left out.

    Raises:
        ConstitutionError: none of the principles has a tuning example to choose on.
    """
    found, left_out = [], []
    for principle in constitution.principles:
        if principle.id in wordings:
            if principle.check is not None:
                left_out.append(f"{principle.ref}: judged by its check, no wording of it is asked")
            elif any(example.split == "tuning" for example in principle.examples):
                texts = (principle.comparison_request or "", *wordings[principle.id])
                found.append(Contest(principle.ref, {principle.ref: texts}))
            else:
                left_out.append(f"{principle.ref}: no tuning examples to choose on")
    if not found:
        raise ConstitutionError(f"{constitution.ref}: no wordings to compare: {'; '.join(left_out)}")
    if len(found) > 1:
        if len({contest.tried for contest in found}) == 1:
            found.insert(0, Contest(TOGETHER, {ref: texts for one in found for ref, texts in one.wordings.items()}))
        else:
            left_out.append(f"{TOGETHER}: not every principle has equally many wordings")
    return found, left_out


def _read(constitution: Constitution, path: Path) -> dict[str, tuple[str, ...]]:
    data, marks = load_yaml(path, ConfigError)
    principles = {principle.id: principle for principle in constitution.principles}
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"{marks[()]}: expected a mapping of principle ids to lists of wordings")
    problems = []
    for name, texts in data.items():
        place, _ = locate(marks, (name,))
        request = principles[name].comparison_request if name in principles else None
        if name not in principles:
            problems.append(f"{place}: {name}: {constitution.ref} has no principle '{name}'{nearest(name, principles)}")
        elif request is None:
            problems.append(f"{place}: {name}: the principle has no comparison_request to compare with")
        elif not isinstance(texts, list) or not texts:
            problems.append(f"{place}: {name}: expected a list of wordings")
        else:
            for index, text in enumerate(texts):
                here, _ = locate(marks, (name, index))
                if not isinstance(text, str) or not text.strip():
                    problems.append(f"{here}: {name}.{index}: expected a text")
                elif text in (request, *texts[:index]):
                    problems.append(f"{here}: {name}.{index}: the same wording twice")
    if problems:
        raise ConfigError("\n".join(one_line(problem) for problem in problems))
    return {name: tuple(texts) for name, texts in data.items()}
