"""Human-labelled pairs as comparisons: every form, places drawn by a seed, bad rows counted."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from hostile import SPOOFS
from shared_data import sample

from constitutional.errors import ConstitutionalError, DataError
from constitutional.interop.pairs import label_counts, read_pairs
from constitutional.records import Message, assistant, user


def write(path: Path, *rows: object) -> str:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return str(path)


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def hh(*contents: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(contents))


def chosen_of(path: str, **settings: int) -> list[tuple[tuple[Message, ...], str, str]]:
    """(conversation, chosen, rejected) of every pair, by its label."""
    pairs = read_pairs(path, **settings)
    found = []
    for comparison, label in zip(pairs.comparisons, pairs.labels, strict=True):
        assert label.comparison_id == comparison.id and comparison.origin == "human"
        both = (comparison.a, comparison.b)
        chosen, rejected = both if label.preferred == "a" else both[::-1]
        found.append((comparison.messages, chosen, rejected))
    return found


def test_rows_of_every_form_keep_conversation_and_label(tmp_path: Path) -> None:
    system = {"role": "system", "content": "s"}
    path = write(
        tmp_path / "p.jsonl",
        {"chosen": hh("q1", "x", "q2", "good"), "rejected": hh("q1", "x", "q2", "bad")},
        {"prompt": "q3", "chosen": "good", "rejected": "bad"},
        {"prompt": turns("q4", "x", "q5"), "chosen": turns("", "good")[1:], "rejected": turns("", "bad")[1:]},
        {"chosen": [system, *turns("q6", "good")], "rejected": [system, *turns("q6", "bad")]},
        {"prompt": "q7", "chosen": turns("q7", "good"), "rejected": turns("q7", "bad")},
        {"text_a": "good", "text_b": "bad", "preferred_text": "text_a", "input": "q8"},
        {"text_a": "bad", "text_b": "good", "preferred_text": "text_b"},
    )
    assert chosen_of(path) == [
        ((user("q1"), assistant("x"), user("q2")), "good", "bad"),
        ((user("q3"),), "good", "bad"),
        ((user("q4"), assistant("x"), user("q5")), "good", "bad"),
        ((Message(role="system", content="s"), user("q6")), "good", "bad"),
        ((user("q7"),), "good", "bad"),
        ((user("q8"),), "good", "bad"),
        ((), "good", "bad"),
    ]
    pairs = read_pairs(path)
    assert len(pairs.prompts) == 6 and pairs.failures == ()  # the last has no prompt, and shares none
    assert {label.source for label in pairs.labels} == {"p.jsonl"}
    known = {prompt.id for prompt in pairs.prompts}
    assert [c.prompt_id in known for c in pairs.comparisons] == [True] * 6 + [False]


def test_two_pairs_without_a_prompt_are_not_of_one_prompt(tmp_path: Path) -> None:
    rows = [{"text_a": f"a{i}", "text_b": "b", "preferred_text": "text_a"} for i in range(3)]
    assert len({c.prompt_id for c in read_pairs(write(tmp_path / "p.jsonl", *rows)).comparisons}) == 3


def test_places_are_drawn_by_the_seed_and_never_by_the_label(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(400)]
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    path, other = write(tmp_path / "p.jsonl", *rows), write(tmp_path / "t.jsonl", *turned)
    pairs = read_pairs(path)
    counts = label_counts(pairs.labels)
    assert 160 <= counts["label_a"] <= 240 and counts["label_a"] + counts["label_b"] == 400  # 4 standard errors
    assert read_pairs(path) == pairs
    again = read_pairs(path, seed=1)
    moved = sum(x.a != y.a for x, y in zip(pairs.comparisons, again.comparisons, strict=True))
    assert 160 <= moved <= 240
    mirrored = read_pairs(other)  # the same answers with the opposite labels: nobody moves
    assert [(c.a, c.b) for c in mirrored.comparisons] == [(c.a, c.b) for c in pairs.comparisons]
    assert all(x.preferred != y.preferred for x, y in zip(pairs.labels, mirrored.labels, strict=True))


def test_bad_rows_are_failures_that_name_their_line_and_the_rest_is_read(tmp_path: Path) -> None:
    good = {"prompt": "q", "chosen": "x", "rejected": "y"}
    path = write(
        tmp_path / "p.jsonl",
        good,
        b'{"prompt": "q", "chosen": ',
        b"\xff\xfe",
        b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}',
        b"[1, 2]",
        {"prompt": "q", "chosen": 3, "rejected": "b"},
        {"prompt": "q", "chosen": " ", "rejected": "b"},
        {"prompt": "q", "chosen": "same", "rejected": "same"},
        {"chosen": hh("one", "a"), "rejected": hh("two", "b")},
        {"chosen": turns("q", "a", "q", "b"), "rejected": turns("q", "c")},
        good,
        {"prompt": "q", "chosen": "y", "rejected": "x"},
        {"prompt": "q", "chosen": "x", "rejected": "y", "tags": [1]},
        {"text_a": "a", "text_b": "b", "preferred_text": "A"},
        b'{"prompt": "' + b"x" * (9 << 20) + b'"}',
        {"prompt": "last", "chosen": "x", "rejected": "y"},
    )
    pairs = read_pairs(path)
    assert [c.messages[0].content for c in pairs.comparisons] == ["q", "last"]
    assert [(f.item_id, f.kind) for f in pairs.failures] == [
        *((f"{path}:{line}", "malformed_row") for line in (2, 3, 4, 5, 6)),
        (f"{path}:7", "empty_answer"),
        (f"{path}:8", "identical_pair"),
        (f"{path}:9", "prompt_mismatch"),
        (f"{path}:10", "malformed_row"),
        (f"{path}:11", "repeated_pair"),
        (f"{path}:12", "contradicting_label"),
        *((f"{path}:{line}", "malformed_row") for line in (13, 14, 15)),
    ]
    assert all("\n" not in f.message and path not in f.message for f in pairs.failures)
    assert len(pairs.labels) == 2  # the first label of a contradicted pair stands


@pytest.mark.parametrize("text", [*SPOOFS, "x" * (1 << 20), "a\r\nb\rc\nd\u2028e\x85f\x00", "{{ 7*7 }}"])
def test_hostile_texts_stay_letter_for_letter(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": text, "chosen": text + "!", "rejected": text + "?"})
    assert chosen_of(path) == [((user(text),), text + "!", text + "?")]


def test_files_without_a_usable_pair_and_broken_files_are_one_line(tmp_path: Path) -> None:
    for name, content in {
        "none.jsonl": b'{"prompt": "x"}\n',
        "empty.jsonl": b"",
        "a.json": b'{"metadata": {"version": "1.0"}, "annotators": {}, "comparisons": []}',
        "b.json": b'{"metadata": [',
        "c.csv": b"text_a,text_b\n1,2\n",
        "d.csv": b"\xff",
        "e.jsonl.gz": gzip.compress(b"x" * 999)[:40],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConstitutionalError) as caught:
            read_pairs(str(tmp_path / name))
        assert "\n" not in str(caught.value) and name in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        read_pairs(str(tmp_path / "nothing.jsonl"))


def test_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(
        b'index,text_a,text_b,preferred_text,input\r\n0,"one\r\ntwo, ""q""",b,text_a,q\r\n1,x,y\r\n'
        b"2,x,y,text_b,q,more\r\n3,x,y,tie,q\r\n"
    )
    pairs = read_pairs(str(path))
    assert [(c.a, c.b) for c in pairs.comparisons] == [('one\r\ntwo, "q"', "b"), ("x", "y")]
    assert [label.preferred for label in pairs.labels] == ["a", "tie"]
    assert [(f.item_id, f.kind) for f in pairs.failures] == [
        (f"{path}:4", "malformed_row"),
        (f"{path}:5", "malformed_row"),
    ]


@pytest.mark.parametrize(
    ("name", "rows", "failed"),
    [
        ("hh_harmless/test_first1312.jsonl.gz", 1307, {"empty_answer": 4, "prompt_mismatch": 1}),
        ("icai/synthetic_data_mixed_vqvtb_adcbg.csv", 60, {}),
        ("icai/example.csv", 1, {}),
        ("icai/example_ap.json", 1, {}),
        ("icai/feedback_forensics_example_annotations_train_ap.json", 1, {}),
    ],
)
def test_real_files(name: str, rows: int, failed: dict[str, int]) -> None:
    pairs = read_pairs(str(sample(name)))
    assert len(pairs.comparisons) == len(pairs.labels) == rows
    assert Counter(f.kind for f in pairs.failures) == failed


def test_places_of_the_real_human_set_are_even() -> None:
    counts = label_counts(read_pairs(str(sample("hh_harmless/test_first1312.jsonl.gz"))).labels)
    assert abs(counts["label_a"] - counts["label_b"]) < 4 * 1307**0.5
