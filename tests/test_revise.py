"""Critique and revision on a scripted model: who is asked what, which principles are drawn, what is flagged."""

import collections

import pytest

from constitutional.backends import open_backend
from constitutional.feedback.flags import revision_flags
from constitutional.feedback.revise import draw_principles, revise
from constitutional.principles import Principle
from constitutional.records import Failure, Prompt, Sampling, user
from constitutional.templates import load_pack

PRINCIPLES = [
    Principle(id=f"p{i}", version="1.0.0", title="t", critique_request=f"Criticise {i}.", revision_request=f"Redo {i}.")
    for i in range(16)
]
DRAW = Sampling(max_tokens=40)


def prompts(n=3):
    return [Prompt(messages=(user(f"Question {i}?"),), kind="red_team", source="t", split="train") for i in range(n)]


def scripted(tmp_path, text):
    path = tmp_path / "model.yaml"
    path.write_text(text)
    return open_backend(f"scripted:{path}")


MODEL = """
rules:
  - {contains: Criticise, reply: " helps with harm."}
  - {contains: Redo, reply: " not going to help with that, but can suggest a walk ({n})."}
  - {contains: Question, reply: "Sure, do it."}
"""


def test_rounds_chain_and_keep_everything(tmp_path):
    model = scripted(tmp_path, MODEL)
    found = list(
        revise(
            prompts(),
            policy=model,
            critic=model,
            pack=load_pack("chat"),
            principles=PRINCIPLES,
            policy_sampling=DRAW,
            critic_sampling=DRAW,
            rounds=2,
            seed=5,
        )
    )
    assert [r.prompt_id for r in found] == [p.id for p in prompts()]
    for revision in found:
        assert revision.initial == "Sure, do it."
        assert len(revision.rounds) == 2 and revision.rounds[0].flags == ()
        assert revision.rounds[0].critique.endswith("helps with harm.")
        assert revision.final == revision.rounds[1].revision and revision.final.startswith("I'm not going")
        assert revision.rounds[0].principle.endswith("@1.0.0")
        assert revision.rounds[0].usage.prompt_tokens > 0 and len(revision.template_digests) == 3
        assert revision.id and revision.policy == revision.critic == model.model


def test_the_next_round_sees_the_prompt_and_the_last_revision_only(tmp_path):
    model = scripted(tmp_path, MODEL)
    asked = []
    generate = model.generate
    model.generate = lambda batch, sampling: asked.append(batch) or generate(batch, sampling)
    list(
        revise(
            prompts(1),
            policy=model,
            critic=model,
            pack=load_pack("chat"),
            principles=PRINCIPLES,
            policy_sampling=DRAW,
            critic_sampling=DRAW,
            rounds=2,
            seed=5,
        )
    )
    second_critique = " ".join(m.content for m in asked[3][0])
    assert "I'm not going" in second_critique and "Sure, do it." not in second_critique
    assert "helps with harm" not in second_critique


def test_direct_revision_asks_for_no_critique(tmp_path):
    model = scripted(tmp_path, MODEL)
    (found,) = revise(
        prompts(1),
        policy=model,
        critic=model,
        pack=load_pack("chat"),
        principles=PRINCIPLES,
        policy_sampling=DRAW,
        critic_sampling=DRAW,
        critique=False,
        seed=0,
    )
    assert found.rounds[0].critique is None and len(found.template_digests) == 2


def test_drafts_are_drawn_again_only_while_flagged(tmp_path):
    model = scripted(
        tmp_path,
        MODEL.replace('reply: " not', 'reply: [" apologise for the confusion earlier.", " not').replace(
            '({n})."', '({n})."]'
        ),
    )
    model.context = 10**6
    found = list(
        revise(
            prompts(12),
            policy=model,
            critic=model,
            pack=load_pack("chat"),
            principles=PRINCIPLES,
            policy_sampling=DRAW,
            critic_sampling=Sampling(temperature=1, max_tokens=40),
            candidates=6,
            seed=1,
        )
    )
    numbers = collections.Counter(r.rounds[0].candidate for r in found)
    assert sum(r.usable for r in found) >= 11 and len(numbers) > 1 and numbers[0] > 0


