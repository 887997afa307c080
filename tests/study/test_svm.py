"""Machines as users meet them: estimators, hospitals, a study file, a kernel's stand-in."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from sklearn import svm
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.governance.study_file import Study
from polyclinic.privacy.policy import open_policy
from polyclinic.study.predict import predict_file

FORMULA = "disease ~ age + sex + thalach + oldpeak"
ALL = [
    pc.LinearSVC(),
    pc.LinearSVC(loss="hinge"),
    pc.LinearSVR(),
    pc.LinearSVR(loss="epsilon_insensitive"),
    pc.SVC(n_components=30),
]


@parametrize_with_checks(ALL)
def test_scikit_learn_accepts_it(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def hearts(policy=None):
    sites = pc.datasets.heart_disease()
    return sites if policy is None else sites.with_policy(policy)


def pooled(sites, formula=FORMULA):
    """Model matrix, outcome and hospital of all rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pc.DataWarning)
        data = pc.LinearSVC().fit(sites, formula)._data
    rows = data.federation.transport.sites
    parts = [site._rows(data.federation.cohort).rows for site in rows.values()]
    x = np.vstack([data.design.matrix(part.columns, part.site) for part in parts])
    return x, np.concatenate([part.columns[data.design.response] for part in parts])


@pytest.mark.filterwarnings("ignore::polyclinic.DataWarning")
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_hospitals_without_rules_reach_the_pooled_optimum(loss):
    found = pc.LinearSVC(loss=loss).fit(hearts(open_policy()), FORMULA)
    x, y = pooled(hearts(open_policy()))
    exact = pc.LinearSVC(loss=loss).fit(x, y)
    assert found.objective_ == pytest.approx(exact.objective_, rel=1e-8)
    assert found.gap_ <= 1e-9


@pytest.mark.parametrize("privacy", [None, pc.SecureSum()])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_hospitals_with_rules_come_near_and_say_how_near(loss, privacy):
    with pytest.warns(pc.DataWarning, match="within"):
        found = pc.LinearSVC(loss=loss).fit(hearts(), FORMULA, privacy=privacy)
    x, y = pooled(hearts(open_policy()))
    exact = pc.LinearSVC(loss=loss).fit(x, y)
    missed = np.maximum(1 - (2 * y - 1) * (x @ found.coef_[0] + found.intercept_[0]), 0)
    at = 0.5 * found.coef_[0] @ found.coef_[0] + np.sum(missed if loss == "hinge" else missed**2)
    assert at == pytest.approx(found.objective_, rel=1e-9)
    assert 0 <= at / exact.objective_ - 1 <= found.gap_ * 1.01 < 1e-2


def test_names_classes_and_weights_of_classes():
    x = np.random.default_rng(0).normal(size=(300, 3))
    y = np.array(["no", "some", "much"])[np.argmax(x, axis=1)]
    model = pc.LinearSVC(class_weight={"much": 2.0, "no": 0.5}, probability=True).fit(x, y)
    peer = svm.LinearSVC(class_weight={"much": 2.0, "no": 0.5}, intercept_scaling=1e4, tol=1e-10)
    assert model.classes_.tolist() == ["much", "no", "some"]
    assert np.mean(model.predict(x) == peer.fit(x, y).predict(x)) > 0.99
    assert model.decision_function(x).shape == model.predict_proba(x).shape == (300, 3)
    assert np.mean(model.predict(x) == y) > 0.9
    with pytest.raises(InputError, match="WRONG_VALUE"):
        pc.LinearSVC(class_weight={"none": 1.0}).fit(x, y)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (pc.LinearSVC, {"C": 0.0}),
        (pc.LinearSVC, {"C": -1.0}),
        (pc.LinearSVC, {"C": float("nan")}),
        (pc.LinearSVC, {"loss": "logistic"}),
        (pc.LinearSVC, {"class_weight": [1.0, 2.0, 3.0]}),
        (pc.LinearSVR, {"epsilon": -0.1}),
        (pc.SVC, {"kernel": "poly"}),
        (pc.SVC, {"gamma": 0.0}),
        (pc.SVC, {"n_components": 0}),
    ],
)
def test_wrong_options_are_named(model, options):
    x = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(InputError) as found:
        model(**options).fit(x, (x[:, 0] > 0).astype(int))
    assert found.value.code == "WRONG_VALUE"


