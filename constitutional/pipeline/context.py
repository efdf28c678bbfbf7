"""What every step of a recipe needs: the loaded inputs, the run folder, the ledger, and models when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from constitutional.backends import Backend, open_backend
from constitutional.backends.cpu import use_threads
from constitutional.backends.endpoint.batch_files import write_batches
from constitutional.backends.endpoint.calls import NAME as CALLS
from constitutional.backends.endpoint.calls import Calls
from constitutional.backends.vllm import close_idle
from constitutional.display import Display
from constitutional.ledger import Ledger
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.team import Team
from constitutional.records import Prompt, short_digest
from constitutional.runs import RunFolder, StageResult

Done = dict[str, StageResult]
"""Results of the steps so far, by name."""

MODEL_NAMES = {"sft": "sl-cai", "pm": "pm", "rl": "rl-cai"}
"""The folder each training step saves its model under."""


@dataclass(frozen=True)
class Context(Inputs):
    """Inputs together with the open run."""

    folder: RunFolder
    ledger: Ledger
    display: Display
    budget: float | None = None
    """US dollars that all calls to servers may cost, those of earlier attempts in this folder included."""
    batch: Path | None = None
    """A folder for batch files, which calls to servers are written to instead of being made."""
    keeps_calls: bool = True
    """Whether answers of servers are kept in the run folder; a process that does not hold it may not write there."""
    team: Team | None = None
    """The processes of the launch, where there are several."""

    def begin_training(self, step: str, number: int, done: Done) -> None:
        """Makes way for the training that comes now (of memory, too), and has every process of the launch begin it.

        It computes in the recipe's threads: a resumed run may have opened no model before it that would have said so.
        """
        use_threads(self.recipe.threads)
        close_idle()
        self.folder.engine.train(step)
        if self.team is not None:
            self.team.call(self.folder, step, number, done)

    def open(self, role: str) -> Backend:
        """Opens the model behind a role."""
        return self.open_spec(self.spec(role))

    def open_spec(self, spec: str) -> Backend:
        """Opens any model under the recipe's number type and threads."""
        if not spec.startswith("openai:"):
            return open_backend(spec, dtype=self.recipe.dtype, threads=self.recipe.threads)
        return open_backend(spec, endpoint=self.endpoint, calls=self.calls)

    @cached_property
    def calls(self) -> Calls:
        """Where the answers of servers are kept."""
        kept = self.folder.path / CALLS if self.keeps_calls else None
        return Calls(kept, self.budget, offline=self.batch is not None)

    def close_calls(self) -> None:
        """Notes in events.jsonl what servers answered so far and what it cost, and closes the store."""
        if "calls" in self.__dict__:
            calls = self.calls
            self.folder.event("endpoint", answered=calls.count(), usd=round(calls.spent, 6), served=calls.served())
            calls.close()

    def write_waiting(self) -> str:
        """Writes the calls that wait to batch files; says what to do with them."""
        assert self.batch is not None
        written = write_batches(self.calls, self.batch)
        return (
            f"{sum(count for _, count in written)} calls wait in {', '.join(str(path) for path, _ in written)}: have "
            f"them answered, read the answers with `constitutional batch {self.folder.path} ANSWERS.jsonl`, and give "
            "this command again"
        )

    def trained(self, done: Done, step: str) -> str:
        """The spec of the model a training step made; of the policy when the recipe leaves the step out."""
        if step in done:
            return f"local:{done[step].folder / MODEL_NAMES[step]}"
        return self.trained(done, "sft") if step == "rl" else self.spec("policy")

    def start_key(self, done: Done) -> dict[str, object]:
        """Of a training that starts from SL-CAI, or without it from the policy: that policy, which no input names."""
        return {} if "sft" in done else {"policy": self.identity("policy")}

    def prompts_key(self, prompts: list[Prompt]) -> str:
        """A digest of a list of prompts, for stage keys."""
        return short_digest([p.id for p in prompts])


class Lazy:
    """A backend that is opened at the first chunk that needs it, and not at all when every chunk is done."""

    def __init__(self, ctx: Context, spec: str) -> None:
        self._ctx, self._spec = ctx, spec

    @cached_property
    def backend(self) -> Backend:
        """The open backend."""
        return self._ctx.open_spec(self._spec)

    @property
    def opened(self) -> bool:
        """Whether it is open."""
        return "backend" in self.__dict__
