"""Ensembles of preference models: their statistics by hand, their folder, their training."""

import json
import shutil
import statistics

import pytest
import torch
from test_preference_model import FAST, planted
from tiny_model import save_tiny_model
from tiny_scorer import save_tiny_scorer

from constitutional.errors import ConfigError
from constitutional.records import assistant, user
from constitutional.training.pairs import bootstrap
from constitutional.training.pm_folder import Ensemble, combine, member_folders, read_ensemble
from constitutional.training.preference_model import Committee, train_preference_model
from constitutional.training.scorer import PreferenceModel, weights_digest

SCORES = [[1.0, 4.0, 0.0], [3.0, 4.0, -3.0], [5.0, 4.0, 9.0]]
DIALOGUES = [(user("How?"), assistant(text)) for text in ("good", "bad pin", "first take a lock")]


def test_statistics_by_hand():
    def combined(rule, spread=1.0, offsets=(0.0, 0.0, 0.0)):
        members = ("member-0", "member-1", "member-2")
        return combine(SCORES, Ensemble(members=members, offsets=offsets, rule=rule, spread=spread))

    assert combined("mean") == pytest.approx([3, 4, 2])
    assert combined("min") == [1, 4, -3]
    deviations = [(8 / 3) ** 0.5, 0.0, 26**0.5]
    assert combined("lower") == pytest.approx([3 - deviations[0], 4, 2 - deviations[2]])
    assert combined("lower", 0.5) == pytest.approx([3 - deviations[0] / 2, 4, 2 - deviations[2] / 2])
    assert combined("lower", 0.0) == combined("mean")
    assert deviations == pytest.approx([statistics.pstdev(column) for column in zip(*SCORES, strict=True)])
    assert combined("min", offsets=(0.0, 3.0, 10.0)) == [-5, -6, -6]
    assert combined("mean", offsets=(1.0, 2.0, 3.0)) == pytest.approx([1, 2, 0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ensemble") / "pm"
    for k in range(3):
        save_tiny_scorer(folder / f"member-{k}", seed=k)
    write(folder)
    return folder


def write(folder, **changes):
    given = {"members": [f"member-{k}" for k in range(3)], "offsets": [0.5, -0.25, 0.0], "rule": "lower", "spread": 2.0}
    (folder / "ensemble.json").write_text(json.dumps({**given, **changes}))


def test_a_folder_opens_like_one_model(folder):
    alone = [PreferenceModel(folder / f"member-{k}").score(DIALOGUES) for k in range(3)]
    found = PreferenceModel(folder).score(DIALOGUES)
    for i, score in enumerate(found):
        column = [own[i] - offset for own, offset in zip(alone, (0.5, -0.25, 0.0), strict=True)]
        assert score == pytest.approx(statistics.fmean(column) - 2 * statistics.pstdev(column), abs=1e-5)
    assert member_folders(folder) == [folder / f"member-{k}" for k in range(3)]
    assert member_folders(folder / "member-1") == [folder / "member-1"]


def test_identity_is_that_of_all_members_and_the_rule(folder, tmp_path):
    model = PreferenceModel(folder).model
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert PreferenceModel(copy).model == model
    write(copy, spread=1.0)
    changed = PreferenceModel(copy).model
    shutil.rmtree(copy / "member-2")
    shutil.copytree(copy / "member-1", copy / "member-2")
    assert len({model, changed, PreferenceModel(copy).model}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": ["member-0", "../pm", "member-2"]}, "no member folder 'member-1'"),
        ({"members": [f"member-{k}" for k in range(4)]}, "no member folder 'member-3'"),
        ({"members": []}, "cannot be read"),
        ({"offsets": [0.0]}, "1 offsets for 3 members"),
        ({"rule": "best"}, "cannot be read"),
    ],
)
def test_a_damaged_ensemble_is_refused_in_one_line(folder, tmp_path, change, message):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    write(copy, **change)
    with pytest.raises(ConfigError, match=message) as caught:
        PreferenceModel(copy)
    assert "\n" not in str(caught.value)


def test_a_bootstrap_draws_as_many_rows_with_replacement():
    pairs = [{"n": i} for i in range(200)]
    one, again, other = bootstrap(pairs, 1), bootstrap(pairs, 1), bootstrap(pairs, 2)
    assert one == again != other
    assert len(one) == 200 and 0.55 < len({pair["n"] for pair in one}) / 200 < 0.72  # 1 - 1/e of them


def test_training_an_ensemble(tmp_path):
    tiny = save_tiny_model(tmp_path / "tiny")
    logs, rows, held = [], planted(24), planted(8, seed=1)
    result = train_preference_model(
        rows,
        held,
        model=tiny,
        output=tmp_path / "pm",
        seed=0,
        committee=Committee(members=2, rule="min"),
        trl={**FAST, "num_train_epochs": 5},
        on_log=logs.append,
    )
    ensemble = read_ensemble(tmp_path / "pm")
    assert ensemble is not None and ensemble.rule == "min" and len(set(ensemble.offsets)) == 2
    assert result.model == PreferenceModel(tmp_path / "pm").model
    assert [m.model for m in result.members] == [f"pm-{weights_digest(m)}" for m in member_folders(tmp_path / "pm")]
    assert len({m.model for m in result.members}) == len({m.seed for m in result.members}) == 2
    assert result.heldout.accuracy == 1.0 and all(m.heldout.n == 8 for m in result.members)
    assert result.train_loss == pytest.approx(sum(m.train_loss for m in result.members) / 2)
    steps = [entry["step"] for entry in logs]
    assert steps == sorted(steps) and steps[-1] == result.steps == logs[-1]["steps"]
    trained_on = [(*row.messages, assistant(text)) for row in rows for text in (row.chosen, row.rejected)]
    for member, offset in zip(member_folders(tmp_path / "pm"), ensemble.offsets, strict=True):
        assert statistics.fmean(PreferenceModel(member).score(trained_on)) == pytest.approx(offset, abs=1e-4)
