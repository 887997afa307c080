"""Ensembles against scikit-learn and statsmodels over base models that scikit-learn has fitted."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import StackingClassifier, VotingClassifier, VotingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, log_loss, mean_squared_error, r2_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import LabelEncoder
from sklearn.svm import SVC

import polyclinic as pc
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.core.sampling import uniform
from polyclinic.models.ensembles.threshold import threshold
from polyclinic.models.ensembles.train import FOLDS, SAMPLE
from polyclinic.study.arrays import from_arrays

SITES, N = ("a", "b", "c"), 630
EXACT = {"C": np.inf, "solver": "newton-cholesky", "tol": 1e-13, "max_iter": 200}


def rows():
    draw = np.random.default_rng(7)
    labels = draw.choice(SITES, N, p=(0.5, 0.3, 0.2))
    x = draw.normal(size=(N, 3)) + (labels == "b")[:, None]
    eta = x @ [1.0, -0.6, 0.3] - 0.8 + 0.5 * (labels == "c")
    return (
        x,
        (draw.random(N) < 1 / (1 + np.exp(-eta))).astype(int),
        eta + draw.normal(size=N),
        labels,
    )


X, Y, NUMBER, LABELS = rows()
ALL = np.ones(N, dtype=bool)


def classifiers(make=lambda: LogisticRegression(**EXACT)):
    return {s: make().fit(X[s == LABELS], Y[s == LABELS]) for s in SITES}


def regressors():
    return {s: LinearRegression().fit(X[s == LABELS], NUMBER[s == LABELS]) for s in SITES}


def voting(kind, weights=None):
    """scikit-learn's vote over models that are fitted already."""
    found = VotingClassifier([(s, None) for s in SITES], voting=kind, weights=weights)
    found.estimators_ = list(classifiers().values())
    found.le_ = LabelEncoder().fit(Y)
    found.classes_ = found.le_.classes_
    return found


def test_soft_votes():
    model = pc.Voting().fit(X, Y, sites=LABELS)
    np.testing.assert_allclose(model.predict_proba(X), voting("soft").predict_proba(X), rtol=1e-9)
    assert np.array_equal(model.predict(X), voting("soft").predict(X))


def test_hard_votes():
    model = pc.Voting(voting="hard").fit(X, Y, sites=LABELS)
    assert np.array_equal(model.predict(X), voting("hard").predict(X))
    assert set(np.rint(3 * model.predict_proba(X)[:, 1])) == {0, 1, 2, 3}


def test_weights_by_size():
    sizes = [int((s == LABELS).sum()) for s in SITES]
    model = pc.WeightedAverage().fit(X, Y, sites=LABELS)
    wanted = voting("soft", sizes).predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X), wanted, rtol=1e-9)


def test_numbers_are_averaged():
    model = pc.Voting(base="linear").fit(X, NUMBER, sites=LABELS)
    reference = VotingRegressor([(s, None) for s in SITES])
    reference.estimators_ = list(regressors().values())
    np.testing.assert_allclose(model.predict(X), reference.predict(X), rtol=1e-9, atol=1e-11)


def test_the_matrix_is_what_each_site_finds_and_the_best_elsewhere_wins():
    model = pc.SelectBest().fit(X, Y, sites=LABELS)
    means = {}
    for one, fitted in classifiers().items():
        cells = {}
        for other in SITES:
            at = other == LABELS
            cells[other] = roc_auc_score(Y[at], fitted.predict_proba(X[at])[:, 1])
            assert model.result_.cells[one][other]["auroc"] == pytest.approx(
                cells[other], abs=1e-12
            )
            loss = log_loss(Y[at], fitted.predict_proba(X[at])[:, 1])
            assert model.result_.cells[one][other]["log_loss"] == pytest.approx(loss, abs=0.00501)
        n = {other: (other == LABELS).sum() for other in SITES if other != one}
        means[one] = sum(n[s] * cells[s] for s in n) / sum(n.values())
        assert model.result_.elsewhere[one] == pytest.approx(means[one], abs=1e-12)
    best = max(means, key=means.get)
    assert model.weights_ == {s: float(s == best) for s in SITES}
    wanted = classifiers()[best].predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X), wanted, rtol=1e-9)


