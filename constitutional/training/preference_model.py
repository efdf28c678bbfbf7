"""The preference model on soft labels (Bai et al. 2022, section 4.1; soft Bradley-Terry loss), one or an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from trl import RewardConfig

from constitutional.errors import ConfigError, TrainingError
from constitutional.processes import leads, wait_for_all
from constitutional.records import Record, seed_for
from constitutional.training.agreement import agreement, agreement_by
from constitutional.training.checkpoints import Checkpoints, finished_member, keep_member
from constitutional.training.guards import OnLog, StepWatch, require_rows
from constitutional.training.launches import PROBE, shares_weights_out
from constitutional.training.lora import lora_config
from constitutional.training.pairs import Pair, bootstrap, tokenised_pairs
from constitutional.training.pm_folder import (
    ENSEMBLE,
    PRINCIPLES,
    Condition,
    Conditions,
    Ensemble,
    Rule,
)
from constitutional.training.probe import FirstHead, OnFeatures, Probe, set_head
from constitutional.training.rows import Agreement, MemberResult, PreferenceModelResult, PreferenceRow
from constitutional.training.scorer import PreferenceModel, score_ids
from constitutional.training.session import bare_model, in_parts, save, train, training_session
from constitutional.training.soft_columns import COLUMN, WEIGHT
from constitutional.training.soft_reward import SoftRewardTrainer
from constitutional.training.tokens import ControlTokens, open_tokenizer
from constitutional.training.trl_settings import Settings, trl_config

__all__ = ["Committee", "PreferenceModelResult", "PreferenceRow", "agreement", "train_preference_model"]

DEFAULTS: dict[str, object] = {
    "max_length": 512,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1,
    "learning_rate": 5e-5,
    "center_rewards_coefficient": 0.01,  # keeps scores around zero; differences alone are fixed by the labels
}
RELOAD_TOLERANCE = 1e-4
ROUNDED = 2**-5
"""Share of the largest score by which a model in parts may differ from the saved one: its layers compute in 16 bits."""
Head = Literal["zero", "probe"]
PROBED = 256
"""Training pairs from which a member's mean score is taken."""


@dataclass(frozen=True)
class Committee:
    """An ensemble to train: how many members, and how their scores become one (`pm_folder.combine`)."""

    members: int
    rule: Rule = "mean"
    spread: float = 1.0


class _Trained(Record):
    """What one model's training left."""

    steps: int
    trainable: int
    train_loss: float
    model: str
    offset: float
    probe: Agreement | None = None


