"""Ensembles over hospitals: from a study file to the report, over policies and other models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import statsmodels.api as sm

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.governance.study_file import Study
from polyclinic.models import predictor as predictors
from polyclinic.models.ensembles.train import predictions
from polyclinic.models.predictor import Form
from polyclinic.study.predict import predict_file
from tests.attacks.world import BOOK, FRAME, TABLES, hospitals
from tests.study import share

FORMULA = "sick ~ age + chol"
FEW = pytest.mark.filterwarnings("ignore:no model of")


def study(kind, evaluation=None, privacy=None, **options):
    return Study.model_validate(
        {
            "format": 1,
            "seed": 3,
            "study": {"name": kind, "purpose": "research"},
            "data": {"dataset": "heart-disease"},
            "cohort": {"missing": "drop"},
            "model": {"kind": kind, "formula": "disease ~ age + sex", "options": options},
            "evaluation": evaluation or {"folds": 2},
            "privacy": privacy or {},
        }
    )


def test_a_study_is_run_kept_and_reported(tmp_path, heart_files):
    asked = study("select-best", threshold="youden")
    done = pc.run(asked, tmp_path / "run", sites=pc.datasets.heart_disease())
    text = done.report.read_text(encoding="utf-8")
    for part in ("AUROC of every model at every hospital", "mean of the others", "is used"):
        assert part in text
    measures = json.loads((done.folder / "metrics.json").read_text())
    assert measures["model"]["title"] == "best of the hospitals' own models"
    assert measures["evaluation"]["alone"].keys() == {"cleveland", "hungarian", "switzerland", "va"}
    lines = (done.folder / "matrix.csv").read_text().splitlines()
    assert lines[0] == "model,hospital,n,auroc,log_loss" and len(lines) == 17
    again = pc.load(done.folder)
    assert str(again) == str(done.model) and again.threshold_ == done.model.threshold_
    predicted = predict_file(done.folder, heart_files["cleveland"], "cleveland")
    best = again.models_[again.result_.best]
    rows = pc.datasets.heart_disease().rows("cleveland", None)
    assert np.array_equal(predicted["risk"], best.predict(rows))


def test_stacking_as_a_study(tmp_path):
    asked = study("stacking", {"validate": "none"}, {"show_sites": False})
    done = pc.run(asked, tmp_path / "run", sites=pc.datasets.heart_disease())
    assert "Models, one of each hospital" in done.report.read_text(encoding="utf-8")
    assert str(pc.load(done.folder)) == str(done.model)


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    from tests.study.test_resume import Stop

    plain = {"validate": "none"}
    asked = study("weighted-average", plain, {"show_sites": False}, weights="loss", threshold="f1")
    whole = pc.run(asked, tmp_path / "a", sites=pc.datasets.heart_disease())
    with monkeypatch.context() as patch:
        Stop(patch, 3)
        with pytest.raises(pc.Stopped):
            pc.run(asked, tmp_path / "b", sites=pc.datasets.heart_disease())
    done = pc.run(asked, tmp_path / "b", sites=pc.datasets.heart_disease(), resume=True)
    for name in ("model.pcm", "metrics.json", "plans.json", "matrix.csv", "weights.csv"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_secure_sums_are_refused_by_name(tmp_path):
    asked = study("voting", privacy={"secure_sums": True})
    with pytest.raises(InputError, match="NOT_SECURE"):
        pc.run(asked, tmp_path / "a", sites=pc.datasets.heart_disease())
    with pytest.raises(InputError, match="NOT_SECURE"):
        pc.Voting().fit(hospitals(), FORMULA, privacy=pc.SecureSum())
    with pytest.raises(InputError, match="NO_PRIVATE_VERSION"):
        pc.Voting().fit(hospitals(), FORMULA, privacy=pc.DifferentialPrivacy(1.0, 1e-5))


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"collect": ()}, "COLLECT_NOT_ALLOWED"),
        ({"release_alone": False}, "ALONE_NOT_ALLOWED"),
    ],
)
def test_a_policy_that_does_not_allow_it_is_named(policy, code):
    with pytest.raises(pc.Refused, match=code) as found:
        pc.Stacking().fit(hospitals(pc.Policy(**policy)), FORMULA)
    assert found.value.refusals == dict.fromkeys("abc", code)


def test_where_no_hospital_has_enough_patients_there_is_no_model():
    with pytest.raises(InputError, match="NO_MODELS"):
        pc.Voting().fit(hospitals(pc.Policy(patients_per_coefficient=200.0)), FORMULA)


def small():
    """Hospital c keeps ten patients: too few for a model or a sum of its own."""
    later = FRAME[FRAME["site"] == "c"].index[10:]
    return FRAME.drop(index=later)


@FEW
def test_stacking_leans_on_secure_sums_where_a_hospital_is_small():
    data = small()
    model = pc.Stacking(folds=2).fit(hospitals(data=data), FORMULA)
    assert set(model.models_) == {"a", "b"}
    assert any("total of 3" in str(kind) for kind in model.rounds_[-1].left)
    parts = [hospitals(data=data).rows(site, None) for site in "abc"]
    arrays = model.result_.models.arrays
    columns = np.vstack([predictions(model.spec_, arrays, part) for part in parts])
    y = np.concatenate([part.columns["sick"] for part in parts])
    exact = sm.Logit(y, sm.add_constant(columns)).fit(tol=1e-14, disp=0)
    np.testing.assert_allclose([model.intercept_, *model.coef_], exact.params, rtol=1e-7)
    np.testing.assert_allclose(model.se_, exact.bse, rtol=1e-7)


def test_arrays_and_hospitals_agree():
    """The same rows as arrays in one trust domain; a model of a site with its out-of-fold rows."""
    data = FRAME[FRAME["site"] != "c"]
    over = pc.Stacking(folds=3).fit(hospitals(data=data), FORMULA)
    x, y = data[["age", "chol"]].to_numpy(float), (data["sick"] == "yes").to_numpy()
    arrays = pc.Stacking(folds=3).fit(x, y, sites=data["site"].to_numpy())
    np.testing.assert_allclose(over.coef_, arrays.coef_, rtol=1e-7)
    np.testing.assert_allclose(over.se_, arrays.se_, rtol=1e-7)
    backward = pc.Sites({site: TABLES[site] for site in "ba"}, BOOK)
    again = pc.Stacking(folds=3).fit(backward, FORMULA)
    np.testing.assert_allclose(again.coef_, over.coef_, rtol=1e-9)
    assert again.weights_.keys() == over.weights_.keys()
    np.testing.assert_allclose(again.predict_proba(data), over.predict_proba(data), rtol=1e-9)
    for site in "ab":
        own = (data["site"] == site).to_numpy()
        exact = sm.Logit(y[own], sm.add_constant(x[own])).fit(tol=1e-14, disp=0)
        np.testing.assert_allclose(over.models_[site].coef[0], exact.params, rtol=1e-8)


@pytest.fixture
def shares(monkeypatch):
    """Another kind of model with a form: one number; patients behind a part of it."""
    share.install()
    monkeypatch.setattr(predictors, "_forms", {})
    with pytest.raises(InputError, match="HOLDS_ROWS"):
        pc.Voting(base="share").fit(hospitals(), FORMULA)
    behind = {"left": 200}
    form = Form(
        lambda spec: {"share": ()},
        lambda spec, data: {"share": np.asarray(data["share"])},
        lambda spec, arrays: share.Same(
            spec.design, spec.classes, float(arrays["share"])
        ).to_data(),
        lambda spec: 3,
        lambda data, rows: behind,
    )
    predictors.register_form("share", form)
    return behind


def test_another_kind_of_model_as_base(shares):
    model = pc.WeightedAverage(base="share", base_options={"times": 2}).fit(hospitals(), FORMULA)
    assert model.models_["a"].share == (FRAME[FRAME["site"] == "a"]["sick"] == "yes").mean()
    risk = model.predict_proba(FRAME)[:, 1]
    assert np.allclose(risk, (FRAME["sick"] == "yes").mean())
    with pytest.raises(InputError, match="NO_MODELS"):
        pc.Voting(base="share").fit(hospitals(pc.Policy(patients_per_coefficient=90.0)), FORMULA)
    shares["left"] = 3  # a leaf of three patients
    with pytest.raises(InputError, match="NO_MODELS"):
        pc.Voting(base="share").fit(hospitals(), FORMULA)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"base": "tarot"}, "WRONG_VALUE"),
        ({"base": "voting"}, "WRONG_VALUE"),
        ({"base": "linear"}, "WRONG_VALUE"),
        ({"base_options": {"depth": 3}}, "UNKNOWN_OPTION"),
        ({"base_options": {"l2": -1.0}}, "WRONG_VALUE"),
        ({"sampling": "smote"}, "WRONG_VALUE"),
        ({"threshold": {"cost": [0, 0]}}, "WRONG_VALUE"),
        ({"least": 1}, "WRONG_VALUE"),
        ({"base": "knn"}, "HOLDS_ROWS"),
        ({"base": "kernel-svm"}, "HOLDS_ROWS"),
    ],
)
def test_wrong_options_are_named(options, code):
    with pytest.raises(InputError) as found:
        pc.Voting(**options).fit(hospitals(), FORMULA)
    assert found.value.code == code


def test_a_formula_without_an_outcome():
    with pytest.raises(InputError, match="BAD_FORMULA"):
        pc.Voting(base="linear").fit(hospitals(), "~ age")


def test_models_of_rows_are_not_saved(tmp_path):
    x, y = FRAME[["age", "chol"]].to_numpy(float), (FRAME["sick"] == "yes").to_numpy()
    model = pc.Voting(base="knn").fit(x, y, sites=FRAME["site"].to_numpy())
    with pytest.raises(InputError, match="HOLDS_ROWS"):
        model.save(tmp_path / "model.pcm")
    with pytest.raises(InputError, match="no weights"):
        pc.Voting(base="knn", sampling="over").fit(x, y)
