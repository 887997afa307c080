"""The benchmark of networks over hospitals: same rows for all, settings by validation rows only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from benchmarks.hospitals import FOLDS, Found, Proof, Rows, folded, rounds_of, run, settings, xrays

torch = pytest.importorskip("torch")
SGD = ({"batch_size": 20, "lr": 0.1}, {"batch_size": 20, "lr": 1e-6})


@pytest.fixture
def rows() -> Rows:
    """Series of four steps of two hospitals, and of a third with one class."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 4, 1)).astype("float32")
    y = (x.mean(axis=(1, 2)) + draw.normal(size=300) * 0.3 > 0).astype(float)
    hospital = np.repeat(["a", "b", "c"], 100)
    y[hospital == "c"] = 1
    return Rows(x, y, hospital, np.resize(["train", "train", "val", "test"], 300))


def proof(rows: Rows, federated=SGD) -> Proof:
    return Proof("", lambda seed: rows, "linear", {}, 4, SGD, pc.FedAvg, federated)


def test_x_rays_over_hospitals_are_learned_nearly_as_if_pooled():
    real = xrays(rows_each=400, passes=2)
    rows = real.split(0)
    assert rows.y[rows.of("train", "hospital_4")].min() == 1  # pneumonia only
    assert real.alone(rows, "hospital_4", 0) is None
    small = replace(rows, x=rows.x[..., ::2, ::2])  # a quarter of the pixels
    single, over = settings(0.002)
    form = {"architecture": "mlp", "options": {"hidden": (32,)}}
    one = replace(real, single=single, federated=over, **form)
    federated = one.over_hospitals(small, 0).area(small, "test")
    assert federated > 0.85
    assert federated > one.pooled(small, 0).area(small, "test") - 0.02


def test_a_seed_draws_rows_for_training_and_none_of_the_published_others():
    real = xrays(rows_each=20, passes=1)
    first, other = real.split(0), real.split(1)
    assert [len(first.of("train", name)) for name in first.hospitals] == [20] * 5
    assert len(first.of("test")) == 624 and len(first.of("val")) == 524
    assert (first.x[first.of("test")] == other.x[other.of("test")]).all()
    assert not np.array_equal(first.x[first.of("train")], other.x[other.of("train")])


def test_fifths_hold_every_row_once_and_each_hospitals_share(rows):
    parts = np.array([folded(rows, seed) for seed in range(FOLDS)])
    assert ((parts == "test").sum(axis=0) == 1).all()
    again = np.array([folded(rows, seed) for seed in range(FOLDS, 2 * FOLDS)])
    for fold in parts:  # another repeat has other fifths
        assert not ((again == "test") == (fold == "test")).all(axis=1).any()
    for part in parts:
        for name in rows.hospitals:
            own = rows.hospital == name
            assert abs((part[own] == "test").mean() - 0.2) < 0.02
            assert abs((part[own] == "val").mean() - 0.16) < 0.02


def test_networks_are_chosen_on_validation_rows_only(rows):
    tested = rows.part == "test"
    turned = replace(rows, y=np.where(tested, 1 - rows.y, rows.y))
    one, other = proof(rows).pooled(rows, 0), proof(turned).pooled(turned, 0)
    assert one.setting == SGD[0]  # the other does not move
    assert (one.setting, one.passes, one.val) == (other.setting, other.passes, other.val)
    assert one.area(rows, "test") > 0.8 and other.area(turned, "test") < 0.7
    hidden = np.where(rows.part == "val", 1 - rows.y, rows.y)
    assert proof(rows).pooled(replace(rows, y=hidden), 0).val < 0.7


def test_all_ways_read_their_rows_equally_often(rows):
    assert rounds_of({"batch_size": 5}, 100, 4, 300) == 3
    assert rounds_of({"batch_size": 5, "local_steps": 1}, 100, 4, 300) == 15
    assert rounds_of({"batch_size": 50, "local_steps": 4}, 100, 4, 300) == 1
    one = proof(rows)._fit(rows, rows.of("train", "a"), 0, SGD[0], False)  # a third of the rows
    assert len(one) == 4 and one[-1].network.n_iter_ == 4 * 3
    steps = ({"batch_size": 10, "local_steps": 1, "lr": 0.1},)
    one = proof(rows, steps)
    assert len(one._fit(rows, rows.of("train"), 0, steps[0], True)) == 4
    found = one.over_hospitals(rows, 0)
    assert 1 <= found.passes <= 4 and found.network.n_iter_ == 4 * 150 // (3 * 10)


def test_differences_are_paired_by_seed(rows, capsys):
    found = run(proof(rows), [0, 1])
    said = capsys.readouterr().out
    assert list(found.areas) == ["pooled", "a alone", "b alone", "FedAvg"]
    assert "one class" in said and "| FedAvg less it | " in said
    three = {"pooled": [0.8, 0.9], "a alone": [0.88, 0.7], "b alone": [0.75, 0.8]}
    made = Found("FedAvg", {**three, "FedAvg": [0.875, 0.81]})
    assert made.less("pooled") == pytest.approx([0.075, -0.09])
    assert made.near and made.above and made.above_in == 1
    made.areas["FedAvg"] = [0.79, 0.77]
    assert not made.near and not made.above and made.above_in == 0