def train_preference_model(
    rows: Sequence[PreferenceRow],
    heldout: Sequence[PreferenceRow],
    *,
    model: str | Path,
    output: str | Path,
    seed: int,
    opinions: Sequence[PreferenceRow] = (),
    conditions: Sequence[Condition] = (),
    margin: float = 0.0,
    head: Head = "zero",
    committee: Committee | None = None,
    trl: Settings | None = None,
    lora: Settings | None = None,
    on_log: OnLog | None = None,
    on_features: OnFeatures | None = None,
    checkpoints: Checkpoints | None = None,
) -> PreferenceModelResult:
    """Trains a scalar preference model from a chat model and measures it on held-out labels.

    Rows of which either side is longer than `max_length` become Failures. After saving, the folder is opened again
    and must give the scores of the model that was trained.

    Args:
        rows: soft-labelled comparisons. Those with a `principle_text` are read with it behind the answer.
        heldout: comparisons that are only measured; may be empty.
        model: folder of the starting model, SL-CAI in the paper.
        output: folder to write; left as it was when training fails.
        seed: order of rows; an ensemble's members have seeds of their own, made from it.
        opinions: held-out comparisons labelled under one principle each, to measure by principle.
        conditions: the principles a principle-conditioned model answers under unless it is asked under others.
        margin: log-odds by which a certain label should win; see `tokenised_pairs`.
        head: what the head begins as, zeros or a linear probe of the untrained model (`training.probe`).
        committee: train an ensemble, each member on a bootstrap of the rows; one model on all of them when None.
        trl: fields of `trl.RewardConfig`.
        lora: fields of `peft.LoraConfig`; a full fine-tune when None.
        on_log: called with every set of figures TRL logs, `step` and `steps` (of the whole run) added.
        on_features: told how many pairs a probe's head has been shown, and of how many, before training.
        checkpoints: what an interrupted training goes on from, and how often it is written; none when None.

    Raises:
        ConfigError: a setting or a folder that cannot be used.
        TrainingError: nothing to train on, nothing trainable, no step, no change, a loss that is not a number, or a
            saved model that scores otherwise than the trained one.
    """
    if head == "probe" and shares_weights_out("DEEPSPEED"):
        raise ConfigError(PROBE)
    tokenizer = open_tokenizer(model)
    with training_session(output) as folder:
        prepare = partial(trl_config, RewardConfig, defaults=DEFAULTS, passed=trl)
        limit = prepare(folder, fixed={"seed": seed}).max_length or tokenizer.model_max_length
        pairs, failures = tokenised_pairs(rows, tokenizer, limit, margin=margin)
        require_rows(len(pairs), len(rows), "comparisons", limit)
        if all(pair[COLUMN] == 0.5 for pair in pairs):
            raise TrainingError(f"pm: all {len(pairs)} labels are exactly one half: there is nothing to learn")
        measured, unmeasured = tokenised_pairs(heldout, tokenizer, limit)
        by_principle, _ = tokenised_pairs(opinions, tokenizer, limit)  # of comparisons that are in heldout, too
        seeds = [seed_for(seed, "pm-member", k) % 2**31 for k in range(committee.members)] if committee else [seed]
        first = FirstHead(model, pairs, measured, pad=tokenizer.pad_token_id, on_features=on_features)
        trained = []
        for k, own in enumerate(seeds):
            part = folder / f"member-{k}" if committee else folder
            part.mkdir(exist_ok=True)
            kept = checkpoints.under(part.name) if checkpoints and committee else checkpoints
            one = finished_member(kept, part, _Trained) if committee else None
            if one is None:
                drawn, args = bootstrap(pairs, own) if committee else pairs, prepare(part, fixed={"seed": own})
                centre = args.center_rewards_coefficient or 0.0
                one = _train_one(
                    drawn,
                    (measured or pairs)[:8],
                    fitted=first.fit(drawn, centre=centre, checkpoints=kept) if head == "probe" else None,
                    centred_on=pairs[:PROBED] if committee else [],
                    start=model,
                    tokenizer=tokenizer,
                    args=args,
                    peft=lora_config(lora, "SEQ_CLS"),
                    on_log=_as_one_run(on_log, k, len(seeds)),
                    checkpoints=kept,
                )
                if committee:
                    keep_member(kept, part, one, one.steps)
            trained.append(one)
        if committee and leads():
            _write_ensemble(folder, committee, trained)
        if conditions and leads():
            (folder / PRINCIPLES).write_text(Conditions(principles=tuple(conditions)).to_json() + "\n", "utf-8")
        wait_for_all()
        saved = PreferenceModel(folder, max_length=limit)
        each = saved.member_scores(_sides([*measured, *by_principle]))
        margins = _margins(saved.combined(each))
        own_margins = [_margins(scores[: 2 * len(measured)]) for scores in each] if committee else []
    labels = [pair[COLUMN] for pair in measured]
    principles = [", ".join(pair["principles"]) for pair in by_principle]
    return PreferenceModelResult(
        rows=len(pairs),
        failures=(*failures, *unmeasured),
        control_tokens=_control_tokens(tokenizer, [*rows, *heldout]),
        steps=sum(one.steps for one in trained),
        trainable_parameters=trained[0].trainable,
        train_loss=sum(one.train_loss for one in trained) / len(trained),
        heldout=agreement(margins[: len(measured)], labels),
        model=saved.model,
        by_source=agreement_by([pair["origin"] for pair in measured], margins[: len(measured)], labels),
        by_principle=agreement_by(principles, margins[len(measured) :], [pair[COLUMN] for pair in by_principle]),
        probe=None if committee else trained[0].probe,
        members=tuple(
            MemberResult(
                model=one.model,
                seed=own,
                train_loss=one.train_loss,
                heldout=agreement(found, labels),
                probe=one.probe,
            )
            for one, own, found in zip(trained, seeds, own_margins, strict=False)
        ),
    )


