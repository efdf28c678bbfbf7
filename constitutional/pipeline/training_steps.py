"""The steps that train: sft, pm, rl. Each saves a merged model folder and the very rows it was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from constitutional.errors import TrainingError
from constitutional.pipeline.context import MODEL_NAMES, Context, Done
from constitutional.pipeline.optimising import optimise_on_rewards, optimise_on_rows, rl_inputs, rl_key, rl_prompts
from constitutional.records import Answer, Comparison, Failure, Preference, Record, Revision
from constitutional.runs import StageResult, write_atomic
from constitutional.training.rows import PreferenceRow, RewardRow, SftRow


def sft_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Revisions and helpful answers → SL-CAI (rows.jsonl, sl-cai/)."""
    settings = ctx.recipe.sft
    stage = ctx.folder.stage(
        number,
        "sft",
        {"policy": ctx.identity("policy"), "settings": settings.model_dump(mode="json"), "seed": ctx.recipe.seed},
        {"revise": done["revise"], "helpful": done["helpful"]},
    )
    if (finished := stage.result()) is not None:
        return finished
    rows = sft_rows(ctx, done["revise"].records(Revision), done["helpful"].records(Answer))
    if not any(row.origin == "revision" for row in rows):
        raise TrainingError("sft: no usable revision to train on (see the flags in the revise stage)")
    _write_rows(stage.folder / "rows.jsonl", rows)
    from constitutional.training.sft import train_sft

    result = train_sft(
        rows,
        model=_weights_of(ctx.spec("policy")),
        output=stage.folder / MODEL_NAMES["sft"],
        seed=ctx.recipe.seed,
        trl=settings.trl,
        lora=settings.lora.model_dump() if settings.lora else None,
        on_log=_logger(ctx, "sft"),
    )
    write_atomic(stage.folder / "result.json", result.to_json() + "\n")
    outputs = ["rows.jsonl", "result.json", MODEL_NAMES["sft"]]
    return stage.finish({"rows": result.rows}, outputs=outputs, failed=result.failures)


def sft_rows(ctx: Context, revisions: list[Revision], answers: list[Answer]) -> list[SftRow]:
    """Training rows: revisions (final or of all rounds), then helpful answers up to the recipe's ratio."""
    settings, rows = ctx.recipe.sft, list[SftRow]()
    for revision in revisions:
        rounds = revision.revised if settings.rounds == "all" else revision.revised[-1:]
        for step in rounds:
            if step.flags and settings.drop_flagged:
                continue
            prompt = ctx.prompt(revision.prompt_id).messages
            row = SftRow(
                prompt=prompt,
                completion=step.revision,
                source_id=revision.id,
                principle=step.principle,
                origin="revision",
            )
            rows.append(row)
    for answer in answers[: round(settings.helpful_ratio * len(rows))]:
        row = SftRow(
            prompt=ctx.prompt(answer.prompt_id).messages,
            completion=answer.text,
            source_id=answer.id,
            principle=None,
            origin="helpful",
            complete=answer.finish_reason == "stop",
        )
        rows.append(row)
    return rows


