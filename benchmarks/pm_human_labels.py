"""A preference model from people's labels: hh-rlhf harmless pairs, held-out accuracy and calibration with intervals.

    python benchmarks/pm_human_labels.py [--train 1000] [--test 312] [--trl num_train_epochs=2] [--keep DIR]

The first pairs of the file train, the last are held out. Beside the model stand what needs none, "the shorter answer
wins", and what needs no training of it: a logistic regression on the difference of the two answers' last hidden states
in the untrained model, its penalty chosen by five folds of the training pairs. `--members` trains an ensemble, whose
members' figures are printed, too. Pairs longer than `--max-length` tokens are counted, not cut. With `--head probe` the
model begins with a linear probe of its own training pairs, whose figures on the same held-out pairs are printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from constitutional.backends.embedded import converted_folder
from constitutional.errors import BackendError
from constitutional.prompts import HumanPair, load_pairs
from constitutional.records import assistant
from constitutional.training.agreement import agreement
from constitutional.training.rows import Agreement, PreferenceRow

DATA = Path(__file__).parents[2] / "shared" / "data" / "hh_harmless" / "test_first1312.jsonl.gz"
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def row(pair: HumanPair, index: int) -> PreferenceRow:
    return PreferenceRow(
        messages=pair.messages,
        chosen=pair.chosen,
        rejected=pair.rejected,
        probability=1.0,
        preference_id=f"{index:016x}",
        comparison_id=f"{index:016x}",
        source="human",
        principles=(),
    )


def hidden_differences(model: Path, rows: Sequence[PreferenceRow]) -> Any:
    """Last hidden state of the chosen answer's last token less that of the rejected one's, (rows, width)."""
    import numpy as np
    import torch
    from transformers import AutoModel

    from constitutional.training.tokens import dialogue_ids, open_tokenizer

    tokenizer, network = open_tokenizer(model), AutoModel.from_pretrained(str(model), dtype=torch.float32).eval()

    def last(row: PreferenceRow, answer: str) -> Any:
        ids = torch.tensor([dialogue_ids(tokenizer, (*row.messages, assistant(answer)))])
        return network(ids).last_hidden_state[0, -1].numpy()

    with torch.inference_mode():
        return np.stack([last(row, row.chosen) - last(row, row.rejected) for row in rows])


def probe(model: Path, train: Sequence[PreferenceRow], test: Sequence[PreferenceRow]) -> Agreement:
    """The linear probe's agreement with the test labels."""
    import numpy as np
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import StandardScaler

    found = hidden_differences(model, [*train, *test])
    scaled = StandardScaler(with_mean=False).fit(found[: len(train)]).transform(found)
    framings = np.concatenate([scaled[: len(train)], -scaled[: len(train)]])  # each pair both ways round: no intercept
    labels = np.repeat([1, 0], len(train))
    folds = np.tile(np.arange(len(train)) % 5, 2)  # both framings of a pair in one fold
    splits = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(5)]
    fit = LogisticRegressionCV(
        Cs=PENALTIES,
        cv=splits,
        fit_intercept=False,
        scoring="neg_log_loss",
        max_iter=2000,
        l1_ratios=(0,),
        use_legacy_attributes=True,
    )
    fit.fit(framings, labels)
    return agreement(fit.decision_function(scaled[len(train) :]).tolist(), [1.0] * len(test))


def progress(log: dict[str, Any]) -> None:
    if log["step"] % 10 == 0 and "loss" in log:
        print({name: log[name] for name in ("step", "steps", "loss")}, flush=True)


def shown(name: str, found: Agreement) -> str:
    low, high = found.interval.low, found.interval.high
    return f"{name:28} {found.n:4}  {found.accuracy:.3f} [{low:.3f}, {high:.3f}]   {found.calibration_error:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=312)
    parser.add_argument("--max-length", type=int, default=768)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--head", choices=("zero", "probe"), default="zero")
    parser.add_argument("--trl", nargs="*", default=[], help="fields of trl.RewardConfig")
    parser.add_argument("--lora", nargs="*", help="fields of peft.LoraConfig; a full fine-tune without this")
    parser.add_argument("--keep", type=Path, help="where to leave the model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not DATA.exists():
        print(f"skipped: {DATA.name} is not there")
        return
    try:
        model = converted_folder("smollm2-135m")
    except BackendError as error:
        print(f"skipped: {error}")
        return
    pairs = [(pair, row(pair, i)) for i, pair in enumerate(load_pairs(str(DATA)))]
    train, test = (
        [row for pair, row in part if not pair.flags] for part in (pairs[: arguments.train], pairs[-arguments.test :])
    )
    from constitutional.training.preference_model import Committee, train_preference_model

    settings = {k: yaml.safe_load(v) for k, v in (word.split("=", 1) for word in arguments.trl)}
    lora = arguments.lora and {k: yaml.safe_load(v) for k, v in (word.split("=", 1) for word in arguments.lora)}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = train_preference_model(
            train,
            test,
            model=model,
            output=arguments.keep or Path(folder) / "pm",
            seed=arguments.seed,
            head=arguments.head,
            committee=Committee(arguments.members) if arguments.members > 1 else None,
            trl={"max_length": arguments.max_length, **settings},
            lora=lora,
            on_log=progress,
        )
    seconds = time.perf_counter() - started
    shorter = [float(len(r.rejected) - len(r.chosen)) for r in test]
    print(f"{result.rows} training pairs, {result.steps} steps, {seconds:.0f} s; {len(result.failures)} pairs too long")
    print(f"{'held out':28}    n  accuracy               calibration error")
    print(shown("shorter answer", agreement(shorter, [1.0] * len(test))).rsplit("   ", 1)[0])
    if arguments.head == "zero":
        print(shown("linear probe", probe(model, train, test)))
    elif result.probe is not None:
        print(shown("linear probe, its first head", result.probe))
    print(shown("preference model", result.heldout))
    for k, member in enumerate(result.members):
        if member.probe is not None:
            print(shown(f"  member {k}, first head", member.probe))
        print(shown(f"  member {k} alone", member.heldout))


if __name__ == "__main__":
    main()
