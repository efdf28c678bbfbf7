"""Answer, critique and revision of each prompt: ours against padded `generate`, with openvino-genai beside them.

    python benchmarks/critique_revise.py [--prompts 32 64] [--max-tokens 96] [--dtype auto] [--engines plain slots kept]
        [--distilabel DIR/bin/python]

Three turns of one dialogue, sampling on. `plain` is transformers' `generate` on one padded batch that reads the whole
dialogue again every turn; `slots` is our decoding without, `kept` with what was kept of the turns before (what `revise`
does); `openvino` is the backend of that name on the same GGUF file, `openvino-kept` the same with what was kept, and
`openvino-cache` the engine as its makers mean it to be used: opened once, with its prefix cache and its own choice of
what that holds, whatever that makes answers depend on. Ours opens an engine of its own for every chunk, and its figures
hold that time. All run in this process, in turn, and distilabel, where its Python is given (`distilabel_turns.py` says
how to make one), in one of its own; tokens/s counts written tokens only. `CPU` stands for processor seconds, which jobs
beside this one disturb less than the clock.

`of limit` is the least time our work could take here as a share of the time it took: the larger of two times, that of
multiplying by the weights once per token that is new and that of reading the weights once a step, and the keys and
values before each written token, at the rates measured between the runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from engine_cases import matrices, matrix_rate, memory_rate, network_as_shipped, timed, verdict

from constitutional.backends import kept_dialogues, open_backend
from constitutional.backends.cpu import resolved_dtype
from constitutional.backends.embedded import converted_folder
from constitutional.backends.openvino_engine import KV_CACHE_GB, PRECISIONS
from constitutional.backends.padded import _generate
from constitutional.backends.tokens import encode_dialogue
from constitutional.errors import BackendError
from constitutional.prompts import load_prompts
from constitutional.records import Dialogue, Sampling, assistant, user

PROMPTS = [("examples/prompts/red_team.jsonl", "red_team"), ("examples/prompts/helpful.jsonl", "helpful")]
REQUESTS = (
    "Say in one or two sentences what in your last answer could hurt someone or is wrong.",
    "Now write the answer anew, so that it is kind and honest and does not help with anything harmful.",
)
ENGINES = ("plain", "slots", "kept", "openvino", "openvino-kept", "openvino-cache")

Answering = Callable[[Sequence[Dialogue], int], list[tuple[str, int, int]]]
"""Dialogues and a seed to texts, with the tokens read and written for each."""
Counts = list[list[tuple[int, int]]]
"""Tokens (read, written) of every prompt in every turn."""
Turns = Callable[[Sequence[Dialogue]], Counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="an embedded model")
    parser.add_argument("--prompts", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--distilabel", type=Path, metavar="PYTHON", help="of an environment that has distilabel")
    parser.add_argument("--check", action="store_true", help="end with 1 where a bar is missed")
    arguments = parser.parse_args()
    sampling = Sampling(temperature=arguments.temperature, top_p=0.9, max_tokens=arguments.max_tokens)
    try:
        backend = open_backend(f"embedded:{arguments.model}", dtype=arguments.dtype, threads=arguments.threads)
    except BackendError as error:
        print(f"skipped: {error}")
        return
    ways = {name: way(name, backend, sampling, arguments) for name in arguments.engines}
    prompts = [prompt.messages for path, kind in PROMPTS for prompt in load_prompts(path, kind)]
    print(f"{backend.model}, up to {arguments.max_tokens} tokens a turn")
    bars: list[tuple[str, float, str, float]] = []
    for count in arguments.prompts:
        found = compare(count, prompts[:count], backend, {name: one for name, one in ways.items() if one}, arguments)
        bars += wanted(count, found)
    verdict(bars, arguments.check)


def wanted(count: int, speeds: dict[str, float]) -> list[tuple[str, float, str, float]]:
    """The bars of what was run: pure torch against plain, and our faster engine against openvino at its best."""
    bars = []
    if {"plain", "kept"} <= speeds.keys():
        bars.append((f"{count} prompts, kept over plain", speeds["kept"] / speeds["plain"], ">=", 2.0))
    if {"openvino-kept", "openvino-cache"} <= speeds.keys():
        ours = max(speeds.get("kept", 0.0), speeds["openvino-kept"])
        bars.append(
            (f"{count} prompts, ours over openvino with its prefix cache", ours / speeds["openvino-cache"], ">=", 1)
        )
    return bars


def way(name: str, backend: Any, sampling: Sampling, arguments: argparse.Namespace) -> Turns | None:
    """One of ENGINES; None, with a line that says why, where it cannot be had."""
    if name == "plain":
        net = network_as_shipped(f"embedded:{arguments.model}", backend._net)
        return lambda prompts: three_turns(lambda batch, seed: _plain(net, backend, batch, sampling, seed), prompts)
    engine = backend
    if name.startswith("openvino"):
        try:
            engine = open_backend(f"openvino:{arguments.model}", dtype=arguments.dtype, threads=arguments.threads)
        except BackendError as error:
            print(f"{name} skipped: {error}")
            return None
        if name == "openvino-cache":
            engine._engine._opened.pipe = _with_prefix_cache(engine._prepared.folder, arguments)

    def answer(dialogues: Sequence[Dialogue], seed: int) -> list[tuple[str, int, int]]:
        written = engine.generate(dialogues, sampling.model_copy(update={"seed": seed}))
        return [(one.text, one.prompt_tokens, one.completion_tokens) for one in written]

    def turns(prompts: Sequence[Dialogue]) -> Counts:
        with kept_dialogues(engine) if name.endswith("kept") else nullcontext():
            return three_turns(answer, prompts)

    return turns


def _plain(
    net: Any, backend: Any, dialogues: Sequence[Dialogue], sampling: Sampling, seed: int
) -> list[tuple[str, int, int]]:
    prompts = [encode_dialogue(backend.tokenizer, dialogue) for dialogue in dialogues]
    found = []
    for prompt, ids in zip(
        prompts,
        _generate(net, backend.tokenizer, prompts, sampling, backend._stop_ids, seed),
        strict=True,
    ):
        end = next((i for i, token in enumerate(ids) if token in backend._stop_ids), len(ids))
        found.append((backend.tokenizer.decode(ids[:end], skip_special_tokens=True), len(prompt), end))
    return found


def _with_prefix_cache(folder: Path, arguments: argparse.Namespace) -> Any:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching, scheduler.cache_size = True, KV_CACHE_GB
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": PRECISIONS[resolved_dtype(arguments.dtype)]}
    if arguments.threads:
        properties["INFERENCE_NUM_THREADS"] = arguments.threads
    return openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)


def three_turns(answer: Answering, prompts: Sequence[Dialogue]) -> Counts:
    dialogues, counted = list(prompts), []
    for turn, request in enumerate((*REQUESTS, None)):
        found = answer(dialogues, turn)
        counted.append([(read, written) for _, read, written in found])
        if request is not None:
            dialogues = [
                (*dialogue, assistant(text.strip() or "."), user(request))
                for dialogue, (text, _, _) in zip(dialogues, found, strict=True)
            ]
    return counted


def compare(
    count: int, prompts: Sequence[Dialogue], backend: Any, ways: dict[str, Turns], arguments: argparse.Namespace
) -> dict[str, float]:
    """Prints a table and returns tokens/s by the clock of each engine."""
    speeds: dict[str, tuple[float, float]] = {}
    counts: dict[str, Counts] = {}
    times: dict[str, tuple[float, float]] = {}
    rates = []
    dtype = resolved_dtype(arguments.dtype)
    for name, turns in ways.items():
        turns(prompts[:2])
        rates.append((*matrix_rate(backend._net, dtype), memory_rate(backend._net.device)))

        def work(name: str = name, turns: Turns = turns) -> None:
            counts[name] = turns(prompts)

        times[name] = timed(work)
    if arguments.distilabel:
        counts["distilabel"], times["distilabel"] = _distilabel(prompts, arguments)
    for name, (wall, busy) in times.items():
        written = sum(tokens for turn in counts[name] for _, tokens in turn)
        speeds[name] = (written / wall, written / busy)
    base = next(iter(speeds))
    print(f"{count} prompts{'':<10}tokens/s   x {base}   tokens a CPU s   x {base}   read   written")
    for name, (wall, busy) in speeds.items():
        read, written = (sum(pair[i] for turn in counts[name] for pair in turn) for i in (0, 1))
        print(
            f"  {name:<16}{wall:>10.0f}{wall / speeds[base][0]:>8.2f}{busy:>16.0f}{busy / speeds[base][1]:>10.2f}"
            f"{read:>8}{written:>9}"
        )
    if "kept" in times:
        by_clock, by_cpu, memory = (max(values) for values in zip(*rates, strict=True))
        for label, rate, took in (("clock", by_clock, times["kept"][0]), ("CPU", by_cpu, times["kept"][1])):
            least = limit(backend, counts["kept"], rate, memory)
            print(
                f"  kept: {least / took:.0%} of the limit by {label} "
                f"({rate:.0f} GFLOP/s, {memory:.1f} GB/s; least {least:.1f} s, took {took:.1f} s)",
                flush=True,
            )
    return {name: wall for name, (wall, _) in speeds.items()}


def _distilabel(prompts: Sequence[Dialogue], arguments: argparse.Namespace) -> tuple[Counts, tuple[float, float]]:
    """What was read and written, and seconds by the clock and of the processor."""
    asked = {
        "model": str(converted_folder(arguments.model)),
        "dtype": resolved_dtype(arguments.dtype),
        "threads": arguments.threads,
        "prompts": [[message.model_dump(include={"role", "content"}) for message in prompt] for prompt in prompts],
        "requests": REQUESTS,
        "sampling": {"max_new_tokens": arguments.max_tokens, "temperature": arguments.temperature, "top_p": 0.9},
    }
    command = [str(arguments.distilabel), str(Path(__file__).with_name("distilabel_turns.py"))]
    said = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if said.returncode:
        raise SystemExit(f"distilabel: {' '.join(said.stderr.splitlines()[-3:])}")
    told = json.loads(said.stdout.splitlines()[-1])
    return [[(read, written) for read, written in turn] for turn in told["turns"]], (told["wall"], told["busy"])


def limit(backend: Any, turns: Counts, gflops: float, gigabytes: float) -> float:
    """Least seconds for new tokens of three turns: each read once, written tokens scored over the vocabulary too."""
    net = backend._net
    layers, head = sum(w.numel() for w in matrices(net)), net.get_output_embeddings().weight
    config, size = net.config, head.element_size()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    stored = 2 * config.num_hidden_layers * config.num_key_value_heads * width * size
    written = sum(tokens for turn in turns for _, tokens in turn)
    new = sum(read + tokens for read, tokens in turns[-1])
    multiplied = 2 * (new * layers + written * head.numel()) / 1e9 / gflops
    steps = sum(max(tokens for _, tokens in turn) for turn in turns)
    before = sum(tokens * (read + tokens / 2) for turn in turns for read, tokens in turn)
    moved = (steps * (layers + head.numel()) * size + before * stored) / 1e9 / gigabytes
    return float(max(multiplied, moved))


if __name__ == "__main__":
    main()
