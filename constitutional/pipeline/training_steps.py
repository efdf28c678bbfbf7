"""The steps that train: sft, pm, rl. Each saves a merged model folder and the very rows it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from constitutional.errors import TrainingError
from constitutional.pipeline.context import MODEL_NAMES, Context, Done
from constitutional.pipeline.optimising import optimise_on_rewards, optimise_on_rows, rl_inputs, rl_key, rl_prompts
from constitutional.pipeline.preference_rows import conditions, human_comparisons, policy_rows, preference_rows
from constitutional.pipeline.weights import weights_of
from constitutional.processes import leads
from constitutional.records import Answer, Failure, Record, Revision, short_digest
from constitutional.runs import Stage, StageResult
from constitutional.training.checkpoints import Checkpoints
from constitutional.training.rows import RewardRow, SftRow
from constitutional.training.watch.trackers import trackers


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
    _write_rows(stage, "rows.jsonl", rows)
    from constitutional.training.sft import train_sft

    ctx.begin_training("sft", number, done)
    result = train_sft(
        rows,
        model=weights_of(ctx.spec("policy")),
        output=stage.folder / MODEL_NAMES["sft"],
        seed=ctx.recipe.seed,
        trl=settings.trl,
        lora=settings.lora.model_dump() if settings.lora else None,
        on_log=_logger(ctx, stage),
        checkpoints=_checkpoints(ctx, stage),
    )
    stage.write("result.json", result.to_json() + "\n")
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
                complete="truncated" not in step.flags,
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
    """Soft labels, people's preferences → preference model, started from SL-CAI (rows.jsonl, heldout.jsonl, pm/)."""
    settings, human = ctx.recipe.pm, human_comparisons(ctx)
    counted = preference_rows(ctx, done, human) if settings.rows else None  # what is passed over is part of the key
    asked = conditions(ctx) if settings.conditioned else []
    turned = "label" in done and (ctx.recipe.label.calibration is not None or ctx.recipe.judging.mode == "cot")
    stage = ctx.folder.stage(
        number,
        "pm",
        {
            "settings": settings.model_dump(mode="json"),
            "seed": ctx.recipe.seed,
            **({"human": short_digest([item.comparison.id for item in human])} if human else {}),
            **({"conditions": [[c.principle, c.text] for c in asked]} if asked else {}),
            **(counted.key if counted else {}),
            # rows were once made of opinions as the judge gave them: those trainings are not taken for today's
            **({"opinions": "as labelled"} if turned else {}),
            **ctx.start_key(done),
        },
        {name: done[name] for name in ("label", "sft") if name in done},
    )
    if (finished := stage.result()) is not None:
        return finished
    rows = counted or preference_rows(ctx, done, human)
    files: dict[str, Sequence[Record]] = {"rows.jsonl": rows.train, "heldout.jsonl": rows.heldout}
    cited: dict[str, Sequence[Record]] = {"comparisons.jsonl": rows.comparisons, "preferences.jsonl": rows.preferences}
    files |= {name: records for name, records in cited.items() if records}
    for name, records in files.items():
        _write_rows(stage, name, records)
    from constitutional.training.preference_model import Committee, train_preference_model

    ctx.begin_training("pm", number, done)
    result = train_preference_model(
        rows.train,
        rows.heldout,
        model=weights_of(ctx.trained(done, "sft")),
        output=stage.folder / MODEL_NAMES["pm"],
        seed=ctx.recipe.seed,
        opinions=rows.opinions,
        conditions=asked,
        margin=settings.margin,
        head=settings.head,
        committee=Committee(**settings.ensemble.model_dump()) if settings.ensemble else None,
        trl=settings.trl,
        lora=settings.lora.model_dump() if settings.lora else None,
        on_log=_logger(ctx, stage),
        on_features=lambda done, of: ctx.display.progress(done, of, "first head"),
        checkpoints=_checkpoints(ctx, stage),
    )
    stage.write("result.json", result.to_json() + "\n")
    counts = {"rows": result.rows, "heldout": len(rows.heldout)}
    outputs = [*files, "result.json", MODEL_NAMES["pm"]]
    return stage.finish(counts, outputs=outputs, failed=[*rows.failures, *result.failures])


