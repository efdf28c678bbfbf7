"""The figures, rules and state of the watch over RL, against independent oracles; no model is run."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from constitutional.errors import ConfigError, TrainingError
from constitutional.settings import RlSettings
from constitutional.settings.watch import WatchRule, WatchSettings
from constitutional.training.guards import StepWatch
from constitutional.training.watch.figures import answer_figures, standard_error
from constitutional.training.watch.phrases import different, holders, spread
from constitutional.training.watch.probe import ProbeAnswer, Watch, probe_figures
from constitutional.training.watch.records import WatchEvent, WatchResult
from constitutional.training.watch.rules import Rules
from constitutional.training.watch.trackers import require_trackers, trackers
from constitutional.training.watch.watcher import Watcher

STOCK = "You are valid, valued, and cared for."


def brute_force(texts, prompts, before):
    """Rises of 5-word phrases in answers to two prompts, from the definition: every phrase against every answer."""

    def padded(text):
        return " " + " ".join(re.findall(r"[a-z']+", text.lower())) + " "

    def share(phrase, answers):
        return sum(f" {phrase} " in padded(answer) for answer in answers) / len(answers)

    rises = {}
    for text in texts:
        tokens = padded(text).split()
        for i in range(len(tokens) - 4):
            phrase = " ".join(tokens[i : i + 5])
            asked = {prompt for answer, prompt in zip(texts, prompts, strict=True) if f" {phrase} " in padded(answer)}
            rise = share(phrase, texts) - share(phrase, before)
            if len(asked) > 1 and rise > 0:
                rises[phrase] = rise
    return rises


def test_phrases_are_those_of_the_definition():
    stream = random.Random(0)

    def answers(count, stock):
        made = [" ".join(stream.choices(list("abcdef"), k=stream.randrange(14))) for _ in range(count)]
        return [text + f". {STOCK}" if stream.random() < stock else text for text in made]

    for _ in range(20):
        before, texts = answers(11, 0.2), answers(16, 0.6)
        prompts = [str(i // 4) for i in range(16)]
        expected = brute_force(texts, prompts, before)
        found = spread(texts, prompts, holders(before))
        assert {p.words: p.share - p.before for p in found} == pytest.approx(expected)
        figures = answer_figures(texts, prompts, holders(before))
        assert figures["boilerplate"] == pytest.approx(max(expected.values(), default=0))
        grams = [
            [tuple(w[i : i + 4]) for i in range(len(w) - 3)] for w in (re.findall(r"[a-z']+", t.lower()) for t in texts)
        ]
        repeated = [1 - len(set(g)) / len(g) if g else 0.0 for g in grams]
        assert figures["repetition"] == pytest.approx(sum(repeated) / 16)
        pairs = Counter(pair for t in texts for w in [re.findall(r"[a-z']+", t.lower())] for pair in pairwise(w))
        assert figures["distinct_2"] == pytest.approx(len(pairs) / pairs.total())


def test_the_papers_phrase_is_found_where_it_spreads_and_only_there():
    start = ["It is a lock.", STOCK, "No.", "Take a pin and push it."]
    later = [f"{word} {STOCK}" for word in ("Sure!", "Sorry.", "Yes.", "No.")]
    found = different(spread(later, list("abcd"), holders(start)), 5)
    assert [(p.words, p.share, p.before) for p in found] == [("are valid valued and cared", 1.0, 0.25)]
    one_prompt = spread(later, list("aaaa"), holders(start))  # may be the prompt's own words
    assert one_prompt == [] and answer_figures(later, list("aaaa"), {})["boilerplate"] == 0
    assert answer_figures(start, list("abcd"), holders(start))["boilerplate"] == 0
    empty = answer_figures(["", " \n", "a"], list("abc"), {})
    assert empty == {"repetition": 0, "distinct_2": 0, "empty": pytest.approx(2 / 3), "boilerplate": 0}


def test_a_standard_error_is_that_of_a_mean():
    values = [0.5, -1.0, None, 2.25, 0.0]
    assert standard_error(values) == pytest.approx(stats.sem([v for v in values if v is not None]))
    assert standard_error([1.0, None]) is None and standard_error([]) is None


def answer(step=0, prompt="p", reward=None, heldout=None, refused=None, text="x", ended=True):
    return ProbeAnswer(
        step=step, prompt_id=prompt, kind="helpful", text=text, ended=ended, reward=reward, heldout_reward=heldout,
        refused=refused,
    )  # fmt: skip


def test_the_gap_is_the_gain_that_the_heldout_source_does_not_confirm():
    start = probe_figures([answer(reward=1.0, heldout=5.0), answer(reward=2.0, heldout=6.0)], {}, {})
    assert start["probe/gap"] == 0 and start["probe/refusal"] is None
    later = [
        answer(reward=4.0, heldout=5.0),
        answer(reward=None, heldout=5.5, ended=False),
        answer(refused=True),
        answer(refused=False),
    ]
    found = probe_figures(later, start, {})
    assert found["probe/reward"] == 4 and found["probe/heldout_reward"] == 5.25
    assert found["probe/gap"] == (4 - 1.5) - (5.25 - 5.5)
    assert found["probe/refusal"] == 0.5 and found["probe/clipped_ratio"] == 0.25
    blind = probe_figures([answer(text="")], start, {})
    assert blind["probe/reward"] is blind["probe/gap"] is None and blind["probe/empty"] == 1


@pytest.mark.parametrize(
    ("bound", "values", "fires"),
    [
        ({"above": 0.5}, [0.5, 0.51, 0.6, 0.5, 0.7], [2, 5]),  # on the bound is within it; once for each time
        ({"below": 0.5}, [0.5, 0.4, 0.4], [2]),
        ({"fall": 0.5}, [1.0, 3.0, 2.5, 2.4, 3.5, 2.9], [4, 6]),  # a new peak raises the bound
        ({"fall": 0.5}, [-3.0, -2.0, -2.4, -2.6], [4]),
        ({"fall_share": 0.1}, [1.0, 2.0, 1.8, 1.79], [4]),
        ({"fall_share": 0.1}, [-2.0, -2.125, -2.25], [3]),
        ({"fall_share": 0.1}, [0.0, -0.001], [2]),
        ({"above": 0.5, "times": 2}, [0.6, 0.4, 0.6, 0.6, 0.6], [4]),
        ({"above": 0.5}, [None, None, 0.6, float("nan"), 0.6], [1, 3, 4]),
    ],
)
def test_a_rule_fires_where_its_bound_says(bound, values, fires):
    rules = Rules([WatchRule(figure="kl", **bound)])
    fired = {step: rules.judge(step, {"kl": value}) for step, value in enumerate(values, start=1)}
    assert [step for step, found in fired.items() if found] == fires
    for step, found in fired.items():
        for _, event in found:
            measured = values[step - 1] is not None and values[step - 1] == values[step - 1]
            assert event.action == ("stop" if measured else "none")


def test_a_step_on_rollouts_of_an_earlier_one_misses_no_figure_of_rollouts():
    rules = Rules([WatchRule(figure="boilerplate", above=0.5), WatchRule(figure="kl", above=0.5)])
    assert rules.of_steps({"reward": 1.0, "kl": 0.1, "boilerplate": 0.2}) == {"boilerplate": 0.2, "kl": 0.1}
    assert rules.of_steps({"loss": 1.0, "kl": 0.1}) == {"kl": 0.1}
    assert rules.of_steps({"reward": 1.0, "kl": 0.1}) == {"boilerplate": None, "kl": 0.1}  # it should be there


@pytest.mark.parametrize(
    ("watch", "message"),
    [
        ({"rules": [{"figure": "kl"}]}, "expected one of above, below, fall, fall_share"),
        ({"rules": [{"figure": "kl", "above": 1, "fall": 1}]}, "found above and fall"),
        ({"rules": [{"figure": "kl", "above": 1, "action": "lower_lr"}]}, "takes a factor"),
        ({"rules": [{"figure": "kl", "above": 1, "factor": 0.5}]}, "takes a factor"),
        ({"rules": [{"figure": "probe/gap", "above": 1}]}, "probe/gap needs heldout"),
        ({"rules": [{"figure": "probe/refusal", "above": 1}], "canaries": 0}, "needs canaries"),
        ({"heldout": "members"}, "expected member, judge or model:FOLDER"),
        ({"every": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_would_watch_nothing_are_refused(watch, message):
    with pytest.raises(ValidationError, match=message):
        RlSettings.model_validate({"watch": watch})


def test_a_recipe_without_a_watch_is_written_as_before():
    for algorithm in ("ppo", "grpo", "rloo", "dpo", "best_of_n"):
        assert not {"watch", "report_to"} & RlSettings.model_validate({"algorithm": algorithm}).model_dump().keys()
    with pytest.raises(ValidationError, match="no reference to measure kl"):
        RlSettings.model_validate({"kl": 0, "watch": {"rules": [{"figure": "kl", "above": 1}]}})
    with pytest.raises(ValidationError, match="watch is not used by algorithm dpo"):
        RlSettings.model_validate({"algorithm": "dpo", "watch": {}})
    written = RlSettings.model_validate({"watch": {"heldout": "member"}, "report_to": ["wandb"]})
    assert RlSettings.model_validate_json(written.model_dump_json()) == written


class Told:
    """A probe whose figures are written down beforehand."""

    prompts, canaries, failures = ("a", "b"), (), ()

    def __init__(self, heldout):
        self.heldout = heldout

    def ask(self, net, step, autocast=None):
        value = self.heldout[step]
        return [answer(step=step, reward=float(step), heldout=value, text=f"{STOCK} {step}", prompt=p) for p in "ab"]


def watcher(heldout, *rules, every=1, steps=9, **more):
    settings = WatchSettings(every=every, heldout="judge", rules=rules)
    source = SimpleNamespace(by="a judge")
    return Watcher(Watch(settings, ("a", "b"), heldout=[source], **more), Told(heldout), StepWatch(), steps=steps)


def walk(one, net, steps):
    for step in steps:
        with torch.no_grad():
            net.weight.fill_(step)
        factor = one.after_step(step, {"kl": step / 10}, net)
        assert factor == 1.0
        if one.ended:
            return


FALL = {"figure": "probe/heldout_reward", "fall": 0.5, "action": "rollback"}


def test_rollback_goes_back_to_the_best_probe():
    one, net = watcher([1.0, 2.0, 3.0, 2.8, 2.4, 9.0], WatchRule(**FALL)), torch.nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(0)
    one.begin(net)
    walk(one, net, range(1, 6))
    result = one.result()
    assert (result.stopped_step, result.saved_step, result.best_step, result.best_value) == (4, 2, 2, 3.0)
    assert net.weight.item() == 4
    one.settle(net)
    assert net.weight.item() == 2
    assert result.end == (
        "stopped at step 4 of 9: probe/heldout_reward 2.4 at step 4: more than 0.5 below its peak 3 of step 2; "
        "saved is step 2"
    )
    assert WatchResult.model_validate_json(result.to_json()) == result


def test_a_probe_that_breaks_a_rule_is_never_the_best():
    rule = WatchRule(figure="kl", above=0.25, action="lower_lr", factor=0.5)
    one, net = watcher([1.0, 2.0, 3.0, 4.0, 0.0], rule, WatchRule(**FALL)), torch.nn.Linear(1, 1, bias=False)
    one.begin(net)
    factors = [one.after_step(step, {"kl": step / 10}, net) for step in range(1, 5)]
    assert factors == [1.0, 1.0, 0.5, 1.0] and one.result().best_step == 2  # 4.0 came with too much KL
    assert [event.action for event in one.result().events] == ["lower_lr", "rollback"]


def test_stop_keeps_the_weights_and_a_rule_of_the_steps_ends_with_a_probe():
    one, net = watcher([1.0] * 9, WatchRule(figure="kl", above=0.25), every=4), torch.nn.Linear(1, 1, bias=False)
    one.begin(net)
    walk(one, net, range(1, 9))
    one.settle(net)
    result = one.result()
    assert net.weight.item() == 3 and (result.stopped_step, result.saved_step, result.probes) == (3, 3, 2)


def test_a_starting_policy_that_breaks_a_rule_is_no_start():
    one = watcher([1.0], WatchRule(figure="probe/heldout_reward", below=1.5))
    with pytest.raises(TrainingError, match=r"starting policy already breaks a rule: .* below 1.5"):
        one.begin(torch.nn.Linear(1, 1))


def test_a_watch_goes_on_from_its_state(tmp_path):
    values, rules = [1.0, 2.0, 3.0, 2.8, 2.6, 2.4, 9.0], (WatchRule(**FALL, times=1), WatchRule(figure="kl", above=9))
    answers = []
    whole, net = watcher(values, *rules, on_answers=answers.extend), torch.nn.Linear(1, 1, bias=False)
    whole.begin(net)
    walk(whole, net, range(1, 7))
    for cut in range(1, 5):
        first, net = watcher(values, *rules), torch.nn.Linear(1, 1, bias=False)
        first.begin(net)
        walk(first, net, range(1, cut + 1))
        torch.save(first.state_dict(), tmp_path / "watch.pt")
        again = []
        second = watcher(values, *rules, on_answers=again.extend)
        second.load_state_dict(torch.load(tmp_path / "watch.pt", weights_only=True))
        walk(second, net, range(cut + 1, 7))
        assert second.result() == whole.result() and again == answers
        second.settle(net)
        assert net.weight.item() == 2


def test_trackers_are_told_every_number_and_closed(tmp_path, monkeypatch):
    from accelerate import tracking

    told = []

    class Kept(tracking.GeneralTracker):
        name, requires_logging_directory, tracker = "wandb", True, None
        main_process_only = False

        def __init__(self, run, logging_dir):
            super().__init__()
            told.append(("opened", run, logging_dir))

        def log(self, values, step=None):
            told.append((step, values))

        def finish(self):
            told.append("closed")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Kept)
    monkeypatch.setattr("constitutional.training.watch.trackers.find_spec", lambda name: name)
    with trackers(["wandb"], "a run", tmp_path) as log:
        log({"step": 3, "steps": 9, "kl": 0.5, "probe/reward": 1, "stage": "rl", "odd": True})
    assert told == [("opened", "a run", str(tmp_path)), (3, {"kl": 0.5, "probe/reward": 1}), "closed"]
    with trackers([], "a run", tmp_path) as log:
        log({"step": 1})
    assert len(told) == 3


def test_a_tracker_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr("constitutional.training.watch.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="trackio is not installed; install it with: pip install trackio"):
        require_trackers(["trackio"])


def test_an_event_reads_as_a_line():
    event = WatchEvent(step=7, figure="kl", value=0.123456, why="above 0.1", action="stop")
    assert event.line == "kl 0.1235 at step 7: above 0.1"