def pm_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Soft labels → preference model, started from SL-CAI (rows.jsonl, heldout.jsonl, pm/)."""
    inputs = {"label": done["label"], **({"sft": done["sft"]} if "sft" in done else {})}
    stage = ctx.folder.stage(
        number,
        "pm",
        {"settings": ctx.recipe.pm.model_dump(mode="json"), "seed": ctx.recipe.seed},
        inputs,
    )
    if (finished := stage.result()) is not None:
        return finished
    train, heldout = preference_rows(ctx, done)
    _write_rows(stage.folder / "rows.jsonl", train)
    _write_rows(stage.folder / "heldout.jsonl", heldout)
    from constitutional.training.preference_model import train_preference_model

    result = train_preference_model(
        train,
        heldout,
        model=_weights_of(ctx.trained(done, "sft")),
        output=stage.folder / MODEL_NAMES["pm"],
        seed=ctx.recipe.seed,
        trl=ctx.recipe.pm.trl,
        on_log=_logger(ctx, "pm"),
    )
    write_atomic(stage.folder / "result.json", result.to_json() + "\n")
    counts = {"rows": result.rows, "heldout": len(heldout)}
    outputs = ["rows.jsonl", "heldout.jsonl", "result.json", MODEL_NAMES["pm"]]
    return stage.finish(counts, outputs=outputs, failed=result.failures)


def preference_rows(ctx: Context, done: Done) -> tuple[list[PreferenceRow], list[PreferenceRow]]:
    """Rows for training and for measuring; all comparisons of one prompt land on the same side."""
    preferences = done["label"].records(Preference)
    text = (done["label"].folder / "comparisons.jsonl").read_text("utf-8")
    comparisons = {c.id: c for c in map(Comparison.model_validate_json, text.split("\n")[:-1])}
    labelled = [p for p in preferences if p.p_a is not None]
    # the prompts of lowest id are held out: a draw by content, and never none of them
    prompts = sorted({comparisons[p.comparison_id].prompt_id for p in labelled})
    measured = set(prompts[: math.ceil(ctx.recipe.pm.heldout * len(prompts))])
    train, heldout = list[PreferenceRow](), list[PreferenceRow]()
    for preference in labelled:
        comparison = comparisons[preference.comparison_id]
        p_a = preference.p_a or 0.0
        chosen, rejected = (comparison.a, comparison.b) if preference.a_chosen else (comparison.b, comparison.a)
        row = PreferenceRow(
            messages=comparison.messages,
            chosen=chosen,
            rejected=rejected,
            probability=max(p_a, 1 - p_a),
            preference_id=preference.id,
            comparison_id=comparison.id,
            source="ai" if preference.judgment_ids else "provenance",
            principles=preference.principles,
        )
        (heldout if comparison.prompt_id in measured else train).append(row)
    if not train or not heldout:
        raise TrainingError(
            f"pm: {len(train)} labelled comparisons to train on and {len(heldout)} held out; both need at least one"
        )
    return train, heldout


def rl_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Prompts and a reward, or labelled comparisons → RL-CAI (rewards.jsonl, result.json, rl-cai/)."""
    settings = ctx.recipe.rl
    stage = ctx.folder.stage(number, "rl", rl_key(ctx), rl_inputs(ctx, done))
    if (finished := stage.result()) is not None:
        return finished
    rewards: list[RewardRow] = []
    common: dict[str, Any] = {
        "policy": _weights_of(ctx.trained(done, "sft")),
        "output": stage.folder / MODEL_NAMES["rl"],
        "seed": ctx.recipe.seed,
        "lora": settings.lora.model_dump() if settings.lora else None,
        "on_log": _logger(ctx, "rl"),
    }
    if settings.algorithm == "dpo":
        rows, _ = preference_rows(ctx, done)
        result = optimise_on_rows(ctx, rows, common)
    else:
        result = optimise_on_rewards(ctx, done, rl_prompts(ctx), {**common, "on_reward": rewards.extend})
    _write_rows(stage.folder / "rewards.jsonl", rewards)
    write_atomic(stage.folder / "result.json", result.to_json() + "\n")
    outputs = ["rewards.jsonl", "result.json", MODEL_NAMES["rl"]]
    counts = {"rewards": len(rewards), **({"rows": result.rows} if result.rows else {})}
    failed = [*result.failures, *_unrewarded(rewards)]
    return stage.finish(counts, outputs=outputs, failed=failed)


def _unrewarded(rows: Iterable[RewardRow]) -> list[Failure]:
    """A Failure for each rollout that a failed part of its reward left out."""
    failures = []
    for row in rows:
        errors = [part.error for part in row.parts if part.error is not None]
        if errors:
            message = f"step {row.step}: {errors[0]}"
            failures.append(Failure(item_id=row.prompt_id, stage="rl", kind="unrewarded", message=message))
    return failures


def _weights_of(spec: str) -> Path:
    """The model folder behind a spec; a scripted or openvino model cannot be trained."""
    kind, _, rest = spec.partition(":")
    if kind == "embedded":
        from constitutional.backends.embedded import converted_folder

        return converted_folder(rest)
    if kind == "local":
        return Path(rest)
    raise TrainingError(f"{spec} cannot be trained: a policy is local: or embedded:")


def _write_rows(path: Path, rows: Iterable[Record]) -> None:
    write_atomic(path, "".join(row.to_json() + "\n" for row in rows))


def _logger(ctx: Context, stage: str) -> Callable[[dict[str, Any]], None]:
    """Every log of a trainer goes to metrics.jsonl; its step and loss to the display."""

    def log(row: dict[str, Any]) -> None:
        ctx.folder.metric(stage=stage, **row)
        if "step" in row and "steps" in row:
            note = f"loss {row['loss']:.3f}" if isinstance(row.get("loss"), float) else ""
            if isinstance(row.get("reward"), float):
                note += f" reward {row['reward']:.3f}"
            ctx.display.progress(int(row["step"]), int(row["steps"]), note)

    return log
