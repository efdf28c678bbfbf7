"""Chunks made by workers on Ray: a pool of actors that is ours, driven by `parallel.Crew`.

Ray carries tasks and answers and tells which process died. Retries are ours: an actor's method "may have executed" when
its answer is lost, which does no harm here, because a chunk is known by its place and nothing but the driver writes.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from constitutional.display import Display
from constitutional.errors import BackendError, ConfigError, ConstitutionalError, RunError
from constitutional.parallel import Crew, WorkerLostError
from constitutional.pipeline.inputs import Inputs
from constitutional.pipeline.worker import Ready, Task, Work, Worker
from constitutional.runs import RunFolder, StageResult
from constitutional.runs.engine import Chunks, Here, Made, StageName
from constitutional.runs.manifest import git_commit, package_versions
from constitutional.settings import Recipe

ON_A_DEVICE = ("local", "embedded", "vllm", "model")
"""Kinds of models that a worker opens itself, on the GPU where the cluster has some."""

_SHORT, _GRACE = 30, 3.0
"""Characters of a path that leave room for Ray's sockets; seconds its processes have to end by themselves."""

_STORE = 100 * 2**20
"""Bytes of shared memory of a Ray of our own; records are small."""


@dataclass(frozen=True)
class RayChoice:
    """What the command line says of Ray."""

    address: str | None = None
    """Of a running cluster, as `ray.init` takes it; None starts workers on this machine."""
    workers: int | None = None
    """As many as there are processors (or GPUs, where models want one) when None."""


