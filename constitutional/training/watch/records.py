"""What a watched run leaves: events and a summary. No heavy library is imported here."""

from __future__ import annotations

from typing import Literal

from constitutional.records import Record
from constitutional.settings.watch import WatchAction


class Phrase(Record):
    """Words that stand in this share of the answers, and in this share of the starting policy's."""

    words: str
    share: float
    before: float


class WatchEvent(Record):
    """A rule that fired: a figure, the step it was measured at, and what was done.

    The action `none` is of a figure that a rule is about and that could not be measured; `why` then says why.
    """

    step: int
    figure: str
    value: float | None
    why: str
    action: WatchAction | Literal["none"]

    @property
    def line(self) -> str:
        """What happened, as a line to read."""
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        return f"{self.figure} {value} at step {self.step}: {self.why}"


class WatchResult(Record):
    """What the watch saw and did.

    `saved_step` is the step whose weights were saved (0 is the starting policy), `best_step` the probe with the highest
    held-out reward (without a held-out source, the highest reward) of those that broke no rule. `unscored` answers of
    probes had no reward, or no held-out one, because a source of it failed. `phrases` had spread furthest at the last
    probe.
    """

    heldout: str | None
    prompts: int
    canaries: int
    steps: int
    """Of the recipe: more than were taken where a rule stopped the run."""
    probes: int
    unscored: int
    events: tuple[WatchEvent, ...]
    stopped_step: int | None
    saved_step: int
    best_step: int
    best_value: float | None
    phrases: tuple[Phrase, ...]

    @property
    def end(self) -> str | None:
        """Why and how the run ended before its last step; None where it did not."""
        ending = [event for event in self.events if event.action in ("stop", "rollback")]
        if self.stopped_step is None or not ending:
            return None
        why = "; ".join(event.line for event in ending)
        saved = "" if self.saved_step == self.stopped_step else f"; saved is step {self.saved_step}"
        return f"stopped at step {self.stopped_step} of {self.steps}: {why}{saved}"
