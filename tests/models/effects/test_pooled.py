"""Effects equal those of pooled rows: statsmodels', those written down by hand, and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.treatment.treatment_effects import TreatmentEffect

import polyclinic as pc
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.effects import Effect
from polyclinic.models.effects.algorithm import models, question
from polyclinic.models.effects.means import MeansTask
from tests.models.effects.world import by_hand, hospitals, matrix, pooled, rows, spec

DATA, EVENTS = rows(900, 3), rows(900, 4, binary=True)
CUTS = [300, 420, 640]
METHODS = ("aipw", "ipw", "regression")


@pytest.mark.parametrize(
    ("method", "estimand"),
    [("aipw", "ate"), ("ipw", "ate"), ("regression", "ate"), ("ipw", "att"), ("regression", "att")],
)
def test_equals_statsmodels(method, estimand):
    x, a = matrix(DATA), DATA["a"].astype(int)
    select = sm.Logit(a, x).fit(disp=0, tol=1e-14)
    theirs = TreatmentEffect(sm.OLS(DATA["y"], x), a, results_select=select)
    ask = getattr(theirs, {"regression": "ra"}.get(method, method))
    group = {} if estimand == "ate" else {"effect_group": 1}
    wanted = ask(return_results=True, disp=False, **group).results_gmm
    one = pooled(DATA, spec(method=method, estimand=estimand)).contrasts()[0]
    np.testing.assert_allclose(one.estimate, wanted.params[0], rtol=1e-6)  # their optimiser's
    np.testing.assert_allclose(one.se, wanted.bse[0], rtol=1e-5)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("estimand", ["ate", "att"])
def test_equals_what_is_written_down_by_hand(estimand, binary):
    data = EVENTS if binary else DATA
    asked = spec(binary, estimand=estimand)
    found: Effect = fit(asked.algorithm(), hospitals(data, CUTS, partitions=3)).model
    for method in METHODS:
        mean, covariance = by_hand(data, method, estimand, binary)
        np.testing.assert_allclose(found.mean(method), mean, rtol=1e-9)
        np.testing.assert_allclose(found.covariance(method), covariance, rtol=1e-8)


def test_a_doubly_robust_effect_brings_the_other_methods_along():
    found = pooled(EVENTS, spec(True))
    for method in METHODS:
        alone = pooled(EVENTS, spec(True, method=method))
        np.testing.assert_array_equal(found.mean(method), alone.mean())
        np.testing.assert_array_equal(found.covariance(method), alone.covariance())


def test_the_error_of_weighting_counts_that_the_propensity_is_estimated():
    """With known weights it would be larger: that is what estimating them brings."""
    found = pooled(DATA, spec(method="ipw"))
    e = sm.Logit(DATA["a"], matrix(DATA)).fit(disp=0, tol=1e-14).predict()
    a, y, (m0, m1) = DATA["a"], DATA["y"], found.mean()
    w1, w0 = a / e, (1 - a) / (1 - e)
    naive = np.sqrt(np.sum((w1 * (y - m1) / w1.sum() - w0 * (y - m0) / w0.sum()) ** 2))
    assert found.contrasts()[0].se < 0.95 * naive


def test_ratios_by_the_delta_method():
    found = pooled(EVENTS, spec(True))
    mean, covariance = found.mean(), found.covariance()
    by_name = {one.name: one for one in found.contrasts()}
    slopes = {"risk ratio": 1 / mean, "odds ratio": 1 / (mean * (1 - mean))}
    odds = mean / (1 - mean)
    values = {"risk ratio": mean[1] / mean[0], "odds ratio": odds[1] / odds[0]}
    for name, slope in slopes.items():
        gradient = slope * [-1, 1]
        se = np.sqrt(gradient @ covariance @ gradient)
        one, log = by_name[name], np.log(values[name])
        wanted = (values[name], se, *np.exp(log + np.array([-1, 1]) * stats.norm.ppf(0.975) * se))
        np.testing.assert_allclose((one.estimate, one.se, one.lower, one.upper), wanted, rtol=1e-12)
        np.testing.assert_allclose(one.p, 2 * stats.norm.sf(abs(log) / se), rtol=1e-9)
    difference = by_name["risk difference"]
    needed = found.needed_to_treat()
    assert needed is not None
    wanted = (1 / difference.estimate, 1 / difference.upper, 1 / difference.lower)
    np.testing.assert_allclose(needed, wanted, rtol=1e-12)


def test_no_number_to_treat_where_the_difference_may_be_nothing():
    data = rows(300, 1, binary=True)
    data["y"] = (np.random.default_rng(0).random(300) < 0.5) * 1.0
    assert pooled(data, spec(True)).needed_to_treat() is None


def test_in_a_random_trial_regression_is_the_adjusted_difference_of_means():
    """Lin's estimator: centred covariates times the treatment, in one regression."""
    data = rows(600, 8, pull=0.0)
    x = matrix(data)[:, 1:]
    centred, a = x - x.mean(axis=0), data["a"]
    full = sm.add_constant(np.column_stack([a, centred, a[:, None] * centred]))
    lin = sm.OLS(data["y"], full).fit().params[1]
    found = pooled(data, spec(method="regression")).contrasts()[0]
    np.testing.assert_allclose(found.estimate, lin, rtol=1e-10)
    effect = pooled(data, spec())
    assert abs(effect.contrasts()[0].estimate - lin) < 0.2 * effect.contrasts()[0].se
    assert effect.contrasts()[0].se < effect.contrasts("unadjusted")[0].se