def test_the_matrix_of_a_number():
    model = pc.SelectBest(base="linear", metric="mse").fit(X, NUMBER, sites=LABELS)
    for one, fitted in regressors().items():
        for other in SITES:
            at = other == LABELS
            found = model.result_.cells[one][other]
            assert found["mse"] == pytest.approx(
                mean_squared_error(NUMBER[at], fitted.predict(X[at]))
            )
            assert found["r2"] == pytest.approx(r2_score(NUMBER[at], fitted.predict(X[at])))
    assert model.weights_[min(model.result_.elsewhere, key=model.result_.elsewhere.get)] == 1.0


def test_weights_by_loss_elsewhere():
    model = pc.WeightedAverage(base="linear", weights="loss").fit(X, NUMBER, sites=LABELS)
    losses = {}
    for one, fitted in regressors().items():
        at = one != LABELS
        losses[one] = mean_squared_error(NUMBER[at], fitted.predict(X[at]))
    total = sum(1 / loss for loss in losses.values())
    for one, loss in losses.items():
        assert model.weights_[one] == pytest.approx(1 / loss / total, rel=1e-9)


class Given(ClassifierMixin, BaseEstimator):
    """A model whose risk is a column of X."""

    def __init__(self, column=0):
        self.column, self.classes_ = column, np.array([0, 1])

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return np.column_stack([1 - x[:, self.column], x[:, self.column]])


def keys():
    """Places of the rows among those of their site."""
    found = np.zeros(N, dtype=np.int64)
    for site in SITES:
        found[site == LABELS] = np.arange((site == LABELS).sum())
    return found


def stacked_columns(make, predict, y, folds=5, seed=0, kept=ALL):
    """Predictions of the models of all sites, out of fold at the own site, by hand."""
    out = np.empty((N, len(SITES)))
    for i, site in enumerate(SITES):
        own = site == LABELS
        out[:, i] = predict(make().fit(X[own & kept], y[own & kept]), X)
        fold = np.floor(uniform(keys(), seed, FOLDS, site) * folds)
        for k in range(folds):
            at = own & (fold == k)
            rest = own & (fold != k) & kept
            out[at, i] = predict(make().fit(X[rest], y[rest]), X[at])
    return out


def test_stacking():
    columns = stacked_columns(lambda: LogisticRegression(**EXACT), risks, Y)
    model = pc.Stacking().fit(X, Y, sites=LABELS)
    exact = sm.Logit(Y, sm.add_constant(columns)).fit(tol=1e-14, disp=0)
    np.testing.assert_allclose([model.intercept_, *model.coef_], exact.params, rtol=1e-7)
    np.testing.assert_allclose(model.se_, exact.bse, rtol=1e-7)
    givens = [(s, Given(i)) for i, s in enumerate(SITES)]
    final = LogisticRegression(**EXACT)
    reference = StackingClassifier(givens, final, cv="prefit").fit(columns, Y)
    np.testing.assert_allclose(model.coef_, reference.final_estimator_.coef_[0], rtol=1e-6)
    full = np.column_stack([m.predict_proba(X)[:, 1] for m in classifiers().values()])
    wanted = reference.predict_proba(full)
    np.testing.assert_allclose(model.predict_proba(X), wanted, rtol=1e-6)


def risks(model, x):
    return model.predict_proba(x)[:, 1]


