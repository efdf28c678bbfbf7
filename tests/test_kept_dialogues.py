"""A dialogue's next turn, read from where the last one ended: same text, fewer tokens read, bounded memory."""

import random

import pytest
import torch
from tiny_model import save_tiny_model

from constitutional.backends import decoding, kept_dialogues, local
from constitutional.backends.kept import KeptDialogues, shared_beginning
from constitutional.backends.local import LocalBackend
from constitutional.feedback.revise import revise
from constitutional.principles import Principle
from constitutional.records import Prompt, Sampling, assistant, user
from constitutional.templates import load_pack

DRAW = Sampling(temperature=1.0, top_p=0.95, max_tokens=16, seed=5)


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    torch.set_num_threads(1)
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", context=512)
    backend = LocalBackend(folder, name="local:tiny", model="tiny", dtype="float32")
    backend._net.double()  # equal sums are equal then, whatever the batch
    return backend


@pytest.fixture
def read(backend, monkeypatch):
    """Tokens of every forward."""
    seen = []
    forward = backend._net.forward

    def counting(*args, **kwargs):
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(backend._net, "forward", counting)
    return seen


def _revised(backend):
    prompts = [
        Prompt(messages=(user(f"how do I pick {what} lock?"),), kind="red_team", source="here", split="train")
        for what in ("a", "my", "one")
    ]
    principle = Principle(
        id="p", version="1.0.0", title="P", critique_request="What is bad?", revision_request="Say it anew."
    )
    ask = {
        "policy": backend,
        "critic": backend,
        "pack": load_pack("chat"),
        "principles": [principle],
        "policy_sampling": DRAW,
        "critic_sampling": DRAW,
        "rounds": 2,
        "seed": 3,
    }
    return list(revise(prompts, **ask))


def _turns(backend, count, turns=3):
    """Dialogues of several turns, each going on from the answers before."""
    rng = random.Random(1)
    words = ["how", "do", "I", "pick", "a", "lock?", "Größe", "good", "bad"]
    dialogues = [(user(" ".join(rng.choices(words, k=rng.randint(1, 30)))),) for _ in range(count)]
    said = []
    for turn in range(turns):
        done = backend.generate(dialogues, DRAW.model_copy(update={"seed": turn}))
        said.append([(one.text, one.completion_tokens) for one in done])
        dialogues = [
            (*dialogue, assistant(one.text.strip()), user(f"what is bad in it? {turn}"))
            for dialogue, one in zip(dialogues, done, strict=True)
        ]
    return said


@pytest.mark.parametrize("slots", [1, 3, 128])
def test_the_same_text_is_written_and_less_is_read(backend, read, slots, monkeypatch):
    monkeypatch.setattr(decoding, "SLOTS", slots)
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 90)
    plain = _turns(backend, 12)
    without, _ = sum(read), read.clear()
    with kept_dialogues(backend):
        assert _turns(backend, 12) == plain
    assert sum(read) < 0.75 * without
    written = sum(tokens for turn in plain for _, tokens in turn)
    assert without > 1.5 * written, "there was something to be saved"


@pytest.mark.parametrize("budget", [0, 60, 300])
def test_a_small_budget_changes_nothing_but_what_is_read(backend, budget, monkeypatch):
    plain = _turns(backend, 6)
    most = []
    add = KeptDialogues.add

    def watched(self, ids, stored):
        add(self, ids, stored)
        most.append((self.tokens, sum(map(len, self._ordered)), sum(one[0].shape[1] for one in self._stored.values())))

    monkeypatch.setattr(KeptDialogues, "add", watched)
    monkeypatch.setattr(local, "KeptDialogues", lambda: KeptDialogues(budget))
    with kept_dialogues(backend):
        assert _turns(backend, 6) == plain
    assert all(a == b == c <= budget for a, b, c in most) and (budget < 300 or max(most)[0] > 0)


def test_nothing_is_kept_outside_and_one_scope_serves_both_roles(backend, read):
    dialogue = (user("how do I pick a lock?"),)
    with kept_dialogues(backend, backend):
        with kept_dialogues(backend):
            first = backend.generate([dialogue], DRAW)
        before = len(read)
        assert backend.generate([dialogue], DRAW)[0].text == first[0].text
        assert max(read[before:]) == 1, "the inner scope's end forgot nothing"
    before = len(read)
    backend.generate([dialogue], DRAW)
    assert max(read[before:]) > 1 and backend._kept is None


