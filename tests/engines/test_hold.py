"""Rows that stay with the workers of a cluster for many fits."""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest

import polyclinic as pc
from polyclinic.engines import staying
from polyclinic.engines.served import Served
from polyclinic.engines.spool import Spooled
from tests.engines.near import near

RNG = np.random.default_rng(0)
Y = (RNG.uniform(size=300) < 0.4).astype(int)
NAMES = ["age", "bmi", "hba1c"]


@pytest.fixture
def x():
    return RNG.normal(size=(300, 3))


@pytest.fixture
def cluster(tmp_path):
    found = near(tmp_path)
    found.machines.here = True
    yield found
    found.close()
    staying.forget()
    assert staying.staying_bytes() == 0


@pytest.fixture
def read(monkeypatch):
    """Columns that workers have read, by their names."""
    found = []
    for kind in (Served, Spooled):
        monkeypatch.setattr(kind, "load", _told(kind.load, found))
    return found


def _told(load, found):
    def told(self, first, stop, columns):
        found.extend(self.columns)
        return load(self, first, stop, columns)

    return told


LEARNERS = [
    (pc.LogisticRegression, "predict_proba"),
    (pc.LinearSVC, "decision_function"),
    (partial(pc.DecisionTreeClassifier, max_depth=2), "predict_proba"),
]


@pytest.mark.parametrize("in_files", [False, True])
def test_fits_over_held_rows_have_the_same_bytes_and_bring_them_once(x, cluster, read, in_files):
    cluster.machines.here = not in_files
    alone = [make().fit(x, Y) for make, _ in LEARNERS]
    x = cluster.hold(x)
    for (make, way), one in zip(LEARNERS, alone, strict=True):
        fitted = make().fit(x, Y, engine=cluster)
        assert getattr(fitted, way)(x).tobytes() == getattr(one, way)(x).tobytes()
    parts = read.count("y") // len(LEARNERS)
    assert read.count("X") == 0
    assert read.count("held") == (parts * len(LEARNERS) if in_files else parts)


@pytest.mark.parametrize("kind", ["frame", "polars", "float32", "integers", "list", "by column"])
def test_rows_of_every_kind_are_held(x, cluster, read, kind):
    x = np.round(x)
    rows = {
        "frame": pd.DataFrame(x, columns=NAMES, index=np.arange(300) + 7),
        "polars": pl.DataFrame(x, schema=NAMES),
        "float32": x.astype(np.float32),
        "integers": x.astype(np.int32),
        "list": x.tolist(),
        "by column": np.asfortranarray(x),
    }[kind]
    held = cluster.hold(rows)
    fitted = pc.LogisticRegression().fit(held, Y, engine=cluster)
    assert "X" not in read and "held" in read
    assert np.array_equal(fitted.coef_, pc.LogisticRegression().fit(rows, Y).coef_)
    if kind in ("frame", "polars"):
        assert list(fitted.feature_names_in_) == NAMES
        assert cluster.hold(held) is held
    cluster.let_go(held)
    read.clear()
    pc.LogisticRegression().fit(held, Y, engine=cluster)
    assert "held" not in read
    if kind == "frame":
        assert list(held.index) == list(rows.index)
        rows.iloc[:] = 0.0
        assert held.to_numpy().any()


def test_what_is_held_cannot_be_written_to_until_it_is_let_go_of(x, cluster, read):
    held = cluster.hold(x)
    assert held is x and cluster.hold(x) is x
    with pytest.raises(ValueError, match="read-only"):
        x[0, 0] = 1.0
    first = pc.LogisticRegression().fit(x, Y, engine=cluster).coef_
    cluster.let_go(x)
    x[:, 0] = RNG.normal(size=300)
    read.clear()
    second = pc.LogisticRegression().fit(x, Y, engine=cluster).coef_
    assert "held" not in read and not np.array_equal(first, second)
    assert np.array_equal(second, pc.LogisticRegression().fit(x, Y).coef_)
    with pytest.raises(pc.InputError, match="these rows are not held") as error:
        cluster.let_go(x)
    assert error.value.code == "WRONG_VALUE"


