"""Differential privacy from the study's side: the guarantee, the budget, what it costs."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc

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
    metrics = json.loads((done.folder / "metrics.json").read_text())
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
