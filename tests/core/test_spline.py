from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patsy import dmatrix
from scipy.interpolate import BSpline

from polyclinic.core.spline import bspline_basis, natural_basis

X = np.linspace(20.0, 80.0, 241)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("inner", [(), (50.0,), (30.0, 47.5, 61.0)])
def test_b_splines_are_scipys(degree, inner):
    knots = (20.0, *inner, 80.0)
    full = np.r_[[20.0] * degree, knots, [80.0] * degree]
    expected = BSpline.design_matrix(X, full, degree).toarray()
    size = len(knots) - 2 + degree + 1
    assert expected.shape[1] == size
    found = np.column_stack([bspline_basis(X, i, degree, knots) for i in range(size)])
    np.testing.assert_allclose(found, expected, atol=1e-14)


@given(
    st.lists(st.floats(0.01, 0.99), max_size=4, unique=True),
    st.integers(1, 3),
    st.floats(-1.0, 2.0),
)
def test_b_splines_add_up_to_one_everywhere(inner, degree, at):
    knots = (0.0, *sorted(inner), 1.0)
    size = len(knots) - 2 + degree + 1
    total = sum(bspline_basis(np.array([at]), i, degree, knots)[0] for i in range(size))
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("knots", [(20.0, 50.0, 80.0), (25.0, 35.0, 52.0, 70.0)])
def test_natural_splines_span_patsys(knots):
    size = len(knots) - 1
    ours = np.column_stack([np.ones_like(X), *(natural_basis(X, i, knots) for i in range(size))])
    theirs = np.asarray(
        dmatrix(
            "cr(x, knots=inner, lower_bound=lower, upper_bound=upper) - 1",
            {"x": X, "inner": list(knots[1:-1]), "lower": knots[0], "upper": knots[-1]},
        )
    )
    assert np.linalg.matrix_rank(ours) == theirs.shape[1] == len(knots)
    inside = (knots[0] <= X) & (knots[-1] >= X)
    left = np.linalg.lstsq(ours[inside], theirs[inside], rcond=None)[0]
    np.testing.assert_allclose(ours[inside] @ left, theirs[inside], atol=1e-10)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_natural_splines_are_linear_outside(index):
    for x in (np.array([-5.0, 0.0, 5.0, 10.0]), np.array([90.0, 95.0, 100.0, 105.0])):
        value = natural_basis(x, index, (20.0, 40.0, 60.0, 80.0))
        np.testing.assert_allclose(np.diff(value, 2), 0.0, atol=1e-9)


def test_missing_stays_missing():
    x = np.array([np.nan, 50.0])
    for value in (bspline_basis(x, 1, 3, (20.0, 80.0)), natural_basis(x, 1, (20.0, 50.0, 80.0))):
        assert np.isnan(value[0])
        assert np.isfinite(value[1])