def test_a_view_of_other_writers_is_not_taken_for_what_is_held(x, cluster, read):
    below = x[:]  # made before, so it can still be written to
    cluster.hold(x)
    pc.LogisticRegression().fit(below, Y, engine=cluster)
    pc.LogisticRegression().fit(x[:200], Y[:200], engine=cluster)
    assert "held" not in read


def test_weights_are_held_as_well(x, cluster, read):
    weight = cluster.hold(RNG.uniform(1, 2, size=300))
    fitted = pc.LogisticRegression().fit(x, Y, sample_weight=weight, engine=cluster)
    assert "held" in read and "w" not in read
    assert np.array_equal(
        fitted.coef_, pc.LogisticRegression().fit(x, Y, sample_weight=weight).coef_
    )


def test_workers_let_go_when_the_cluster_does(x, tmp_path):
    cluster = near(tmp_path / "one")
    (tmp_path / "one").mkdir()
    cluster.machines.here = True
    x = cluster.hold(x)
    pc.LogisticRegression().fit(x, Y, engine=cluster)
    gc.collect()
    held = staying.staying_bytes()
    assert held == x.nbytes
    cluster.close()
    staying.forget()
    assert staying.staying_bytes() == 0 and x.flags.writeable


def test_a_worker_that_is_lost_leaves_its_rows_to_the_others(x, cluster):
    x = cluster.hold(x)
    expected = pc.LogisticRegression().fit(x, Y).coef_

    def lose(done):
        if done.number == 2:
            cluster.machines.lost.add("w1")
            staying._READ.clear()

    fitted = pc.LogisticRegression().fit(x, Y, engine=cluster, callbacks=[lose])
    assert np.array_equal(fitted.coef_, expected)


def test_rows_that_stay_count_as_memory_of_the_worker(x, cluster):
    cluster.machines.memory = dict.fromkeys(cluster.machines.holders, 4 * x.nbytes)
    x = cluster.hold(x)
    assert cluster._stays.bytes == x.nbytes
    more = cluster.hold(RNG.normal(size=(300, 3)))
    assert isinstance(cluster._stays.of(x), Served)
    assert isinstance(cluster._stays.of(more), Served)
    last = cluster.hold(RNG.normal(size=(300, 3)))
    assert isinstance(cluster._stays.of(last), Spooled)  # half of the memory is taken
    pc.LogisticRegression().fit(x, Y, engine=cluster)
    (holder, *_) = cluster.machines.holders.values()
    assert holder._size() >= x.nbytes


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((2, 2, 2)), "3 dimensions"),
        (np.array([["a", "b"]]), "Cannot cast"),
        (np.array([[1j]]), "Cannot cast"),
        (pd.DataFrame({"a": ["x"]}), "could not convert"),
        ([[1.0], [1.0, 2.0]], "inhomogeneous"),
        (7.0, "0 dimensions"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(rows, said, cluster):
    with pytest.raises(pc.InputError, match=said) as error:
        cluster.hold(rows)
    assert error.value.code == "WRONG_VALUE" and error.value.next


def test_workers_are_asked_what_they_hold_before_they_get_rows(x, cluster, monkeypatch):
    memory, cluster.machines.memory = cluster.machines.memory, {}
    live = cluster.machines.live

    def welcome():
        cluster.machines.memory = memory
        return live()

    monkeypatch.setattr(cluster.machines, "live", welcome)
    assert isinstance(cluster._stays.of(cluster.hold(x)), Served)


def test_workers_elsewhere_need_a_folder(x, cluster):
    cluster.machines.here, cluster.machines.spool = False, ()
    with pytest.raises(pc.InputError, match="other machines"):
        cluster.hold(x)
    assert x.flags.writeable


def test_one_process_has_nothing_to_hold(x):
    engine = pc.Embedded()
    assert engine.hold(x) is x and x.flags.writeable
    engine.let_go(x)
