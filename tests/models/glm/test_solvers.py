"""All solvers reach the same optimum; penalties against scikit-learn; gradients by difference."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, PoissonRegressor, Ridge

from polyclinic.core.errors import InputError
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.glm import Solver, glm, newton
from polyclinic.models.glm.spec import Spec
from polyclinic.models.glm.tasks import DerivativesTask

from .conftest import CLASSES, design, domain, sample

FAMILIES = ["gaussian", "binomial", "poisson", "gamma", "multinomial"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("solver", "rtol"), [("lbfgs", 1e-7), ("gd", 1e-6)])
def test_same_optimum(fit_glm, family, solver, rtol):
    x, y = sample(family)
    best = fit_glm(x, y, family)
    other = fit_glm(x, y, family, solver=Solver(solver, max_rounds=5000))
    assert other.converged
    np.testing.assert_allclose(other.coef, best.coef, rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(np.diag(other.covariance), np.diag(best.covariance), rtol=1e-6)


@pytest.mark.parametrize("family", ["gaussian", "binomial", "poisson"])
def test_sgd_comes_within_a_fraction_of_a_standard_error(fit_glm, family):
    x, y = sample(family, n=3000)
    best = fit_glm(x, y, family)
    sgd = fit_glm(x, y, family, solver=Solver("sgd", max_rounds=1500, batch=0.2))
    off = np.abs(sgd.coef - best.coef).ravel() / np.sqrt(np.diag(best.covariance))
    assert off.max() < 0.5


@pytest.mark.parametrize("family", ["gaussian", "binomial", "poisson"])
def test_a_batch_of_sgd_belongs_to_its_rows_however_they_are_split(fit_glm, family):
    x, y = sample(family, n=3000)
    solver = Solver("sgd", max_rounds=40, batch=0.2)
    whole, split = (fit_glm(x, y, family, solver=solver, partitions=n) for n in (1, 7))
    assert np.abs(whole.coef).max() > 0.1
    np.testing.assert_allclose(split.coef, whole.coef, rtol=1e-9)


def test_warm_start_changes_nothing(fit_glm):
    x, y = sample("binomial", n=4000)
    cold = fit_glm(x, y, "binomial", solver=Solver(warm_rows=0))
    warm = fit_glm(x, y, "binomial", solver=Solver(warm_rows=300))
    assert warm.rounds != cold.rounds  # the warm path was taken
    np.testing.assert_allclose(warm.coef, cold.coef, rtol=1e-10)
    np.testing.assert_allclose(warm.covariance, cold.covariance, rtol=1e-9)


def asked_for(x, y, family, warm_rows, **more):
    """The share of rows, their draw and the derivatives of each round of a fit."""
    spec = Spec(design(x, y), family, CLASSES.get(family, 0), solver=Solver(warm_rows=warm_rows))
    engine, asked = domain({"X": x, "y": y}), []
    total = engine.total

    def told(plan):
        if "order" in plan.values:
            rows = plan.values["rows"]
            share = round(rows.get("sample", 1.0), 3)
            asked.append((share, rows.get("round"), plan.values["order"]))
        return total(plan)

    engine.total = told
    fit(glm(spec), engine)
    return asked


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_much_data_are_first_seen_in_a_small_sample_then_in_a_larger_one(family, monkeypatch):
    x, y = sample(family, n=30_000)
    warm, wide, *rest = [list(same) for _, same in groupby(asked_for(x, y, family, 600))]
    assert set(warm) == {(0.02, 0, 2)}
    assert wide == [(0.2, 1, 2)]  # asked for once, so sites need not keep it
    gradients, exact = rest
    assert set(gradients) == {(1.0, None, 1)} and exact == [(1.0, None, 2)]
    monkeypatch.setattr(newton, "WIDE", 0.03)
    narrow, *rest = [list(same) for _, same in groupby(asked_for(x, y, family, 600))]
    assert set(narrow) == {(0.02, 0, 2)}
    assert len(gradients) < len(rest[0])  # it pays


def test_a_straight_line_is_found_in_one_step():
    x, y = sample("gaussian", n=30_000)
    assert asked_for(x, y, "gaussian", 600) == [(1.0, None, 2)] * 2


def test_warm_start_on_an_ordered_file(fit_glm):
    x, y = sample("binomial", n=4000)
    order = np.argsort(y, kind="stable")
    warm = fit_glm(x[order], y[order], "binomial", solver=Solver(warm_rows=300), partitions=3)
    cold = fit_glm(x, y, "binomial")
    np.testing.assert_allclose(warm.coef, cold.coef, rtol=1e-9)


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "gd"])
def test_ridge_logistic_equals_scikit_learn(fit_glm, solver):
    x, y = sample("binomial")
    x = (x - x.mean(0)) / x.std(0)
    ours = fit_glm(x, y, "binomial", l2=3.0, solver=Solver(solver, max_rounds=5000))
    theirs = LogisticRegression(C=1 / 3.0, solver="newton-cholesky", tol=1e-12).fit(x, y)
    np.testing.assert_allclose(ours.coef[0, 1:], theirs.coef_[0], rtol=1e-7)
    np.testing.assert_allclose(ours.coef[0, 0], theirs.intercept_[0], rtol=1e-7)


def test_ridge_multinomial_equals_scikit_learn(fit_glm):
    x, y = sample("multinomial")
    x = (x - x.mean(0)) / x.std(0)
    ours = fit_glm(x, y, "multinomial", l2=2.0)
    theirs = LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12).fit(x, y)
    full = np.vstack([np.zeros(5), ours.coef])
    np.testing.assert_allclose((full - full.mean(0))[:, 1:], theirs.coef_, rtol=1e-6, atol=1e-9)


def test_ridge_linear_and_poisson_equal_scikit_learn(fit_glm):
    x, y = sample("gaussian")
    x = (x - x.mean(0)) / x.std(0)
    ours = fit_glm(x, y, "gaussian", l2=5.0)
    np.testing.assert_allclose(ours.coef[0, 1:], Ridge(5.0).fit(x, y).coef_, rtol=1e-10)
    x, y = sample("poisson")
    x = (x - x.mean(0)) / x.std(0)
    ours = fit_glm(x, y, "poisson", l2=6.0)
    theirs = PoissonRegressor(alpha=6.0 / len(y), solver="newton-cholesky", tol=1e-12).fit(x, y)
    np.testing.assert_allclose(ours.coef[0, 1:], theirs.coef_, rtol=1e-8)


def test_lasso_and_elastic_net_equal_scikit_learn(fit_glm):
    x, y = sample("gaussian")
    x, n = (x - x.mean(0)) / x.std(0), len(y)
    ours = fit_glm(x, y, "gaussian", l1=16_000.0)
    theirs = Lasso(16_000.0 / n, tol=1e-14, max_iter=100_000).fit(x, y)
    np.testing.assert_allclose(ours.coef[0, 1:], theirs.coef_, rtol=1e-8, atol=1e-10)
    assert (ours.coef[0] == 0).any() and np.isnan(ours.covariance).all()
    ours = fit_glm(x, y, "gaussian", l1=2000.0, l2=300.0)
    theirs = ElasticNet(2300.0 / n, l1_ratio=2000 / 2300, tol=1e-14, max_iter=100_000).fit(x, y)
    np.testing.assert_allclose(ours.coef[0, 1:], theirs.coef_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", ["binomial", "multinomial"])
def test_lasso_logistic_equals_scikit_learn(fit_glm, family):
    x, y = sample(family)
    x = (x - x.mean(0)) / x.std(0)
    ours = fit_glm(x, y, family, l1=10.0)
    theirs = LogisticRegression(
        C=0.1, l1_ratio=1.0, solver="saga", tol=1e-10, max_iter=200_000
    ).fit(x, y)
    coef = ours.coef[:, 1:]
    np.testing.assert_allclose(coef, theirs.coef_, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_and_hessian_by_finite_difference(family):
    x, y = sample(family, n=50)
    x = (x - x.mean(0)) / x.std(0)
    y = y / 100 if family == "gaussian" else y
    spec = Spec(design(x, y), family, CLASSES.get(family, 0))
    task, rows = DerivativesTask(), Partition({"X": x, "y": y})
    theta = np.random.default_rng(3).normal(size=spec.size) * 0.1

    def at(point, order):
        values = spec.values(theta=np.atleast_2d(point), order=order, shift=np.zeros(4))
        return task.local(Plan("glm.derivatives", values), rows).leaves

    gradient = at(theta, 1)["gradient"][0]
    numeric = approx_fprime(theta, lambda t: at(t, 0)["loss"][0], 1e-7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)
    packed = at(theta, 2)["hessian"][0]
    full = np.zeros((spec.size, spec.size))
    full[np.triu_indices(spec.size)] = packed
    full = full + np.triu(full, 1).T
    numeric = np.array(
        [
            approx_fprime(theta, lambda t, j=j: at(t, 1)["gradient"][0][j], 1e-7)
            for j in range(spec.size)
        ]
    )
    np.testing.assert_allclose(full, numeric, rtol=1e-4, atol=1e-4)


def test_unknown_solver_and_l1_without_newton(fit_glm):
    x, y = sample("binomial", n=50)
    with pytest.raises(InputError, match="UNKNOWN_SOLVER"):
        fit_glm(x, y, "binomial", solver=Solver("magic"))
    with pytest.raises(InputError, match="SOLVER_CANNOT"):
        fit_glm(x, y, "binomial", l1=1.0, solver=Solver("lbfgs"))
