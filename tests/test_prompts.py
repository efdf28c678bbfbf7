import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from constitutional.errors import DataError
from constitutional.prompts import HumanPair, load_pairs, load_prompts
from constitutional.records import Message, assistant, user

REPO = Path(__file__).parent.parent
HH = REPO.parent / "shared" / "data" / "hh_harmless" / "test_first1312.jsonl.gz"


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def hh(*contents: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(contents))


def test_rows_of_every_form(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"prompt": "one", "split": "heldout", "tags": ["x", "y"]},
        "",
        {"messages": [{"role": "system", "content": "s"}, *turns("two", "yes", "more", "cut off")]},
        {"prompt": "not this", "messages": turns("three", "cut off")},
        {"prompt": turns("four")},
        {"chosen": hh("five", "a", "b", "good"), "rejected": hh("five", "a", "b", "bad")},
        {"prompt": "one", "split": "train"},
    )
    prompts = load_prompts(path, "helpful")
    assert [prompt.messages for prompt in prompts] == [
        (user("one"),),
        (Message(role="system", content="s"), user("two"), assistant("yes"), user("more")),
        (user("three"),),
        (user("four"),),
        (user("five"), assistant("a"), user("b")),
    ]
    assert [prompt.split for prompt in prompts] == ["heldout", "train", "train", "train", "train"]
    assert prompts[0].tags == ("x", "y")
    assert {(prompt.kind, prompt.source) for prompt in prompts} == {("helpful", "p.jsonl")}
    assert [prompt.split for prompt in load_prompts(path, "helpful", split="heldout")] == ["heldout"] * 5
    assert load_prompts(path, "helpful", limit=2) == prompts[:2]


def test_gzip_and_json_lists_hold_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": "one"}, {"prompt": "zwei ü"}]
    plain = load_prompts(write(tmp_path / "p.jsonl", *rows), "benign")
    (tmp_path / "p.json").write_text(json.dumps(rows, indent=1))
    with gzip.open(tmp_path / "p.jsonl.gz", "wt") as file:
        file.write("\ufeff" + "\r\n".join(json.dumps(row) for row in rows))
    for name in ("p.json", "p.jsonl.gz"):
        loaded = load_prompts(str(tmp_path / name), "benign")
        assert [prompt.messages for prompt in loaded] == [prompt.messages for prompt in plain]


BAD_ROWS = [
    ("{broken", "p.jsonl:2: broken JSON at column 2: Expecting property name enclosed in double quotes"),
    ("[1]", "p.jsonl:2: expected a JSON object (got list)"),
    ('{"prompt": ""}', "p.jsonl:2: empty prompt"),
    ('{"prompt": " \\n "}', "p.jsonl:2: empty prompt"),
    (
        '{"promt": "x"}',
        "p.jsonl:2: a row needs 'prompt', 'messages', or 'chosen' and 'rejected' (did you mean 'prompt'?)",
    ),
    ("{}", "p.jsonl:2: a row needs 'prompt', 'messages', or 'chosen' and 'rejected'"),
    ('{"prompt": 3}', "p.jsonl:2: prompt: expected a text or a list of messages"),
    ('{"messages": []}', "p.jsonl:2: messages: expected a text or a list of messages"),
    ('{"messages": [{"role": "assistant", "content": "x"}]}', "p.jsonl:2: no user turn to answer"),
    ('{"messages": [{"role": "user"}]}', "p.jsonl:2: messages.0: a message needs 'role' and 'content', both texts"),
    (
        '{"messages": [{"role": "usr", "content": "x"}]}',
        "p.jsonl:2: messages.0: unknown role 'usr' (did you mean 'user'?)",
    ),
    ('{"prompt": "x", "split": "tran"}', "p.jsonl:2: unknown split 'tran' (did you mean 'train'?)"),
    ('{"prompt": "x", "tags": "y"}', "p.jsonl:2: 'tags' must be a list of texts"),
    ('{"prompt": "\\ud83d"}', "p.jsonl:2: half of a surrogate pair, which is no text"),
    ("[" * 100_000, "p.jsonl:2: broken JSON: nested too deeply or a number too long"),
    ('{"chosen": "a", "rejected": 3}', "p.jsonl:2: 'rejected' must be a text or a list of messages"),
    (
        '{"chosen": "a", "rejected": "b"}',
        "p.jsonl:2: no 'prompt', and 'chosen' or 'rejected' has no 'Assistant:' turn",
    ),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_bad_rows_say_where(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "fine"}, row)
    with pytest.raises(DataError) as caught:
        load_prompts(path, "red_team")
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_bad_files_say_which(tmp_path: Path) -> None:
    def message(name: str, raw: bytes | None = None) -> str:
        if raw is not None:
            (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError) as caught:
            load_prompts(str(tmp_path / name), "red_team")
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert message("empty.jsonl", b"") == "empty.jsonl: no rows"
    assert message("blank.jsonl", b"\n \n") == "blank.jsonl: no rows"
    assert message("empty.json", b"") == "empty.json: no rows"
    assert message("list.json", b"[]") == "list.json: no rows"
    assert message("object.json", b'{"prompt": "x"}') == "object.json:1: expected a JSON list of rows (got dict)"
    assert message("row.json", b'[{"prompt": "x"}, 3]') == "row.json:row 2: expected a JSON object (got int)"
    assert message("lines.json", b'[\n{"a": }\n]') == "lines.json:2: broken JSON at column 7: Expecting value"
    assert message("latin.jsonl", b'{"prompt": "\xff"}') == "latin.jsonl:1: not valid UTF-8"
    assert message("no.jsonl") == "no.jsonl: no such file"
    assert message("no/file") == "no/file: no such file"
    whole = gzip.compress(b'{"prompt": "x"}\n' * 9)
    assert message("cut.jsonl.gz", whole[:-9]).startswith("cut.jsonl.gz:")
    assert message("not.jsonl.gz", b"plain") == "not.jsonl.gz:1: cannot be read: Not a gzipped file (b'pl')"
    with pytest.raises(DataError, match="not a file"):
        load_prompts(str(tmp_path), "red_team")


