"""scikit-learn's conventions, and arrays of every kind."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import statsmodels.api as sm
from sklearn import linear_model
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import polyclinic as pc
from polyclinic.core.errors import DataWarning

ALL = [
    pc.LinearRegression(),
    pc.LogisticRegression(),
    pc.PoissonRegression(),
    pc.GammaRegression(),
]


@parametrize_with_checks(ALL)
def test_scikit_learn_accepts_it(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its data are separated, collinear, or too few
        check(estimator)


@pytest.fixture(scope="module")
def cancer():
    x, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(x[:, :5]), y


KINDS = {
    "float32": lambda x: x.astype(np.float32),
    "Fortran order": np.asfortranarray,
    "list": lambda x: x.tolist(),
    "pandas": lambda x: pd.DataFrame(x, columns=list("abcde")),
    "polars": lambda x: pl.DataFrame(x, schema=list("abcde")),
    "arrow": lambda x: pa.table({name: x[:, j] for j, name in enumerate("abcde")}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_array(cancer, kind):
    x, y = cancer
    plain = pc.LogisticRegression(l2=1.0).fit(x, y)
    given = KINDS[kind](x)
    model = pc.LogisticRegression(l2=1.0).fit(given, y)
    tolerance = 1e-5 if kind == "float32" else 1e-10
    np.testing.assert_allclose(model.coef_, plain.coef_, rtol=tolerance)
    np.testing.assert_allclose(model.predict_proba(given), plain.predict_proba(x), rtol=1e-4)
    if kind in ("pandas", "polars", "arrow"):
        assert list(model.summary().index) == ["Intercept", *"abcde"]


def test_labels_only_partition(cancer):
    x, y = cancer
    labels = np.random.default_rng(0).choice(["c", "a", "b"], len(y))
    plain = pc.LogisticRegression(l2=1.0).fit(x, y)
    model = pc.LogisticRegression(l2=1.0).fit(x, y, sites=labels)
    assert model.coef_.tobytes() == plain.coef_.tobytes()


def test_one_intercept_per_site_and_clustered_errors(cancer):
    x, y = cancer
    labels = np.random.default_rng(0).choice(list("abcdef"), len(y))
    model = pc.LogisticRegression(site_effects=True).fit(x[:, :2], y, sites=labels)
    dummies = (labels[:, None] == np.array(list("bcdef"))).astype(float)
    full = sm.add_constant(np.hstack([x[:, :2], dummies]))
    theirs = sm.GLM(y, full, family=sm.families.Binomial()).fit(tol=1e-14)
    np.testing.assert_allclose(model.summary().coef, theirs.params, rtol=1e-9)
    assert model.summary().index[-1] == "site[T.f]"
    model = pc.LogisticRegression().fit(x[:, :2], y, sites=labels)
    glm = sm.GLM(y, sm.add_constant(x[:, :2]), family=sm.families.Binomial())
    for robust, options in (
        (True, {"cov_type": "HC0"}),
        ("site", {"cov_type": "cluster", "cov_kwds": {"groups": labels}}),
    ):
        theirs = glm.fit(tol=1e-14, **options)
        np.testing.assert_allclose(model.summary(robust=robust).se, theirs.bse, rtol=1e-8)


@pytest.mark.parametrize("weight", ["balanced", {0: 1.0, 1: 3.0}])
def test_class_weights(cancer, weight):
    x, y = cancer
    ours = pc.LogisticRegression(l2=2.0, class_weight=weight).fit(x, y)
    theirs = linear_model.LogisticRegression(
        C=0.5, class_weight=weight, solver="newton-cholesky", tol=1e-12
    ).fit(x, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-8)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-8)


def test_several_classes():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    ours = pc.LogisticRegression(l2=1.0).fit(x, names)
    theirs = linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(x, names)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6)
    np.testing.assert_allclose(
        ours.predict_proba(x), theirs.predict_proba(x), rtol=1e-6, atol=1e-12
    )
    assert (ours.predict(x) == theirs.predict(x)).all()
    assert list(ours.classes_) == ["setosa", "versicolor", "virginica"]
    assert ours.summary().index[0] == "versicolor: Intercept"


def test_linear_intervals_use_the_t_distribution(cancer):
    x = cancer[0]
    y = x @ [1, 2, 3, 4, 5.0] + np.random.default_rng(0).normal(size=len(x))
    table = pc.LinearRegression().fit(x, y).summary(level=0.9)
    theirs = sm.OLS(y, sm.add_constant(x)).fit()
    np.testing.assert_allclose(table[["lower", "upper"]], theirs.conf_int(0.1), rtol=1e-9)
    np.testing.assert_allclose(table.p, theirs.pvalues, rtol=1e-6, atol=1e-300)


def test_ratios(cancer):
    x, y = cancer
    model = pc.LogisticRegression(l2=0.1).fit(x, y)
    plain, ratio = model.summary(), model.summary(exponentiate=True)
    np.testing.assert_allclose(ratio.lower, np.exp(plain.lower))
    np.testing.assert_allclose(ratio.se, plain.se)


def test_warnings_name_the_columns(cancer):
    x, y = cancer
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "same": 3.0, "both": x[:, 0] + x[:, 1]})
    with pytest.warns(DataWarning) as found:
        model = pc.LogisticRegression().fit(frame, y)
    texts = [str(w.message) for w in found]
    assert any(t.startswith("same says nothing") and "the same in every row" in t for t in texts)
    assert any("both" in t and "a combination of a, b" in t for t in texts)
    assert (
        np.isnan(model.summary().coef[["same", "both"]]).all() and (model.coef_[0, 2:] == 0).all()
    )
    with pytest.warns(DataWarning, match="separated by a"):
        pc.LogisticRegression().fit(frame[["a"]], frame.a > 0)
    with pytest.warns(ConvergenceWarning, match="ended after 2 rounds"):
        pc.LogisticRegression(max_rounds=2, l2=1e-3).fit(x, y)


def test_works_inside_scikit_learn(cancer):
    x, y = cancer
    ours = cross_val_score(pc.LogisticRegression(l2=1.0), x, y)
    theirs = cross_val_score(linear_model.LogisticRegression(tol=1e-10), x, y)
    np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_saved_and_standard_forms_predict_the_same(cancer, tmp_path, estimator):
    x, y = cancer
    target = y if isinstance(estimator, pc.LogisticRegression) else y + 1.0
    model = type(estimator)(l2=1.0).fit(x, target)
    model.save(tmp_path / "m.pcm")
    assert (tmp_path / "m.pcm").read_bytes()[32:36] == b"PCM1"  # canonical bytes behind a hash
    again = pc.load(tmp_path / "m.pcm")
    assert again.predict(x).tobytes() == model.predict(x).tobytes()
    assert str(again) == str(model)
    np.testing.assert_allclose(model.to_sklearn().predict(x), model.predict(x), rtol=1e-12)
    damaged = bytearray((tmp_path / "m.pcm").read_bytes())
    damaged[100] ^= 1
    (tmp_path / "m.pcm").write_bytes(damaged)
    with pytest.raises(pc.InputError, match="MODEL_DAMAGED"):
        pc.load(tmp_path / "m.pcm")


def test_a_pickled_model_holds_no_rows(cancer):
    x, y = cancer
    model = pc.LogisticRegression(l2=1.0).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    assert len(pickle.dumps(model)) < x.nbytes / 2
    assert again.predict(x).tobytes() == model.predict(x).tobytes()
    with pytest.raises(pc.InputError, match="NO_TRAINING_ROWS"):
        again.summary(robust=True)


def test_formula_model_predicts_frames_and_saved_alike(heart, tmp_path):
    heart = heart.with_policy(pc.Policy(min_difference=0))  # two formulas over nearly the same rows
    model = pc.LogisticRegression().fit(heart, "disease ~ age + sex + C(cp)")
    frame = heart.local("va")
    model.save(tmp_path / "m.pcm")
    again = pc.load(tmp_path / "m.pcm")
    assert again.predict_proba(frame).tobytes() == model.predict_proba(frame).tobytes()
    matrix = model.design_matrix(frame).to_numpy()
    np.testing.assert_allclose(model.to_sklearn().predict_proba(matrix), model.predict_proba(frame))
    with pytest.raises(pc.InputError, match="MISSING_VALUES"):
        pc.LogisticRegression().fit(heart, "disease ~ thalach").predict(frame)
    with pytest.raises(pc.InputError, match="NO_TRAINING_ROWS"):
        again.evaluate()
