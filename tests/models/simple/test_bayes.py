"""Gaussian naive Bayes is scikit-learn's of the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError, PolyclinicError, Refused
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.predictor import predictor_from
from polyclinic.models.simple import GaussianNBSpec
from tests.models.simple.rows import DATA, ENGINES, N, X, design, domain, part, sites


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(engine, weighted):
    what = design("kind", weight="w", weight_bound=4.0) if weighted else design("kind")
    run = fit(GaussianNBSpec(what, 3).algorithm(), ENGINES[engine]())
    theirs = GaussianNB().fit(X, DATA["kind"], DATA["w"] if weighted else None)
    found = run.model
    np.testing.assert_allclose(found.mean, theirs.theta_, rtol=1e-11)
    np.testing.assert_allclose(found.variance, theirs.var_, rtol=1e-11)
    np.testing.assert_allclose(found.priors, theirs.class_prior_, rtol=1e-13)
    np.testing.assert_allclose(found.epsilon, theirs.epsilon_, rtol=1e-11)
    ours = found.predictor().predict(part())
    np.testing.assert_allclose(ours, theirs.predict_proba(X), rtol=1e-10, atol=1e-12)
    assert len(run.rounds) == 2 and found.n == found.patients == N


def test_smoothing_and_priors():
    spec = GaussianNBSpec(design("kind"), 3, 0.5, (0.7, 0.2, 0.1))
    found = fit(spec.algorithm(), domain()).model
    theirs = GaussianNB(var_smoothing=0.5, priors=[0.7, 0.2, 0.1]).fit(X, DATA["kind"])
    ours = found.predictor().predict(part())
    np.testing.assert_allclose(ours, theirs.predict_proba(X), rtol=1e-10, atol=1e-12)
    again = predictor_from(found.predictor().to_data())
    assert again.predict(part()).tobytes() == ours.tobytes()
    assert GaussianNBSpec.from_data(spec.to_data()) == spec


def test_far_from_zero_and_in_tiny_units():
    data = {**DATA, "a": 1e6 + 1e-3 * DATA["a"], "b": 1e-9 * DATA["b"]}
    what = design("kind")
    x = np.column_stack([data[name] for name in "abc"])
    found = fit(GaussianNBSpec(what, 3, 0.0).algorithm(), domain(data=data)).model
    theirs = GaussianNB(var_smoothing=0.0).fit(x, data["kind"])
    np.testing.assert_allclose(found.variance[:, 0], theirs.var_[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.variance[:, 1:], theirs.var_[:, 1:], rtol=1e-10)


def test_a_fold_is_left_out():
    rows = {"folds": 5, "without": 2}
    for engine in (domain(), domain(3)):
        found = fit(GaussianNBSpec(design("kind"), 3, rows=rows).algorithm(), engine).model
        kept = np.arange(N) % 5 != 2
        theirs = GaussianNB().fit(X[kept], DATA["kind"][kept])
        np.testing.assert_allclose(found.mean, theirs.theta_, rtol=1e-11)
        np.testing.assert_allclose(found.epsilon, theirs.epsilon_, rtol=1e-11)
        assert found.n == kept.sum()


def test_a_site_with_one_class_only():
    order = np.argsort(DATA["kind"], kind="stable")
    data = {name: column[order] for name, column in DATA.items()}
    found = fit(GaussianNBSpec(design("kind"), 3).algorithm(), sites(data=data)).model
    theirs = GaussianNB().fit(X[order], data["kind"])
    np.testing.assert_allclose(found.variance, theirs.var_, rtol=1e-11)


@pytest.mark.parametrize(
    ("kind", "classes", "code"),
    [(0.0, 3, "ONE_CLASS"), (7.0, 3, "OUTCOME_NOT_ALLOWED"), (np.nan, 3, "OUTCOME_NOT_ALLOWED")],
)
def test_outcomes_that_cannot_be(kind, classes, code):
    data = {**DATA, "kind": np.full(N, kind)}
    with pytest.raises(InputError, match=code):
        fit(GaussianNBSpec(design("kind"), classes).algorithm(), domain(data=data))


def test_a_class_without_rows_a_missing_value_and_no_rows():
    with pytest.raises(InputError, match="EMPTY_CLASS"):
        fit(GaussianNBSpec(design("kind"), 4).algorithm(), domain())
    with pytest.raises(Exception, match=r"NONFINITE|finite"):
        broken = {**DATA, "a": np.where(np.arange(N) == 5, np.nan, DATA["a"])}
        fit(GaussianNBSpec(design("kind"), 3).algorithm(), domain(data=broken))
    with pytest.raises(InputError, match="NO_ROWS"):
        none = {name: column[:0] for name, column in DATA.items()}
        fit(GaussianNBSpec(design("kind"), 3).algorithm(), domain(data=none))


def test_a_constant_is_said_and_does_no_harm():
    data = {**DATA, "c": np.full(N, 0.1)}
    found = fit(GaussianNBSpec(design("kind"), 3).algorithm(), domain(data=data)).model
    assert found.warnings() == ["c is the same in all rows and says nothing about the outcome"]
    x = np.column_stack([data[name] for name in "abc"])
    theirs = GaussianNB().fit(x, data["kind"])
    ours = found.predictor().predict(part(data))
    np.testing.assert_allclose(ours, theirs.predict_proba(x), rtol=1e-8, atol=1e-12)


def test_few_patients_of_a_class_or_one_that_is_nearly_all_of_it():
    kind = np.where(np.arange(N) < 3, 2.0, DATA["kind"] % 2)
    few = {**DATA, "kind": kind}
    with pytest.raises(Refused, match="LEVEL_TOO_SMALL"):
        fit(GaussianNBSpec(design("kind"), 3).algorithm(), sites(data=few, sums="clear"))
    # The values of class 2 at the first hospital are zeros but for one patient's.
    b = np.where((DATA["kind"] == 2) & (np.arange(N) < 250), 0.0, DATA["b"])
    b[np.flatnonzero(DATA["kind"] == 2)[0]] = 14.0
    alone = {**DATA, "b": b}
    with pytest.raises(Refused, match="EFFECTIVE_SIZE"):
        fit(GaussianNBSpec(design("kind"), 3).algorithm(), sites(data=alone, sums="clear"))


@pytest.mark.parametrize(
    "change",
    [
        {"priors": np.array([np.nan, 1.0])},
        {"priors": np.array([-3.0, 4.0])},
        {"priors": np.array([0.5, 0.4])},
        {"mean": np.zeros((2, 2))},
        {"variance": -np.ones((2, 1))},
        {"variance": np.full((2, 1), np.inf)},
    ],
)
def test_numbers_that_are_no_model(change):
    one = Design((Term("a", (Factor("value", "a"),), 8.0),), "y")
    given = {"priors": np.array([0.5, 0.5]), "mean": np.zeros((2, 1)), "variance": np.ones((2, 1))}
    data = {"kind": "gaussian-nb", "design": one.to_data(), **given}
    predictor_from(data)
    with pytest.raises(PolyclinicError) as found:
        predictor_from({**data, **change})
    assert found.value.code == "BAD_MESSAGE"


def test_a_predictor_that_tells_a_few_apart_by_rounding_is_refused():
    """Beyond a radius squared distances overflow, and what is left are the priors."""
    one = Design((Term("a", (Factor("value", "a"),), 8.0),), "y")
    tiny = {"mean": np.full((2, 1), 600.0), "variance": np.full((2, 1), 1e-304)}
    data = {"kind": "gaussian-nb", "design": one.to_data(), "priors": np.array([0.55, 0.45])}
    rows = Partition({"a": np.linspace(100.0, 550.0, 40), "y": np.zeros(40)})
    with pytest.raises(PolyclinicError, match="standard deviations"):
        predictor_from({**data, **tiny}).predict(rows)
