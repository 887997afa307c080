"""Treatment effects over hospitals: estimator, recommendations, study file, report."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

import polyclinic as pc
from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.governance.study_file import Study
from tests.models.effects.world import by_hand, matrix, pooled, rows, spec

BOOK = Codebook.from_dict(
    {
        "name": "trial",
        "columns": {
            "clinic": {"type": "text"},
            "x": {"type": "number", "range": [-16, 16]},
            "z": {"type": "number", "range": [-16, 16]},
            "c": {"type": "binary", "levels": {"no": "", "yes": ""}},
            "drug": {"type": "binary", "levels": {"old": "standard care", "new": "new drug"}},
            "three": {"type": "category", "levels": {"p": "", "q": "", "r": ""}},
            "pain": {"type": "number", "range": [-64, 64]},
            "dead": {"type": "binary", "levels": {"no": "", "yes": ""}},
        },
    }
)
NUMBER, EVENT = rows(900, 3), rows(900, 4, binary=True)


def frame(data):
    made = pd.DataFrame({"x": data["x"], "z": data["z"], "pain": data["y"]})
    made["c"] = np.where(data["c"] == 1, "yes", "no")
    made["drug"] = np.where(data["a"] == 1, "new", "old")
    made["dead"] = np.where(data["y"] > 0.5, "yes", "no")
    made["three"] = np.tile(["p", "q", "r"], 300)
    made["clinic"] = np.repeat(["a", "b", "c"], 300)
    return made


def sites(data):
    return pc.split(frame(data), by="clinic", schema=BOOK)


@pytest.mark.parametrize("privacy", [None, pc.SecureSum()])
def test_an_effect_over_hospitals_is_that_of_pooled_rows(privacy):
    model = pc.TreatmentEffect(treatment="drug").fit(sites(EVENT), "dead ~ x + z + c",
                                                     privacy=privacy)  # fmt: skip
    mean, covariance = by_hand(EVENT, "aipw", binary=True)
    np.testing.assert_allclose(model.effect_, mean[1] - mean[0], rtol=1e-8)
    se = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    np.testing.assert_allclose(model.se_, se, rtol=1e-8)
    table = model.summary()
    np.testing.assert_allclose(table.loc[("aipw", "risk ratio"), "estimate"], mean[1] / mean[0])
    assert {"aipw", "ipw", "regression", "unadjusted"} == set(table.index.get_level_values(0))
    assert model.balance().loc["x", "smd_before"] > 0.3 > abs(model.balance().loc["x", "smd_after"])


def test_the_treatment_may_stand_in_the_formula_or_not():
    one = pc.TreatmentEffect(treatment="drug").fit(sites(EVENT), "dead ~ x + c")
    for formula in ("dead ~ x + drug + c", "dead ~ C(drug) + x + c"):
        two = pc.TreatmentEffect(treatment="drug").fit(sites(EVENT), formula)
        np.testing.assert_allclose(one.effect_, two.effect_, rtol=1e-12)


def test_recommendations(tmp_path):
    asked = pc.TreatmentEffect(treatment="drug", effect_modifiers=["x"])
    model = asked.fit(sites(NUMBER), "pain ~ x + z + c")
    found = pooled(NUMBER, spec(modifiers=("x",))).modified
    assert found is not None
    # Folds are counted within each hospital, which are of 300 patients each: the same folds.
    np.testing.assert_allclose(model.modifiers()["coef"], found.coef, rtol=1e-8)
    np.testing.assert_allclose(model.modifiers()["se"] ** 2, np.diag(found.covariance), rtol=1e-8)
    new = pd.DataFrame({"x": [-6.0, -2.0, 6.0]}, index=["ann", "bob", "cem"])
    told = model.recommend(new, better="higher")
    assert told["recommended"].tolist() == ["standard care", "no clear advantage", "new drug"]
    assert told.index.tolist() == ["ann", "bob", "cem"]
    assert (told["lower"] < told["effect"]).all() and (told["effect"] < told["upper"]).all()
    other = model.recommend(new, better="lower")["recommended"].tolist()
    assert other == ["new drug", "no clear advantage", "standard care"]
    model.save(tmp_path / "model.pcm")
    again = pc.load(tmp_path / "model.pcm")
    pd.testing.assert_frame_equal(again.recommend(new, better="higher"), told)
    pd.testing.assert_frame_equal(again.summary(), model.summary())
    assert again.effect_ == model.effect_ and str(again) == str(model)


def test_effects_within_each_hospital():
    model = pc.TreatmentEffect(treatment="drug", method="ipw").fit(sites(EVENT), "dead ~ x + z + c")
    e = sm.Logit(EVENT["a"], matrix(EVENT)).fit(disp=0, tol=1e-14).predict()
    table = model.by_hospital()
    for k, clinic in enumerate(("a", "b", "c")):
        a, y, own = (v[300 * k : 300 * (k + 1)] for v in (EVENT["a"], EVENT["y"], e))
        w = [(1 - a) / (1 - own), a / own]
        mean = [np.average(y, weights=one) for one in w]
        part = [one * (y - m) / one.sum() for one, m in zip(w, mean, strict=True)]
        se = np.sqrt(np.sum((part[1] - part[0]) ** 2))
        wanted = (mean[1] - mean[0], se)
        np.testing.assert_allclose(table.loc[clinic, ["estimate", "se"]], wanted, rtol=1e-8)
    model._ask_hospitals()
    (drawn,) = [b for b in model.blocks_() if b.get("title") == "The effect in each hospital"]
    np.testing.assert_allclose([line["estimate"] for line in drawn["lines"]], table["estimate"])


def test_no_hospital_shows_by_itself_what_was_seen_in_a_total():
    asked = pc.TreatmentEffect(treatment="drug", method="ipw")
    model = asked.fit(sites(EVENT), "dead ~ x + z + c", privacy=pc.SecureSum())
    with pytest.raises(pc.Refused, match="SEEN_TOGETHER"):
        model.by_hospital()


@pytest.mark.parametrize(
    ("options", "formula", "code"),
    [
        ({}, "dead ~ x", "BAD_TREATMENT"),
        ({"treatment": "three"}, "dead ~ x", "BAD_TREATMENT"),
        ({"treatment": "drug"}, "dead ~ x + drug:x", "BAD_TREATMENT"),
        ({"treatment": "drug"}, "dead ~ drug", "BAD_FORMULA"),
        ({"treatment": "drug"}, "three ~ x", "WRONG_VALUE"),
        ({"treatment": "drug", "method": "magic"}, "dead ~ x", "WRONG_VALUE"),
        ({"treatment": "drug", "trim": 0.4}, "dead ~ x", "WRONG_VALUE"),
        ({"treatment": "drug", "effect_modifiers": ["z"]}, "dead ~ x", "WRONG_VALUE"),
        ({"treatment": "drug", "method": "ipw", "cross_fit": True}, "dead ~ x", "WRONG_VALUE"),
    ],
)
def test_what_cannot_be_asked_is_named(options, formula, code):
    with pytest.raises(InputError) as found:
        pc.TreatmentEffect(**options).fit(sites(EVENT), formula)
    assert found.value.code == code


def test_arrays_and_patients_without_modifiers_are_named(monkeypatch):
    with pytest.raises(InputError, match="NO_SITES"):
        pc.TreatmentEffect(treatment="drug").fit(matrix(EVENT), EVENT["y"])
    model = pc.TreatmentEffect(treatment="drug", method="regression").fit(sites(EVENT), "dead ~ x")
    for ask in (model.modifiers, lambda: model.recommend(frame(EVENT), better="lower")):
        with pytest.raises(InputError, match="NO_MODIFIERS"):
            ask()
    with pytest.raises(InputError, match="NOTHING_TO_PREDICT"):
        model.evaluate()


def test_which_outcome_is_better_must_be_said():
    asked = pc.TreatmentEffect(treatment="drug", effect_modifiers=["x"], folds=2)
    model = asked.fit(sites(EVENT), "dead ~ x")
    with pytest.raises(InputError, match="WRONG_VALUE"):
        model.recommend(frame(EVENT), better="yes")
    gaps = pd.DataFrame({"x": [1.0, np.nan]})
    with pytest.raises(InputError, match="MISSING_VALUES"):
        model.recommend(gaps, better="lower")


def study(**options):
    content = {
        "format": 1,
        "study": {"name": "angina", "purpose": "research"},
        "data": {"dataset": "heart_disease"},
        "model": {
            "kind": "treatment-effect",
            "formula": "thalach ~ exang + age + sex + trestbps",
            "options": {"treatment": "exang", **options},
        },
    }
    return Study.model_validate(content)


def heart_rows(source):
    """The complete patients of the four files, as the columns of the hand-written equations."""
    frames = []
    for path in source.values():
        read = pd.read_csv(path, header=None, na_values="?")
        frames.append(read[[0, 1, 3, 7, 8]].set_axis(["x", "c", "z", "y", "a"], axis=1))
    found = pd.concat(frames)
    found["z"] = found["z"].replace(0, np.nan)
    return {name: values.to_numpy(float) for name, values in found.dropna().items()}


def test_a_study_from_its_file_to_the_report(tmp_path, heart_files):
    done = pc.run(study(), tmp_path / "run")
    mean, covariance = by_hand(heart_rows(heart_files), "aipw")
    np.testing.assert_allclose(done.model.effect_, mean[1] - mean[0], rtol=1e-7)
    se = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    np.testing.assert_allclose(done.model.se_, se, rtol=1e-7)
    text = done.report.read_text(encoding="utf-8")
    for part in ("Treatment effect", "Overlap", "Balance", "by method", "What this rests on"):
        assert part in text
    effects = pd.read_csv(done.folder / "effects.csv")
    one = effects[(effects.method == "aipw") & (effects.name == "difference")].iloc[0]
    np.testing.assert_allclose(one.estimate, done.model.effect_, rtol=1e-12)
    assert "balance.csv" in {path.name for path in done.folder.iterdir()}
    measures = json.loads((done.folder / "metrics.json").read_text())
    assert measures["model"]["title"] == "treatment effect" and "evaluation" not in measures
    assert str(pc.load(done.folder)) == str(done.model)
