"""The survival estimators: over hospitals, over arrays, saved, in a study with a report."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.utils.estimator_checks import parametrize_with_checks

import polyclinic as pc
from polyclinic.core.errors import InputError
from tests.models.survival.brca import GOLDEN, TERMS, rows

FORMULA = f"Surv(T, E) ~ {' + '.join(TERMS)}"
pytestmark = pytest.mark.usefixtures("data_dir")


@pytest.fixture
def brca() -> pc.Sites:
    return pc.datasets.load("tcga_brca")


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    columns = rows().columns
    x = np.column_stack([columns[name] for name in TERMS])
    return x, columns["T"], columns["E"], columns["site"]


def test_cox_over_hospitals_as_lifelines(brca: pc.Sites) -> None:
    model = pc.CoxRegression().fit(brca, FORMULA)
    table, known = model.summary(), GOLDEN["stratified"]
    assert list(table.index) == list(TERMS)
    assert list(table.columns) == ["coef", "se", "z", "p", "lower", "upper"]
    assert_allclose(table["coef"], known["coef"], rtol=1e-8)
    assert_allclose(table["se"], known["se"], rtol=1e-8)
    ratios = model.summary(exponentiate=True)
    assert_allclose(ratios["coef"], np.exp(known["coef"]), rtol=1e-8)
    assert_allclose(model.hazard_ratio_, ratios["coef"])
    assert model.concordance_["c"] == pytest.approx(0.63, abs=0.02)
    assert list(model.proportional_hazards().index) == list(TERMS)
    frame = pd.DataFrame({name: rows().columns[name][:5] for name in TERMS})
    assert_allclose(model.predict(frame), frame.to_numpy() @ model.coef_, rtol=1e-12)
    with pytest.raises(InputError) as error:
        model.predict_survival(frame)
    assert error.value.code == "GRID_NEEDED"


def test_cox_over_arrays_is_exact_with_and_without_sites() -> None:
    x, duration, event, site = arrays()
    pooled = pc.CoxRegression().fit(x, duration, event=event)
    assert_allclose(pooled.coef_, GOLDEN["pooled"]["coef"], rtol=1e-8)
    assert_allclose(pooled.score(x, duration, event=event), GOLDEN["concordance"], rtol=1e-12)
    strata = pc.CoxRegression().fit(x, duration, event=event == 1, sites=site)
    assert_allclose(strata.coef_, GOLDEN["stratified"]["coef"], rtol=1e-8)
    structured = np.array(list(zip(event == 1, duration, strict=True)), [("E", "?"), ("T", "f8")])
    again = pc.CoxRegression().fit(x, structured)
    assert_allclose(again.coef_, pooled.coef_, rtol=1e-12)
    by_site = pooled_by_site(x, duration, event, site)
    assert by_site.shape == (4, 6) and np.all(by_site["se"] > 0)
    survival = pooled.predict_survival(x[:3])
    assert np.all(np.diff(survival.to_numpy(), axis=1) <= 0)
    assert pooled.baseline_ is not None and len(pooled.baseline_) == survival.shape[1]


def pooled_by_site(x, duration, event, site) -> pd.DataFrame:
    model = pc.CoxRegression(robust="site").fit(x, duration, event=event, sites=site)
    again = pc.CoxRegression().fit(x, duration, event=event, sites=site)
    assert_allclose(again.summary(robust="site"), model.summary(), rtol=1e-10)
    return model.summary()


def test_cox_with_one_baseline_over_hospitals(brca: pc.Sites) -> None:
    terms = "age_at_index + race_white"
    with pytest.warns(pc.DataWarning):
        model = pc.CoxRegression(stratify=False, time_bins=60).fit(
            brca, f"Surv(T, E) ~ {terms}", privacy=pc.SecureSum()
        )
    assert model.result_.converged and set(model.result_.beside) == {"halved", "stratified"}
    assert len(model.baseline_) == 60


def test_a_model_is_saved_and_read(brca: pc.Sites, tmp_path: Path) -> None:
    frame = pd.DataFrame({name: rows().columns[name][:5] for name in TERMS})
    for name, model in (
        ("cox", pc.CoxRegression().fit(brca, FORMULA)),
        ("log-rank", pc.LogRank().fit(brca, "Surv(T, E) ~ race_white")),
    ):
        model.save(tmp_path / name)
        again = pc.load(tmp_path / name)
        assert repr(again) == repr(model) and str(again) == str(model)
        if name == "cox":
            assert_allclose(again.predict(frame), model.predict(frame), rtol=0)
            pd.testing.assert_frame_equal(again.summary(), model.summary())
        else:
            assert again.p_value_ == model.p_value_


def test_curves_over_arrays_as_lifelines() -> None:
    _, duration, event, site = arrays()
    white = rows().columns["race_white"]
    model = pc.KaplanMeier().fit(duration, event=event, by=white)
    for group, known in GOLDEN["curves"].items():
        curve = model.curves_[f"{float(group)}"]
        assert [curve.at(t) for t in known["times"]] == pytest.approx(known["survival"])
        assert curve.distance == 0.0
    assert model.summary().loc["1.0", "median"] == GOLDEN["curves"]["1"]["median"]
    assert {"group", "time", "survival", "at_risk"} <= set(model.table())
    test = pc.LogRank().fit(duration, event=event, by=white)
    assert test.p_value_ == pytest.approx(GOLDEN["logrank"]["p"])
    assert pc.LogRank().fit(duration, event=event, by=white, sites=site).p_value_ != test.p_value_
    old = rows().columns["age_at_index"] >= 60
    both = pc.CumulativeIncidence().fit(duration, event=event * (1 + old))
    known = GOLDEN["incidence"]
    for cause in (1, 2):
        one = both.incidences_["all"][cause]
        at = np.searchsorted(one.times, known["times"], side="right") - 1
        assert_allclose(one.incidence[at], known[f"cause {cause}"], rtol=1e-10)


def test_curves_over_hospitals_and_their_report(brca: pc.Sites, tmp_path: Path) -> None:
    with pytest.warns(pc.DataWarning, match="too few"):
        model = pc.KaplanMeier(horizon=3000.0).fit(brca, "Surv(T, E) ~ 1")
    page = model.report(tmp_path / "report.html").read_text()
    assert "How far from the exact curve" in page and "at risk" in page.lower()
    assert 0 < model.summary()["distance"]["all"] < 0.8


def test_a_formula_of_another_kind_says_so(brca: pc.Sites) -> None:
    wrong = [
        (pc.LogisticRegression(), FORMULA),
        (pc.CoxRegression(), "E ~ age_at_index"),
        (pc.KaplanMeier(), "Surv(T, E) ~ age_at_index"),
        (pc.LogRank(), "Surv(T, E) ~ 1"),
        (pc.LogRank(), "Surv(T, E) ~ race_white + weights(age_at_index)"),
        (pc.KaplanMeier(), "Surv(T, E) ~ 1 + offset(age_at_index)"),
    ]
    for model, formula in wrong:
        with pytest.raises(InputError) as error:
            model.fit(brca, formula)
        assert error.value.code == "BAD_FORMULA"
    for options in ({"ties": "exact"}, {"l2": -1.0}, {"diagnostics": "all"}, {"grid": []}):
        with pytest.raises(InputError) as error:
            pc.CoxRegression(**options).fit(brca, FORMULA)
        assert error.value.code == "WRONG_VALUE"


STUDY = """
format = 1
[study]
name = "brca"
title = "Survival after breast cancer"
purpose = "research"
[data]
dataset = "tcga_brca"
[model]
kind = "{kind}"
formula = "{formula}"
[model.options]
{options}
[privacy]
show_sites = false
"""


def test_the_other_models_over_hospitals(brca: pc.Sites) -> None:
    test = pc.LogRank().fit(brca, "Surv(T, E) ~ race_white")
    assert 0 < test.p_value_ <= 1 and test.df_ == 1
    assert "Log-rank test" in str(test)
    with pytest.warns(pc.DataWarning, match="too few"):
        found = pc.CumulativeIncidence().fit(brca, "Surv(T, E) ~ 1")
    assert np.all(np.diff(found.incidences_["all"][1].incidence) >= 0)


@parametrize_with_checks([pc.CoxRegression(ties="breslow")])
def test_scikit_learn_accepts_it(estimator: object, check: object) -> None:
    """Its outcome is a number above 0 and every row has the event.

    Under Efron's rule a weight of two is not two rows, which are a tie.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its data are separated, collinear, or too few
        check(estimator)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("kind", "formula", "options", "tables", "words"),
    [
        ("cox", "Surv(T, E) ~ age_at_index + race_white", 'ties = "breslow"',
         ["coefficients", "proportional_hazards"],
         ["Hazard ratios", "Are the hazards proportional?"]),
        ("kaplan-meier", "Surv(T, E) ~ race_white", "time_bins = 30", ["curves", "survival"],
         ["Times", "at risk"]),
    ],
)  # fmt: skip
def test_a_study_with_a_report(
    kind: str, formula: str, options: str, tables: list[str], words: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(STUDY.format(kind=kind, formula=formula, options=options))
    done = pc.run(file, tmp_path / "run")
    page = (done.folder / "report.html").read_text()
    for name in tables:
        assert (done.folder / f"{name}.csv").is_file()
    for word in words:
        assert word in page
    if kind == "cox":
        table = pd.read_csv(done.folder / "coefficients.csv", index_col="term")
        assert_allclose(table["coef"], pc.load(done.folder).coef_)