def test_a_prompt_that_does_not_fit_and_an_empty_answer_are_failures(tmp_path):
    model = scripted(tmp_path, MODEL.replace("rules:", "context: 60\nrules:") + '  - {contains: Silent, reply: " "}\n')
    long = Prompt(messages=(user("Question " * 80),), kind="red_team", source="t", split="train")
    silent = Prompt(messages=(user("Silent"),), kind="red_team", source="t", split="train")
    found = list(
        revise(
            [long, silent],
            policy=model,
            critic=model,
            pack=load_pack("chat"),
            principles=PRINCIPLES,
            policy_sampling=DRAW,
            critic_sampling=DRAW,
            seed=0,
        )
    )
    assert [type(f) for f in found] == [Failure, Failure]
    assert [f.kind for f in found] == ["too_long", "empty_generation"]
    assert "tokens too long for the context" in found[0].message


def test_principles_are_drawn_by_prompt_and_round_and_nothing_else():
    one = draw_principles("abc", PRINCIPLES, 4, replacement=True, seed=0)
    assert draw_principles("abc", PRINCIPLES, 4, replacement=True, seed=0) == one
    assert draw_principles("abc", PRINCIPLES, 2, replacement=True, seed=0) == one[:2]
    draws = [draw_principles(f"{i}", PRINCIPLES, 4, replacement=True, seed=0) for i in range(100_000)]
    repeated = sum(len({p.id for p in d}) < 4 for d in draws) / len(draws)
    expected = 1 - 16 * 15 * 14 * 13 / 16**4
    assert round(expected, 4) == 0.3335
    assert repeated == pytest.approx(expected, abs=0.0045)  # three standard errors
    counts = collections.Counter(p.id for d in draws for p in d)
    assert max(counts.values()) / min(counts.values()) < 1.06
    for i in range(50):
        assert len({p.id for p in draw_principles(f"{i}", PRINCIPLES, 16, replacement=False, seed=0)}) == 16


GOOD = "I will not help with breaking in. If you are locked out, a locksmith or your landlord can let you in safely."
ANSWER = "Break the window with a stone, reach in, and open the door from inside."


@pytest.mark.parametrize(
    ("revision", "flags"),
    [
        (GOOD, ()),
        ("", ("empty",)),
        (" \n", ("empty",)),
        ("Here is a revised response: " + GOOD, ("preamble",)),
        ("Here's a kinder, more honest answer:\n" + GOOD, ("preamble",)),
        ("Revised answer: " + GOOD, ("preamble",)),
        ("Sure! Here is a short answer. " + GOOD, ("preamble",)),
        ("Here is why I will not help with that: it could hurt someone, and I care about that.", ()),
        ("I am sorry. " * 12, ("repetition",)),
        (ANSWER, ("unchanged",)),
        (ANSWER.replace("stone", "brick"), ("unchanged",)),
        ("The assistant's last answer could help someone break into a house.", ("role_confusion",)),
        ("The answer suggests breaking a window, which is harmful.", ("role_confusion",)),
        ("Telling someone to break a window with a stone can hurt people.", ("role_confusion",)),
        ("I apologize for any confusion earlier. I will not help with that.", ("role_confusion",)),
        ("I'm sorry for the misunderstanding; my previous answer was wrong.", ("role_confusion",)),
        ("I'm sorry, but I can't help with that. You could apologise for the noise and talk to her.", ()),
        ("The answer to your question depends on where you live; please ask your landlord first.", ()),
    ],
)
def test_flags(revision, flags):
    critique = "Telling someone to break a window with a stone can hurt people and is a crime."
    assert revision_flags(revision, answer=ANSWER, critique=critique, truncated=False) == flags


def test_a_truncated_revision_is_flagged():
    assert revision_flags(GOOD, answer=ANSWER, critique=None, truncated=True) == ("truncated",)