def test_revise_reads_less_and_revises_alike(backend, read, monkeypatch):
    with_kept, read_with = _revised(backend), sum(read)
    read.clear()
    monkeypatch.setattr(LocalBackend, "keep_dialogues", lambda self: kept_dialogues())
    assert _revised(backend) == with_kept
    assert read_with < 0.9 * sum(read)


PHASES = ("answer", "critique 1", "revision 1", "critique 2", "revision 2")


def _read_by_phase(backend, read, monkeypatch):
    """Of each phase the completions, and the tokens read besides those written: its prompts, as far as they are new."""
    done, reading = [], []
    generate = LocalBackend.generate

    def noting(self, batch, sampling):
        before = sum(read)
        made = generate(self, batch, sampling)
        done.append(made)
        reading.append(sum(read) - before - sum(one.completion_tokens for one in made))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, "generate", noting)
        _revised(backend)
    return dict(zip(PHASES, done, strict=True)), dict(zip(PHASES, reading, strict=True))


def test_a_critique_reads_on_where_the_answer_ended_and_a_revision_does_not(backend, read, monkeypatch):
    one, other = (backend.tokenizer(mark)["input_ids"][0] for mark in "!+")
    # what is written must be the same tokens when it is read again: marks that no merge joins
    monkeypatch.setattr(decoding, "pick", lambda logits, uniforms, sampling: torch.where(uniforms < 0.5, one, other))
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 1)  # each prompt is read alone, so that filling counts nowhere
    done, fewer = _read_by_phase(backend, read, monkeypatch)
    monkeypatch.setattr(LocalBackend, "keep_dialogues", lambda self: kept_dialogues())
    _, plain = _read_by_phase(backend, read, monkeypatch)

    def lengths(phase):
        return sum(said.prompt_tokens - 1 for said in done[phase])  # a prompt's last token is read by the first step

    assert fewer["answer"] == plain["answer"]
    kept = sum(said.prompt_tokens + said.completion_tokens - 1 for said in done["answer"])  # the last was not read
    assert fewer["critique 1"] == lengths("critique 1") - kept < plain["critique 1"] - DRAW.max_tokens
    asked = sum(said.prompt_tokens for said in done["answer"])
    assert fewer["critique 2"] <= lengths("critique 2") - asked  # the conversation; the answer is another one now
    assert 0.9 * plain["revision 1"] <= fewer["revision 1"]  # the shipped one quotes, and goes on from nothing
    assert fewer["revision 2"] < plain["revision 2"]  # but has its own beginning from the round before


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_kept_beginning_is_found(seed):
    rng = random.Random(seed)
    store, known = KeptDialogues(budget=200), []
    for _ in range(60):
        ids = [rng.randrange(3) for _ in range(rng.randint(1, 12))]
        found, stored = store.find(ids)
        held = [tuple(one) for one in known if tuple(one) in store._stored]
        assert found == max((shared_beginning(one, ids) for one in held), default=0)
        assert found == 0 or stored[0][:found].flatten().tolist() == ids[:found]
        store.add(ids, [torch.tensor(ids)])
        known.append(ids)
        assert store.tokens == sum(map(len, store._ordered)) == sum(map(len, store._stored)) <= 200
        assert store._ordered == sorted(store._stored)


def test_what_is_continued_gives_way_and_the_oldest_goes_first():
    store = KeptDialogues(budget=10)
    store.add([1, 2], [torch.zeros(2)])
    store.add([1, 2, 3, 4], [torch.zeros(4)])
    assert store._ordered == [(1, 2, 3, 4)] and store.tokens == 4
    store.add([5] * 6, [torch.zeros(6)])
    store.add([6], [torch.zeros(1)])
    assert store._ordered == [(5,) * 6, (6,)]
    store.add([7] * 11, [torch.zeros(11)])
    assert store.find([7] * 11)[0] == 0 and store.tokens == 7