def test_the_unadjusted_difference_is_that_of_the_means():
    wanted = stats.ttest_ind(DATA["y"][DATA["a"] == 1], DATA["y"][DATA["a"] == 0], equal_var=False)
    one = pooled(DATA, spec()).contrasts("unadjusted")[0]
    np.testing.assert_allclose(one.estimate / one.se, wanted.statistic, rtol=1e-10)


def test_balance_and_effective_sizes():
    found = pooled(DATA, spec())
    e = sm.Logit(DATA["a"], matrix(DATA)).fit(disp=0, tol=1e-14).predict()
    a = DATA["a"]
    w = np.where(a == 1, 1 / e, 1 / (1 - e))
    for row in found.balance:
        x = DATA[row["column"]]
        sd = np.sqrt((x[a == 1].var() + x[a == 0].var()) / 2)
        plain = (x[a == 1].mean() - x[a == 0].mean()) / sd
        after = (np.average(x[a == 1], weights=w[a == 1])
                 - np.average(x[a == 0], weights=w[a == 0])) / sd  # fmt: skip
        got = (row["smd_before"], row["smd_after"])
        np.testing.assert_allclose(got, (plain, after), rtol=1e-8, atol=1e-12)
        assert abs(after) < abs(plain)
    effective = found.effective
    assert effective is not None
    wanted = [w[a == arm].sum() ** 2 / (w[a == arm] ** 2).sum() for arm in (0, 1)]
    np.testing.assert_allclose(effective, wanted, rtol=1e-9)
    counts, hidden = found.scores
    bins = np.linspace(0, 1, 21)
    for arm in (0, 1):  # five neighbours count at their mean: who is near an edge may move by one
        exact = np.histogram(e[a == arm], bins)[0]
        np.testing.assert_allclose(np.cumsum(counts[arm]), np.cumsum(exact), atol=4)
        assert counts[arm].sum() == exact.sum()
    assert not hidden.any()


def test_the_derivatives_of_the_means_are_those_by_finite_differences():
    asked, part = spec(True), Partition(dict(EVENTS))
    state = fit(asked.algorithm(), pc.Embedded().domain(part)).state
    given = models(asked, state["done"], "aipw", False)

    def sums(method, **moved):
        plan = question(asked, "effects.means", {"method": method, **given, **moved}, "")
        return MeansTask().local(Plan(plan.task, plan.values), part).leaves

    for method in ("aipw", "ipw"):
        here, h = sums(method), 1e-5
        for j in range(4):
            step = np.zeros((1, 4))
            step[0, j] = h
            up, down = (sums(method, propensity=given["propensity"] + s * step) for s in (1, -1))
            for name in ("u", "v"):
                change = (up[name] - down[name]) / (2 * h)
                wanted = here[f"{name}_propensity"][:, j]
                np.testing.assert_allclose(wanted, change, rtol=1e-5, atol=1e-5)
            up, down = (sums(method, outcome=given["outcome"] + s * step[:, None]) for s in (1, -1))
            change = (up["u"] - down["u"]) / (2 * h)
            np.testing.assert_allclose(here["u_outcome"][:, j], change, rtol=1e-5, atol=1e-5)


