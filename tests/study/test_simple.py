"""Naive Bayes, clusters, components, scales and screening: estimators, files, study files."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import naive_bayes
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.feature_selection import f_classif, f_regression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.governance.study_file import Study
from polyclinic.study.predict import predict_file

X, Y = load_iris(return_X_y=True)
COLUMNS = ["disease", "age", "sex", "thalach", "oldpeak"]
ALL = [pc.GaussianNB(), pc.KMeans(3, n_init=2), pc.PCA(), pc.Screening(), pc.StandardScaler()]


@parametrize_with_checks(ALL)
def test_scikit_learn_accepts_it(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its data are constant, or too few
        check(estimator)


@pytest.fixture
def heart():
    return pc.datasets.heart_disease().cohort(columns=COLUMNS, missing="drop")


@pytest.fixture(scope="module")
def pooled():
    sites = pc.datasets.heart_disease().cohort(columns=COLUMNS, missing="drop")
    frame = pd.concat([sites.local(name) for name in sites.names])
    return frame[COLUMNS].dropna()


def fitted():
    return [
        pc.GaussianNB().fit(X, Y),
        pc.KMeans(3).fit(X),
        pc.PCA(2, whiten=True).fit(X),
        pc.Screening().fit(X, Y),
        pc.StandardScaler().fit(X),
    ]


def test_arrays_give_scikit_learns_numbers():
    bayes, clusters, components, screening, _ = fitted()
    theirs = naive_bayes.GaussianNB().fit(X, Y)
    np.testing.assert_allclose(bayes.predict_proba(X), theirs.predict_proba(X), rtol=1e-9)
    ours = bayes.predict_joint_log_proba(X)
    np.testing.assert_allclose(ours, theirs.predict_joint_log_proba(X), rtol=1e-9)
    assert bayes.score(X, Y) == theirs.score(X, Y)
    best = KMeans(3, n_init=10, random_state=0).fit(X)
    assert clusters.inertia_ == pytest.approx(best.inertia_, rel=0.01)
    assert (clusters.labels_ == clusters.predict(X)).all()
    assert clusters.score(X) == pytest.approx(-clusters.inertia_, rel=1e-9)
    theirs = PCA(2, whiten=True).fit(X)
    np.testing.assert_allclose(components.transform(X), theirs.transform(X), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(components.singular_values_, theirs.singular_values_, rtol=1e-10)
    assert list(components.get_feature_names_out()) == ["pca0", "pca1"]
    np.testing.assert_allclose(screening.pvalues_, f_classif(X, Y)[1], rtol=1e-8)
    number = pc.Screening().fit(X[:, :3], X[:, 3] + 0.05)
    np.testing.assert_allclose(number.pvalues_, f_regression(X[:, :3], X[:, 3])[1], rtol=1e-8)


def test_they_work_inside_a_pipeline():
    line = make_pipeline(pc.StandardScaler(), pc.PCA(2), pc.GaussianNB()).fit(X, Y)
    assert line.score(X, Y) > 0.85


@pytest.mark.parametrize("model", fitted(), ids=lambda m: type(m).__name__)
def test_saved_models_are_the_same(model, tmp_path):
    model.save(tmp_path / "m.pcm")
    again = pc.load(tmp_path / "m.pcm")
    assert str(again) == str(model)
    work = "predict_proba" if hasattr(model, "predict_proba") else "transform"
    if hasattr(model, work):
        assert getattr(again, work)(X).tobytes() == getattr(model, work)(X).tobytes()
    held = pickle.loads(pickle.dumps(model))
    assert str(held) == str(model)


def test_hospitals_give_the_pooled_numbers(heart, pooled):
    formula = "~ age + thalach + oldpeak + sex"
    x = pooled[["age", "thalach", "oldpeak", "sex"]].astype(float).to_numpy()
    components = pc.PCA(scale="sd").fit(heart, formula)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(components.explained_variance_, PCA().fit(z).explained_variance_)
    np.testing.assert_allclose(pc.StandardScaler().fit(heart, formula).mean_, x.mean(axis=0))
    bayes = pc.GaussianNB().fit(heart, "disease ~ age + thalach + oldpeak + sex")
    theirs = naive_bayes.GaussianNB().fit(x, pooled.disease.astype(int))
    np.testing.assert_allclose(bayes.theta_, theirs.theta_, rtol=1e-10)
    frame = heart.local("cleveland").dropna(subset=COLUMNS)
    part = frame[["age", "thalach", "oldpeak", "sex"]].astype(float).to_numpy()
    np.testing.assert_allclose(
        bayes.predict_proba(frame), theirs.predict_proba(part), rtol=1e-8, atol=1e-12
    )
    screening = pc.Screening().fit(heart, "disease ~ age + thalach + oldpeak")
    wanted = f_classif(x[:, :3], pooled.disease.astype(int))[0]
    np.testing.assert_allclose(screening.table_.statistic, wanted, rtol=1e-9)


def test_many_clusterings_of_the_same_hospitals_are_all_answered(heart, pooled):
    x = pooled[["age", "thalach", "oldpeak", "sex"]].astype(float).to_numpy()
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    heart.describe(by="sex")
    for k in (3, 5):
        model = pc.KMeans(k, scale="sd").fit(heart, "~ age + thalach + oldpeak + sex")
        best = KMeans(k, n_init=10, random_state=0).fit(z).inertia_
        found = float(np.square(model.transform(pooled).min(axis=1)).sum())
        assert found <= 1.05 * best
    assert "age" in str(model) and model.sizes_.sum() == len(x)
    assert np.isfinite(model.calinski_harabasz_)


def study(kind, formula, **options):
    return Study.model_validate(
        {
            "format": 1,
            "seed": 3,
            "study": {"name": "simple", "purpose": "research"},
            "data": {"dataset": "heart-disease"},
            "cohort": {"missing": "drop"},
            "model": {"kind": kind, "formula": formula, "options": options},
            "evaluation": {"folds": 2},
        }
    )


STUDIES = {
    "kmeans": ("~ age + thalach + oldpeak", {"n_clusters": 3, "scale": "sd"}, "clusters"),
    "gaussian-nb": ("disease ~ age + thalach + oldpeak + C(sex)", {}, "classes"),
}


@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_file_ends_in_a_report(kind, tmp_path, heart_files):
    formula, options, table = STUDIES[kind]
    asked = study(kind, formula, **options)
    done = pc.run(asked, tmp_path / "run", sites=pc.datasets.heart_disease())
    text = done.report.read_text(encoding="utf-8")
    result = done.model.result_
    assert all(block["title"] in text for block in result.blocks() if "title" in block)
    assert done.model.kind_.title.lower() in text.lower()
    assert len(pd.read_csv(done.folder / f"{table}.csv")) == len(result.tables()[table])
    assert str(pc.load(done.folder)) == str(done.model)
    measures = json.loads((done.folder / "metrics.json").read_text())
    assert measures["model"]["blocks"]
    if kind != "gaussian-nb":
        assert "evaluation" not in measures or not measures["evaluation"]
        return
    assert 0.7 < measures["evaluation"]["all"]["auroc"]["value"] < 0.9
    predicted = predict_file(done.folder, heart_files["cleveland"], "cleveland")
    assert predicted["risk"].between(0, 1).all()


@pytest.mark.parametrize(
    ("kind", "formula", "options", "code"),
    [
        ("kmeans", "~ age", {"n_clusters": 0}, "WRONG_VALUE"),
        ("kmeans", "~ age", {"n_clusters": True}, "WRONG_VALUE"),
        ("kmeans", "~ age", {"scale": "log"}, "WRONG_VALUE"),
        ("kmeans", "~ age", {"init": [[1.0, 2.0]]}, "WRONG_VALUE"),
        ("kmeans", "~ age", {"depth": 2}, "UNKNOWN_OPTION"),
        ("kmeans", "~ age:thalach", {}, "BAD_FORMULA"),
        ("kmeans", "~ age + I(age ** 2)", {}, "BAD_FORMULA"),
        ("kmeans", "disease ~ age", {}, "BAD_FORMULA"),
        ("pca", "thalach ~ age", {}, "BAD_FORMULA"),
        ("pca", "~ 1", {}, "BAD_FORMULA"),
        ("pca", "~ age", {"n_components": 1.5}, "WRONG_VALUE"),
        ("pca", "~ age", {"whiten": "yes"}, "WRONG_VALUE"),
        ("scaler", "~ age", {"with_std": 1}, "WRONG_VALUE"),
        ("gaussian-nb", "~ age", {}, "WRONG_VALUE"),
        ("gaussian-nb", "thalach ~ age", {}, "WRONG_VALUE"),
        ("gaussian-nb", "disease ~ age", {"priors": [0.5]}, "WRONG_VALUE"),
        ("gaussian-nb", "disease ~ age", {"var_smoothing": -1.0}, "WRONG_VALUE"),
        ("screening", "~ age", {}, "BAD_FORMULA"),
        ("screening", "disease ~ age + weights(thalach)", {}, "BAD_FORMULA"),
        ("screening", "disease ~ age", {"bins": 1}, "WRONG_VALUE"),
    ],
)
def test_wrong_settings_are_named(kind, formula, options, code, tmp_path):
    with pytest.raises(InputError) as found:
        pc.run(study(kind, formula, **options), tmp_path, sites=pc.datasets.heart_disease())
    assert found.value.code == code


def test_regressions_need_an_outcome(heart):
    with pytest.raises(ValueError, match="outcome"):
        study("logistic", "~ age")
    with pytest.raises(InputError, match="BAD_FORMULA"):
        pc.LogisticRegression().fit(heart, "~ age")
