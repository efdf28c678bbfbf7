"""PPO on a tiny random model: what the networks say, what an update does, and a whole stage."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from rl_tasks import PROMPTS, SMALL, letters_source, policy_folder, prompt
from safetensors.torch import load_file
from tiny_model import save_tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from constitutional.errors import ConfigError, TrainingError
from constitutional.records import Sampling
from constitutional.settings import PpoSettings
from constitutional.training.ppo.losses import policy_losses
from constitutional.training.ppo.networks import drawn_logprobs, open_networks
from constitutional.training.ppo.rollouts import Drawn, draw, lay_out
from constitutional.training.ppo.stage import train_ppo
from constitutional.training.ppo.update import Batch, appraise, improve
from constitutional.training.rewards import RewardSource, Scored
from constitutional.training.scorer import score_ids
from constitutional.training.tokens import dialogue_ids, open_tokenizer

CPU = torch.device("cpu")
LORA = {"r": 4, "alpha": 8, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    torch.set_num_threads(1)
    return policy_folder(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def preference_model(policy, tmp_path_factory):
    """An untrained scorer with a head that says something."""
    folder = tmp_path_factory.mktemp("models") / "pm"
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    with torch.no_grad():
        network.score.weight.normal_(0, 0.5)
    network.save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(policy):
    return open_tokenizer(policy)


@pytest.fixture(scope="module")
def drawn(policy, tokenizer):
    """Answers of several lengths to prompts of several lengths, one of them ended by the model itself."""
    net = AutoModelForCausalLM.from_pretrained(policy).eval()
    texts = ("How?", "How do I pick a lock?", "a", "good bad")
    ids = [dialogue_ids(tokenizer, prompt(text).messages, generation_prompt=True) for text in texts]
    found = draw(net, tokenizer, ids, Sampling(temperature=1.0, max_tokens=6, seed=3))
    answers = [found.answers[0][:2], [*found.answers[1][:3], tokenizer.eos_token_id], *found.answers[2:]]
    return Drawn(found.prompts, answers, found.texts, [False, True, *found.ended[2:]])


def opened(policy, preference_model=None, *, critic="policy", lora=None, temperature=1.0):
    return open_networks(policy, preference_model, critic=critic, lora=lora, temperature=temperature, device=CPU)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_each_answer_alone(policy, tokenizer, drawn, temperature):
    layout = lay_out(drawn, [True] * 4, tokenizer.pad_token_id, CPU)
    net = AutoModelForCausalLM.from_pretrained(policy).eval()
    networks = opened(policy, temperature=temperature)
    logprobs, entropy, values = networks.actor_critic(layout.tokens, layout.attention, layout.mask)
    assert layout.mask.sum(1).tolist() == [len(answer) for answer in drawn.answers]
    assert not values.any()  # a critic made of the policy knows nothing yet
    for row, (before, after) in enumerate(zip(drawn.prompts, drawn.answers, strict=True)):
        logits = net(input_ids=torch.tensor([before + after])).logits[0, len(before) - 1 : -1] / temperature
        expected = torch.stack([step.log_softmax(-1)[token] for step, token in zip(logits, after, strict=True)])
        torch.testing.assert_close(logprobs[row, : len(after)], expected, atol=1e-5, rtol=1e-5)
        spread = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(entropy[row, : len(after)], spread, atol=1e-5, rtol=1e-5)
    with networks.reference.active() as reference:
        assert torch.equal(drawn_logprobs(reference, layout, temperature), logprobs)  # to the last bit: KL is 0


def test_the_critic_starts_as_the_preference_model(policy, preference_model, tokenizer, drawn):
    """The value of a state is the score of what has been said so far."""
    layout = lay_out(drawn, [True] * 4, tokenizer.pad_token_id, CPU)
    networks = opened(policy, preference_model, critic="preference_model")
    values = networks.actor_critic(layout.tokens, layout.attention, layout.mask)[2]
    scorer = AutoModelForSequenceClassification.from_pretrained(preference_model).eval()
    for row, (before, after) in enumerate(zip(drawn.prompts, drawn.answers, strict=True)):
        states = [before + after[:t] for t in range(len(after))]
        expected = torch.tensor(score_ids(scorer, states, pad=tokenizer.pad_token_id))
        torch.testing.assert_close(values[row, : len(after)], expected, atol=1e-4, rtol=1e-4)


def test_a_critic_needs_a_preference_model_that_reads_the_same_tokens(policy, tmp_path):
    with pytest.raises(ConfigError, match="no preference model to start the critic from"):
        opened(policy, critic="preference_model")
    other = save_tiny_model(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match="reads other tokens"):
        opened(policy, other, critic="preference_model")


def batch_of(networks, layout, scores, settings, kl=0.0, temperature=1.0):
    return appraise(
        networks.actor_critic,
        networks.reference,
        layout,
        torch.tensor(scores),
        kl=kl,
        temperature=temperature,
        settings=settings,
        accelerator=Accelerator(cpu=True),
    )


PLAIN = PpoSettings(
    critic="policy", epochs=1, whiten_advantages=False, clip=None, value_clip=None, value_weight=0, max_grad_norm=1e9
)


@pytest.mark.parametrize("changes", [{"micro_batch": 8}, {"micro_batch": 3}, {"clip": 0.2}])
@pytest.mark.parametrize("lora", [None, LORA])
def test_one_epoch_is_the_plain_policy_gradient(policy, tokenizer, drawn, changes, lora):
    """d/dw of the mean of A * log p, of the rewarded rollouts alone, worked out from the bare network."""
    settings = PLAIN.model_copy(update=changes)
    layout = lay_out(drawn, [True, True, False, True], tokenizer.pad_token_id, CPU)
    torch.manual_seed(1)
    networks = opened(policy, lora=lora)
    batch, figures = batch_of(networks, layout, [1.0, -2.0, 99.0, 0.5], settings, kl=0.1)
    assert figures["kl"] == figures["kl_rollout"] == 0.0
    trained = {n: p for n, p in networks.actor_critic.policy.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    logprobs = drawn_logprobs(networks.actor_critic.policy, layout, 1.0)
    kept = [0, 1, 3]
    gain = sum((batch.advantages[i] * logprobs[i] * layout.mask[i]).sum() for i in kept)
    expected = torch.autograd.grad(-gain / layout.mask[kept].sum(), list(trained.values()))
    networks.actor_critic.zero_grad()
    optimizer = torch.optim.SGD([p for p in networks.actor_critic.parameters() if p.requires_grad], lr=1.0)
    improve(
        networks.actor_critic,
        optimizer,
        batch,
        settings=settings,
        accelerator=Accelerator(cpu=True),
        generator=torch.Generator().manual_seed(0),
    )
    assert any(gradient.abs().max() > 1e-3 for gradient in expected)
    for (name, p), gradient in zip(trained.items(), expected, strict=True):
        torch.testing.assert_close(before[name] - p.detach(), gradient, atol=1e-5, rtol=1e-4)


def test_advantages_are_not_the_rewards_of_rollouts_left_out(policy, tokenizer, drawn):
    layout = lay_out(drawn, [True, True, False, True], tokenizer.pad_token_id, CPU)
    networks = opened(policy)
    settings = PLAIN.model_copy(update={"whiten_advantages": True})
    found = [batch_of(networks, layout, [1.0, -2.0, junk, 0.5], settings)[0].advantages for junk in (0.0, 1e6)]
    assert torch.equal(*found) and not found[0][2].any()
    kept = found[0][layout.mask > 0]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-6) and float(kept.std(correction=0)) == pytest.approx(
        1, abs=1e-4
    )


def test_a_clipped_ratio_teaches_nothing_more(policy, tokenizer, drawn):
    """Once the policy has moved past the clip in the direction of the advantage, its gradient is 0."""
    layout = lay_out(drawn, [True] * 4, tokenizer.pad_token_id, CPU)
    net = opened(policy).actor_critic.policy
    new = drawn_logprobs(net, layout, 1.0)
    ones = torch.ones_like(layout.mask)
    for shift, advantage, taught in ((1.0, 1.0, False), (1.0, -1.0, True), (-1.0, -1.0, False), (0.0, 1.0, True)):
        losses = policy_losses(new, new.detach() - shift, advantage * ones, layout.mask, 0.2)
        (gradient,) = torch.autograd.grad(losses.sum(), [new], retain_graph=True)
        assert bool(gradient.any()) is taught


@pytest.fixture
def run(policy, preference_model, tmp_path):
    def call(prompts=PROMPTS, settings=None, **keywords):
        given = {"critic": "policy", "learning_rate": 1e-3, **(settings or {})}
        return train_ppo(
            prompts,
            **{
                **SMALL,
                "policy": policy,
                "preference_model": preference_model,
                "rewards": [letters_source()],
                "output": tmp_path / "rl",
                "settings": PpoSettings(**given),
                **keywords,
            },
        )

    return call


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("critic", ["preference_model", "head"])
def test_a_run_is_traceable_and_starts_at_the_reference(run, policy, tmp_path, critic, lora):
    logs, rows = [], []
    result = run(settings={"critic": critic}, lora=lora, on_log=logs.append, on_reward=rows.extend)
    assert [(entry["step"], entry["steps"]) for entry in logs] == [(1, 2), (2, 2)]
    assert logs[0]["kl"] == 0.0 and logs[1]["kl"] > 0 and result.last_kl == logs[1]["kl"]
    assert (result.steps, result.completions, result.groups, result.prompts) == (2, 16, 2, 6)  # a step is a group
    assert [row.prompt_id for row in rows] == [p.id for p in PROMPTS[:4] for _ in range(4)]
    assert {(part.name, part.kind, part.by) for row in rows for part in row.parts} == {
        ("letters@1.0.0", "check", "check:letters")
    }
    first = [row.score for row in rows if row.step == 1 and row.score is not None]
    assert result.first_reward == logs[0]["reward"] == pytest.approx(sum(first) / len(first))
    before, after = (load_file(folder / "model.safetensors") for folder in (policy, tmp_path / "rl"))
    assert before.keys() == after.keys()  # merged: no adapter is left, and no value head
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert AutoTokenizer.from_pretrained(tmp_path / "rl").chat_template


def test_same_seed_same_weights_whatever_goes_through_at_a_time(run, tmp_path):
    for name, changes in (("a", {}), ("b", {}), ("c", {"seed": 1}), ("d", {"settings": {"micro_batch": 3}})):
        run(output=tmp_path / name, **changes)
    a, b, c, d = (load_file(tmp_path / name / "model.safetensors") for name in "abcd")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)
    assert all(torch.allclose(a[key], d[key], atol=1e-4) for key in a)


def judged(fails):
    """A judge that cannot grade some answers."""

    def score(prompts, texts):
        return [Scored(error="no grade") if fails(i) else Scored(len(text) / 10) for i, text in enumerate(texts)]

    return RewardSource("kind@1.0.0", "judge", "a judge", 2.0, score)


def test_a_rollout_the_judge_cannot_grade_is_left_out_and_counted(run):
    logs, rows = [], []
    result = run(rewards=[letters_source(), judged(lambda i: i % 3 == 0)], on_log=logs.append, on_reward=rows.extend)
    failed = [row for row in rows if any(part.error for part in row.parts)]
    assert failed and all(row.score is None for row in failed)
    assert result.unrewarded == len(failed) == sum(entry["unrewarded"] for entry in logs)
    whole = next(row for row in rows if row.score is not None)
    assert whole.score == pytest.approx(sum(part.weight * part.score for part in whole.parts))
    assert {part.name for part in whole.parts} == {"letters@1.0.0", "kind@1.0.0"}
    assert logs[0]["rewards/kind@1.0.0/mean"] > 0


def test_a_step_without_any_reward_stops(run, tmp_path):
    with pytest.raises(TrainingError, match="no rollout of step 1 has a reward: no grade"):
        run(rewards=[judged(lambda i: True)])
    assert not (tmp_path / "rl").exists()


def test_no_reference_where_kl_is_not_counted(run):
    logs = []
    assert run(kl=0.0, on_log=logs.append).last_kl is None and "kl" not in logs[0]


def test_the_adaptive_coefficient_falls_while_kl_is_below_its_target(run):
    logs = []
    run(settings={"kl_target": 50.0, "kl_horizon": 8}, on_log=logs.append)
    assert logs[0]["kl_coefficient"] == 0.05 and logs[1]["kl_coefficient"] == pytest.approx(0.05 * 0.8)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"steps": 0}, ConfigError, "steps is 0"),
        ({"temperature": 0.0}, ConfigError, "temperature is 0"),
        ({"settings": {"minibatches": 9}}, ConfigError, "9, but a step has 8 rollouts"),
        ({"prompts_per_step": 7}, TrainingError, "6 different prompts, but a step needs 7"),
        ({"settings": {"learning_rate": 1e-30}}, TrainingError, "no weight changed in 2 steps"),
        ({"rewards": []}, TrainingError, "nothing to reward"),
    ],
)
def test_what_would_do_nothing_is_refused(run, tmp_path, keywords, error, message):
    with pytest.raises(error, match=message) as caught:
        run(**keywords)
    assert "\n" not in str(caught.value) and not (tmp_path / "rl").exists()


def test_another_reference_is_noticed(run, monkeypatch):
    from constitutional.training.ppo import networks

    real = networks.drawn_logprobs
    monkeypatch.setattr("constitutional.training.ppo.update.drawn_logprobs", lambda *a: real(*a) - 0.5)
    with pytest.raises(TrainingError, match=r"KL to the reference is .* at step 1"):
        run()


def test_rows_of_a_batch_stay_together():
    ones = torch.arange(6.0).reshape(3, 2)
    layout = lay_out(Drawn([[1], [2], [3]], [[4, 5]] * 3, [""] * 3, [False] * 3), [True] * 3, 0, CPU)
    part = Batch(layout, ones, ones, ones, ones).rows(torch.tensor([2, 0]))
    assert part.returns.tolist() == [[4, 5], [0, 1]] and part.layout.tokens[:, 0].tolist() == [3, 1]
