"""Studies of clusters, naive Bayes and screening cover their own plans, no changed one."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from polyclinic.governance.study_file import Study
from tests.governance.test_scope import covered, hearts, recorded, scope_of

__all__ = ["hearts"]

STUDIES = {
    "kmeans": ("~ age + thalach + sex", {"n_clusters": 3, "scale": "sd"}),
    "gaussian-nb": ("disease ~ age + thalach + sex", {}),
    "screening": ("thalach ~ age + sex", {}),
}


def study(kind, formula, options):
    content = {
        "format": 1,
        "study": {"name": "heart", "purpose": "research"},
        "data": {"dataset": "heart_disease"},
        "model": {"kind": kind, "formula": formula, "options": options},
        "evaluation": {"folds": 2},
    }
    return Study.model_validate(content)


@pytest.fixture(scope="module")
def runs(hearts, tmp_path_factory):
    found = {}
    for kind, (formula, options) in STUDIES.items():
        asked = study(kind, formula, options)
        with pytest.MonkeyPatch.context() as patch:
            plans = recorded(asked, hearts, tmp_path_factory.mktemp(kind) / "run", patch)
        found[kind] = (scope_of(asked, hearts.codebook, hearts.names), plans)
    return found


@pytest.mark.parametrize("kind", STUDIES)
def test_every_plan_of_a_run_is_inside(runs, kind):
    scope, plans = runs[kind]
    covered(scope, plans)
    told = scope.summary()
    assert told["computes"] and scope.rounds >= len({p.content_hash for p in plans})


def changed(plan, path, to):
    values = copy.deepcopy(dict(plan.values))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return replace(plan, values=values, _derived={})


CHANGES = {
    "kmeans.moments": [
        (("spec", "group"), 1),
        (("spec", "n_clusters"), 4),
        (("spec", "scale", "by"), "none"),
        (("spec", "design", "terms"), []),
        (("state", "centre"), np.full((1, 3), np.inf)),
        (("state", "exponent"), np.full((1, 3), 5000)),
        (("state", "more"), 1),
    ],
    "kmeans.products": [
        (("state", "centre"), np.zeros(2)),
        (("state", "exponent"), np.zeros(4, dtype=np.int64)),
        (("rows",), {"sample": 0.1}),
    ],
    "kmeans.grouped_cells": [
        (("state", "axes"), np.ones((3, 3))),
        (("state", "ask"), np.array([2, 2])),
        (("state", "ask"), np.array([0])),
        (("state", "split", "axis"), np.array([7])),
        (("state", "scale"), np.zeros(3)),
    ],
    "kmeans.grouped_clusters": [
        (("state", "centres"), np.zeros((4, 3))),
        (("state", "centres"), np.full((3, 3), np.nan)),
        (("state", "round"), True),
        (("state", "scale"), np.full(3, -1.0)),
    ],
    "naive_bayes.moments": [
        (("spec", "classes"), 3),
        (("spec", "var_smoothing"), 1.0),
        (("state", "centre"), np.zeros((2, 3))),
    ],
    "screening.tables": [
        (("spec", "bins"), 9),
        (("state", "cuts"), np.zeros(7)),
        (("state", "parts"), {}),
        (("state", "parts"), {"all": {"task": "descriptive.levels", "version": 1, "values": {}}}),
    ],
}


@pytest.mark.parametrize("task", CHANGES)
def test_another_step_is_outside(runs, task):
    plans = [(scope, p) for scope, found in runs.values() for p in found if p.task == task]
    assert plans
    for path, to in CHANGES[task]:
        assert all(scope.refuses(changed(plan, path, to)) for scope, plan in plans), path


def test_tables_of_other_columns_or_groups_are_outside(runs):
    scope, plans = runs["screening"]
    plan = next(p for p in plans if p.task == "screening.tables")
    for path, to in (
        (("moments", "values", "columns"), ["chol", "age"]),
        (("moments", "values", "by"), {"name": "sex", "levels": 2}),
        (("moments", "task"), "descriptive.levels"),
        (("moments", "values", "centre"), np.zeros((9, 9))),
    ):
        assert scope.refuses(changed(plan, ("state", "parts", *path), to)), path


def test_another_predictor_is_outside(runs):
    scope, plans = runs["gaussian-nb"]
    scored = [plan for plan in plans if plan.task == "evaluation.scores"]
    assert scored
    for path, to in (
        (("kind",), "glm"),
        (("priors",), np.array([0.5, -0.5])),
        (("variance",), np.full((2, 3), -1.0)),
        (("mean",), np.zeros((3, 3))),
        (("more",), 1),
    ):
        assert all(scope.refuses(changed(p, ("predictors", 0, *path), to)) for p in scored), path
