"""Coefficients, standard errors and fit statistics against statsmodels on the pooled rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm

from .conftest import sample

FAMILIES = {
    "gaussian": sm.families.Gaussian(),
    "binomial": sm.families.Binomial(),
    "poisson": sm.families.Poisson(),
    "gamma": sm.families.Gamma(sm.families.links.Log()),
}
HOW = {"one domain": None, "four sites": [240, 430, 480]}


def reference(x, y, family, **more):
    model = sm.GLM(y, sm.add_constant(x, has_constant="add"), family=FAMILIES[family], **more)
    return model.fit(tol=1e-14, maxiter=200)


@pytest.mark.parametrize("partitions", [1, 3, 7])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_pooled_fit(fit_glm, family, how, partitions):
    x, y = sample(family)
    ours = fit_glm(x, y, family, cuts=HOW[how], partitions=partitions)
    theirs = reference(x, y, family)
    np.testing.assert_allclose(ours.coef[0], theirs.params, rtol=1e-10)
    np.testing.assert_allclose(np.sqrt(np.diag(ours.covariance)), theirs.bse, rtol=1e-10)
    np.testing.assert_allclose(ours.deviance, theirs.deviance, rtol=1e-10)
    np.testing.assert_allclose(ours.null_deviance, theirs.null_deviance, rtol=1e-10)
    np.testing.assert_allclose(ours.dispersion, theirs.scale, rtol=1e-10)
    assert ours.converged


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihood_and_aic(fit_glm, family):
    x, y = sample(family)
    ours, theirs = fit_glm(x, y, family), reference(x, y, family)
    if family == "gaussian":
        theirs = sm.OLS(y, sm.add_constant(x)).fit()
        np.testing.assert_allclose(ours.pseudo_r2, theirs.rsquared, rtol=1e-10)
    np.testing.assert_allclose(ours.loglik, theirs.llf, rtol=1e-9)
    np.testing.assert_allclose(ours.aic, theirs.aic, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_offset_and_frequency_weights(fit_glm, family):
    x, y = sample(family)
    rng = np.random.default_rng(1)
    offset, weight = rng.normal(size=len(y)) * 0.1, rng.integers(1, 4, len(y)).astype(float)
    ours = fit_glm(x, y, family, offset=offset, weight=weight)
    theirs = reference(x, y, family, offset=offset, freq_weights=weight)
    np.testing.assert_allclose(ours.coef[0], theirs.params, rtol=1e-10)
    np.testing.assert_allclose(np.sqrt(np.diag(ours.covariance)), theirs.bse, rtol=1e-10)


@pytest.mark.parametrize("how", HOW)
def test_multinomial_equals_mnlogit(fit_glm, how):
    x, y = sample("multinomial")
    x = x * [1.0, 0.1, 1000.0, 1.0] - [0.0, 0.0, 0.0, 2000.0]  # the reference needs fair scales
    theirs = sm.MNLogit(y, sm.add_constant(x)).fit(method="newton", maxiter=100, disp=0)
    ours = fit_glm(x, y, "multinomial", cuts=HOW[how])
    np.testing.assert_allclose(ours.coef, theirs.params.T, rtol=1e-8)
    np.testing.assert_allclose(
        np.sqrt(np.diag(ours.covariance)).reshape(2, -1), theirs.bse.T, rtol=1e-8
    )
    np.testing.assert_allclose(ours.loglik, theirs.llf, rtol=1e-10)


def test_four_sites_with_different_effects(fit_glm):
    """199, 172, 30 and 85 rows whose true effects differ: peers' averages miss the pooled fit."""
    rng = np.random.default_rng(7)
    sizes = [199, 172, 30, 85]
    effects = [(0.5, 1.0, -0.5), (-0.5, 0.2, -1.2), (1.5, 2.0, 0.5), (0.0, 0.4, 0.3)]
    x = rng.standard_normal((sum(sizes), 2)) + np.repeat([0.0, 1.0, -1.5, 0.5], sizes)[:, None]
    b = np.repeat(np.array(effects), sizes, axis=0)
    y = rng.uniform(size=len(x)) < 1 / (1 + np.exp(-(b[:, 0] + (x * b[:, 1:]).sum(1))))
    y = y.astype(float)
    ours = fit_glm(x, y, "binomial", cuts=list(np.cumsum(sizes[:-1])))
    theirs = reference(x, y, "binomial")
    np.testing.assert_allclose(ours.coef[0], theirs.params, rtol=1e-10)
    np.testing.assert_allclose(np.sqrt(np.diag(ours.covariance)), theirs.bse, rtol=1e-10)
    edges = [0, *np.cumsum(sizes)]
    own = [reference(x[a:b], y[a:b], "binomial").params for a, b in pairwise(edges)]
    averaged = np.average(own, axis=0, weights=sizes)
    assert np.abs(averaged - theirs.params).max() > 0.05  # what averaging would have given


@pytest.mark.parametrize("family", FAMILIES)
def test_any_split_and_order_of_sites(fit_glm, family):
    x, y = sample(family)
    one = fit_glm(x, y, family)
    for cuts in ([300], [100, 200, 590]):
        other = fit_glm(x, y, family, cuts=cuts, partitions=3)
        np.testing.assert_allclose(other.coef, one.coef, rtol=1e-10)
    threads = fit_glm(x, y, family, cuts=[300])
    again = fit_glm(x, y, family, cuts=[300])
    assert threads.coef.tobytes() == again.coef.tobytes()
