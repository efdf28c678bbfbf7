"""The three turns of `critique_revise.py` through distilabel's TransformersLLM as it ships; started by that benchmark.

It runs in an environment of its own, which distilabel 1.5.3 needs:

    python3.11 -m venv DIR && DIR/bin/pip install torch==2.13.0 transformers==4.57.1 distilabel==1.5.3

Reads one JSON object from standard input and writes one as the last line of standard output: `wall` and `busy` seconds,
and `turns`, the tokens (read, written) of every prompt in every turn; those read are counted without the chat template.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def readable(source: Path, folder: Path) -> str:
    """`source` as transformers 4 reads it: it does not know the name transformers 5 gives a fast tokenizer."""
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    settings = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "PreTrainedTokenizerFast"}), "utf-8"
    )
    return str(folder)


def three_turns(llm: Any, prompts: list[Any], asked: dict[str, Any]) -> list[list[tuple[int, int]]]:
    """Tokens (read, written) of every prompt in every turn."""
    dialogues, counted = [list(prompt) for prompt in prompts], []
    for request in (*asked["requests"], None):
        outputs = llm.generate(inputs=dialogues, **asked["sampling"])
        texts = [output["generations"][0] or "" for output in outputs]
        counts = [output["statistics"] for output in outputs]
        counted.append([(one["input_tokens"][0], one["output_tokens"][0]) for one in counts])
        if request is not None:
            for dialogue, text in zip(dialogues, texts, strict=True):
                dialogue.append({"role": "assistant", "content": text.strip() or "."})
                dialogue.append({"role": "user", "content": request})
    return counted


def main() -> None:
    text = "" if sys.stdin.isatty() else sys.stdin.read()
    if not text:
        print("skipped: critique_revise.py starts it")
        return
    asked = json.loads(text)
    import torch
    from distilabel.models import TransformersLLM

    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        llm = TransformersLLM(model=readable(Path(asked["model"]), Path(folder)), torch_dtype=asked["dtype"])
        llm.load()
    three_turns(llm, asked["prompts"][:1], asked)
    wall, busy = time.perf_counter(), time.process_time()
    turns = three_turns(llm, asked["prompts"], asked)
    print(json.dumps({"wall": time.perf_counter() - wall, "busy": time.process_time() - busy, "turns": turns}))


if __name__ == "__main__":
    main()
