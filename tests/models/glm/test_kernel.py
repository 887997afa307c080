"""Sums of the kernel against sums over all rows at once."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.models.glm.family import FAMILIES
from polyclinic.models.glm.kernel import BLOCK_ROWS, Rows, one_predictor
from polyclinic.models.glm.tasks import _column_sums

RNG = np.random.default_rng(0)


def rows(n_rows: int, terms: int, weighted: bool) -> Rows:
    x = RNG.normal(1.0, 2.0, (n_rows, terms))
    y = (RNG.random(n_rows) < 0.3).astype(float)
    return Rows(x, y, RNG.random(n_rows) if weighted else None, None)


@pytest.mark.parametrize("terms", [0, 1, 7, 31, 52, 90])  # up to 51 by products of two arrays
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
def test_derivatives_are_those_of_all_rows_at_once(terms, intercept, shifted):
    given = rows(2 * BLOCK_ROWS + 813, terms, shifted)
    shift = RNG.normal(1.0, 0.1, terms) if shifted else None
    theta = RNG.normal(0.0, 0.1, (2, terms + intercept))
    found = one_predictor(given, FAMILIES["binomial"], theta, 2, shift, intercept)
    x = given.x - (0.0 if shift is None else shift)
    full = np.column_stack([np.ones(len(x)), x]) if intercept else x
    weight = np.ones(len(x)) if given.weight is None else given.weight
    for k, one in enumerate(theta):
        eta = full @ one
        mean = 1.0 / (1.0 + np.exp(-eta))
        loss = np.sum(weight * (np.logaddexp(0.0, eta) - given.y * eta))
        np.testing.assert_allclose(found.loss[k], loss, rtol=1e-12)
        np.testing.assert_allclose(
            found.gradient[k], full.T @ (weight * (mean - given.y)), rtol=1e-11, atol=1e-9
        )
        curved = full.T @ (full * (weight * mean * (1.0 - mean))[:, None])
        np.testing.assert_allclose(found.hessian[k], curved, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("n_rows", [0, 5, BLOCK_ROWS + 1])
def test_column_sums_are_those_of_all_rows_at_once(n_rows, weighted):
    given, shift = rows(n_rows, 3, weighted), np.array([1.0, 0.0, -2.0])
    weight = np.ones(n_rows) if given.weight is None else given.weight
    for moved, x in ((None, given.x), (shift, given.x - shift)):
        sums, squares = _column_sums(given, moved)
        np.testing.assert_allclose(sums, weight @ x, rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(squares, weight @ x**2, rtol=1e-12)
