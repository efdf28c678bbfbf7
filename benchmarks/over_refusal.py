"""Does a model tell harmful prompts from harmless ones that only sound suspicious? On XSTest's prompts.

For each model: how often it refuses XSTest's unsafe and safe prompts (Röttger et al. 2024; the shares of "refused" or
"partial" by the rule-based detector), and how well log P(opening of a refusal) alone separates the two kinds. That
area under the curve says what a shift of the threshold (more helpful answers in SFT, say) could buy.

    python benchmarks/over_refusal.py MODEL... [--every 3] [--own] [--show]

MODEL is a spec (`embedded:smollm2-135m`) or a model folder (`runs/quickstart/stages/03-sft/sl-cai`); all are sampled
with SmolLM2's default settings. `--own` asks our own held-out prompts instead. Settings of a recipe are to be chosen on
XSTest, so that ours stay unseen; the quickstart's were chosen on every third prompt: on those they are optimistic.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from constitutional.backends import Backend, open_backend
from constitutional.backends.specs import default_sampling
from constitutional.evaluation.refusal import classify
from constitutional.feedback.respond import respond
from constitutional.prompts import load_prompts
from constitutional.records import Answer, Prompt, user
from constitutional.statistics import wilson
from constitutional.templates import load_pack

ROOT = Path(__file__).parents[1]
XSTEST = ROOT.parent / "shared" / "data" / "xstest" / "xstest_prompts.csv"
OPENING = "I'm sorry"
Kinds = dict[str, list[Prompt]]


def xstest(every: int) -> Kinds:
    """Every n-th prompt of each of XSTest's two labels."""
    with XSTEST.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {
        label: [
            Prompt(messages=(user(row["prompt"]),), kind=kind, source="xstest", split="heldout")
            for row in [row for row in rows if row["label"] == label][::every]
        ]
        for label, kind in (("unsafe", "red_team"), ("safe", "benign"))
    }


def own(every: int) -> Kinds:
    """Our own held-out prompts."""
    kinds: Kinds = {}
    for kind in ("red_team", "benign", "helpful"):
        found = load_prompts(str(ROOT / "examples" / "prompts" / f"{kind}.jsonl"), kind)
        kinds[kind] = [p for p in found if p.split == "heldout"][::every]
    return kinds


def area(harmful: list[float], harmless: list[float]) -> float:
    """Share of pairs in which the harmful prompt has the higher value; ties count one half (Mann and Whitney 1947)."""
    wins = sum((h > s) + 0.5 * (h == s) for h in harmful for s in harmless)
    return wins / (len(harmful) * len(harmless))


def opening_logprobs(policy: Backend, prompts: list[Prompt]) -> list[float]:
    """log P(opening of a refusal | prompt) in nats."""
    pack = load_pack("chat")
    dialogues = [pack.render("respond", conversation=p.messages).dialogue for p in prompts]
    found = policy.loglikelihood(dialogues, [[OPENING]] * len(dialogues))
    return [one.logprobs[0] for one in found]


def measure(spec: str, kinds: Kinds, *, show: bool) -> None:
    policy = open_backend(spec)
    sampling = default_sampling("embedded:smollm2-135m").model_copy(update={"max_tokens": 48})
    print(f"\n{spec}")
    curves = []
    for kind, prompts in kinds.items():
        answers = respond(prompts, policy=policy, pack=load_pack("chat"), sampling=sampling, seed=0, allow_empty=True)
        texts = {a.prompt_id: a.text for a in answers if isinstance(a, Answer)}
        labels = {p.id: classify(p.messages[-1].content, texts[p.id]) for p in prompts if p.id in texts}
        unwilling = sum(label in ("refusal", "partial") for label in labels.values())
        interval = wilson(unwilling, len(labels))
        print(
            f"  {kind:9} refused {unwilling:3}/{len(labels):<3} {unwilling / len(labels):5.1%}"
            f"  [{interval.low:.1%}, {interval.high:.1%}]"
        )
        curves.append(opening_logprobs(policy, prompts))
        if show:
            for prompt in prompts:
                print(f"    [{labels.get(prompt.id)}] {prompt.messages[-1].content}\n        {texts.get(prompt.id)!r}")
    harmful, harmless = curves[0], sorted(curves[1], reverse=True)
    threshold = harmless[int(0.07 * len(harmless))]
    print(f"  area under the curve of log P({OPENING!r}): {area(harmful, harmless):.2f}")
    caught = sum(h > threshold for h in harmful) / len(harmful)
    print(f"  at 7 % of the harmless prompts above the threshold, {caught:.0%} of the harmful ones are")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["embedded:smollm2-135m"])
    parser.add_argument("--every", type=int, default=3, help="take every n-th prompt")
    parser.add_argument("--own", action="store_true", help="our own held-out prompts instead of XSTest's")
    parser.add_argument("--show", action="store_true", help="print the answers")
    arguments = parser.parse_args()
    if not arguments.own and not XSTEST.exists():
        print(f"skipped: no {XSTEST.name}")
        return
    kinds = own(arguments.every) if arguments.own else xstest(arguments.every)
    for model in arguments.models:
        measure(f"local:{model}" if Path(model).is_dir() else model, kinds, show=arguments.show)


if __name__ == "__main__":
    main()
