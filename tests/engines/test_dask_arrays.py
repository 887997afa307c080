"""Rows as Dask arrays at the workers: what XGBoost and LightGBM make of them on Dask."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

import polyclinic as pc
from tests.engines.near import BOOK, near, visits, write

pytest.importorskip("distributed")
xgboost = pytest.importorskip("xgboost")

FORMULA = "readmitted ~ age + C(sex) + hba1c"
PARAMS = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3, "nthread": 1}


@pytest.fixture(scope="module")
def cluster():
    with pc.cluster(workers=2, partitions=3) as found:
        yield found


@pytest.fixture
def files(tmp_path):
    return write(visits(), tmp_path / "visits")


def by_hand(frame):
    """The complete rows of a file as a matrix and an outcome."""
    frame = frame.dropna()
    x = np.column_stack([frame.age, frame.sex == "m", frame.hba1c]).astype(float)
    return x, frame.readmitted.to_numpy(dtype=float)


def test_xgboost_on_dask_grows_the_trees_that_it_grows_here(cluster, files):
    from xgboost import dask

    found = pc.scan(files, BOOK).matrix(FORMULA, engine=cluster)
    x, y = by_hand(visits())
    assert found.names == ("age", "C(sex)[T.m]", "hba1c") and found.weight is None
    np.testing.assert_array_equal(found.client.compute(found.X, sync=True), x)
    np.testing.assert_array_equal(found.client.compute(found.y, sync=True), y)
    with found.client.as_current():
        rows = dask.DaskDMatrix(found.client, found.X, found.y)
        there = dask.train(found.client, PARAMS, rows, num_boost_round=10)["booster"]
    pooled = xgboost.DMatrix(x, y)
    here = xgboost.train(PARAMS, pooled, num_boost_round=10)
    np.testing.assert_allclose(there.predict(pooled), here.predict(pooled), atol=1e-6)
    assert len({worker for key in found.client.who_has().values() for worker in key}) == 2


@pytest.mark.filterwarnings("ignore:Parameter n_jobs will be ignored:UserWarning")
def test_lightgbm_on_dask_learns_as_well_as_here(cluster, files):
    lightgbm = pytest.importorskip("lightgbm")
    found = pc.scan(files, BOOK).matrix(FORMULA, engine=cluster)
    settings = {"n_estimators": 20, "num_leaves": 7, "verbose": -1}
    on_dask = lightgbm.DaskLGBMClassifier(client=found.client, **settings)
    with found.client.as_current():
        there = on_dask.fit(found.X, found.y).booster_
    x, y = by_hand(visits())
    here = lightgbm.LGBMClassifier(**settings).fit(x, y).booster_
    losses = [log_loss(y, one.predict(x)) for one in (there, here)]
    assert losses[0] < 1.03 * losses[1] < 0.9 * log_loss(y, np.full(len(y), y.mean()))


def test_gaps_may_stay_and_weights_come_along(cluster, files):
    data = pc.scan(files, BOOK).cohort(
        missing={"default": "keep", "readmitted": "drop", "age": "drop"},
        columns=["age", "hba1c", "readmitted"],
    )
    found = data.matrix("readmitted ~ hba1c + weights(age)", engine=cluster)
    frame = visits()
    np.testing.assert_array_equal(
        found.client.compute(found.X, sync=True)[:, 0], frame.hba1c.to_numpy()
    )
    np.testing.assert_array_equal(found.client.compute(found.weight, sync=True), frame.age)
    assert np.isnan(frame.hba1c).any()


def test_what_has_no_matrix_is_said(cluster, files, tmp_path):
    data = pc.scan(files, BOOK)
    for formula, engine in (
        (FORMULA, None),
        (FORMULA, pc.Embedded()),
        (FORMULA, near(tmp_path)),
        ("Surv(age, readmitted) ~ hba1c", cluster),
    ):
        with pytest.raises(pc.InputError) as caught:
            data.matrix(formula, engine=engine)
        assert caught.value.code == "WRONG_VALUE"