def _train_one(
    pairs: Sequence[Pair],
    probed: Sequence[Pair],
    *,
    fitted: Probe | None,
    centred_on: Sequence[Pair],
    start: str | Path,
    tokenizer: Any,
    args: Any,
    peft: Any,
    on_log: OnLog | None,
    checkpoints: Checkpoints | None,
) -> _Trained:
    """Trains one model, saves it in `args.output_dir` and opens it again; it must score `probed` as it did before.

    Its head begins as `fitted`, or as zeros. Its offset is its mean score on `centred_on`.
    """
    columns = ["chosen_ids", "rejected_ids", COLUMN, *(["margin"] if "margin" in pairs[0] else [])]
    if any(pair[WEIGHT] != 1 for pair in pairs):
        columns.append(WEIGHT)
    watch = StepWatch(on_log)
    trainer = SoftRewardTrainer(
        str(start),
        args=args,
        train_dataset=Dataset.from_list([{name: pair[name] for name in columns} for pair in pairs]),
        processing_class=tokenizer,
        callbacks=[watch],
        peft_config=peft,
    )
    set_head(trainer.model, fitted.weights if fitted is not None else [0.0])
    steps, weights = train(trainer, checkpoints)
    live, folder = bare_model(trainer), Path(args.output_dir)
    sides = _sides(probed)
    expected = score_ids(live, sides, pad=tokenizer.pad_token_id, whole=not in_parts(trainer))
    save(trainer, tokenizer, folder)
    saved = PreferenceModel(folder, max_length=args.max_length or tokenizer.model_max_length)
    _check_reload(expected, saved.score_ids(sides), rounded=in_parts(trainer) and (args.bf16 or args.fp16))
    common = saved.score_ids(_sides(centred_on))
    return _Trained(
        steps=steps,
        trainable=weights.trainable,
        train_loss=watch.train_loss,
        model=saved.model,
        offset=sum(common) / len(common) if common else 0.0,
        probe=fitted.heldout if fitted is not None else None,
    )


def _write_ensemble(folder: Path, committee: Committee, trained: Sequence[_Trained]) -> None:
    ensemble = Ensemble(
        members=tuple(f"member-{k}" for k in range(len(trained))),
        offsets=tuple(one.offset for one in trained),
        rule=committee.rule,
        spread=committee.spread,
    )
    (folder / ENSEMBLE).write_text(ensemble.to_json() + "\n", "utf-8")


def _as_one_run(on_log: OnLog | None, member: int, members: int) -> OnLog | None:
    """Logs of a member counted on from those before it, so that progress is that of the whole ensemble."""
    if on_log is None or members == 1:
        return on_log

    def log(entry: dict[str, Any]) -> None:
        step, steps = int(entry["step"]), int(entry["steps"])
        on_log({**entry, "step": member * steps + step, "steps": members * steps, "member": member})

    return log


def _sides(pairs: Sequence[Pair]) -> list[list[int]]:
    """Chosen and rejected of each pair, in turn."""
    return [pair[side] for pair in pairs for side in ("chosen_ids", "rejected_ids")]


def _margins(scores: Sequence[float]) -> list[float]:
    """Differences of scores that stand in the order of `_sides`."""
    return [chosen - rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]


def _check_reload(expected: Sequence[float], found: Sequence[float], *, rounded: bool) -> None:
    worst = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    allowed = max(1.0, *map(abs, expected)) * ROUNDED if rounded else RELOAD_TOLERANCE
    if not worst <= allowed:
        raise TrainingError(f"the saved preference model scores differently from the trained one (by {worst:.2g})")


def _control_tokens(tokenizer: Any, rows: Sequence[PreferenceRow]) -> int:
    return ControlTokens(tokenizer).count(
        text for row in rows for text in (*(message.content for message in row.messages), row.chosen, row.rejected)
    )