@contextmanager
def open_ray(choice: RayChoice, inputs: Inputs, folder: RunFolder, display: Display) -> Iterator[RayEngine]:
    """The engine of one run; Ray is started or joined at the first chunk that is missing.

    Raises:
        BackendError: the extra `distributed` is missing.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise BackendError("--engine ray needs Ray: pip install 'constitutional[distributed]'") from error
    engine = RayEngine(choice, inputs, folder, display)
    try:
        yield engine
    finally:
        engine.close()


class RayEngine:
    """Implements `constitutional.runs.engine.Engine`."""

    def __init__(self, choice: RayChoice, inputs: Inputs, folder: RunFolder, display: Display) -> None:
        self._choice, self._inputs, self._folder, self._display = choice, inputs, folder, display
        self._workers: RayWorkers | None = None
        self._crew: Crew[Task, Made]  # of the workers, made with them
        self._step: tuple[str, int, dict[str, str]] = ("", 0, {})

    def enter(self, step: str, number: int, done: Mapping[str, StageResult]) -> None:
        """A step of the recipe begins."""
        places = {name: result.folder.relative_to(self._folder.path).as_posix() for name, result in done.items()}
        self._step = (step, number, places)

    def train(self, step: str) -> None:
        """A training begins. It has the machine for itself: the models of workers would stand in its way."""
        if self._workers is not None:
            self._workers.dismiss()
            self._crew = Crew(self._workers, self._display.say)

    def make(self, stage: StageName, chunks: Chunks, missing: Sequence[int]) -> Iterator[tuple[int, Made]]:
        """Has chunks made by the workers.

        Raises:
            ConstitutionalError: what making a chunk raised; workers die at one, or differ from this machine.
        """
        if chunks.here:
            yield from Here().make(stage, chunks, missing)
            return
        if not missing:
            return
        if self._workers is None:
            self._workers = RayWorkers(self._choice, self._inputs, self._folder)
            if self._workers.count < self._workers.wanted:
                self._display.say(
                    f"{self._workers.count} workers and not {self._workers.wanted}: the limits of `endpoint:` are for "
                    "all together, and a worker makes a call at a time at least"
                )
            self._crew = Crew(self._workers, self._display.say)
        step, number, done = self._step

        def prepare(index: int) -> Task:
            known = chunks.known(chunks.of(index)) if chunks.known else []
            return Task(step, number, done, stage, index, tuple(known))

        yield from self._crew.in_order(missing, prepare, lambda index: f"{stage.name}: chunk {index}")

    def close(self) -> None:
        """Ends the workers, and Ray where this engine started it."""
        if self._workers is not None:
            self._workers.close()


class RayWorkers:
    """Implements `constitutional.parallel.Workers`: one actor a worker."""

    def __init__(self, choice: RayChoice, inputs: Inputs, folder: RunFolder) -> None:
        """Starts or joins Ray.

        Raises:
            ConfigError: there is no cluster at the address.
        """
        import ray

        self._ray, self._folder = ray, folder
        self._actors: dict[int, Any] = {}
        self._scratch: Path | None = None
        self._started: list[psutil.Process] = []
        """The processes of a Ray of our own; theirs are below them."""
        self._joined = ray.is_initialized()
        threads = inputs.recipe.threads or 1
        if not self._joined:
            self._start_ray(choice, threads)
        try:
            specs = [inputs.spec("policy"), inputs.spec("feedback"), *(juror.spec for juror in inputs.jury)]
            wants_gpu = any(spec.partition(":")[0] in ON_A_DEVICE for spec in specs)
            gpus, cpus = (int(ray.cluster_resources().get(name, 0)) for name in ("GPU", "CPU"))
            self._needs = {"num_cpus": threads, "num_gpus": 1 if wants_gpu and gpus else 0}
            self.wanted = choice.workers or max(1, gpus if self._needs["num_gpus"] else cpus // threads)
            self.count = min(self.wanted, most_workers(inputs.recipe, specs) or self.wanted)
            work = Work(
                shared_limits(inputs.recipe, self.count),
                inputs.recipe_file.resolve(),
                folder.path.resolve(),
                inputs.prompts,
                Path.cwd().resolve(),
            )
            self._work = ray.put(work)  # once for all workers: it holds the prompts
            self._lost: tuple[type[Exception], ...] = (
                ray.exceptions.RayActorError,
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.NodeDiedError,
                ray.exceptions.ObjectLostError,
                ray.exceptions.OutOfMemoryError,
            )
        except BaseException:
            self.close()
            raise

    def start(self, number: int) -> Hashable:
        """A new actor. It is never restarted, nor its methods retried, by Ray."""
        if (before := self._actors.pop(number, None)) is not None:
            with suppress(Exception):
                self._ray.kill(before)  # it may only be out of reach
        options = {"max_restarts": 0, "max_task_retries": 0, **self._needs}
        actor = self._ray.remote(Worker).options(**options).remote(self._work)
        self._actors[number] = actor
        ticket: Hashable = actor.ready.remote()
        return ticket

    def submit(self, number: int, task: Task) -> Hashable:
        """Hands a chunk to an actor."""
        ticket: Hashable = self._actors[number].make.remote(task)
        return ticket

    def wait(self, tickets: Sequence[Hashable], seconds: float) -> Collection[Hashable]:
        """All that are answered; at first none, the first that is."""
        if not tickets:
            return []
        done, _ = self._ray.wait(list(tickets), num_returns=len(tickets), timeout=0, fetch_local=False)
        if not done and seconds:
            done, _ = self._ray.wait(list(tickets), num_returns=1, timeout=seconds)
        return list(done)

    def answer(self, ticket: Any) -> Any:
        """A chunk, or what a worker says of itself, which is checked and noted in events.jsonl."""
        try:
            said = self._ray.get(ticket)
        except self._lost as error:
            reason = str(error).strip().splitlines()[0]
            self._folder.event("worker_lost", reason=reason)
            raise WorkerLostError(reason) from error
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ConstitutionalError):
                raise error.cause from error
            raise
        except self._ray.exceptions.RayError as error:
            raise RunError(f"ray: {' '.join(str(error).split())[:300]}") from error
        if isinstance(said, Ready):
            self._check(said)
        return said

    def _check(self, said: Ready) -> None:
        own, there = {**package_versions(), "git": git_commit()}, said.versions
        other = [f"{name} {there.get(name)}, here {own[name]}" for name in own if own[name] != there.get(name)]
        if other:
            raise RunError(f"worker on {said.host} has other packages, which may answer otherwise: {'; '.join(other)}")
        self._folder.event("worker", host=said.host, pid=said.pid)

    def dismiss(self) -> None:
        """Ends the actors; others may be started."""
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor)
        self._actors.clear()

    def close(self) -> None:
        """Ends the actors, and Ray where it was started or joined here."""
        self.dismiss()
        if self._joined:
            return
        own = [process for one in self._started for process in (one, *_below(one))]
        self._ray.shutdown()
        if self._scratch is not None:
            for process in psutil.wait_procs(own, timeout=_GRACE)[1]:  # agents notice late that their parent is gone
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(own, timeout=_GRACE)
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _start_ray(self, choice: RayChoice, threads: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if choice.address is None:
            # a folder of its own, with a short name: sockets lie in it, whose paths may have 107 characters
            base = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _SHORT else "/tmp"
            _sweep(Path(base))
            self._scratch = Path(tempfile.mkdtemp(prefix=f"ray-{os.getpid()}-", dir=base))
            cpus = threads * (choice.workers or max(1, (os.cpu_count() or 1) // threads))
            own = {"num_cpus": cpus, "object_store_memory": _STORE, "include_dashboard": False}
            options = {**own, "_temp_dir": str(self._scratch), "address": "local", **quiet}
        else:
            options = {"address": choice.address, **quiet}
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if main else {}
        others = set(psutil.Process().children())
        try:
            self._ray.init(**options)
            if self._scratch is not None:
                self._started = [process for process in psutil.Process().children() if process not in others]
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"--address {choice.address or '(this machine)'}: no Ray there: {reason}") from error
        finally:
            for number, handler in before.items():  # Ray sets its own
                signal.signal(number, handler)


def _sweep(base: Path) -> None:
    """Removes the folders of drivers that were killed, and could not."""
    for folder in base.glob("ray-*-*"):
        pid = folder.name.split("-")[1]
        with suppress(OSError):
            ours = folder.stat().st_uid == os.getuid() and (folder / "session_latest").is_symlink()
            if ours and pid.isdecimal() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def most_workers(recipe: Recipe, specs: Sequence[str]) -> int | None:
    """Workers among which a server's limits can be shared: each makes a call at a time, and one a minute, at least.

    None where no model is behind a server.
    """
    given = recipe.endpoint
    if not any(spec.startswith("openai:") for spec in specs):
        return None
    return min(given.concurrency, max(1, int(given.requests_per_minute or given.concurrency)))


def shared_limits(recipe: Recipe, workers: int) -> Recipe:
    """The recipe as each of so many workers follows it: up to `most_workers`, they keep the limits together."""
    given = recipe.endpoint
    limits = {
        "concurrency": max(1, given.concurrency // workers),
        "requests_per_minute": given.requests_per_minute and given.requests_per_minute / workers,
        "tokens_per_minute": given.tokens_per_minute and given.tokens_per_minute / workers,
    }
    return recipe.model_copy(update={"endpoint": given.model_copy(update=limits)})