def heart_matrix():
    x, y = pooled(hearts(open_policy()), "disease ~ age + sex + C(cp) + thalach + oldpeak + exang")
    return StandardScaler().fit_transform(x), y


@pytest.mark.filterwarnings("ignore::polyclinic.DataWarning")
def test_random_features_come_near_the_exact_kernel():
    x, y = heart_matrix()
    exact = svm.SVC(gamma=1 / x.shape[1]).fit(x[::2], y[::2])
    wanted = exact.decision_function(x[1::2])
    agree, auroc = {}, {}
    for components in (50, 400):
        found = pc.SVC(n_components=components, random_state=1).fit(x[::2], y[::2])
        f = found.decision_function(x[1::2])
        agree[components] = np.corrcoef(f, wanted)[0, 1]
        auroc[components] = roc_auc_score(y[1::2], f)
    assert agree[400] > 0.97 and agree[400] > agree[50] > 0.85
    assert abs(auroc[400] - roc_auc_score(y[1::2], wanted)) < 0.02


@pytest.mark.filterwarnings("ignore::polyclinic.DataWarning")
def test_the_seed_draws_the_features():
    x, y = heart_matrix()
    one, same, other = (
        pc.SVC(n_components=20, random_state=seed).fit(x, y).coef_ for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same) and not np.allclose(one, other)


@pytest.mark.filterwarnings("ignore::polyclinic.DataWarning")
@pytest.mark.parametrize(
    ("kind", "formula", "options"),
    [
        ("linear-svc", FORMULA, {"loss": "hinge", "class_weight": "balanced"}),
        ("linear-svr", "thalach ~ age + sex + oldpeak", {"epsilon": 2.0}),
        ("svc", "disease ~ age + sex + thalach + oldpeak", {"n_components": 40, "C": 0.5}),
    ],
)
def test_a_study_file_to_its_report(kind, formula, options, tmp_path, heart_files):
    study = Study.model_validate(
        {
            "format": 1,
            "seed": 3,
            "study": {"name": "margins", "purpose": "research"},
            "data": {"dataset": "heart-disease"},
            "cohort": {"missing": "drop"},
            "model": {"kind": kind, "formula": formula, "options": options},
            "evaluation": {"folds": 2, "alone": False},
        }
    )
    done = pc.run(study, tmp_path / "run", sites=hearts())
    text = done.report.read_text(encoding="utf-8")
    assert "of its optimum" in text and "Weights" in text
    measures = json.loads((done.folder / "metrics.json").read_text())["evaluation"]["all"]
    assert measures["r2"] > 0.1 if kind == "linear-svr" else measures["auroc"]["value"] > 0.7
    assert (done.folder / "weights.csv").read_text().startswith("machine,column,coef")
    again = pc.load(done.folder)
    assert again.predictor_.to_data()["kind"] == "svm"
    assert np.array_equal(again.coef_, done.model.coef_)
    predicted = predict_file(done.folder, heart_files["cleveland"], "cleveland")
    assert len(predicted) == 303


def test_a_gap_in_a_large_table_is_refused():
    x = np.random.default_rng(0).normal(size=(200_001, 1))
    y = (x[:, 0] > 0).astype(float)
    x[7] = np.nan  # not among the rows by which bounds are guessed
    with pytest.raises(InputError, match="Input X contains NaN") as error:
        pc.LinearSVC().fit(x, y)
    assert error.value.code == "NOT_FINITE"