def rl_step(ctx: Context, done: Done, number: int) -> StageResult:
    """Prompts and a reward, or labelled comparisons → RL-CAI (rewards.jsonl, result.json, rl-cai/)."""
    settings = ctx.recipe.rl
    stage = ctx.folder.stage(number, "rl", rl_key(ctx, done), rl_inputs(ctx, done))
    if (finished := stage.result()) is not None:
        return finished
    rewards: list[RewardRow] = []
    probes: list[Record] = []
    common: dict[str, Any] = {
        "policy": weights_of(ctx.trained(done, "sft")),
        "output": stage.folder / MODEL_NAMES["rl"],
        "seed": ctx.recipe.seed,
        "lora": settings.lora.model_dump() if settings.lora else None,
        "checkpoints": _checkpoints(ctx, stage),
    }
    files: dict[str, Sequence[Record]] = {}
    unused: list[Failure] = []
    ctx.begin_training("rl", number, done)
    with trackers(settings.report_to if leads() else (), ctx.recipe.name, ctx.folder.path / "tracking") as track:
        common["on_log"] = _logger(ctx, stage, track)
        if settings.algorithm == "dpo":
            human = human_comparisons(ctx)
            rows = policy_rows(ctx, done, human)
            if human or ctx.recipe.pm.rows:  # not simply the labels of the run that are not held out
                files["rows.jsonl"] = rows.train
                files["comparisons.jsonl"], files["preferences.jsonl"] = rows.comparisons, rows.preferences
                unused = rows.failures
            result = optimise_on_rows(ctx, rows.train, common)
        else:
            rewarded = {**common, "on_reward": rewards.extend}
            result = optimise_on_rewards(ctx, done, rl_prompts(ctx), rewarded, probes.extend)
    files["rewards.jsonl"] = rewards
    if settings.watch is not None:
        files["probes.jsonl"] = probes
    for name, records in files.items():
        _write_rows(stage, name, records)
    stage.write("result.json", result.to_json() + "\n")
    outputs = [*files, "result.json", MODEL_NAMES["rl"]]
    counts = {"rewards": len(rewards), **({"rows": result.rows} if result.rows else {})}
    failed = [*unused, *result.failures, *_unrewarded(rewards)]
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


def _write_rows(stage: Stage, name: str, rows: Iterable[Record]) -> None:
    stage.write(name, "".join(row.to_json() + "\n" for row in rows))


def _checkpoints(ctx: Context, stage: Stage) -> Checkpoints:
    return Checkpoints(stage.checkpoints, ctx.recipe.checkpoint_every)


def _logger(
    ctx: Context, stage: Stage, track: Callable[[dict[str, Any]], None] = lambda row: None
) -> Callable[[dict[str, Any]], None]:
    """Every log of a trainer goes to metrics.jsonl and to `track`; its step and loss to the display.

    The first one says where the training begins or goes on: what an interrupted attempt logged beyond is taken out.
    """
    begun = False

    def log(row: dict[str, Any]) -> None:
        nonlocal begun
        if not begun:
            ctx.folder.forget_metrics(stage.name, stage.key, int(row["step"]))
            begun = True
        ctx.folder.metric(stage=stage.name, key=stage.key, **row)
        track(row)
        if "step" in row and "steps" in row:
            note = f"loss {row['loss']:.3f}" if isinstance(row.get("loss"), float) else ""
            if isinstance(row.get("reward"), float):
                note += f" reward {row['reward']:.3f}"
            ctx.display.progress(int(row["step"]), int(row["steps"]), note)

    return log