def test_a_fold_that_is_left_out_is_in_nothing():
    """Neither in the models, nor in the matrix, nor in the regression; nothing is decided."""
    kept = keys() % 4 != 1
    arrays = from_arrays(X, Y.astype(float), ["a", "b", "c"], labels=LABELS)
    engine = arrays.each_site(pc.Embedded())

    def without(model):
        spec = replace(model.fit(X, Y, sites=LABELS).spec_, rows={"folds": 4, "without": 1})
        return fit(spec.algorithm(), engine).model[-1]

    best = without(pc.SelectBest(threshold="f1"))
    part = pc.SelectBest().fit(X[kept], Y[kept], sites=LABELS[kept])
    assert best.threshold is None and best.n == kept.sum()
    for one, row in part.result_.cells.items():
        for other, cell in row.items():
            assert best.cells[one][other] == pytest.approx(cell, abs=1e-12)
    meta = without(pc.Stacking()).meta
    columns = stacked_columns(lambda: LogisticRegression(**EXACT), risks, Y, kept=kept)
    exact = sm.Logit(Y[kept], sm.add_constant(columns[kept])).fit(tol=1e-14, disp=0)
    np.testing.assert_allclose(meta.coef[0], exact.params, rtol=1e-7)


def test_stacking_of_numbers():
    columns = stacked_columns(LinearRegression, lambda m, x: m.predict(x), NUMBER, folds=3, seed=4)
    model = pc.Stacking(base="linear", folds=3, random_state=4).fit(X, NUMBER, sites=LABELS)
    exact = sm.OLS(NUMBER, sm.add_constant(columns)).fit()
    np.testing.assert_allclose([model.intercept_, *model.coef_], exact.params, rtol=1e-8)
    np.testing.assert_allclose(model.se_, exact.bse, rtol=1e-8)


@pytest.mark.parametrize(
    ("base", "options", "make"),
    [
        ("knn", {"n_neighbors": 7}, lambda: KNeighborsClassifier(7)),
        ("kernel-svm", {"C": 2.0, "gamma": 0.5}, lambda: SVC(C=2.0, gamma=0.5)),
    ],
)
def test_models_of_rows_in_one_trust_domain(base, options, make):
    model = pc.Voting(base=base, base_options=options, voting="hard").fit(X, Y, sites=LABELS)
    votes = np.mean([m.predict(X) for m in classifiers(make).values()], axis=0)
    assert np.array_equal(model.predict(X), (votes > 0.5).astype(int))


def test_under_sampling_takes_patients_by_hash():
    options = {"l2": 1.0}
    model = pc.Voting(base_options=options, sampling="under", random_state=5).fit(
        X, Y, sites=LABELS
    )
    for site in SITES:
        own = site == LABELS
        x, y = X[own], Y[own]
        large = int(y.sum() * 2 > len(y))
        draw = uniform(np.arange(len(y), dtype=np.int64), 5, SAMPLE, site)
        among = np.flatnonzero(y == large)
        kept = np.sort(among[np.argsort(draw[among])[: (y != large).sum()]])
        at = np.union1d(kept, np.flatnonzero(y != large))
        reference = LogisticRegression(**{**EXACT, "C": 1.0}).fit(x[at], y[at])
        found = model.models_[site].coef[0, 1:]
        np.testing.assert_allclose(found, reference.coef_[0], rtol=1e-6)
        assert model.result_.models.sizes[site] == (len(at), len(at))


def test_over_sampling_is_by_weights():
    model = pc.Voting(sampling="over").fit(X, Y, sites=LABELS)
    for site in SITES:
        own = site == LABELS
        reference = LogisticRegression(**EXACT, class_weight="balanced").fit(X[own], Y[own])
        found = model.models_[site].coef[0, 1:]
        np.testing.assert_allclose(found, reference.coef_[0], rtol=1e-6)


def best_by_hand(rule, p, y):
    """The highest utility over all cuts between risks."""
    cuts = [0.0, *np.unique(p) + 1e-12]
    worth = []
    for cut in cuts:
        said = (p >= cut).astype(int)
        fp, fn = ((said == 1) & (y == 0)).sum(), ((said == 0) & (y == 1)).sum()
        if rule == "f1":
            worth.append(f1_score(y, said, zero_division=0.0))
        elif rule == "youden":
            worth.append(1 - fn / y.sum() - fp / (y == 0).sum())
        else:
            worth.append(-(rule[0] * fp + rule[1] * fn))
    return max(worth)


