"""A study of a survival model covers the plans of its own run, and no changed one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.governance.study_file import Study
from tests.governance.test_scope import covered, recorded, scope_of
from tests.governance.test_scope_learner import changed

STUDIES = {
    "cox": ("Surv(T, E) ~ age_at_index + race_white", {"time_bins": 40}),
    "kaplan-meier": ("Surv(T, E) ~ 1", {"time_bins": 30}),
    "log-rank": ("Surv(T, E) ~ race_white", {}),
}
CHANGED = [
    (("spec", "cause"), 0),
    (("spec", "least"), 1),
    (("spec", "least"), 7),
    (("spec", "edges"), [1.0, 2.0]),
    (("spec", "design", "event"), "race_white"),
    (("spec", "design", "strata"), ["race_white"]),
    (("spec", "design", "response"), "age_at_index"),
    (("rows",), {"folds": 3, "without": 0}),
    (("state",), {"theta": np.zeros((1, 5)), "order": 1}),
    (("state",), {"theta": np.full((1, 2), np.inf), "order": 1}),
    (("state",), {"theta": np.zeros((64, 2)), "order": 1}),
    (("state",), {"theta": np.zeros((1, 2)), "order": 3}),
    (("state",), {"theta": np.zeros((1, 2)), "order": 1, "more": 1}),
]


@pytest.fixture(scope="module")
def regions(data_dir):
    return pc.datasets.load("tcga_brca")


@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_covers_its_own_plans_and_no_other(kind, regions, tmp_path, monkeypatch):
    formula, options = STUDIES[kind]
    study = Study.model_validate(
        {
            "format": 1,
            "study": {"name": "brca", "purpose": "research"},
            "data": {"dataset": "tcga_brca"},
            "model": {"kind": kind, "formula": formula, "options": options},
            "privacy": {"show_sites": False},
            "evaluation": {"folds": 2},
            "output": {"report": []},
        }
    )
    found = recorded(study, regions, tmp_path / "run", monkeypatch)
    scope = scope_of(study, regions.codebook, regions.names)
    covered(scope, found)
    own = [plan for plan in found if plan.task.startswith("survival.")]
    assert own
    for path, to in CHANGED:
        assert all(scope.refuses(changed(plan, *path, to=to)) for plan in own), path
    larger = [changed(plan, "spec", "least", to=10) for plan in own]  # another hospital's policy
    assert not any(scope.refuses(plan) for plan in larger)
    if kind == "cox":
        (held_out, apparent) = [plan for plan in own if plan.task == "survival.held_out"]
        state = {"theta": np.zeros((3, 2)), "folds": 3}
        assert scope.refuses(changed(held_out, "state", to=state))
        assert scope.refuses(replace(held_out, task="survival.held_out_own", combine="collect"))
        assert apparent.values["state"]["folds"] == 0
