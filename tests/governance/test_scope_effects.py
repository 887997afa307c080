"""A study of a treatment effect covers the plans of its own run, and no changed one."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from polyclinic.governance.study_file import Session, Study
from polyclinic.privacy.policy import open_policy
from tests.governance.test_scope import covered, recorded, scope_of
from tests.study.test_effects import BOOK, EVENT, sites

OPTIONS = {"treatment": "drug", "effect_modifiers": ["x"], "folds": 2}


def study(formula="dead ~ drug + x + z", **options):
    model = {"kind": "treatment-effect", "formula": formula, "options": {**OPTIONS, **options}}
    content = {
        "format": 1,
        "study": {"name": "drug", "purpose": "research"},
        "data": {"folder": ".", "schema": "trial.toml"},
        "cohort": {"missing": {"z": "mean"}},
        "model": model,
    }
    return Study.model_validate(content)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    clinics = sites(EVENT).with_policy(open_policy())
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("run") / "run"
        found = recorded(study(), clinics, folder, patch)
    return scope_of(study(), BOOK, clinics.names), found


def asked(world, task):
    return [plan for plan in world[1] if plan.task == task]


def changed(plan, *path, to):
    values = copy.deepcopy(dict(plan.values))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to(inner[path[-1]]) if callable(to) else to
    return replace(plan, values=values, _derived={})


def test_every_plan_of_a_run_is_inside(world):
    covered(*world)
    steps = {plan.task for plan in world[1]}
    own = {f"effects.{name}" for name in ("overlap", "means", "influence", "modify")}
    assert own | {"effects.modify_scores", "glm.moments", "glm.derivatives", "glm.present"} <= steps
    assert len(world[1]) <= world[0].rounds


@pytest.mark.parametrize(
    ("task", "path", "to"),
    [
        ("glm.moments", ("family",), "poisson"),
        ("glm.moments", ("design", "response"), "z"),
        ("glm.moments", ("design", "terms"), []),
        ("glm.moments", ("design", "weight"), "z"),
        ("glm.moments", ("design", "fills"), {"x": 0.0}),
        ("glm.moments", ("design", "fills"), {"z": np.nan}),
        ("glm.moments", ("rows",), {"folds": 3, "without": 0}),
        ("glm.moments", ("rows",), {"sample": 0.1, "seed": 0, "round": 0, "part": 0}),
        ("glm.moments", ("more",), 1),
        ("glm.moments", ("shift",), np.zeros(99)),
        ("glm.derivatives", ("order",), 3),
        ("glm.derivatives", ("theta",), lambda old: old + np.inf),
        ("glm.derivatives", ("theta",), lambda old: old + 2.0**41),
        ("glm.derivatives", ("theta",), lambda old: np.repeat(old, 65, axis=0)[:65]),
        ("glm.derivatives", ("theta",), lambda old: np.hstack([old, old])),
        ("glm.derivatives", ("class_weight",), np.ones(2)),
        ("effects.means", ("spec", "trim"), 0.001),
        ("effects.means", ("spec", "treatment"), "c"),
        ("effects.means", ("spec", "estimand"), "att"),
        ("effects.means", ("rows",), {"folds": 2, "without": 0}),
        ("effects.means", ("state", "method"), "magic"),
        ("effects.means", ("state", "propensity"), lambda old: old * np.nan),
        ("effects.means", ("state", "propensity"), lambda old: old + 2.0**41),
        ("effects.means", ("state", "propensity"), lambda old: np.vstack([old, old])),
        ("effects.means", ("state", "propensity"), lambda old: old.tolist()),
        ("effects.means", ("state", "more"), 1),
        ("effects.overlap", ("state", "propensity"), lambda old: old[:, 1:]),
        ("effects.influence", ("state", "by_propensity"), lambda old: np.ones((1, 4))),
        ("effects.influence", ("state", "mean"), np.array([np.inf, 0.0])),
        ("effects.modify", ("state", "effect"), lambda old: np.vstack([old, old])),
        ("effects.modify", ("state", "outcome"), lambda old: old[:, :1]),
        ("effects.modify_scores", ("state", "effect"), lambda old: old[:, 1:]),
    ],
)
def test_another_step_is_outside(world, task, path, to):
    scope, _ = world
    plans = asked(world, task)
    plans = [plans[0], plans[-1]]
    assert all(scope.refuses(changed(plan, *path, to=to)) for plan in plans)


def test_steps_of_another_study_are_outside(world):
    _, found = world
    others = (study(trim=0.02), study(formula="dead ~ drug + x + z + c"), study(treatment="c",
              formula="dead ~ c + x + z"))  # fmt: skip
    for other in others:
        scope = scope_of(other, BOOK, ("a", "b", "c"))
        assert all(scope.refuses(plan) for plan in found if plan.task.startswith("effects."))
    by_name = [replace(plan, combine="collect", _derived={}) for plan in found]
    fits = [plan for plan in by_name if plan.task.startswith(("effects.", "glm."))]
    shown = {plan.task for plan in fits if not world[0].refuses(plan)}
    assert shown == {"effects.means", "effects.squares"}  # a report shows hospitals
    hiding = study().model_dump(by_alias=True)
    hiding["privacy"]["show_sites"] = False
    scope = scope_of(Study.model_validate(hiding), BOOK, ("a", "b", "c"))
    assert all(scope.refuses(plan) for plan in fits)


@pytest.mark.parametrize(
    ("algorithms", "inside"), [(["treatment-effect"], True), (["linear"], False)]
)
def test_a_session_lets_its_steps_through(world, algorithms, inside):
    base = {"format": 1, "study": {"name": "drug", "purpose": "research"}}
    base["data"] = {"hub": "trial", "schema": "trial.toml"}
    part = {"columns": ["dead", "drug", "x", "z"], "algorithms": algorithms}
    scope = scope_of(Session.model_validate({**base, "session": part}), BOOK, ("a", "b", "c"))
    fits = [p for p in world[1] if p.task.startswith(("effects.", "glm.m", "glm.d"))]
    told = {scope.refuses(plan) == "" for plan in fits}
    assert told == {inside}
