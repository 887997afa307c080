"""A study's scope: every plan that a run sends is inside, and every change of one is outside."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.plan import Plan
from polyclinic.engines.site import Site
from polyclinic.governance.paper import Paper
from polyclinic.governance.scope import Scope
from polyclinic.governance.study_file import Session, Study
from polyclinic.privacy.policy import open_policy
from polyclinic.privacy.secure import Identity
from polyclinic.study.run import run

FORMULA = "disease ~ age + sex + C(cp) + oldpeak"
AGE = "disease ~ age"


def study(kind="logistic", formula=FORMULA, **more):
    model = {"kind": kind, "formula": formula, **more.pop("model", {})}
    content = {
        "format": 1,
        "study": {"name": "heart", "purpose": "diagnosis; research"},
        "data": {"dataset": "heart_disease"},
        "model": model,
        "evaluation": {"folds": 2, "subgroups": []},
        **more,
    }
    return Study.model_validate(content)


def scope_of(asked, codebook, sites):
    coordinator = Identity.generate()
    keys = {site: Identity.generate().public for site in sites}
    paper = Paper(asked, codebook, keys, "hub", coordinator.public)
    return Scope.of(Paper.open(paper.signed(coordinator), coordinator.public))


def recorded(asked, sites, folder, monkeypatch):
    """Every different plan that reaches a site in a real run, as it travels."""
    plans = {}
    admit = Site._admit

    def record(self, plan, audience):
        plans[plan.content_hash, plan.combine, plan.round] = codec.encode(plan.to_data())
        return admit(self, plan, audience)

    with monkeypatch.context() as patched:
        patched.setattr(Site, "_admit", record)
        patched.setattr("polyclinic.governance.audit._sync", lambda handle: None)
        run(asked, folder, sites=sites)
    return [Plan.from_data(codec.decode(data)) for data in plans.values()]


@pytest.fixture(scope="module")
def hearts(data_dir):
    return pc.datasets.heart_disease().with_policy(open_policy())


PLAIN = {"validate": "none"}
TOTALS = {"show_sites": False}
NOISE = {"epsilon": 4.0, "delta": 1e-5, "show_sites": False}
STUDIES = {  # beside the plain logistic model, whose plans `heart_plans` has
    "balanced": study(model={"class_weight": "balanced", "site_effects": True}),
    "weighted": study(
        model={"class_weight": {"1": 2.0}, "l1": 0.5, "l2": 0.5},
        evaluation={"folds": 2, "alone": False},
        privacy=TOTALS,
    ),
    "means": study(
        formula="disease ~ age + oldpeak + chol",
        cohort={"missing": {"oldpeak": "mean", "chol": "mean"}, "where": "age >= 30"},
        evaluation=PLAIN,
    ),
    "linear": study("linear", "thalach ~ age + sex", evaluation=PLAIN),
    "poisson": study("poisson", "num ~ age + sex", evaluation=PLAIN, privacy=TOTALS),
    "gamma": study("gamma", "thalach ~ age", evaluation={"folds": 2, "thresholds": [0.2]}),
    "classes": study(formula="cp ~ age + sex", evaluation=PLAIN),
    "lbfgs": study(solver={"name": "lbfgs"}, evaluation=PLAIN, privacy=TOTALS),
    "gd": study(
        solver={"name": "gd", "max_rounds": 10}, evaluation=PLAIN, privacy=TOTALS, formula=AGE
    ),
    "rounded": study(
        solver={"name": "gd", "max_rounds": 4, "compress": "int8"},
        evaluation={"folds": 2, "thresholds": [0.2]},
        formula=AGE,
    ),
    "sgd": study(
        solver={"name": "sgd", "max_rounds": 10, "batch": 0.2},
        seed=4,
        privacy=TOTALS,
        evaluation={"folds": 2, "alone": False},
        formula=AGE,
    ),
    "warm": study(
        solver={"name": "newton", "warm_rows": 60}, seed=3, evaluation=PLAIN, privacy=TOTALS
    ),
    "secure": study(privacy={"secure_sums": True, **TOTALS}, evaluation=PLAIN, formula=AGE),
    "noise": study(privacy=NOISE, evaluation=PLAIN),
    "noise linear": study("linear", "thalach ~ age", privacy=NOISE, evaluation=PLAIN),
}


def covered(scope, plans):
    refused = {(plan.task, plan.combine, scope.refuses(plan)) for plan in plans}
    assert {note for *_, note in refused} == {""}, refused
    assert 0 < len({plan.content_hash for plan in plans}) <= scope.rounds


def test_gradients_are_rounded_as_the_study_says_and_nothing_else_is(hearts, tmp_path, monkeypatch):
    asked, names = STUDIES["rounded"], hearts.names
    scope = scope_of(asked, hearts.codebook, names)
    plain = scope_of(STUDIES["gd"], hearts.codebook, names)
    plans = recorded(asked, hearts, tmp_path / "run", monkeypatch)
    rounded = [plan for plan in plans if plan.compress]
    others = [plan for plan in plans if not plan.compress]
    assert {plan.compress for plan in rounded} == {"int8"}
    assert {(plan.task, plan.values["order"]) for plan in rounded} == {("glm.derivatives", 1)}
    assert any(plan.base for plan in rounded)
    for plan in rounded:
        assert plain.refuses(plan) == "rounded in another way"
        other = replace(plan, compress="float16", _derived={})
        assert scope.refuses(other) == "rounded in another way"
        assert not scope.refuses(plan.exact())  # as a secure sum asks it
    for plan in others:
        if plan.combine == "sum":
            assert scope.refuses(replace(plan, compress="int8", _derived={}))


SLOW = ("balanced", "gamma", "classes", "lbfgs", "gd", "sgd", "warm", "secure")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in STUDIES],
)
def test_every_plan_of_a_run_is_inside_its_own_study(name, hearts, tmp_path, monkeypatch):
    asked, sites = STUDIES[name], hearts
    if name == "poisson":  # the archive's hungarian file has no grades
        names = [site for site in hearts.names if site != "hungarian"]
        tables = {site: hearts.table(site) for site in names}
        sites = type(hearts)(tables, hearts.codebook, policy=open_policy())
    plans = recorded(asked, sites, tmp_path / "run", monkeypatch)
    scope = scope_of(asked, sites.codebook, sites.names)
    covered(scope, plans)
    other = scope_of(
        study(formula="disease ~ trestbps", evaluation={"validate": "none"}),
        sites.codebook,
        sites.names,
    )
    assert all(other.refuses(plan) for plan in plans)


def changed(plan, *path, to):
    """The plan with one of its values exchanged."""
    values = copy.deepcopy(dict(plan.values))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to(inner[path[-1]]) if callable(to) else to
    return replace(plan, values=values, _derived={})


@pytest.fixture(scope="module")
def heart_plans(hearts, tmp_path_factory):
    asked = study(evaluation={"folds": 2, "subgroups": ["sex"]})
    with pytest.MonkeyPatch.context() as patched:
        plans = recorded(asked, hearts, tmp_path_factory.mktemp("run") / "r", patched)
    scope, found = scope_of(asked, hearts.codebook, hearts.names), {}
    covered(scope, plans)
    for plan in plans:
        found.setdefault((plan.task, plan.combine), plan)
    return scope, found


def test_another_frame_around_a_plan_is_outside(heart_plans):
    scope, plans = heart_plans
    for plan in plans.values():
        for other in (
            {"purpose": "marketing"},
            {"cohort": None},
            {"cohort": {**plan.cohort, "where": "age == 40"}},
            {"cohort": {**plan.cohort, "columns": ["age"]}},
            {"version": 2},
            {"round": 10**9},
            {"round": -1},
            {"to": ("nobody",)},
            {"task": "descriptive.cross_table"},
            {"task": "glm.scores"},
            {"task": "descriptive.products"},
            {"task": "no.such.step"},
        ):
            assert scope.refuses(replace(plan, **other, _derived={})), (plan.task, other)
        more = {**plan.values, "extra": "chol"}
        assert scope.refuses(replace(plan, values=more, _derived={})), plan.task
        for name in plan.values:
            fewer = {key: value for key, value in plan.values.items() if key != name}
            assert scope.refuses(replace(plan, values=fewer, _derived={})), (plan.task, name)


def test_another_model_is_outside(heart_plans):
    scope, plans = heart_plans
    fit = plans["glm.derivatives", "sum"]
    term = {
        "name": "chol",
        "bound": 800.0,
        "factors": [{"kind": "value", "column": "chol", "args": []}],
    }
    effect = {
        "name": "site[T.va]",
        "bound": 1.0,
        "factors": [{"kind": "site", "column": "va", "args": []}],
    }
    age = ("design", "terms", 0)
    for other in (
        changed(fit, "design", "terms", to=lambda terms: [*terms, term]),
        changed(fit, "design", "terms", to=lambda terms: [*terms, effect]),
        changed(fit, "design", "terms", to=lambda terms: terms[1:]),
        changed(fit, *age, "factors", 0, "column", to="chol"),
        changed(fit, *age, "factors", 0, "kind", to="missing"),
        changed(fit, *age, "factors", 0, to={"kind": "power", "column": "age", "args": [40.0]}),
        changed(fit, *age, "bound", to=1.0),
        changed(fit, "design", "response", to="sex"),
        changed(fit, "design", "weight", to="age"),
        changed(fit, "design", "offset", to="age"),
        changed(fit, "design", "fills", to={"age": 4.0}),
        changed(fit, "family", to="poisson"),
        changed(fit, "classes", to=3),
        changed(fit, "rows", to={"folds": 200, "without": 3}),
        changed(fit, "rows", to={"folds": 2, "without": 2}),
        changed(fit, "rows", to={"sample": 0.1, "seed": 1, "round": 0, "part": 0}),
        changed(fit, "rows", to={"sample": 2.0, "seed": 0, "round": 0, "part": 0}),
        changed(fit, "order", to=3),
        changed(fit, "theta", to=lambda theta: theta[:, :-1]),
        changed(fit, "theta", to=lambda theta: np.full_like(theta, np.nan)),
        changed(fit, "theta", to=lambda theta: np.zeros((500, theta.shape[1]))),
        changed(fit, "class_weight", to=np.array([1.0, 50.0])),
        changed(fit, "response_exponent", to=3),
        replace(fit, combine="collect", _derived={}),
    ):
        assert scope.refuses(other), other.values
    assert not scope.refuses(changed(fit, "theta", to=lambda theta: theta + 1.0))


def test_other_predictors_and_measures_are_outside(heart_plans):
    scope, plans = heart_plans
    scores, own = plans["evaluation.scores", "sum"], plans["evaluation.own", "collect"]
    alone = plans["evaluation.alone", "collect"]
    handmade = {"kind": "table", "column": "chol"}
    first = ("predictors", 0)
    for plan in (scores, own):
        for other in (
            changed(plan, *first, to=handmade),
            changed(plan, *first, "kind", to="trees"),
            changed(plan, *first, "design", "terms", 0, "factors", 0, "column", to="chol"),
            changed(plan, *first, "coef", to=np.zeros((1, 2))),
            changed(plan, *first, "family", to="gaussian"),
            changed(plan, "predictors", to=lambda all_: all_ * 3),
            changed(plan, "thresholds", to=[0.1, 0.11, 0.12]),
            changed(plan, "folds", to=5),
            changed(plan, "outcome", to="number"),
            changed(plan, "where", to={"column": "cp", "level": 0.0}),
            changed(plan, "where", to={"column": "sex", "level": 7.0}),
            changed(plan, "least", to=0),
        ):
            assert scope.refuses(other), other.values
    assert not scope.refuses(changed(scores, "where", to={"column": "sex", "level": 1.0}))
    assert scope.refuses(changed(own, "where", to={"column": "sex", "level": 1.0}))
    assert scope.refuses(replace(scores, combine="collect", _derived={}))
    assert scope.refuses(changed(alone, "folds", to=300))
    assert scope.refuses(changed(alone, "spec", "l2", to=1e9))
    assert scope.refuses(changed(alone, "spec", "rows", to={"folds": 2, "without": 0}))
    assert scope.refuses(changed(alone, "spec", "design", "response", to="sex"))
    assert scope.refuses(replace(own, combine="sum", _derived={}))


def test_other_columns_in_table_one_are_outside(heart_plans):
    scope, plans = heart_plans
    table, each = plans["descriptive.together", "sum"], plans["descriptive.together", "collect"]
    counts = plans["descriptive.levels", "collect"]
    levels = ("parts", "levels", "values", "columns")
    for other in (
        changed(table, *levels, to=lambda found: [*found, {"name": "exang", "levels": 2}]),
        changed(table, "parts", "moments", "values", "columns", to=["age", "chol"]),
        changed(table, "parts", "moments", "task", to="descriptive.products"),
        changed(table, "parts", "quantiles", "values", "edges", to={"chol": np.zeros((3, 4))}),
        changed(table, "parts", "levels", "values", "by", to={"name": "fbs", "levels": 2}),
        changed(table, "parts", to=lambda parts: {**parts, "other": parts["levels"]}),
        changed(each, "parts", "levels", "values", "sites", to=lambda s: {"nobody": s[""]}),
        changed(each, "parts", "levels", to=table.values["parts"]["levels"]),
        changed(counts, "columns", to=[{"name": "cp", "levels": 4}]),
        changed(counts, "by", to={"name": "cp", "levels": 4}),
    ):
        assert scope.refuses(other), other.values


def test_noise_is_never_less_than_the_study_says(hearts, tmp_path, monkeypatch):
    asked = STUDIES["noise"]
    plans = recorded(asked, hearts, tmp_path / "run", monkeypatch)
    scope = scope_of(asked, hearts.codebook, hearts.names)
    (noisy, *_) = [plan for plan in plans if plan.task == "glm.private_newton"]
    assert not scope.refuses(changed(noisy, "noise", "multiplier", to=lambda z: 2 * z))
    for other in (
        changed(noisy, "noise", "multiplier", to=lambda z: 0.9 * z),
        changed(noisy, "noise", to={"multiplier": 9.0, "mechanism": "laplace"}),
        changed(noisy, "row_norm", to=1e6),
        changed(noisy, "unit", to=lambda unit: unit * 0.1),
        replace(noisy, task="glm.derivatives", _derived={}),
    ):
        assert scope.refuses(other)


def test_a_session_is_its_columns_and_algorithms(hearts, heart_plans):
    _, plans = heart_plans
    content = {
        "format": 1,
        "study": {"name": "open", "purpose": "diagnosis; research"},
        "data": {"dataset": "heart_disease"},
        "session": {
            "columns": ["age", "sex", "cp", "oldpeak", "disease"],
            "algorithms": ["logistic", "descriptive", "evaluation"],
        },
    }
    scope = scope_of(Session.model_validate(content), hearts.codebook, hearts.names)
    assert {scope.refuses(plan) for plan in plans.values()} == {""}
    fit, table = plans["glm.derivatives", "sum"], plans["descriptive.together", "sum"]
    other = {"where": "chol > 200", "columns": ["age"], "missing": {"default": "drop"}}
    assert not scope.refuses(replace(fit, cohort=None, _derived={}))
    for plan in (
        replace(fit, cohort=other, _derived={}),
        replace(fit, cohort={**other, "where": None, "columns": ["chol"]}, _derived={}),
        replace(fit, purpose="marketing", _derived={}),
        changed(fit, "family", to="gamma"),
        changed(fit, "design", "terms", 0, "factors", 0, "column", to="chol"),
        changed(fit, "design", "weight", to="chol"),
        changed(table, "parts", "moments", "values", "columns", to=["age", "chol"]),
        changed(table, "parts", "quantiles", "values", "edges", to={"chol": np.zeros((3, 4))}),
        changed(table, "parts", "levels", "values", "by", to={"name": "fbs", "levels": 2}),
    ):
        assert scope.refuses(plan)
    content["session"]["algorithms"] = ["descriptive"]
    narrow = scope_of(Session.model_validate(content), hearts.codebook, hearts.names)
    assert narrow.refuses(fit) and not narrow.refuses(table)


def test_the_summary_counts_as_the_officer_reads(hearts):
    formula = "disease ~ age + sex + C(cp) + trestbps + chol + fbs + C(restecg) + thalach + exang"
    scope = scope_of(study(formula=f"{formula} + oldpeak"), hearts.codebook, hearts.names)
    found = scope.summary()
    assert found["reads"] == (
        [
            "age",
            "sex",
            "cp",
            "trestbps",
            "chol",
            "fbs",
            "restecg",
            "thalach",
            "exang",
            "oldpeak",
            "num",
        ]
    )
    assert found["computes"][:2] == [
        "logistic regression, at most 25 rounds",
        "2 validation fits",
    ]
    width = 14
    assert found["round"] == 2 + width + width * (width + 1) // 2
    assert found["cost"] == "" and not found["open"]
    noisy = scope_of(STUDIES["noise"], hearts.codebook, hearts.names).summary()
    assert noisy["cost"] == "epsilon 4, delta 1e-05"
