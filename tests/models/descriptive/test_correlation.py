from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from polyclinic.core.fit import fit
from polyclinic.models.descriptive import Column, Correlation
from tests.core.wiring import cut, domain, federation, partition

UNITS = {"x": 1.0, "y": 1e-9, "z": 1e12}
ASKED = tuple(Column(name, "number", bound=20 * unit) for name, unit in UNITS.items())


def sample(n=400):
    draw = np.random.default_rng(11)
    base = draw.normal(size=(n, 3)) @ np.array([[1, 0.5, 0.2], [0, 1, 0.3], [0, 0, 1]]) + 4
    base[draw.random((n, 3)) < 0.2] = np.nan
    return {name: base[:, j] * unit for j, (name, unit) in enumerate(UNITS.items())}


@pytest.mark.parametrize("partitions", [1, 3, 7])
@pytest.mark.parametrize("sites", [(200, 120, 80), None])
def test_equals_pandas_pairwise_complete(partitions, sites):
    data = sample()
    engine = (
        federation(cut(data, sites), partitions=partitions)
        if sites
        else domain(partition(data), partitions)
    )
    found = fit(Correlation(ASKED), engine).model
    pooled = pd.DataFrame(data)
    known = pooled.notna().to_numpy().astype(int)
    assert np.array_equal(found["n"], known.T @ known)
    np.testing.assert_allclose(found["correlation"], pooled.corr(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found["covariance"], pooled.cov(), rtol=1e-11)
    assert np.array_equal(found["covariance"], found["covariance"].T)
    assert not found["hidden_sites"].any()


def test_order_of_sites_same_bytes():
    parts = cut(sample(), (200, 120, 80))
    one = fit(Correlation(ASKED), federation(parts)).model
    two = fit(Correlation(ASKED), federation(dict(reversed(parts.items())))).model
    assert one["correlation"].tobytes() == two["correlation"].tobytes()


def test_degenerate_columns_have_no_correlation():
    data = {"x": np.arange(30.0), "y": np.full(30, 0.1), "z": np.full(30, np.nan)}
    asked = tuple(Column(name, "number", bound=32) for name in data)
    found = fit(Correlation(asked), federation(cut(data, (20, 10)))).model
    assert found["correlation"][0, 0] == 1.0
    assert np.isnan(found["correlation"][1]).all()
    assert np.isnan(found["covariance"][2]).all()
    assert found["n"].tolist() == [[30, 30, 0], [30, 30, 0], [0, 0, 0]]
    assert fit(Correlation(()), domain(partition(data))).model["columns"] == []


def test_a_pair_with_few_patients_is_hidden_alone():
    x, y = np.arange(30.0), np.arange(30.0) ** 2
    x[:13], y[17:] = np.nan, np.nan  # 17 values each, 4 rows with both
    found = fit(
        Correlation((Column("x", "number", bound=32), Column("y", "number", bound=1024))),
        federation(cut({"x": x, "y": y}, (30,))),
    ).model
    assert found["n"].tolist() == [[17, 0], [0, 17]]
    assert found["hidden_sites"].tolist() == [[0, 1], [1, 0]]
    assert np.isnan(found["correlation"][0, 1])


def test_several_rows_per_patient_count_once_behind_a_pair():
    x, y = np.arange(40.0), np.arange(40.0)
    y[16:] = np.nan
    key = np.r_[np.repeat(np.arange(4), 4), np.arange(4, 28)]
    asked = (Column("x", "number", bound=64), Column("y", "number", bound=64))
    found = fit(Correlation(asked), federation({"a": partition({"x": x, "y": y}, key, "a")})).model
    assert found["n"].tolist() == [[40, 0], [0, 0]]
