"""The system prompt in which NeMo-Aligner puts the RL principles before its judge: a numbered list in a fence."""

from __future__ import annotations

import re

from constitutional.errors import ConstitutionError
from constitutional.interop.documents import Imported, Source, Written, constitution_of, fitting, principle_of
from constitutional.principles import Constitution, Principle

FRAME = """Judge the responses to a prompt by the principles of the CONSTITUTION below. Answer with a dictionary
{"chosen": x, "rejected": y}
of two response ids: x of the response that follows the principles best, y of the one that follows them least.

```CONSTITUTION
  1. -
```
"""
"""Written for this project: the wording around the principles is not part of them."""

_FENCE = re.compile(r"^```CONSTITUTION[ \t]*\r?\n(.*?)^```", re.MULTILINE | re.DOTALL)
# an item runs to a blank line, the next number or the end
_ITEM = re.compile(r"^[ \t]*\d+\.[ \t]+(\S.*(?:\n(?![ \t]*(?:\d+\.[ \t]|\r?$)).*)*)", re.MULTILINE)


def read(source: Source) -> Imported:
    """The principles of a system prompt, called `rl0`, `rl1` and on as in the paper's file."""
    items = _items(source)
    principles = [principle_of(f"rl{index}", comparison_request=item[1].rstrip()) for index, item in enumerate(items)]
    around = len(source.text[: items[0].start()].strip()) + len(source.text[items[-1].end() :].strip())
    return Imported(
        constitution_of(source, principles), lost=(f"the system prompt around the principles ({around} characters)",)
    )


def write(constitution: Constitution, original: Source | None) -> Written:
    """A system prompt: the original's with its list replaced, or one of our own wording."""
    chosen, left_out = fitting(constitution, _problem)
    items = "\n\n".join(f"  {number}. {p.comparison_request}" for number, p in enumerate(chosen, 1))
    frame = original or Source("frame", FRAME)
    old = _items(frame)
    end = old[-1].start() + len(old[-1][0].rstrip())
    return Written(frame.text[: old[0].start()] + items + frame.text[end:], tuple(chosen), left_out)


def _items(source: Source) -> list[re.Match[str]]:
    fence = _FENCE.search(source.text)
    if fence is None:
        raise ConstitutionError(f"{source.name}: no fenced block ```CONSTITUTION")
    found = list(_ITEM.finditer(source.text, fence.start(1), fence.end(1)))
    if not found:
        line = source.text.count("\n", 0, fence.start()) + 1
        raise ConstitutionError(f"{source.name}:{line}: holds no principle")
    return found


def _problem(principle: Principle) -> str | None:
    request = principle.comparison_request
    if not request:
        return "has no comparison_request"
    if "```" in request or "\n" in request or request != request.strip():
        return "its comparison_request is not one line, which a numbered list needs"
    return None