@pytest.mark.parametrize("rule", ["f1", "youden", (1.0, 4.0)])
def test_the_threshold_is_the_best_over_all_sites(rule):
    """Of the risks that histograms hold: means over groups of five patients of a site."""
    from polyclinic.core.groups import groups_of, means

    given = rule if isinstance(rule, str) else {"cost": list(rule)}
    model = pc.Voting(threshold=given).fit(X, Y, sites=LABELS)
    p, keys = model.predict_proba(X)[:, 1], np.arange(N)
    grouped = np.empty(N)
    for site in SITES:
        at = site == LABELS
        grouped[at] = means(p[at], groups_of(p[at], keys[at], 5))
    said = (grouped >= model.threshold_).astype(int)
    fp, fn = ((said == 1) & (Y == 0)).sum(), ((said == 0) & (Y == 1)).sum()
    got = {
        "f1": f1_score(Y, said),
        "youden": 1 - fn / Y.sum() - fp / (Y == 0).sum(),
    }.get(rule, -(1.0 * fp + 4.0 * fn))
    assert got == pytest.approx(best_by_hand(rule, grouped, Y), rel=2e-3)
    assert np.array_equal(model.predict(X), (p >= model.threshold_).astype(int))


def test_thresholds_of_small_histograms():
    histogram = np.array([[5, 1, 0, 0], [0, 1, 0, 5]])
    predicted = np.array([5 * 0.1, 2 * 0.4, 0.0, 5 * 0.9])
    assert threshold("f1", histogram, predicted) == pytest.approx(0.25)
    assert threshold((10.0, 0.1), histogram, predicted) == pytest.approx(0.65)
    assert threshold("youden", np.zeros((2, 3), dtype=int), np.zeros(3)) == 0.5


def test_a_site_with_one_class_or_one_row_has_no_model():
    labels = LABELS.copy()
    labels[(LABELS == "c") & (Y == 1)] = "a"
    labels[np.flatnonzero(LABELS == "b")[0]] = "d"
    with pytest.warns(pc.DataWarning, match="no model of c, d"):
        model = pc.Voting().fit(X, Y, sites=labels)
    assert set(model.models_) == {"a", "b"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stacked = pc.Stacking().fit(X, Y, sites=labels)
    assert stacked.coef_.shape == (2,) and np.isfinite(stacked.coef_).all()


def test_a_constant_column_and_nan():
    x = np.column_stack([X, np.ones(N)])
    plain = pc.Voting().fit(X, Y, sites=LABELS)
    model = pc.Voting().fit(x, Y, sites=LABELS)
    np.testing.assert_allclose(model.predict_proba(x), plain.predict_proba(X), rtol=1e-8)
    x[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        pc.Voting().fit(x, Y, sites=LABELS)


def test_the_same_however_rows_are_split():
    plain = pc.Stacking(threshold="f1").fit(X, Y, sites=LABELS)
    for partitions in (3, 7):
        model = pc.Stacking(threshold="f1").fit(X, Y, sites=LABELS, engine=pc.Embedded(partitions))
        assert model.predict_proba(X).tobytes() == plain.predict_proba(X).tobytes()
        assert model.threshold_ == plain.threshold_


def test_a_patient_has_one_fold_whatever_is_left_out():
    from polyclinic.core.design import Design
    from polyclinic.models.ensembles.spec import Spec
    from polyclinic.models.ensembles.train import inner_fold, subset

    spec = Spec(Design(()), "stacking", {}, 2, {"folds": 4, "l2": 0.0}, seed=1)
    whole = Partition({"y": np.zeros(50)}, site="a")
    some = np.arange(50) % 3 != 0
    assert np.array_equal(
        inner_fold(spec, subset(whole, some), 4), inner_fold(spec, whole, 4)[some]
    )
