"""Which rule's bound is broken, and which of them fires."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from constitutional.settings.watch import WatchAction, WatchRule
from constitutional.training.watch.records import WatchEvent

Action = WatchAction | Literal["none"]
Peak = tuple[float, int]
"""The highest value of a figure so far, and the step it was measured at."""


def why_broken(rule: WatchRule, value: float, peak: Peak) -> str | None:
    """What bound a value breaks; None where it keeps within it. A value on the bound keeps within it."""
    highest, step = peak
    if rule.above is not None:
        return f"above {rule.above:g}" if value > rule.above else None
    if rule.below is not None:
        return f"below {rule.below:g}" if value < rule.below else None
    if rule.fall is not None:
        told = f"more than {rule.fall:g} below its peak {highest:.4g} of step {step}"
        return told if highest - value > rule.fall else None
    assert rule.fall_share is not None
    told = f"more than {100 * rule.fall_share:g} % below its peak {highest:.4g} of step {step}"
    return told if highest - value > rule.fall_share * abs(highest) else None


class Rules:
    """The rules of a run with their peaks. A rule fires once for each time its bound is broken long enough."""

    def __init__(self, rules: Sequence[WatchRule]) -> None:
        self._rules = tuple(rules)
        self._peaks: list[Peak | None] = [None] * len(rules)
        self._times = [0] * len(rules)
        self._blind = [False] * len(rules)

    def of_steps(self, figures: Mapping[str, float | None]) -> dict[str, float | None]:
        """The figures of a step that rules are about; None for one that was not measured.

        A step on rollouts of an earlier one (`trl.num_iterations`) has no reward and none of the other figures of
        rollouts: they are not looked at anew, and none is missing.
        """
        names = sorted({rule.figure for rule in self._rules if not rule.figure.startswith("probe/")})
        reused = "reward" not in figures
        return {name: figures.get(name) for name in names if name in figures or not reused}

    @property
    def broken(self) -> bool:
        """Whether a figure was outside its bound when last measured."""
        return any(self._times)

    def judge(self, step: int, figures: Mapping[str, float | None]) -> list[tuple[WatchRule, WatchEvent]]:
        """The rules that fire on figures just measured; rules about other figures are not looked at.

        A figure that has just become None, or no number, fires its rule, too, with the action `none`: the run goes on
        unwatched by it, and says so.
        """
        events = []
        for number, rule in enumerate(self._rules):
            if rule.figure not in figures:
                continue
            value = figures[rule.figure]
            blind, self._blind[number] = self._blind[number], value is None or not math.isfinite(value)
            if value is None or not math.isfinite(value):
                if not blind:
                    events.append((rule, _event(step, rule, None, "it could not be measured", "none")))
                continue
            peak = self._peaks[number]
            if peak is None or value > peak[0]:
                peak = self._peaks[number] = (value, step)
            why = why_broken(rule, value, peak)
            self._times[number] = 0 if why is None else self._times[number] + 1
            if why is not None and self._times[number] == rule.times:
                events.append((rule, _event(step, rule, value, why, rule.action)))
        return events

    def state(self) -> dict[str, Any]:
        """Peaks and broken bounds, to go on from."""
        return {"peaks": list(self._peaks), "times": list(self._times), "blind": list(self._blind)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self._peaks = [None if peak is None else (float(peak[0]), int(peak[1])) for peak in state["peaks"]]
        self._times, self._blind = list(state["times"]), list(state["blind"])


def _event(step: int, rule: WatchRule, value: float | None, why: str, action: Action) -> WatchEvent:
    return WatchEvent(step=step, figure=rule.figure, value=value, why=why, action=action)
