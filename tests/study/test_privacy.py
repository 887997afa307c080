"""Differential privacy from the study's side: the guarantee, the budget, what it costs."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import polyclinic as pc
from polyclinic.study.homes import ledger_of
from polyclinic.study.predict import predict_file

DP = pc.DifferentialPrivacy(epsilon=3.0, delta=1e-6)
SITES = ("a", "b", "c", "d")


def frame(n=4000):
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=n).clip(-3, 3), rng.uniform(-1, 1, n)
    sick = (rng.uniform(size=n) < 1 / (1 + np.exp(-0.6 * x + 0.4 * z))).astype(int)
    score = 1.0 + 0.5 * x - 0.25 * z + rng.normal(size=n).clip(-3, 3)
    return pd.DataFrame({"h": rng.choice(SITES, n), "x": x, "z": z, "sick": sick, "score": score})


@pytest.fixture
def sites():
    return pc.split(frame(), by="h")


@pytest.mark.parametrize("privacy", [DP, [DP, pc.SecureSum()], [pc.SecureSum(), DP]])
def test_a_noisy_fit_lies_near_the_exact_one(sites, privacy):
    model = pc.LogisticRegression().fit(sites, "sick ~ x + z", privacy=privacy)
    cost = model.against_exact()
    noise = np.sqrt(cost["se"] ** 2 - cost["exact_se"] ** 2)
    # Twelve standard deviations of the noise: never by chance.
    assert (np.abs(cost["coef"] - cost["exact"]) < 12 * noise + 0.01).all()
    assert (cost["se"] > cost["exact_se"]).all()
    assert "epsilon 3, delta 1e-06" in " ".join(str(model).split())
    secure = model.formula_data.federation.summing.secure
    assert secure == isinstance(privacy, list)


def test_less_epsilon_is_more_noise(sites):
    def errors(epsilon):
        privacy = pc.DifferentialPrivacy(epsilon, 1e-6)
        fresh = pc.split(frame(), by="h")
        return pc.LinearRegression().fit(fresh, "score ~ x + z", privacy=privacy).summary()["se"]

    assert (errors(0.5) > errors(5.0)).all()


def test_the_budget_of_a_site_is_one_for_all_fits(sites):
    sites = sites.with_policy(pc.Policy(epsilon=4.0, delta=1e-6))
    pc.LinearRegression().fit(sites, "score ~ x", privacy=DP)
    with pytest.raises(pc.Refused) as found:
        pc.LinearRegression().fit(sites, "score ~ x + z", privacy=DP)
    assert found.value.code == "BUDGET_SPENT"
    ledgers = sites.ledgers()
    assert all(2.9 < ledger["budget"][0] <= 4.0 for ledger in ledgers.values())


@pytest.mark.parametrize(("limit", "said"), [(10.0, "of 10 spent"), (None, "spent; the policy")])
def test_a_ledger_shows_what_was_spent_also_without_a_bound(sites, tmp_path, limit, said):
    home = sites.with_policy(pc.Policy(epsilon=limit)).at_home(tmp_path)
    for formula in ("score ~ x", "score ~ x + z"):
        pc.LinearRegression().fit(home, formula, privacy=DP)
    text = " ".join(ledger_of(tmp_path / "a").split())
    spent = home.ledgers()["a"]["budget"]
    assert spent[1:] == [limit, 1e-6]
    assert 3.0 < spent[0] < 2 * DP.epsilon - 0.5  # of two fits together, less than their sum
    assert said in text
    assert "at delta 1e-06; several releases with noise cost less together than the sum" in text


def test_where_no_exact_sum_is_allowed(sites):
    sites = sites.with_policy({"a": pc.Policy(exact=False)})
    with pytest.raises(pc.Refused, match="NOISE_REQUIRED"):
        pc.LogisticRegression().fit(sites, "sick ~ x")
    model = pc.LogisticRegression().fit(sites, "sick ~ x", privacy=DP)
    with pytest.raises(pc.Refused, match="NOISE_REQUIRED"):
        model.against_exact()


def test_a_fit_asks_for_nothing_exact(sites):
    model = pc.LogisticRegression().fit(sites, "sick ~ x + z", privacy=DP)
    assert {done.step for done in model.rounds_} == {"noisy Newton round"}
    for books in sites._books.values():
        assert len(books.ledger.spent(books.dataset)) == len(model.rounds_) == 5
        assert not books.ledger.refusals()


def asked(sites):
    """Every step that any hospital has released sums for."""
    return {row["step"] for books in sites._books.values() for row in books.ledger.rows()}


def test_measures_are_those_of_the_noisy_model_and_no_fold_is_fitted(sites):
    model = pc.LogisticRegression().fit(sites, "sick ~ x + z", privacy=DP)
    coef = model.coef_.tobytes()
    found = model.evaluate(thresholds=(0.3,))
    assert found.measures["how"] == "same patients" and found.measures["folds"] == 0
    assert {step for step in asked(sites) if "Newton" in step} == {"noisy Newton round"}
    assert not [step for step in asked(sites) if "validation" in step or "alone" in step]
    assert all(len(books.ledger.spent(books.dataset)) == 5 for books in sites._books.values())
    data = frame()
    risk = 1 / (1 + np.exp(-(model.intercept_ + data[["x", "z"]] @ model.coef_.ravel())))
    area = found.measures["all"]["auroc"]["value"]
    assert area == pytest.approx(roc_auc_score(data["sick"], risk), abs=1e-3)
    brier = float(((risk - data["sick"]) ** 2).mean())
    assert found.measures["all"]["brier"] == pytest.approx(brier, rel=1e-6)
    said = " ".join(repr(found).split())
    assert "same patients" in said
    assert "measures are of the model with noise; they are exact sums, which this guarantee" in said
    assert model.coef_.tobytes() == coef


@pytest.mark.parametrize("privacy", [DP, [DP, pc.SecureSum()]])
def test_a_report_fits_nothing_again(sites, tmp_path, privacy):
    model = pc.LinearRegression().fit(sites, "score ~ x + z", privacy=privacy)
    text = model.report(tmp_path / "report.html").read_text()
    assert not [step for step in asked(sites) if "validation" in step]
    assert "the measures of the model are exact sums, which this guarantee does not cover" in text
    assert all(len(books.ledger.spent(books.dataset)) == 1 for books in sites._books.values())


def test_a_cross_validation_with_noise_is_refused(sites):
    model = pc.LogisticRegression().fit(sites, "sick ~ x", privacy=DP)
    before = asked(sites)
    with pytest.raises(pc.InputError, match="every fold would be another fit") as found:
        model.evaluate(validate="cross-validation")
    assert found.value.code == "NO_PRIVATE_VERSION" and "same patients" in found.value.next
    assert asked(sites) == before
    exact = pc.LogisticRegression().fit(sites, "sick ~ x")
    assert exact.evaluate(folds=3).measures["how"] == "cross-validation"
    assert "note" not in exact.evaluate(validate="none").measures


def test_other_hospitals_judge_a_noisy_model_as_it_is(sites):
    model = pc.LogisticRegression().fit(sites, "sick ~ x", privacy=DP)
    others = pc.split(frame().assign(h="new " + frame()["h"]), by="h")
    found = model.evaluate(others)
    assert found.measures["how"] == "other hospitals" and found.measures["all"]["n"] == 4000


def test_the_faces_of_a_noisy_model_say_so(sites):
    model = pc.LogisticRegression().fit(sites, "sick ~ x", privacy=DP)
    text = " ".join(str(model).split())
    assert text.startswith("Logistic regression about ")
    for said in (
        "Noise was added.",
        "epsilon 3, delta 1e-06",
        "is shortened, that is, counts less than 1, so that nobody can move a sum by more",
        "evaluate() and report() show beside the coefficients are exact sums, which this guarantee",
    ):
        assert said in text and said in model._repr_html_()
    assert "noise of epsilon 3" in repr(model)
    exact = pc.LogisticRegression().fit(sites, "sick ~ x")
    assert "about" not in str(exact) and "oise" not in str(exact) + repr(exact)


def test_noise_that_is_too_large_says_what_usual_is(sites):
    weak = pc.DifferentialPrivacy(0.002, 1e-6)
    with pytest.warns(match=r"usual = \[low, high\], between which nearly all patients lie"):
        pc.LogisticRegression().fit(sites, "sick ~ x + z", privacy=weak)


@pytest.mark.parametrize(
    ("kind", "formula", "privacy"),
    [
        ("LogisticRegression", "sick ~ x + z", [DP, pc.SecureSum()]),
        ("LinearRegression", "score ~ x + z", DP),
        ("PoissonRegression", "sick ~ x", DP),
    ],
)
def test_a_saved_noisy_model_is_the_same(sites, tmp_path, kind, formula, privacy):
    model = getattr(pc, kind)(l2=0.5).fit(sites, formula, privacy=privacy)
    model.save(tmp_path / "model.pcm")
    again = pc.load(tmp_path / "model.pcm")
    rows = frame()[["x", "z"]].head(50)
    assert again.predict(rows).tobytes() == model.predict(rows).tobytes()
    pd.testing.assert_frame_equal(again.summary(), model.summary(), check_exact=True)
    assert again.covariance().tobytes() == model.covariance().tobytes()
    noise = model.result_.noise_covariance
    assert again.result_.noise_covariance.tobytes() == noise.tobytes() and noise[0, 0] > 0
    assert str(again) == str(model) and repr(again) == repr(model)
    with pytest.raises(pc.InputError, match="NO_PRIVATE_VERSION"):
        again.evaluate(validate="cross-validation")
    again.save(tmp_path / "again.pcm")
    assert (tmp_path / "again.pcm").read_bytes() == (tmp_path / "model.pcm").read_bytes()


@pytest.mark.parametrize(
    ("formula", "options", "code"),
    [
        ("sick ~ x", {"l1": 1.0}, "NO_PRIVATE_VERSION"),
        ("sick ~ x", {"class_weight": "balanced"}, "NO_PRIVATE_VERSION"),
    ],
)
def test_models_without_a_private_version(sites, formula, options, code):
    with pytest.raises(pc.InputError, match=code):
        pc.LogisticRegression(**options).fit(sites, formula, privacy=DP)


def test_a_mean_is_not_asked_for_exactly(heart):
    cohort = heart.cohort(columns=["disease", "age", "chol"], missing={"chol": "mean"})
    with pytest.raises(pc.InputError, match="NO_PRIVATE_VERSION"):
        pc.LogisticRegression().fit(cohort, "disease ~ age + chol", privacy=DP)
    assert not any(books.ledger.rows() for books in heart._books.values())


@pytest.mark.parametrize("privacy", [DP, [DP, pc.SecureSum()]])
def test_noisy_statistics(sites, privacy):
    data = frame()
    found = sites.describe(["x", "score"], privacy=privacy)
    assert (np.abs(found["n"] - len(data)) < 8 * found["n_noise"]).all()
    assert np.abs(found["mean"] - data[["x", "score"]].mean()).max() < 8 * found["mean_noise"].max()
    with pytest.raises(pc.InputError, match="NO_PRIVATE_VERSION"):
        sites.describe(["x"], by="sick", privacy=DP)


@pytest.mark.parametrize("privacy", [DP, [DP, pc.SecureSum()]])
def test_a_noisy_histogram_has_laplace_noise(sites, privacy):
    found = sites.histogram("z", bins=8, privacy=privacy)
    edges = np.append(found["lower"], found["upper"].iloc[-1])
    true, _ = np.histogram(frame()["z"], edges)
    width = (found["n_upper"] - found["n_lower"]).max()
    assert width < 2 * 2.2 * np.sqrt(2 * len(SITES)) / DP.epsilon * 1.01
    assert (np.abs(found["n"] - true) < 12 * width).all()
    (event,) = sites._books["a"].ledger.spent("data")
    assert event["mechanism"] == "discrete_laplace"


def test_arrays_have_no_border(sites):
    data = frame()
    for privacy in (DP, pc.SecureSum()):
        with pytest.raises(pc.InputError, match="NO_SITES"):
            pc.LogisticRegression().fit(data[["x", "z"]], data["sick"], privacy=privacy)


STUDY = """
format = 1
[study]
name = "noisy"
[data]
dataset = "heart_disease"
[model]
kind = "logistic"
formula = "disease ~ age + sex + exang"
[privacy]
epsilon = 6.0
delta = 1e-5
[evaluation]
validate = "none"
alone = false
"""


def test_a_study_under_differential_privacy(tmp_path, data_dir):
    (tmp_path / "study.toml").write_text(STUDY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = pc.run(tmp_path / "study.toml")
    assert "epsilon 6" in done.results["study"]["guarantee"]
    assert "epsilon 6" in done.report.read_text()
    loaded = pc.load(done.folder)
    assert loaded.coef_.tobytes() == done.model.coef_.tobytes()
    patients = [(63.0, 1.0, 0.0), (40.0, 0.0, 1.0)]
    lines = [f"{age:g},{sex:g},?,?,?,?,?,?,{exang:g},?,?,?,?,?" for age, sex, exang in patients]
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    predicted = predict_file(done.folder, tmp_path / "new.csv")["risk"]
    linear = done.model.intercept_ + np.array(patients) @ done.model.coef_.ravel()
    np.testing.assert_allclose(predicted, 1 / (1 + np.exp(-linear)))
    metrics = json.loads((done.folder / "metrics.json").read_text())
    assert metrics["model"]["patients"] == sum(s["patients"] for s in metrics["data"]["sites"])
    assert metrics["model"]["deviance"] is None or metrics["model"]["deviance"] >= 0
    # Asked again, the hospitals' ledgers give the same noise.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = pc.run(tmp_path / "study.toml")
    assert again.model.coef_.tobytes() == done.model.coef_.tobytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("delta = 1e-5\n", ""), "belong together"),
        (('validate = "none"', "folds = 3"), "would spend epsilon again"),
        (("epsilon = 6.0", "epsilon = 0.0"), "epsilon"),
        (("epsilon = 6.0", "secure_sums = 'maybe'\nepsilon = 6.0"), "secure_sums"),
    ],
)
def test_keys_that_do_not_fit_together(tmp_path, change, said):
    (tmp_path / "study.toml").write_text(STUDY.replace(*change))
    with pytest.raises(pc.InputError) as found:
        pc.run(tmp_path / "study.toml")
    assert said in str(found.value)


def test_hospitals_that_answer_nothing_of_their_own(tmp_path):
    sites = pc.datasets.heart_disease().with_policy(pc.Policy(collect=()))
    model = pc.LogisticRegression().fit(sites, "disease ~ age + sex")
    for ask in (sites.table_one, model.evaluate, lambda: model.report(tmp_path / "r.html")):
        with pytest.raises(pc.Refused, match="show_sites = false"):
            ask()
    assert sites.table_one(show_sites=False).columns.tolist() == ["all"]
    assert sites.table_one(by="sex").shape[1] == 3
    assert model.report(tmp_path / "r.html", show_sites=False).stat().st_size > 10_000
    assert model.evaluate(show_sites=False).measures["sites"] == {}
