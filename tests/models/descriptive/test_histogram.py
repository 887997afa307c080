from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.fit import fit
from polyclinic.models.descriptive import Column, Histogram
from tests.core.wiring import OPEN, cut, domain, federation, partition
from tests.models.descriptive.patients import AGE, DOSE, SIZES, columns


@pytest.mark.parametrize("partitions", [1, 3, 7])
@pytest.mark.parametrize("sites", [SIZES, None])
def test_equals_numpy_on_the_pooled_rows(partitions, sites):
    data = columns()
    engine = (
        federation(cut(data, sites), OPEN, partitions)
        if sites
        else domain(partition(data), partitions)
    )
    found = fit(Histogram((AGE, DOSE), 12), engine).model
    for name in ("age", "dose"):
        x = data[name][~np.isnan(data[name])]
        counts, _ = np.histogram(x, found[name]["edges"])
        assert found[name]["counts"] == counts.tolist()
        assert (found[name]["n"], found[name]["below"], found[name]["above"]) == (len(x), 0, 0)
        assert sum(found[name]["hidden"]) == 0


def test_the_last_bin_holds_the_upper_end_and_outside_is_counted():
    x = [0.0, 1.0, 1.0, -0.5, 1.5, 7.0]
    column = Column("x", "number", lower=0, upper=1)
    found = fit(Histogram((column,), 2), domain(partition({"x": x})))
    assert found.model["x"]["counts"] == np.histogram(x, [0, 0.5, 1])[0].tolist() == [1, 2]
    assert (found.model["x"]["below"], found.model["x"]["above"]) == (1, 2)


def test_whole_numbers_get_bins_of_whole_width():
    x = np.arange(18.0, 111.0)
    found = fit(Histogram((AGE,), 20), domain(partition({"age": x}))).model["age"]
    assert np.all(np.diff(found["edges"])[:-1] == 5.0)
    assert found["edges"][0] == 17.5 and found["edges"][-1] == 110.5
    assert sum(found["counts"]) == 93
    fine = fit(
        Histogram((Column("v", "integer", lower=0, upper=3),), 20),
        domain(partition({"v": [0.0, 1, 1, 3]})),
    ).model["v"]
    assert fine["counts"] == [1, 2, 0, 1]


def test_small_bins_are_hidden_by_patients_not_rows():
    x = np.r_[np.full(12, 0.1), np.full(12, 0.9)]
    key = np.r_[np.repeat(np.arange(4), 3), np.arange(4, 16)]  # 12 rows of 4 patients, 12 of 12
    part = partition({"x": x}, key, "a")
    found = fit(Histogram((Column("x", "number", lower=0, upper=1),), 2), federation({"a": part}))
    assert found.model["x"]["counts"] == [0, 0]  # n less the one shown would give the other
    assert found.model["x"]["hidden"] == [1, 1]
    assert found.model["x"]["n"] == 24


def test_an_empty_site_and_an_all_missing_column():
    x = np.full(40, np.nan)
    found = fit(Histogram((AGE,), 5), federation(cut({"age": x}, (40, 0)))).model["age"]
    assert found["counts"] == [0] * 5
    assert found["n"] == 0
    assert sum(found["hidden"]) == 0
