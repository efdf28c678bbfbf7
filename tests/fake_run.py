"""A whole run folder in a second: real stages and real files, two made-up models, and no training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from fake_models import FakeModel, make_prompts
from fake_training import lines, pm_result, preference_rows, reward_rows, rl_result, sft_result, sft_rows

from constitutional.audit.current import STEP_NAMES
from constitutional.constitution import load_constitution
from constitutional.evaluation.answers import SYSTEMS, EvaluatedAnswer, System, answer
from constitutional.evaluation.evaluate import (
    KINDS,
    PAIRS,
    Evaluation,
    answer_pairs,
    changes,
    system_rows,
    wins_by_judge,
    wins_by_score,
)
from constitutional.feedback.gate import labelled_examples, measure_gate
from constitutional.feedback.judge import judge
from constitutional.feedback.label import label
from constitutional.feedback.respond import respond
from constitutional.feedback.revise import revise
from constitutional.feedback.sample import sample
from constitutional.ledger import Ledger, open_ledger
from constitutional.records import (
    Answer,
    Comparison,
    Failure,
    Judgment,
    Preference,
    Prompt,
    PromptKind,
    Record,
    Revision,
    Sampling,
)
from constitutional.runs import RunFolder, Stage, StageResult, open_run, write_atomic
from constitutional.settings import PromptSettings, PromptSource, Recipe
from constitutional.templates import load_pack
from constitutional.training.rows import PreferenceModelResult, RlResult, SftResult

SEED, SAMPLING = 5, Sampling(temperature=1.0, max_tokens=64)
CONSTITUTION = load_constitution("minimal")
PACK = load_pack("chat")
RECIPE = Recipe(
    name="fake",
    seed=SEED,
    constitution="minimal",
    policy="local:policy",
    prompts=PromptSettings(red_team=PromptSource(path="red.jsonl"), helpful=PromptSource(path="helpful.jsonl")),
)


def make_run(path: Path, until: str = "evaluate") -> Path:
    """Writes a run that got as far as one step; equal calls write equal records."""
    fake = _Fake(path)
    with open_run(path) as folder, open_ledger(folder.ledger_path) as ledger:
        fake.open(folder, ledger)
        for name in STEP_NAMES[: STEP_NAMES.index(until) + 1]:
            fake.done[name] = getattr(fake, name)()
            folders = {k: r.folder.relative_to(path).as_posix() for k, r in fake.done.items()}
            write_atomic(path / "current.json", json.dumps(folders))
    return path


class _Fake:
    def __init__(self, path: Path) -> None:
        self.path, self.prompts, self.done = path, make_prompts(), dict[str, StageResult]()
        self.policy, self.critic = FakeModel("policy-model"), FakeModel("feedback-model")

    def open(self, folder: RunFolder, ledger: Ledger) -> None:
        self.folder, self.ledger = folder, ledger
        write_atomic(self.path / "run.yaml", yaml.safe_dump(RECIPE.model_dump(mode="json")))
        models = {"policy": self.policy.model, "feedback": self.critic.model, "judge": self.critic.model}
        lock = {
            "constitution": {"ref": CONSTITUTION.ref, "digest": CONSTITUTION.digest},
            "principles": {p.ref: p.digest for p in CONSTITUTION.principles},
            "templates": {"pack": PACK.ref, **{name: PACK.digest(name) for name in PACK.templates}},
            "models": models,
            "versions": {"torch": "2"},
        }
        write_atomic(self.path / "lock.json", json.dumps(lock))
        write_atomic(self.path / "constitution.json", CONSTITUTION.to_json() + "\n")
        write_atomic(self.path / "prompts.jsonl", lines(self.prompts))

    def select(self, kind: str, split: str) -> list[Prompt]:
        return [p for p in self.prompts if p.kind == kind and p.split == split]

    def stage(self, name: str, *inputs: str, **settings: object) -> Stage:
        parts = {"seed": SEED, **settings}
        return self.folder.stage(STEP_NAMES.index(name) + 1, name, parts, {i: self.done[i] for i in inputs})

    def settings(self, name: str) -> dict[str, object]:
        """What the real step keys its folder by, as far as an audit reads it."""
        if name == "revise":
            return {
                "principles": [[p.ref, p.critique_request, p.revision_request] for p in CONSTITUTION.principles],
                "templates": [PACK.digest(t) for t in ("respond", "critique", "revise")],
                "policy": self.policy.model,
                "critic": self.critic.model,
            }
        if name in ("gate", "judge", "evaluate"):
            return {
                "principles": [[p.ref, p.comparison_request] for p in CONSTITUTION.principles],
                "templates": [PACK.digest("judge")],
                "judge": self.critic.model,
            }
        if name == "label":
            return {"rule": "mean", "weights": []}
        return {"templates": [PACK.digest("respond")], "policy": None if name == "sample" else self.policy.model}

    def made(
        self, name: str, records: Iterator[Record | Failure], kind: type[Record], *inputs: str, **files: str
    ) -> StageResult:
        stage = self.stage(name, *inputs, **self.settings(name))
        found = list(records)
        stage.run_chunks(found, lambda chunk, index: chunk, chunk_size=5, output_type=kind)
        if kind is Judgment:
            self.ledger.append([r for r in found if isinstance(r, Judgment)])
        for file, text in files.items():
            write_atomic(stage.folder / file.replace("_", "."), text)
        return stage.finish(outputs=[f.replace("_", ".") for f in files], ledger_head=self.ledger.head)

    def revise(self) -> StageResult:
        records = revise(
            self.select("red_team", "train"),
            policy=self.policy,
            critic=self.critic,
            pack=PACK,
            principles=CONSTITUTION.principles,
            policy_sampling=SAMPLING,
            critic_sampling=SAMPLING,
            rounds=2,
            candidates=2,
            seed=SEED,
        )
        return self.made("revise", records, Revision)

    def helpful(self) -> StageResult:
        prompts = self.select("helpful", "train")
        records = respond(prompts, policy=self.policy, pack=PACK, sampling=SAMPLING, seed=SEED)
        return self.made("helpful", records, Answer)

    def sft(self) -> StageResult:
        rows = sft_rows(self.prompts, self.done["revise"].records(Revision), self.done["helpful"].records(Answer))
        return self.trained("sft", sft_result(len(rows)), {"rows.jsonl": lines(rows)}, ["loss"], "revise", "helpful")

    def trained(
        self,
        name: str,
        result: SftResult | PreferenceModelResult | RlResult,
        files: dict[str, str],
        logged: Sequence[str],
        *inputs: str,
    ) -> StageResult:
        stage = self.stage(name, *inputs)
        folder = stage.folder
        for attempt in (3, 6):  # the first attempt was interrupted at step 3
            for step in range(1, attempt + 1):
                figures = {f: round(3 / (step + attempt) + i, 4) for i, f in enumerate(logged)}
                self.folder.metric(stage=name, step=step, steps=6, **figures, other="nan")
        for file, text in {**files, "result.json": result.to_json() + "\n"}.items():
            write_atomic(folder / file, text)
        return stage.finish({"rows": 1}, outputs=[*files, "result.json"], failed=result.failures)

    def sample(self) -> StageResult:
        prompts = self.select("red_team", "train")
        return self.made(
            "sample",
            sample(prompts, policy=self.policy, pack=PACK, sampling=SAMPLING, n=4, seed=SEED),
            Comparison,
            "sft",
        )

    def judged(self, comparisons: Sequence[Comparison]) -> Iterator[Judgment]:
        assigned = [CONSTITUTION.principles] * len(comparisons)
        return judge(comparisons, assigned=assigned, backend=self.critic, pack=PACK, seed=SEED)

    def gate(self) -> StageResult:
        labelled = labelled_examples(CONSTITUTION)
        assigned = [[CONSTITUTION.principle(item.principles[0])] for item in labelled]
        judgments = list(
            judge([i.comparison for i in labelled], assigned=assigned, backend=self.critic, pack=PACK, seed=SEED)
        )
        report = measure_gate(
            labelled,
            judgments,
            judge=self.critic.model,
            template_digest=PACK.digest("judge"),
            min_order_consistency=0.0,
            fallback="provenance",
        ).model_copy(update={"passed": True, "reasons": (), "labels": "judge"})
        files = {"gate_json": report.to_json() + "\n", "labelled_jsonl": lines(labelled)}
        return self.made("gate", iter(judgments), Judgment, **files)

    def judge(self) -> StageResult:
        return self.made("judge", self.judged(self.done["sample"].records(Comparison)), Judgment, "sample")

    def label(self) -> StageResult:
        comparisons = self.done["sample"].records(Comparison)
        judgments = self.done["judge"].records(Judgment)
        made = list(label(comparisons, judgments, principles=CONSTITUTION.principles))
        made.append(label([comparisons[0]], [], principles=CONSTITUTION.principles).__next__())  # one that abstains
        files = {"comparisons_jsonl": lines(comparisons)}
        return self.made("label", iter(made), Preference, "gate", "sample", "judge", **files)

    def pm(self) -> StageResult:
        rows = preference_rows(self.done["label"].records(Preference), self.done["sample"].records(Comparison))
        files = {"rows.jsonl": lines(rows[2:]), "heldout.jsonl": lines(rows[:2])}
        return self.trained("pm", pm_result(len(rows)), files, ["loss"], "label", "sft")

    def rl(self) -> StageResult:
        rows = reward_rows(self.select("red_team", "train"))
        return self.trained("rl", rl_result(), {"rewards.jsonl": lines(rows)}, ["reward", "kl"], "pm", "sft")

    def answers(self) -> StageResult:
        prompts = [p for kind in KINDS for p in self.select(kind, "heldout")]
        return self.made("answers", self._answers(prompts), EvaluatedAnswer, "sft", "rl")

    def _answers(self, prompts: Sequence[Prompt]) -> Iterator[EvaluatedAnswer | Failure]:
        for system in SYSTEMS:
            policy = self.policy if system == "base" else FakeModel(f"{system}-model")
            asked = {"pack": PACK, "sampling": SAMPLING, "seed": SEED}
            measured = None if system == "base" else (policy, self.policy)
            yield from answer(prompts, system=system, policy=policy, measured=measured, **asked)

    def evaluate(self) -> StageResult:
        answers = self.done["answers"].records(EvaluatedAnswer)
        red = self.select("red_team", "heldout")
        pairs: dict[tuple[System, System, PromptKind], list[Comparison]] = {
            (one, other, "red_team"): answer_pairs(red, answers, one, other) for one, other in PAIRS
        }
        asked = [c for found in pairs.values() for c in found]
        judgments = list(self.judged(asked))
        scores = {c.id: (float(len(c.a)), float(len(c.b))) for c in asked}
        rows = system_rows(answers)
        wins = wins_by_score(pairs, scores) + wins_by_judge(pairs, judgments)
        evaluation = Evaluation(rows=rows, changes=changes(rows), wins=tuple(wins))
        files = {"evaluation_json": evaluation.to_json() + "\n", "comparisons_jsonl": lines(asked)}
        return self.made("evaluate", iter(judgments), Judgment, "answers", "pm", **files)
