"""What a hospital's own model leaves as: arrays and back, and who stands behind its parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

import polyclinic as pc
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.federation import Domain, Inline
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.learner import Asked, Column, kind_of, last
from polyclinic.models.predictor import form_of, predictor_from

RNG = np.random.default_rng(5)
N = 200
X = np.column_stack([RNG.normal(size=N), RNG.normal(size=N), RNG.integers(0, 2, N)])
Y = (RNG.uniform(size=N) < 1 / (1 + np.exp(-X @ [1.0, -1.0, 0.5]))).astype(float)
NAMES = ("a", "b", "c")
ROWS = Partition({**{name: X[:, j] for j, name in enumerate(NAMES)}, "y": Y}, site="s")
TERMS = tuple(Term(name, (Factor("value", name),), 8.0) for name in NAMES)
COLUMNS = tuple(Column(name, "number", (), -4.0, 4.0) for name in NAMES)
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "linear-svc": ({}, 2),
    "linear-svr": ({}, 0),
    "svc": ({"n_components": 20}, 2),
    "gaussian-nb": ({}, 2),
    "tree": ({"max_depth": 3}, 2),
    "forest": ({"n_estimators": 3, "max_depth": 2}, 0),
    "boosting": ({"n_estimators": 4, "max_depth": 2}, 2),
}


def made(name: str) -> tuple[Any, Any, Any]:
    """Form, spec and predictor of a model of all rows."""
    options, classes = KINDS[name]
    kind = kind_of(name)
    spec = kind.spec(Asked(Design(TERMS, "y"), options, classes, COLUMNS))
    found = last(fit(spec.algorithm(), Domain(Inline(ROWS))).model).predictor()
    return form_of(kind.predicts_as or kind.name), spec, found


@pytest.mark.parametrize("name", KINDS)
def test_arrays_and_back(name):
    form, spec, predictor = made(name)
    arrays = form.to_arrays(spec, predictor.to_data())
    assert {key: array.shape for key, array in arrays.items()} == dict(form.shapes(spec))
    again = predictor_from(form.from_arrays(spec, arrays))
    assert np.array_equal(again.predict(ROWS), predictor.predict(ROWS))
    assert form.coefficients(spec) > len(TERMS)


def test_patients_of_the_smallest_leaf():
    form, _, predictor = made("tree")
    (found,) = form.behind(predictor.to_data(), ROWS).values()
    values = np.unique(predictor.predict(ROWS), return_counts=True)[1]
    assert found <= values.min() and found >= 1
    twice = replace(ROWS, key=np.repeat(np.arange(N // 2), 2), cache={})
    (patients,) = form.behind(predictor.to_data(), twice).values()
    assert patients <= values.min()


def test_patients_who_carry_a_machine():
    form, _, predictor = made("linear-svc")
    (found,) = form.behind(predictor.to_data(), ROWS).values()
    missed = np.maximum(1 - (2 * Y - 1) * predictor.decision(X)[:, 0], 0)
    assert found == int(missed.sum() ** 2 / (missed**2).sum())
    near = predictor.to_data()
    lonely = {**near, "coef": near["coef"] * 0.0 + np.array([[5.0, 0, 0, 0]])}
    rows = Partition({name: v[:40] for name, v in ROWS.columns.items()} | {"y": np.ones(40)})
    rows.columns["y"][7] = 0.0  # the only one within the margin
    assert form.behind(lonely, rows) == {"margin 0": 1}


def test_patients_of_a_class_with_a_rare_level():
    form, _, predictor = made("gaussian-nb")
    counts = form.behind(predictor.to_data(), ROWS)
    assert counts["c = 1, outcome = 0"] == int(((X[:, 2] == 1) & (Y == 0)).sum())
    assert len(counts) == 4


@pytest.mark.parametrize("change", ["start", "nodes"])
def test_arrays_that_are_no_trees(change):
    form, spec, predictor = made("boosting")
    arrays = form.to_arrays(spec, predictor.to_data())
    arrays[change] = arrays[change] + 1000.0
    with pytest.raises(ValueError, match=r".+"):
        form.from_arrays(spec, arrays)


def test_voting_of_naive_bayes_is_scikit_learns():
    site = np.arange(N) % 2
    model = pc.Voting(base="gaussian-nb", voting="soft").fit(X, Y, sites=site)
    expected = [GaussianNB().fit(X[site == s], Y[site == s]).predict_proba(X) for s in (0, 1)]
    assert np.allclose(model.predict_proba(X), np.mean(expected, axis=0), rtol=1e-8)


def test_the_best_machine_of_hospitals():
    hearts = pc.datasets.heart_disease()
    model = pc.SelectBest(base="linear-svc").fit(hearts, "disease ~ age + sex + thalach")
    assert len(model.models_) == 4
