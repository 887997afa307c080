"""Measures from histograms against scikit-learn, statsmodels, and DeLong's formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.proportion import proportion_confint

from polyclinic.evaluation import metrics


@pytest.fixture(params=[0, 1, 2], ids=["plain", "ties", "few"])
def scores(request):
    rng = np.random.default_rng(request.param)
    n = 25 if request.param == 2 else 400
    y = (rng.uniform(size=n) < 0.4).astype(float)
    p = 1 / (1 + np.exp(-(rng.normal(size=n) + y)))
    return (p.round(1).clip(0.05, 0.95) if request.param == 1 else p), y


def delong_written_out(p, y):
    """Mann-Whitney statistic and its variance from placements, pair by pair."""
    events, others = p[y == 1], p[y == 0]
    psi = (events[:, None] > others) + 0.5 * (events[:, None] == others)
    v10, v01 = psi.mean(axis=1), psi.mean(axis=0)
    variance = v10.var(ddof=1) / len(events) + v01.var(ddof=1) / len(others)
    return psi.mean(), np.sqrt(variance)


def test_auroc_and_its_error(scores):
    p, y = scores
    area, error = metrics.auroc(metrics.exact_histogram(p, y))
    np.testing.assert_allclose(area, roc_auc_score(y, p), rtol=1e-13)
    np.testing.assert_allclose([area, error], delong_written_out(p, y), rtol=1e-12)


def test_binned_auroc_is_near(scores):
    p, y = scores
    place = metrics.bin_of(p)
    histogram = np.stack([np.bincount(place[y == k], minlength=metrics.BINS) for k in (0, 1)])
    assert abs(metrics.auroc(histogram)[0] - roc_auc_score(y, p)) < 5e-3 / len(y) ** 0.5


def test_average_precision_and_roc(scores):
    p, y = scores
    histogram = metrics.exact_histogram(p, y)
    np.testing.assert_allclose(
        metrics.average_precision(histogram), average_precision_score(y, p), rtol=1e-12
    )
    fpr, tpr, _ = roc_curve(y, p, drop_intermediate=False)
    theirs = {(round(a, 12), round(b, 12)) for a, b in zip(fpr, tpr, strict=True)}
    ours = [(round(c["fpr"], 12), round(c["tpr"], 12)) for c in metrics.roc(histogram)]
    assert set(ours) <= theirs and ours[0] == (0.0, 0.0) and ours[-1] == (1.0, 1.0)


@pytest.mark.parametrize(("events", "n"), [(0, 7), (3, 7), (7, 7), (468, 857)])
def test_wilson(events, n):
    np.testing.assert_allclose(
        metrics.wilson(events, n), proportion_confint(events, n, method="wilson"), atol=1e-12
    )


def test_calibration_slope_and_intercept(scores):
    p, y = scores
    eta = metrics.log_odds(p) * 0.7 + 0.3  # miscalibrated on purpose
    found = metrics.calibration(eta, np.ones_like(y), y)
    slope = sm.GLM(y, sm.add_constant(eta), family=sm.families.Binomial()).fit(tol=1e-14)
    level = sm.GLM(y, np.ones_like(y), offset=eta, family=sm.families.Binomial()).fit(tol=1e-14)
    for ours, theirs, i in ((found["slope"], slope, 1), (found["intercept"], level, 0)):
        np.testing.assert_allclose(ours["value"], theirs.params[i], rtol=1e-8)
        np.testing.assert_allclose(
            [ours["lower"], ours["upper"]], theirs.conf_int()[i], rtol=1e-7, atol=1e-9
        )


def test_calibration_bins_hold_every_row_once(scores):
    p, y = scores
    place = metrics.bin_of(p)
    histogram = np.stack([np.bincount(place[y == k], minlength=metrics.BINS) for k in (0, 1)])
    bins = metrics.calibration_bins(
        histogram, np.bincount(place, weights=p, minlength=metrics.BINS)
    )
    assert sum(b["n"] for b in bins) == len(y)
    np.testing.assert_allclose(sum(b["n"] * b["observed"] for b in bins), y.sum())
    np.testing.assert_allclose(sum(b["n"] * b["predicted"] for b in bins), p.sum())
    assert len(bins) <= 10


def test_net_benefit_by_its_definition(scores):
    p, y = scores
    place = metrics.bin_of(p)
    histogram = np.stack([np.bincount(place[y == k], minlength=metrics.BINS) for k in (0, 1)])
    for point in metrics.decision_curve(histogram)[9::20]:
        t = point["threshold"]
        treated = p >= t
        close = np.abs(metrics.log_odds(p) - np.log(t / (1 - t))) < 0.02  # within two bins
        benefit = ((treated & (y == 1)).sum() - (treated & (y == 0)).sum() * t / (1 - t)) / len(y)
        assert abs(point["net_benefit"] - benefit) <= close.sum() / len(y) / (1 - t) + 1e-12
        np.testing.assert_allclose(point["all"], y.mean() - (1 - y.mean()) * t / (1 - t))


def test_confusion(scores):
    p, y = scores
    above = [int(((p >= 0.5) & (y == k)).sum()) for k in (0, 1)]
    found = metrics.confusion(0.5, above, [int((y == k).sum()) for k in (0, 1)])
    assert found["tp"] + found["fp"] + found["tn"] + found["fn"] == len(y)
    np.testing.assert_allclose(found["sensitivity"]["value"], (p[y == 1] >= 0.5).mean())
    np.testing.assert_allclose(found["ppv"]["value"], y[p >= 0.5].mean())


def test_heterogeneity():
    areas, errors = [0.80, 0.90, 0.70, 0.85], [0.02, 0.03, 0.02, 0.05]
    found = metrics.heterogeneity(areas, errors)
    theirs = combine_effects(np.array(areas), np.array(errors) ** 2, method_re="dl")
    np.testing.assert_allclose(found["tau2"], theirs.tau2, rtol=1e-10)
    np.testing.assert_allclose(found["mean"], theirs.mean_effect_re, rtol=1e-10)
    np.testing.assert_allclose(found["i2"], theirs.i2, rtol=1e-10)
    half = stats.t.ppf(0.975, 2) * np.sqrt(found["tau2"] + theirs.var_eff_w_re)
    np.testing.assert_allclose(found["predicted_lower"], found["mean"] - half, rtol=1e-9)
    same = metrics.heterogeneity([0.8, 0.8001, 0.7999], [0.05, 0.05, 0.05])
    assert same["tau2"] == 0.0 and same["i2"] == 0.0
    assert metrics.heterogeneity([0.8], [0.1])["mean"] is None


@pytest.mark.parametrize(("p", "y"), [([], []), ([0.3], [1.0]), ([0.3, 0.4], [0.0, 0.0])])
def test_undefined_measures_are_none(p, y):
    histogram = metrics.exact_histogram(np.array(p), np.array(y))
    assert metrics.auroc(histogram) == (None, None)
    found = metrics.calibration(metrics.log_odds(np.array(p)), np.ones(len(y)), np.array(y))
    assert found["slope"]["value"] is None and found["intercept"]["value"] is None


def test_constant_scores():
    y = np.array([0.0, 1.0] * 10)
    area, error = metrics.auroc(metrics.exact_histogram(np.full(20, 0.3), y))
    assert area == 0.5 and error == 0.0
    assert (
        metrics.auroc(metrics.exact_histogram(np.array([0.0, 1.0]), np.array([0.0, 1.0])))[0] == 1
    )
