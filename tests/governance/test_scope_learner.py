"""A study of a learner covers the plans of its own run, and no changed one."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

import polyclinic as pc
from polyclinic.core.design import Design
from polyclinic.governance.study_file import Session, Study
from polyclinic.study import learners
from tests.governance.test_scope import covered, hearts, recorded, scope_of
from tests.study import share

__all__ = ["hearts"]
share.install()


def study(**model):
    content = {
        "format": 1,
        "study": {"name": "heart", "purpose": "research"},
        "data": {"dataset": "heart_disease"},
        "model": {"kind": "share", "formula": "disease ~ age", **model},
        "evaluation": {"folds": 2},
    }
    return Study.model_validate(content)


@pytest.fixture(scope="module")
def plans(hearts, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learners, "ESTIMATORS", (share.ShareClassifier,))
        folder = tmp_path_factory.mktemp("run") / "run"
        found = recorded(study(options={"times": 2}), hearts, folder, patch)
    return scope_of(study(options={"times": 2}), hearts.codebook, hearts.names), found


def test_every_plan_of_a_run_is_inside(plans):
    scope, found = plans
    covered(scope, found)
    assert {"share.sum", "evaluation.scores", "evaluation.alone"} <= {p.task for p in found}


def changed(plan, *path, to):
    values = copy.deepcopy(dict(plan.values))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return replace(plan, values=values, _derived={})


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("spec", "times"), 3),
        (("spec", "classes"), 0),
        (("spec", "design", "response"), "sex"),
        (("spec", "design", "terms"), []),
        (("spec", "more"), 1),
        (("rows",), {"folds": 3, "without": 0}),
        (("rows",), {"sample": 0.1}),
        (("state",), {"round": 0, "more": 1}),
        (("state",), {}),
        (("more",), 1),
    ],
)
def test_another_step_is_outside(plans, path, to):
    scope, found = plans
    fits = [plan for plan in found if plan.task == "share.sum"]
    assert all(scope.refuses(changed(plan, *path, to=to)) for plan in fits)


@pytest.mark.parametrize(
    ("path", "to"),
    [(("share",), 2.0), (("kind",), "glm"), (("design",), Design(()).to_data())],
)
def test_another_predictor_is_outside(plans, path, to):
    scope, found = plans
    scored = [plan for plan in found if plan.task == "evaluation.scores"]
    for plan in scored:
        assert scope.refuses(changed(plan, "predictors", 0, *path, to=to))


@pytest.mark.parametrize(
    ("path", "to"), [(("times",), 9), (("learner",), "glm"), (("rows",), {"folds": 2})]
)
def test_another_model_of_a_hospital_itself_is_outside(plans, path, to):
    scope, found = plans
    (alone,) = [plan for plan in found if plan.task == "evaluation.alone"]
    assert scope.refuses(changed(alone, "spec", *path, to=to))


def test_other_studies_and_sessions(plans, hearts):
    _, found = plans
    regression = study(kind="logistic")
    for asked in (study(formula="disease ~ sex"), study(), regression):
        scope = scope_of(asked, hearts.codebook, hearts.names)
        fits = [plan for plan in found if plan.task == "share.sum"]
        assert all(scope.refuses(plan) for plan in fits)
    base = {"format": 1, "study": {"name": "heart", "purpose": "research"}}
    base["data"] = {"hub": "heart", "schema": "heart.toml"}
    for algorithms, inside in ((["share"], True), (["logistic"], False)):
        part = {"columns": ["age", "disease"], "algorithms": algorithms}
        session = Session.model_validate({**base, "session": part})
        scope = scope_of(session, hearts.codebook, hearts.names)
        fits = [plan for plan in found if plan.task == "share.sum"]
        assert all((scope.refuses(plan) == "") is inside for plan in fits)


def test_the_officer_reads_what_it_is(plans):
    scope, _ = plans
    told = scope.summary()
    assert told["computes"] == ["share of events, at most 2 rounds", "2 validation fits", "Table 1"]
    assert told["round"] == 2 and told["rounds"] == scope.rounds
    assert "this site's own AUROC, observed and predicted risk" in told["once"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("boosting", {"n_estimators": 1, "max_depth": 1, "bins": "quantiles"}),
        ("stacking", {"folds": 2, "threshold": "youden"}),
    ],
)
def test_groups_that_another_policy_asks_for_are_inside(kind, options, tmp_path, monkeypatch):
    sites = pc.datasets.heart_disease().with_policy(pc.Policy(min_patients=15))
    asked = study(kind=kind, options=options)
    plans = recorded(asked, sites, tmp_path / "run", monkeypatch)
    covered(scope_of(asked, sites.codebook, sites.names), plans)
    assert 20 in {plan.values.get("spec", {}).get("cell") for plan in plans} or 20 in {
        plan.values.get("least") for plan in plans
    }
