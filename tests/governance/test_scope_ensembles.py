"""A study of an ensemble covers the plans of its own run, and no changed one."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.governance.study_file import Session, Study
from tests.governance.test_scope import covered, hearts, recorded, scope_of
from tests.governance.test_scope_learner import changed

__all__ = ["hearts"]


FOLDS = {"folds": 2, "subgroups": ["sex"], "thresholds": [0.3], "alone": False}
PLAIN = {"validate": "none"}


def study(kind="stacking", formula="disease ~ age + sex", evaluation=PLAIN, **options):
    content = {
        "format": 1,
        "study": {"name": "heart", "purpose": "research"},
        "data": {"dataset": "heart_disease"},
        "cohort": {"missing": {"default": "drop", "oldpeak": "mean"}},
        "model": {"kind": kind, "formula": formula, "options": options},
        "evaluation": evaluation,
    }
    return Study.model_validate(content)


FILLED = "disease ~ age + oldpeak"
STUDIES = {
    "stacking": study(formula=FILLED, evaluation=FOLDS, threshold={"cost": [1, 3]}, folds=2),
    "select-best": study("select-best", base_options={"l2": 1}, sampling="over"),
    "weighted-average": study("weighted-average", "thalach ~ age", base="linear", weights="loss"),
}


@pytest.fixture(scope="module")
def runs(hearts, tmp_path_factory):
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, asked in STUDIES.items():
            folder = tmp_path_factory.mktemp("run") / "run"
            scope = scope_of(asked, hearts.codebook, hearts.names)
            found[name] = scope, recorded(asked, hearts, folder, patch)
    return found


def of(runs, name, task):
    scope, plans = runs[name]
    return scope, next(plan for plan in plans if plan.task == task)


@pytest.mark.parametrize("name", STUDIES)
def test_every_plan_of_a_run_is_inside(runs, name):
    scope, plans = runs[name]
    covered(scope, plans)
    assert "ensemble.base" in {plan.task for plan in plans}


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("spec", "base", "name"), "linear"),
        (("spec", "base", "settings", "l2"), 5.0),
        (("spec", "design", "terms"), []),
        (("spec", "design", "response"), "sex"),
        (("spec", "sampling"), ""),
        (("spec", "seed"), 1),
        (("spec", "least"), 1),
        (("spec", "how"), "voting"),
        (("rows",), {"folds": 300, "without": 0}),
        (("state",), {"room": 500}),
    ],
)
def test_another_model_of_a_hospital_is_outside(runs, path, to):
    scope, plan = of(runs, "select-best", "ensemble.base")
    assert scope.refuses(changed(plan, *path, to=to))


def test_models_are_asked_by_name_only(runs):
    from dataclasses import replace

    for name, task in (("select-best", "ensemble.base"), ("select-best", "ensemble.scores")):
        scope, plan = of(runs, name, task)
        assert scope.refuses(replace(plan, combine="sum", _derived={}))
    for task in ("ensemble.moments", "ensemble.derivatives", "evaluation.scores"):
        scope, plan = of(runs, "stacking", task)
        assert scope.refuses(replace(plan, combine="collect", _derived={}))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"coef": np.zeros(7)},
        {"coef": np.full(3, np.nan)},
        {"coef": np.full(3, 2.0**60)},
        {"coef": np.zeros(3, dtype=int)},
        {"coef": np.zeros(3), "more": np.zeros(1)},
        [0.0, 0.0, 0.0],
    ],
)
def test_another_form_of_model_is_outside(runs, arrays):
    scope, plan = of(runs, "select-best", "ensemble.scores")
    assert scope.refuses(changed(plan, "state", "model", to=arrays))
    scope, plan = of(runs, "stacking", "ensemble.derivatives")
    site = next(iter(plan.values["state"]["models"]))
    assert scope.refuses(changed(plan, "state", "models", site, to=arrays))
    scope, plans = runs["stacking"]
    for plan in (p for p in plans if p.task in ("evaluation.scores", "evaluation.own")):
        assert scope.refuses(changed(plan, "predictors", 0, "models", 0, to=arrays))


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("state", "theta"), np.zeros((1, 2))),
        (("state", "theta"), np.full((1, 5), np.inf)),
        (("state", "theta"), np.zeros((65, 5))),
        (("state", "order"), 3),
        (("state", "shift"), np.zeros(2)),
        (("state", "models"), {}),
        (("state", "more"), 1),
    ],
)
def test_another_round_of_the_regression_is_outside(runs, path, to):
    scope, plan = of(runs, "stacking", "ensemble.derivatives")
    assert not scope.refuses(changed(plan, "state", "order", to=1))
    assert scope.refuses(changed(plan, *path, to=to))


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("rule",), "mean"),
        (("weights",), np.zeros(2)),
        (("classes",), 0),
        (("base", "name"), "linear"),
        (("design",), Design(()).to_data()),
        (("kind",), "glm"),
        (("models",), []),
    ],
)
def test_another_predictor_is_outside(runs, path, to):
    scope, plans = runs["stacking"]
    scored = [plan for plan in plans if plan.task == "evaluation.scores"]
    assert any(plan.values["thresholds"] == [] for plan in scored)  # the one for the threshold
    for plan in scored:
        assert scope.refuses(changed(plan, "predictors", 0, *path, to=to))


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("least",), 1),
        (("where",), {"column": "sex", "level": 1}),
        (("folds",), 2),
        (("thresholds",), [0.1, 0.2]),
    ],
)
def test_another_histogram_for_the_threshold_is_outside(runs, path, to):
    scope, plans = runs["stacking"]
    (cut,) = [p for p in plans if p.task == "evaluation.scores" and p.values["thresholds"] == []]
    assert scope.refuses(changed(cut, *path, to=to))


def test_models_of_rows_and_other_outcomes_are_no_study(hearts):
    wrong = {
        "HOLDS_ROWS": study("voting", base="knn"),
        "UNKNOWN_OPTION": study("voting", base_options={"depth": 1}),
        "WRONG_VALUE": study("voting", "thalach ~ age"),
    }
    for code, asked in wrong.items():
        with pytest.raises(InputError) as found:
            scope_of(asked, hearts.codebook, hearts.names)
        assert found.value.code == code


def test_the_officer_reads_that_models_leave(runs, hearts):
    told = runs["stacking"][0].summary()
    assert "a model of this site's own patients: all of its coefficients" in told["once"]
    assert told["computes"][0].startswith("stacking of the hospitals' own models")
    by_name = {plan.task for plan in told["steps"] if plan.combine == "collect"}
    sums = {plan.task for plan in told["steps"] if plan.combine == "sum"}
    assert "ensemble.base" in by_name - sums and "ensemble.derivatives" in sums - by_name
    base = {"format": 1, "study": {"name": "heart", "purpose": "research"}}
    base["data"] = {"hub": "heart", "schema": "heart.toml"}
    part = {"columns": ["age", "disease"], "algorithms": ["voting"]}
    session = Session.model_validate({**base, "session": part})
    steps = scope_of(session, hearts.codebook, hearts.names).summary()["steps"]
    assert [p.combine for p in steps if p.task == "ensemble.base"] == ["collect"]
