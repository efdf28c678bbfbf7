"""The rounds of a run: what each was made from and came to, how far they are, and lineage through all of them."""

from __future__ import annotations

from pathlib import Path

from constitutional.audit.current import RunView, open_view
from constitutional.audit.index import Entry, build_index
from constitutional.audit.lineage import lineage
from constitutional.audit.lineage_steps import TRAINED_BY, step_node
from constitutional.audit.trace_node import TraceNode, check
from constitutional.display import printable
from constitutional.errors import RunError
from constitutional.evaluation.answers import System
from constitutional.evaluation.promotion import Promotion
from constitutional.records import PromptKind, Record
from constitutional.statistics import bracketed

ROUNDS, FOLDER = "rounds.json", "rounds"


class Round(Record):
    """One finished round. Models are named by identity; `heldout` is a digest of its held-out prompts' ids."""

    round: int
    seed: int
    policy: str
    model: str
    system: System
    heldout: str
    prompts: dict[PromptKind, int]
    step: str
    """Key of the step that trained the model."""
    promotion: Promotion


class Rounds(Record):
    """Every finished round of a run of so many."""

    start: str
    of: int
    rounds: tuple[Round, ...]

    @property
    def promoted(self) -> str:
        """Identity of the model that was promoted last; the start model while none was."""
        return next((r.model for r in reversed(self.rounds) if r.promotion.promoted), self.start)


def read_rounds(run_folder: Path) -> Rounds | None:
    """The rounds of a run folder; None where its recipe has none, or the first has not begun.

    Raises:
        RunError: the file is damaged.
    """
    path = run_folder / ROUNDS
    if not path.exists():
        return None
    try:
        return Rounds.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def round_folder(run_folder: Path, number: int) -> Path:
    """The run folder of one round."""
    return run_folder / FOLDER / str(number)


def begun_rounds(run_folder: Path) -> list[int]:
    """Numbers of the rounds that have a run folder, in order."""
    found = (run_folder / FOLDER).glob("[0-9]*/run.yaml")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())


def render_rounds(run_folder: Path) -> str:
    """One line a finished round; empty where there are no rounds."""
    rounds = read_rounds(run_folder)
    return "" if rounds is None else printable("\n".join(_lines(rounds)))


def _lines(rounds: Rounds) -> list[str]:
    lines = [f"{len(rounds.rounds)} of {rounds.of} rounds; start model {rounds.start}"]
    for r in rounds.rounds:
        found, prompts = r.promotion, ", ".join(f"{n} {kind}" for kind, n in sorted(r.prompts.items(), reverse=True))
        forgotten = "" if found.perplexity_ratio is None else f"; perplexity {found.perplexity_ratio:.2f} times start's"
        if found.perplexity_interval is not None:
            forgotten += f" {bracketed(found.perplexity_interval)}"
        decision = "promoted" if found.promoted else "not promoted"
        lines.append(f"round {r.round} ({prompts} held out): {r.system} {decision}: {found.why}{forgotten}")
    return [*lines, f"policy now: {rounds.promoted}"]


def trace_rounds(run_folder: Path, rounds: Rounds, record_id: str) -> TraceNode:
    """The ancestry of a record of any round, on through the rounds that made its policy.

    A record that several rounds share is told as the earliest has it.

    Raises:
        RunError: no such record, or a beginning that fits several; a damaged file.
    """
    found: list[tuple[int, Entry]] = []
    unknown: RunError | None = None
    for number in begun_rounds(run_folder):
        with open_view(round_folder(run_folder, number)) as view:
            try:
                found.append((number, build_index(view).find(record_id)))
            except RunError as error:
                if "begins" in str(error) or "is no id" in str(error):
                    raise
                unknown = error
    if not found:
        raise unknown or RunError(f"no record '{record_id}' in {run_folder}")
    ids = list(dict.fromkeys(entry.id for _, entry in found))
    if len(ids) > 1:
        raise RunError(f"'{record_id}' begins {len(ids)} ids: {', '.join(ids)}; give more digits")
    number, entry = found[0]
    with open_view(round_folder(run_folder, number)) as view:
        index = build_index(view)
        node = lineage(index, index.find(entry.id))
        before = _policy(run_folder, rounds, number, view)
    facts = (*node.facts, ("round", f"{number} of {rounds.of}"))
    return node.model_copy(update={"facts": facts, "children": (*node.children, before)})


def _policy(run_folder: Path, rounds: Rounds, number: int, view: RunView) -> TraceNode:
    """Where the policy of a round comes from: the start model, or an earlier round's training, and so on down."""
    earlier = [r for r in rounds.rounds if r.round < number and r.promotion.promoted]
    locked = view.lock.get("models", {}).get("policy")
    expected = earlier[-1].model if earlier else rounds.start
    same = check(locked == expected, f"round {number} locked {locked} as its policy, not {expected}")
    if not earlier:
        title = f"the start model is the policy of round {number}"
        return TraceNode(kind="policy", id=expected, title=title, facts=tuple(same))
    made = earlier[-1]
    kept = [r.round for r in rounds.rounds if made.round < r.round < number]
    facts = [("promoted because", made.promotion.why), ("held-out prompts, digest", made.heldout), *same]
    facts += [("rounds since that promoted nothing", ", ".join(map(str, kept)))] if kept else []
    with open_view(round_folder(run_folder, made.round)) as before:
        index = build_index(before)
        step = step_node(index, TRAINED_BY[made.system])
        wrong = check(step.id == made.step, f"round {made.round} is not as it was when its model was promoted")
        children = (step, _policy(run_folder, rounds, made.round, before))
    title = f"the {made.system} of round {made.round} is the policy of round {number}"
    return TraceNode(kind="policy", id=made.model, title=title, facts=(*facts, *wrong), children=children)