def test_hub_data_sets_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> list[dict[str, str]]:
        asked.append((name, split))
        if name == "who/gone":
            raise FileNotFoundError("not there\nsecond line")
        return [{"prompt": "one"}, {"prompt": "two"}]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    prompts = load_prompts("who/what", "helpful", split="heldout", limit=1)
    assert [(prompt.source, prompt.split) for prompt in prompts] == [("who/what", "heldout")]
    assert len(load_prompts("who/what", "helpful")) == 2
    with pytest.raises(DataError) as caught:
        load_prompts("who/gone", "helpful")
    assert str(caught.value) == "who/gone: no such file, and not to be had from the hub: not there"
    with pytest.raises(DataError, match=r"^who/what.jsonl: no such file$"):
        load_prompts("who/what.jsonl", "helpful")
    assert asked == [("who/what", "test"), ("who/what", "train"), ("who/gone", "train")]


def test_pairs_and_their_flags(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pairs.jsonl",
        {"chosen": hh("q", "a", "r", "good"), "rejected": hh("q", "a", "r", "bad")},
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": turns("q"), "chosen": turns("q", "good"), "rejected": turns("q", "bad")},
        {"chosen": hh("q", "good"), "rejected": hh("q", "")},
        {"chosen": hh("q", "x"), "rejected": hh("q", "x")},
        {"chosen": hh("q", "one", "more", "good"), "rejected": hh("q", "other")},
        {"chosen": hh("q", "good"), "rejected": hh("another", "bad")},
        {"chosen": hh("q", "good"), "rejected": hh("q", "good and more")},
    )
    question = (user("q"),)
    assert load_pairs(path) == [
        HumanPair(messages=(user("q"), assistant("a"), user("r")), chosen="good", rejected="bad"),
        HumanPair(messages=question, chosen="good", rejected="bad"),
        HumanPair(messages=question, chosen="good", rejected="bad"),
        HumanPair(messages=question, chosen="good", rejected="", flags=("empty_rejected",)),
        HumanPair(messages=question, chosen="x", rejected="x", flags=("same_answers",)),
        HumanPair(
            messages=question,
            chosen="one\n\nHuman: more\n\nAssistant: good",
            rejected="other",
            flags=("prompt_mismatch",),
        ),
        HumanPair(messages=question, chosen="good", rejected="bad", flags=("prompt_mismatch",)),
        HumanPair(messages=question, chosen="good", rejected="good and more"),
    ]
    assert len(load_pairs(path, limit=2)) == 2


@pytest.mark.skipif(not HH.exists(), reason="shared hh-rlhf sample is not here")
def test_real_human_preferences() -> None:
    prompts = load_prompts(str(HH), "red_team")
    pairs = load_pairs(str(HH))
    assert len(pairs) == 1312
    assert Counter(flag for pair in pairs for flag in pair.flags) == {"prompt_mismatch": 1, "empty_chosen": 4}
    assert len(prompts) == len({pair.messages for pair in pairs}) == 1312
    assert all(prompt.messages[-1].role == "user" and prompt.messages[-1].content for prompt in prompts)
    assert sum(len(prompt.messages) > 1 for prompt in prompts) > 600  # multi-turn context is kept
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        for pair, line in zip(pairs, file, strict=True):  # oracle: put the texts together again
            row = json.loads(line)
            for answer, original in ((pair.chosen, row["chosen"]), (pair.rejected, row["rejected"])):
                whole = hh(*(turn.content for turn in pair.messages), answer)
                if [turn.role for turn in pair.messages] == (["user", "assistant"] * 99)[: len(pair.messages)]:
                    assert "".join(whole.split()) == "".join(original.split())


@pytest.mark.parametrize(("kind", "train", "heldout"), [("red_team", 80, 40), ("helpful", 80, 40), ("benign", 0, 40)])
def test_our_own_prompts(kind: str, train: int, heldout: int) -> None:
    prompts = load_prompts(str(REPO / "examples" / "prompts" / f"{kind}.jsonl"), kind)  # type: ignore[arg-type]
    splits = Counter(prompt.split for prompt in prompts)
    assert splits["train"] >= train and splits["heldout"] >= heldout
    assert all(prompt.tags and prompt.kind == kind for prompt in prompts)
    if kind == "red_team":
        assert sum(len(prompt.messages) > 1 for prompt in prompts) >= 5
