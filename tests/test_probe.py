"""A fitted first head: the minimum of the trainer's loss on fixed features, its penalty chosen on pairs left out."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from test_preference_model import planted
from tiny_model import save_tiny_model
from tiny_scorer import save_tiny_scorer
from transformers import AutoModelForSequenceClassification

from constitutional.records import assistant
from constitutional.training import probe as module
from constitutional.training.checkpoints import Checkpoints
from constitutional.training.pairs import tokenised_pairs
from constitutional.training.preference_loss import preference_loss
from constitutional.training.preference_model import Committee, train_preference_model
from constitutional.training.probe import PENALTIES, FirstHead, fit_head
from constitutional.training.scorer import PreferenceModel
from constitutional.training.scoring import last_states
from constitutional.training.tokens import open_tokenizer

LEAST = {"learning_rate": 1e-7, "num_train_epochs": 1, "gradient_accumulation_steps": 1, "bf16": False}


def drawn(pairs=80, width=6, seed=0, scale=1.0):
    """Features, and labels that a line through them explains but for noise."""
    draw = np.random.default_rng(seed)
    chosen, rejected = draw.normal(size=(2, pairs, width)) * scale + 3.0  # a common part, as real hidden states have
    odds = (chosen - rejected) / scale @ np.linspace(-1, 1, width)
    return chosen, rejected, 1 / (1 + np.exp(-odds)), draw


def plain(pairs, **changed):
    return {
        "weight": [1.0] * pairs,
        "margin": [0.0] * pairs,
        "groups": [str(i) for i in range(pairs)],
        "centre": 0.0,
        **changed,
    }


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_equals_sklearns_logistic_regression(penalty):
    chosen, rejected, p, draw = drawn()
    hard = (draw.random(80) < p).astype(float)
    weight = draw.uniform(0.5, 2, 80)
    head, _ = fit_head(chosen, rejected, hard.tolist(), **plain(80, weight=weight.tolist()), penalties=[penalty])
    scale = np.sqrt(np.mean((chosen - rejected) ** 2, axis=0))
    theirs = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit((chosen - rejected) / scale, hard, sample_weight=weight)
    assert head == pytest.approx(theirs.coef_[0] / scale, abs=1e-5)


def test_minimises_the_trainers_loss_with_soft_labels_weights_margins_and_centring():
    chosen, rejected, p, draw = drawn(seed=1)
    weight, margin, centre, penalty = draw.uniform(0.5, 2, 80), draw.uniform(0, 1, 80), 0.05, 3.0
    settings = plain(80, weight=weight.tolist(), margin=margin.tolist(), centre=centre)
    head, _ = fit_head(chosen, rejected, p.tolist(), **settings, penalties=[penalty])
    scale = np.sqrt(np.mean((chosen - rejected) ** 2, axis=0))
    tensors = [torch.tensor(np.asarray(x)) for x in (chosen, rejected, p, weight, margin)]

    def loss(flat):
        a, b, label, w, m = tensors
        vector = torch.tensor(flat)
        found = preference_loss(a @ vector, b @ vector, label, weight=w, margin=m, centre=centre)
        return 80 * float(found) + penalty / 2 * float(np.sum((flat * scale) ** 2))

    best = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-6})
    assert loss(head) == pytest.approx(best.fun, abs=1e-6)
    assert head == pytest.approx(best.x, abs=1e-4)
    uncentred, _ = fit_head(chosen, rejected, p.tolist(), **{**settings, "centre": 0.0}, penalties=[penalty])
    assert np.abs((chosen + rejected) @ head).mean() < np.abs((chosen + rejected) @ uncentred).mean()


def test_the_penalty_is_that_of_least_loss_on_pairs_left_out():
    chosen, rejected, _, draw = drawn(pairs=60, width=40, seed=2)
    noise = draw.integers(0, 2, 60).astype(float).tolist()
    assert fit_head(chosen, rejected, noise, **plain(60))[1] == max(PENALTIES)  # nothing to learn
    chosen, rejected, p, _ = drawn(pairs=400, seed=3, scale=3.0)
    certain = (p > 0.5).astype(float).tolist()
    assert fit_head(chosen, rejected, certain, **plain(400))[1] == min(PENALTIES)  # a line without noise


def test_pairs_of_one_group_are_left_out_together():
    """Pairs of noise, each four times: folds by pair would find their copies in training, and choose little penalty."""
    chosen, rejected, _, draw = drawn(pairs=50, width=40, seed=2)
    noise = np.repeat(draw.integers(0, 2, 50).astype(float), 4).tolist()
    many = [np.repeat(side, 4, axis=0) for side in (chosen, rejected)]
    own = [str(i // 4) for i in range(200)]
    together = fit_head(*many, noise, **plain(200, groups=own))[1]
    apart = fit_head(*many, noise, **plain(200))[1]
    assert apart < together


def test_one_group_and_features_that_never_differ():
    chosen, rejected, p, _ = drawn(pairs=8)
    chosen[:, 0] = rejected[:, 0]
    head, penalty = fit_head(chosen, rejected, p.tolist(), **plain(8, groups=["one"] * 8))
    assert penalty == max(PENALTIES) and head[0] == 0 and np.isfinite(head).all() and head[1:].any()


def test_states_are_what_the_head_reads(tmp_path):
    torch.set_num_threads(1)
    folder = save_tiny_scorer(tmp_path / "pm")
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    pad = network.config.pad_token_id
    beginning = list(range(10, 40))
    shared = [[*beginning, 50 + i, 60 + i] for i in range(6)]
    alone = [[70 + i, 9 * i + 5, 33, pad] for i in range(5)]
    for rows in (shared, alone, shared + alone):
        with torch.inference_mode():
            expected = torch.cat([network(torch.tensor([row])).logits for row in rows])
            found = network.score(last_states(network, rows, pad=pad))
        assert torch.allclose(found, expected, atol=1e-5)


def test_training_begins_with_the_probe(tmp_path):
    """At a learning rate of next to nothing the saved model is the probe, where a head of zeros knows nothing."""
    torch.set_num_threads(1)
    tiny, train, test = save_tiny_model(tmp_path / "tiny"), planted(32), planted(12, seed=1)
    fitted = train_preference_model(
        train, test, model=tiny, output=tmp_path / "pm", seed=0, head="probe", trl=LEAST, lora={"r": 2}
    )
    assert fitted.probe.n == 12 and fitted.probe.correct == fitted.heldout.correct == 12
    assert fitted.heldout.calibration_error == pytest.approx(fitted.probe.calibration_error, abs=1e-3)
    scores = PreferenceModel(tmp_path / "pm").score(
        [(*row.messages, assistant(text)) for row in test for text in (row.chosen, row.rejected)]
    )
    assert abs(sum(scores)) / len(scores) < 0.5 < np.mean(np.subtract(scores[::2], scores[1::2]))  # centred, and sure
    plainly = train_preference_model(train, test, model=tiny, output=tmp_path / "zero", seed=0, trl=LEAST)
    assert plainly.probe is None and '"probe"' not in plainly.to_json()
    assert plainly.train_loss > fitted.train_loss + 0.1


def test_of_many_pairs_those_of_lowest_id_are_fitted_and_measured(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(module, "MOST", 5)
    monkeypatch.setattr(module, "BLOCK", 4)
    fitted, told = [], []
    real = module.fit_head
    monkeypatch.setattr(module, "fit_head", lambda *args, **kwargs: fitted.append(args) or real(*args, **kwargs))
    made = [row.model_copy(update={"probability": 0.6 + 0.02 * i}) for i, row in enumerate(planted(16))]
    found = train_preference_model(
        made,
        planted(7, seed=1),
        model=save_tiny_model(tmp_path / "tiny"),
        output=tmp_path / "pm",
        seed=0,
        head="probe",
        trl=LEAST,
        on_features=lambda done, of: told.append((done, of)),
    )
    lowest = sorted(made, key=lambda row: row.preference_id)[:5]
    assert [args[2] for args in fitted] == [[row.probability for row in lowest]]
    assert (found.rows, found.heldout.n, found.probe.n) == (16, 7, 5)
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_a_head_that_was_fitted_is_not_fitted_again(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    tiny, kept = save_tiny_model(tmp_path / "tiny"), Checkpoints(tmp_path / "kept", 1)
    pairs, _ = tokenised_pairs(planted(8), open_tokenizer(tiny), 128)
    first = FirstHead(tiny, pairs, pairs[:2], pad=0).fit(pairs, centre=0.01, checkpoints=kept)

    def never(*_args, **_kwargs):
        raise AssertionError("features are computed again")

    monkeypatch.setattr(module, "last_states", never)
    assert FirstHead(tiny, pairs, pairs[:2], pad=0).fit(pairs, centre=0.01, checkpoints=kept) == first
    with pytest.raises(AssertionError):
        FirstHead(tiny, pairs, [], pad=0).fit(pairs, centre=0.01, checkpoints=None)


def test_every_member_of_an_ensemble_has_a_probe_of_its_own_rows(tmp_path):
    torch.set_num_threads(1)
    found = train_preference_model(
        planted(16),
        planted(6, seed=1),
        model=save_tiny_model(tmp_path / "tiny"),
        output=tmp_path / "pm",
        seed=0,
        head="probe",
        committee=Committee(2),
        trl=LEAST,
    )
    assert found.probe is None
    assert [member.probe.n for member in found.members] == [6, 6]
    assert found.members[0].model != found.members[1].model
