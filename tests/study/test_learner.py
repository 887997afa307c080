"""A learner from a study file to its report, over hospitals and over arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.governance.study_file import Study
from polyclinic.study import learners
from polyclinic.study.predict import predict_file, report_again
from tests.study import share

share.install()
pytestmark = pytest.mark.filterwarnings("ignore:everybody is alike")
FORMULA = "disease ~ age + sex"


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    made = (*learners.ESTIMATORS, share.ShareClassifier, share.ShareRegressor)
    monkeypatch.setattr(learners, "ESTIMATORS", made)


def study(**model):
    return Study.model_validate(
        {
            "format": 1,
            "seed": 3,
            "study": {"name": "share", "purpose": "research"},
            "data": {"dataset": "heart-disease"},
            "cohort": {"missing": "drop"},
            "model": {"kind": "share", "formula": FORMULA, **model},
            "evaluation": {"folds": 3, "subgroups": ["sex"]},
        }
    )


def test_a_study_of_a_learner_is_run_kept_and_reported(tmp_path, heart_files):
    done = pc.run(study(options={"times": 3}), tmp_path / "run", sites=pc.datasets.heart_disease())
    sites = pc.datasets.heart_disease()
    pooled = sites.cohort(columns=["disease", "age", "sex"], missing="drop")
    exact = pc.LinearRegression().fit(pooled, "disease ~ 1 + age").result_.scale.moments
    assert done.model.result_.y == exact.y_mean * exact.n
    assert done.model.n_iter_ == 3 and done.model.random_state == 3
    text = done.report.read_text(encoding="utf-8")
    for part in ("What was found", "The share was found", "all &lt;i&gt;", "Forest", "at risk"):
        assert part in text
    assert "all <i>" not in text
    assert (done.folder / "shares.csv").read_text().startswith("of,share")
    measures = json.loads((done.folder / "metrics.json").read_text())
    assert measures["model"]["title"] == "share of events"
    assert measures["evaluation"]["all"]["n"] == exact.n
    before = done.report.read_bytes()
    assert report_again(done.folder).read_bytes() == before
    again = pc.load(done.folder)
    assert again.predictor_ == done.model.predictor_ and str(again) == str(done.model)
    predicted = predict_file(done.folder, heart_files["cleveland"], "cleveland")
    assert np.allclose(predicted["risk"], exact.y_mean, rtol=1e-14)


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    from tests.study.test_resume import Stop

    whole = pc.run(study(options={"times": 3}), tmp_path / "a", sites=pc.datasets.heart_disease())
    with monkeypatch.context() as patch:
        Stop(patch, 2)
        with pytest.raises(pc.Stopped):
            pc.run(whole.study, tmp_path / "b", sites=pc.datasets.heart_disease())
    done = pc.run(whole.study, tmp_path / "b", sites=pc.datasets.heart_disease(), resume=True)
    for name in ("model.pcm", "metrics.json", "plans.json", "report.html", "shares.csv"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ({"options": {"depth": 1}}, "UNKNOWN_OPTION"),
        ({"options": {"times": 0}}, "WRONG_VALUE"),
    ],
)
def test_wrong_options_are_named(model, code, tmp_path):
    with pytest.raises(InputError) as found:
        pc.run(study(**model), tmp_path / "run", sites=pc.datasets.heart_disease())
    assert found.value.code == code


@pytest.mark.parametrize("model", [{"l2": 1.0}, {"kind": "tarot"}])
def test_settings_of_regressions_are_not_of_learners(model):
    with pytest.raises(ValueError, match=r"options|one of"):
        study(**model)


def test_secure_sums_and_other_hospitals(tmp_path):
    sites = pc.datasets.heart_disease()
    model = share.ShareClassifier().fit(sites, FORMULA, privacy=pc.SecureSum())
    assert model.predictor_ == share.ShareClassifier().fit(sites, FORMULA).predictor_
    assert "4 hospitals" in repr(model) and "all  " in str(model)
    found = model.evaluate(sites, validate="none")
    assert found.measures["all"]["auroc"]["value"] == 0.5
    model.save(tmp_path / "model.pcm")
    with pytest.raises(InputError, match="NO_TRAINING_ROWS"):
        pc.load(tmp_path / "model.pcm").report(tmp_path / "report.html")


def test_noise_is_refused_by_name():
    with pytest.raises(InputError, match="NO_PRIVATE_VERSION"):
        share.ShareClassifier().fit(
            pc.datasets.heart_disease(), FORMULA, privacy=pc.DifferentialPrivacy(1.0, 1e-5)
        )


def test_arrays_with_names_and_classes():
    import pandas as pd

    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0]})
    model = share.ShareClassifier().fit(frame, ["no", "yes", "yes", "yes"])
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.predict(frame).tolist() == ["yes"] * 4
    assert np.allclose(model.predict_proba(frame), [[0.25, 0.75]] * 4)
    with pytest.raises(InputError, match="NO_FORMULA"):
        model.evaluate()


@pytest.mark.parametrize("seed", [-1, 1.5, "one", True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match="random_state") as found:
        share.ShareClassifier(random_state=seed).fit([[0.0], [1.0]], [0, 1])
    assert found.value.code == "WRONG_VALUE"
    share.ShareClassifier(random_state=None).fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize("rule", ["mean", "keep"])
def test_an_outcome_is_never_filled(rule, tmp_path):
    sites = pc.datasets.heart_disease()
    for missing in (rule, {"default": "drop", "disease": rule}):
        cohort = sites.cohort(missing=missing, columns=["disease", "age", "sex"])
        with pytest.raises(InputError, match="never filled") as found:
            share.ShareClassifier().fit(cohort, FORMULA)
        assert '"disease": "drop"' in found.value.next


def test_a_study_that_fills_gaps_leaves_out_patients_without_an_outcome(tmp_path):
    asked = study(formula="disease ~ age + chol").model_dump(by_alias=True)
    asked["cohort"]["missing"], asked["evaluation"]["subgroups"] = "mean", []
    done = pc.run(Study.model_validate(asked), tmp_path / "run", sites=pc.datasets.heart_disease())
    assert done.model.formula_data.design.fills.keys() == {"age", "chol"}
    assert done.model.result_.n == 920
