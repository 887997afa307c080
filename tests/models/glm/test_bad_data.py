"""Degenerate and hostile data: named in plain words, never a wrong number without a word."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.errors import InputError, Refused

from .conftest import sample


def test_constant_and_collinear_columns_are_left_out_and_named(fit_glm):
    x, y = sample("binomial")
    wide = np.column_stack([x, np.full(len(y), 7.0), x[:, 0] + 2 * x[:, 1]])
    ours, plain = fit_glm(wide, y, "binomial"), fit_glm(x, y, "binomial")
    assert ours.active.tolist() == [True] * 5 + [False, False]
    np.testing.assert_allclose(ours.coef[0, :5], plain.coef[0], rtol=1e-9)
    assert np.isnan(np.diag(ours.covariance)[5:]).all()
    assert set(ours.made_up_of(5)) == {0} or ours.made_up_of(5) == {}
    assert set(ours.made_up_of(6)) == {1, 2}


def test_a_column_of_zeros(fit_glm):
    x, y = sample("gaussian", n=40)
    ours = fit_glm(np.column_stack([x, np.zeros(40)]), y, "gaussian")
    assert not ours.active[-1] and ours.coef[0, -1] == 0


def test_more_columns_than_rows(fit_glm):
    rng = np.random.default_rng(0)
    ours = fit_glm(rng.normal(size=(6, 9)), rng.normal(size=6), "gaussian")
    assert ours.active.sum() == 6 and ours.df_resid == 0


@pytest.mark.parametrize("family", ["binomial", "multinomial"])
def test_separation_is_named(fit_glm, family):
    x = np.linspace(-1, 1, 60)[:, None]
    y = (x[:, 0] > 0).astype(float) + ((x[:, 0] > 0.5) if family == "multinomial" else 0)
    assert fit_glm(x, y, family).end == "separated"
    assert fit_glm(x, y, family, l2=1.0).converged


def test_one_class(fit_glm):
    with pytest.raises(InputError, match="ONE_CLASS"):
        fit_glm(np.ones((20, 1)), np.ones(20), "binomial")


def test_a_class_without_rows(fit_glm):
    with pytest.raises(InputError, match="EMPTY_CLASS"):
        fit_glm(np.arange(20.0)[:, None], np.tile([0.0, 2.0], 10), "multinomial")


@pytest.mark.parametrize(
    ("family", "bad"), [("binomial", 2.0), ("poisson", -1.0), ("gamma", 0.0), ("multinomial", 1.5)]
)
def test_outcome_that_the_family_cannot_have(fit_glm, family, bad):
    x, y = sample(family, n=60)
    y[7] = bad
    with pytest.raises(InputError, match="OUTCOME_NOT_ALLOWED"):
        fit_glm(x, y, family)


def test_all_counts_zero(fit_glm):
    with pytest.raises(InputError, match="every count is 0"):
        fit_glm(np.arange(9.0)[:, None], np.zeros(9), "poisson")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_site_never_releases_nan_or_infinity(fit_glm, value):
    x, y = sample("gaussian", n=60)
    x[3, 1] = value
    with pytest.raises(Refused, match="NONFINITE"):
        fit_glm(x, y, "gaussian", cuts=[30])


def test_a_site_below_the_minimum_is_refused_and_named(fit_glm):
    x, y = sample("gaussian", n=60)
    with pytest.raises(Refused, match=r"site1 refused.*TOO_FEW_PATIENTS"):
        fit_glm(x, y, "gaussian", cuts=[56])


def test_one_row_and_intercept_only(fit_glm):
    ours = fit_glm(np.zeros((1, 0)), np.array([3.0]), "gaussian")
    np.testing.assert_allclose(ours.coef, [[3.0]])
    assert np.isnan(ours.dispersion)


def test_large_counts_need_damped_steps(fit_glm):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 2)) * 3
    y = rng.poisson(np.exp(np.clip(2 * x[:, 0], -5, 12))).astype(float)
    ours = fit_glm(x, y, "poisson")
    assert ours.converged
    mean = np.exp(ours.coef[0, 0] + x @ ours.coef[0, 1:])
    np.testing.assert_allclose((y - mean).sum(), 0.0, atol=1e-4)
    np.testing.assert_allclose(x.T @ (y - mean), 0.0, atol=1e-3)
