"""Few-shots: worked examples that stand before a question. The paper's three files, NeMo's, and llm-swarm's."""

from __future__ import annotations

from constitutional.records import Dialogue, Record


class LabelledShot(Record):
    """A question with right and wrong answers, for a judge."""

    prompt: str
    corrects: tuple[str, ...]
    incorrects: tuple[str, ...]


FewShot = str | Dialogue | LabelledShot
"""A transcript as it stands (bytes and all), a conversation, or a labelled question."""
