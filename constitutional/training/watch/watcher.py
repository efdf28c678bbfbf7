"""The state of a watched run: figures so far, rules, the best probe's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from constitutional.errors import TrainingError
from constitutional.records import Failure
from constitutional.settings.watch import WatchRule
from constitutional.text_metrics import Ngram
from constitutional.training.guards import StepWatch
from constitutional.training.rewards import RewardSource
from constitutional.training.rows import RewardRow, RlResult
from constitutional.training.watch.figures import answer_figures
from constitutional.training.watch.phrases import different, holders, spread
from constitutional.training.watch.probe import Probe, ProbeAnswer, Watch, probe_figures
from constitutional.training.watch.records import Phrase, WatchEvent, WatchResult
from constitutional.training.watch.rules import Rules

PHRASES = 5
"""How many phrases the result tells."""


class Watcher:
    """Watches one run: `begin`, then `measure` and `after_step` at each step until `ended`, then `settle`, `result`."""

    def __init__(self, watch: Watch, probe: Probe, told: StepWatch, *, steps: int) -> None:
        """`told` keeps and relays the figures of probes beside those of the trainer; `steps` are the recipe's."""
        self._watch, self._probe, self._told, self._steps = watch, probe, told, steps
        self._rules = Rules(watch.settings.rules)
        self._keeps = any(rule.action == "rollback" for rule in watch.settings.rules)
        self._events: list[WatchEvent] = []
        self._answers: list[ProbeAnswer] = []
        self._start: dict[str, float | None] = {}
        self._before: dict[Ngram, float] = {}
        self._phrases: tuple[Phrase, ...] = ()
        self._probes = self._unscored = self._best_step = 0
        self._value: float | None = None
        self._best_value: float | None = None
        self._best: dict[str, Tensor] = {}
        self._stopped: int | None = None
        self._rolled_back = False

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Prompts of the probe that leave no room for an answer."""
        return self._probe.failures

    @property
    def ended(self) -> bool:
        """Whether a rule ended the run."""
        return self._stopped is not None

    def begin(self, net: Any, autocast: AbstractContextManager[Any] | None = None) -> None:
        """Probes the starting policy, with which all later ones are compared.

        Raises:
            TrainingError: it breaks a rule before anything was trained.
        """
        fired = self._ask(net, 0, autocast)
        broken = [event for _, event in fired if event.action != "none"]
        if broken:
            raise TrainingError(f"watch: the starting policy already breaks a rule: {broken[0].line}")
        self._tell(fired)
        self._keep(net, 0)

    def measure(self, rows: Sequence[RewardRow]) -> dict[str, float]:
        """Figures of a step's rollouts, of all processes."""
        return answer_figures([row.completion for row in rows], [row.prompt_id for row in rows], self._before)

    def after_step(
        self, step: int, figures: Mapping[str, Any], net: Any, autocast: AbstractContextManager[Any] | None = None
    ) -> float:
        """Looks at a step's figures, and probes where one is due or a rule ends the run.

        Args:
            step: that was just taken.
            figures: of the rollouts it was taken on, so of the policy before it.
            net: the policy after it.
            autocast: what the policy computes under.

        Returns:
            What every learning rate is to be multiplied by.
        """
        fired = self._rules.judge(step, self._rules.of_steps(figures))
        ending = any(rule.action != "lower_lr" and event.action != "none" for rule, event in fired)
        if ending or step % self._watch.settings.every == 0 or step == self._steps:
            fired += self._ask(net, step, autocast)
            if not self._rules.broken:
                self._keep(net, step)
        self._tell(fired)
        acted = [(rule, event) for rule, event in fired if event.action != "none"]
        if any(rule.action in ("stop", "rollback") for rule, _ in acted):
            self._stopped = step
            self._rolled_back = any(rule.action == "rollback" for rule, _ in acted)
        factor = 1.0
        for rule, _ in acted:
            factor *= rule.factor or 1.0
        return factor

    @torch.no_grad()
    def settle(self, net: Any) -> None:
        """Puts the best probe's weights back where a rule said so; to be called before the policy is saved."""
        if self._rolled_back:
            for name, weight in _trained(net).items():
                weight.copy_(self._best[name])

    def result(self) -> WatchResult:
        """What was seen and done."""
        taken = self._steps if self._stopped is None else self._stopped
        heldout = ", ".join(dict.fromkeys(source.by for source in self._watch.heldout))
        return WatchResult(
            heldout=heldout or None,
            prompts=len(self._probe.prompts),
            canaries=len(self._probe.canaries),
            steps=self._steps,
            probes=self._probes,
            unscored=self._unscored,
            events=tuple(self._events),
            stopped_step=self._stopped,
            saved_step=self._best_step if self._rolled_back else taken,
            best_step=self._best_step,
            best_value=self._best_value,
            phrases=self._phrases,
        )

    def state_dict(self) -> dict[str, Any]:
        """All a resumed run needs, for a checkpoint: plain values and tensors."""
        return {
            "rules": self._rules.state(),
            "answers": [answer.to_json() for answer in self._answers],
            "events": [event.to_json() for event in self._events],
            "phrases": [phrase.to_json() for phrase in self._phrases],
            "start": dict(self._start),
            "before": [[list(gram), share] for gram, share in self._before.items()],
            "counts": [self._probes, self._unscored, self._best_step],
            "best_value": self._best_value,
            "best": dict(self._best),
            "end": [self._stopped, self._rolled_back],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint's state; `on_answers` is told again, events and figures stand in the logs."""
        self._tell_answers([ProbeAnswer.model_validate_json(line) for line in state["answers"]])
        self._rules.restore(state["rules"])
        self._events = [WatchEvent.model_validate_json(line) for line in state["events"]]
        self._phrases = tuple(Phrase.model_validate_json(line) for line in state["phrases"])
        self._start, self._best = dict(state["start"]), dict(state["best"])
        self._before = {tuple(gram): float(share) for gram, share in state["before"]}
        self._probes, self._unscored, self._best_step = state["counts"]
        self._best_value = state["best_value"]
        self._stopped, self._rolled_back = state["end"]

    def _ask(
        self, net: Any, step: int, autocast: AbstractContextManager[Any] | None
    ) -> list[tuple[WatchRule, WatchEvent]]:
        answers = self._probe.ask(net, step, autocast)
        texts = [answer.text for answer in answers]
        if not self._probes:
            self._before = holders(texts)
        found = probe_figures(answers, self._start, self._before)
        if not self._probes:
            self._start = found
        self._phrases = different(spread(texts, [answer.prompt_id for answer in answers], self._before), PHRASES)
        self._probes += 1
        self._unscored += sum(answer.error is not None for answer in answers)
        self._value = found["probe/heldout_reward" if self._watch.heldout else "probe/reward"]
        self._told.record(step, self._steps, {name: value for name, value in found.items() if value is not None})
        self._tell_answers(answers)
        return self._rules.judge(step, found)

    def _keep(self, net: Any, step: int) -> None:
        """Remembers the policy if it is the best so far; the starting one is until another one has a value."""
        better = self._value is not None and (self._best_value is None or self._value > self._best_value)
        if step and not better:
            return
        self._best_step, self._best_value = step, self._value
        if self._keeps:
            self._best = {name: weight.detach().to("cpu", copy=True) for name, weight in _trained(net).items()}

    def _tell_answers(self, answers: Sequence[ProbeAnswer]) -> None:
        self._answers += answers
        if self._watch.on_answers is not None and PartialState().is_main_process:
            self._watch.on_answers(answers)

    def _tell(self, fired: Sequence[tuple[WatchRule, WatchEvent]]) -> None:
        for _, event in fired:
            self._events.append(event)
            if self._watch.on_event is not None and PartialState().is_main_process:
                self._watch.on_event(event)


def open_watcher(
    watch: Watch | None,
    rewards: Sequence[RewardSource],
    tokenizer: Any,
    told: StepWatch,
    *,
    context: int,
    steps: int,
    max_tokens: int,
    seed: int,
) -> Watcher | None:
    """The watcher of a run, None where nothing is watched. Raises as `Probe` does."""
    if watch is None:
        return None
    probe = Probe(watch, rewards, tokenizer, context=context, max_tokens=max_tokens, seed=seed)
    return Watcher(watch, probe, told, steps=steps)


def watched(result: RlResult, watcher: Watcher | None) -> RlResult:
    """The figures of a run with those of its watch, if it had one."""
    if watcher is None:
        return result
    return result.model_copy(update={"watch": watcher.result(), "failures": (*result.failures, *watcher.failures)})


def _trained(net: Any) -> dict[str, Any]:
    return {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
