"""Arrays: what is found in one pass over them."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.study.arrays import coded, from_arrays, ranges


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 65_536 + 35])
@pytest.mark.parametrize("kept", [np.ascontiguousarray, np.asfortranarray])
def test_the_smallest_and_largest_value_of_each_column(rows, kept):
    x = np.random.default_rng(rows).normal(size=(rows, 3))
    x[-1, 0] = 100.0
    low, high = ranges(kept(x))
    assert np.array_equal(low, x.min(axis=0)) and np.array_equal(high, x.max(axis=0))
    columns = from_arrays(kept(x), np.zeros(rows), ["a", "b", "c"]).columns()
    assert [(c.name, c.low, c.high) for c in columns] == list(
        zip("abc", low.tolist(), high.tolist(), strict=True)
    )


def test_missing_values_are_passed_over_or_shown():
    x = np.arange(120.0).reshape(40, 3)
    x[[0, 39], 1], x[:, 2] = np.nan, np.nan
    low, high = ranges(x, gaps=True)
    assert low.tolist() == [0.0, 4.0, 0.0] and high.tolist() == [117.0, 115.0, 0.0]
    assert np.isnan(ranges(x)[0]).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "y",
    [
        np.array([3, 1, 1, 3]),
        np.array([0.0, -2.0, 0.0]),
        np.array([1, 2, 3, 2], dtype=np.int8),
        np.array([True, False]),
    ],
)
def test_classes_are_in_order(y):
    found, codes = coded(y)
    classes, places = np.unique(y, return_inverse=True)
    assert found.dtype == y.dtype and found.tolist() == classes.tolist()
    assert codes.dtype == np.float64 and codes.tolist() == places.tolist()