def test_rows_of_a_patient_count_together():
    """Twice the same rows, as rows of the same patients, are worth no more than once."""
    once = pooled(DATA, spec(modifiers=("x",), folds=2))
    twice = {name: np.repeat(values, 2) for name, values in DATA.items()}
    key = np.repeat(np.arange(900), 2)
    found = pooled(twice, spec(modifiers=("x",), folds=2), key)
    np.testing.assert_allclose(found.mean(), once.mean(), rtol=1e-9)
    np.testing.assert_allclose(found.covariance(), once.covariance(), rtol=1e-8)
    assert found.modified is not None and once.modified is not None
    np.testing.assert_allclose(found.modified.coef, once.modified.coef, rtol=1e-8)
    np.testing.assert_allclose(found.modified.covariance, once.modified.covariance, rtol=1e-7)
    apart = pooled(twice, spec())
    np.testing.assert_allclose(2 * apart.covariance(), once.covariance(), rtol=1e-8)


def _without(data, k, folds):
    kept = np.arange(len(data["a"])) % folds != k
    return {name: values[kept] for name, values in data.items()}


def _crossed(data, folds):
    """Propensity and outcome models of each row's other folds, (n,), (n, 2)."""
    x, n = matrix(data), len(data["a"])
    e, m = np.zeros(n), np.zeros((n, 2))
    for k in range(folds):
        part, out = _without(data, k, folds), np.arange(n) % folds == k
        xs = matrix(part)
        e[out] = sm.Logit(part["a"], xs).fit(disp=0, tol=1e-14).predict(x[out])
        for arm in (0, 1):
            inside = part["a"] == arm
            m[out, arm] = sm.OLS(part["y"][inside], xs[inside]).fit().predict(x[out])
    return e, m


def test_the_modified_effect_is_weighted_least_squares_of_what_is_left():
    found = pooled(DATA, spec(modifiers=("x", "c"), folds=4)).modified
    assert found is not None
    e, m = _crossed(DATA, 4)
    treated = DATA["a"] - e
    left = DATA["y"] - (1 - e) * m[:, 0] - e * m[:, 1]
    z = sm.add_constant(np.column_stack([DATA["x"], DATA["c"]]))
    wanted = sm.OLS(left, treated[:, None] * z).fit(cov_type="HC0")
    np.testing.assert_allclose(found.coef, wanted.params, rtol=1e-8)
    np.testing.assert_allclose(found.covariance, wanted.cov_params(), rtol=1e-7)
    chi, df, p = found.test()
    theirs = wanted.wald_test(np.eye(3)[1:], use_f=False, scalar=True)
    np.testing.assert_allclose((chi, df, p), (theirs.statistic, 2, theirs.pvalue), rtol=1e-6)
    assert found.names == ("Intercept", "x", "c")


def test_a_cross_fitted_average_is_the_mean_of_its_scores():
    found = pooled(DATA, spec(cross_fit=True, folds=3))
    e, m = _crossed(DATA, 3)
    a, y = DATA["a"], DATA["y"]
    scores = m[:, 1] - m[:, 0] + a / e * (y - m[:, 1]) - (1 - a) / (1 - e) * (y - m[:, 0])
    one = found.contrasts()[0]
    np.testing.assert_allclose(one.estimate, scores.mean(), rtol=1e-9)
    np.testing.assert_allclose(one.se, scores.std() / np.sqrt(900), rtol=1e-8)


def test_effects_of_patients_and_their_intervals():
    effect = pooled(DATA, spec(modifiers=("x",)))
    found = effect.modified
    assert found is not None
    new = Partition({"x": np.array([-1.5, 0.0, 2.0])})
    value, lower, upper = effect.effect_of(new, 0.9)
    z = np.column_stack([np.ones(3), new.columns["x"]])
    se = np.sqrt(np.diag(z @ found.covariance @ z.T))
    np.testing.assert_allclose(value, z @ found.coef, rtol=1e-12)
    np.testing.assert_allclose(upper - lower, 2 * stats.norm.ppf(0.95) * se, rtol=1e-12)


def test_propensities_beyond_the_bounds_are_held_there():
    data = rows(900, 3, pull=2.0)
    found = pooled(data, spec(method="ipw", trim=0.1))
    e = sm.Logit(data["a"], matrix(data)).fit(disp=0, tol=1e-14).predict()
    assert np.any((e < 0.1) | (e > 0.9))
    held, a, y = np.clip(e, 0.1, 0.9), data["a"], data["y"]
    wanted = [np.average(y, weights=(1 - a) / (1 - held)), np.average(y, weights=a / held)]
    np.testing.assert_allclose(found.mean(), wanted, rtol=1e-9)
    assert not np.allclose(wanted, pooled(data, spec(method="ipw")).mean(), rtol=1e-4)
