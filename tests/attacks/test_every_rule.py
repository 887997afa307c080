"""Every task that answers with exact sums, against every rule: k - 1 patients are too few.

All other rules are off, so that a refusal is the one that is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.plan import Plan
from polyclinic.core.task import Task, lookup
from polyclinic.data.cohort import Cohort
from polyclinic.evaluation import tasks as evaluation_tasks
from polyclinic.models import tasks as model_tasks
from polyclinic.models.effects import Spec as Effect
from polyclinic.models.effects import tasks as effect_tasks
from polyclinic.models.effects.algorithm import question
from polyclinic.models.ensembles import spec as ensembles
from polyclinic.models.glm import Spec
from polyclinic.models.learner import values
from polyclinic.privacy.policy import Policy, open_policy
from tests.attacks.plans import by_sums, machine, network, ranking, survival, tables, tree
from tests.attacks.world import (
    BOOK,
    FRAME,
    ask,
    derivatives,
    descriptive,
    design,
    level,
    moments,
    refusal,
    scoring,
    tables_of,
    value,
)

KS = (5, 10)
ROWS = FRAME[FRAME["site"] == "a"].reset_index(drop=True)
SICK, PAIN = {"name": "sick", "levels": 2}, {"name": "pain", "levels": 4}
PLAIN = design(value("age"))


def at(made: Design, task: str, order: int = 2) -> Plan:
    """A plan of the GLM family for a design."""
    if task == "glm.moments":
        return moments(made)
    size = len(made.terms) + int(made.intercept)
    plan = derivatives(made, np.zeros(size), "gaussian", order=order)
    return plan if task == "glm.derivatives" else Plan(task, {**plan.values, "by": "row"}, task)


UNSEEN = design(value("age"), response="age")  # nobody has the outcome: no level is too small


def scores_of(outcome: str) -> Plan:
    plan = scoring(UNSEEN, [[-1.0, 0.02]])
    more: dict[str, Any] = {"outcome": outcome, "classes": 2}
    if outcome == "classes":
        more["predictors"] = [{**plan.values["predictors"][0], "family": "multinomial"}]
    return Plan(plan.task, {**plan.values, **more}, outcome)


ONE = np.zeros((1, 1))
DESCRIPTIVE = {
    "descriptive.moments": descriptive(
        "moments",
        columns=["age"],
        by=None,
        centre=ONE,
        exponent=ONE.astype(np.int64) + 7,
        powers=2,
        centred=False,
    ),
    "descriptive.levels": descriptive("levels", by=None, columns=[SICK]),
    "descriptive.histogram": descriptive(
        "histogram", by=None, edges={"age": np.array([[0.0, 200.0]])}
    ),
    "descriptive.cross_table": descriptive("cross_table", a=SICK, b=SICK),
    "descriptive.products": descriptive(
        "products", columns=["age"], centre=np.zeros(1), exponent=np.full(1, 7)
    ),
}
ASK = {
    name: {"task": name, "version": 1, "values": dict(plan.values)}
    for name, plan in DESCRIPTIVE.items()
}
EFFECT = Effect(design(level("rare", "yes"), value("age"), response="cost"), "rare", False,
                modifiers=("age",))  # fmt: skip


def effects_of(task: str) -> Plan:
    """A plan of treatment effects; of the first patients nobody is treated."""
    state: dict[str, Any] = {"propensity": np.zeros((1, 2))}
    if task != "effects.overlap":
        state["outcome"] = np.zeros((1, 2, 2))
    if "modify" in task:
        state["effect"] = np.zeros((1, 2))
    elif task != "effects.overlap":
        state["method"] = "aipw"
    if task == "effects.influence":
        by = {name: np.zeros((0, 2)) for name in ("by_propensity", "by_outcome")}
        state |= {"mean": np.zeros(2), **by}
    return question(EFFECT, task, state, task)


OVER = ensembles.Spec(
    design(value("age"), response="chol"),
    "stacking",
    {"name": "linear", "settings": {"l2": 0.0, "l1": 0.0}},
    0,
    {"folds": 2, "l2": 0.0},
)
MODEL = {"coef": np.array([200.0, 0.5])}
POINT = {"theta": np.zeros((1, 2)), "order": 2, "shift": np.zeros(1)}
ENSEMBLES = {
    "ensemble.base": Plan("ensemble.base", values(OVER), combine="collect"),
    "ensemble.scores": Plan("ensemble.scores", values(OVER, model=MODEL), combine="collect"),
    "ensemble.moments": Plan("ensemble.moments", values(OVER, models={"z": MODEL})),
    "ensemble.derivatives": Plan(
        "ensemble.derivatives", values(OVER, models={"z": MODEL}, **POINT)
    ),
}
MOMENTS = ("scaler.moments", "pca.moments", "pca.products", "kmeans.moments", "kmeans.products")
PARTS = tuple(f"kmeans.{one}" for one in ("cells", "clusters", "grouped_cells", "grouped_clusters"))
MACHINES = ("svm.moments", "svm.machines", "svm.platt")
FITTING = ("counts", "derivatives", "scores", "schoenfeld", "risk_sets", "steps")
SURVIVAL = (*FITTING, "concordance", "held_out", "held_out_own")
BOOSTED = ("trees.events", "trees.held", "trees.concordance")
LIVES = replace(design(value("age"), response="chol", intercept=False), event="rare")
GROUPS = replace(design(level("drug", "yes"), response="chol", intercept=False), event="rare")
BY_SUMS = ("naive_bayes.moments", *MOMENTS, *PARTS)


PLANS: dict[str, Plan] = {
    "glm.moments": at(PLAIN, "glm.moments"),
    "glm.derivatives": at(PLAIN, "glm.derivatives", 2),
    "glm.derivatives, order 0": at(PLAIN, "glm.derivatives", 0),
    "glm.derivatives, order 1": at(PLAIN, "glm.derivatives", 1),
    "glm.information": at(PLAIN, "glm.information"),
    "glm.scores": at(PLAIN, "glm.scores"),
    "glm.present": Plan("glm.present", {"columns": ["age"], "exponents": np.array([7])}),
    **DESCRIPTIVE,
    "descriptive.together": Plan("descriptive.together", {"parts": ASK}),
    "descriptive.each_site": Plan(
        "descriptive.each_site",
        {
            "task": "descriptive.levels",
            "version": 1,
            "sites": {"": dict(DESCRIPTIVE["descriptive.levels"].values)},
        },
        combine="collect",
    ),
    **{task.name: effects_of(task.name) for task in effect_tasks},
    "evaluation.scores, binary": scores_of("binary"),
    "evaluation.scores, classes": scores_of("classes"),
    "evaluation.scores, number": scores_of("number"),
    "evaluation.importance": Plan(
        "evaluation.importance",
        {
            **scores_of("binary").values,
            "shuffle": {"column": "", "part": [], "repeats": 1, "seed": 0},
        },
    ),
    "evaluation.own": Plan("evaluation.own", scores_of("binary").values, combine="collect"),
    "evaluation.alone": Plan(
        "evaluation.alone",
        {"spec": Spec(UNSEEN, "binomial", 2).to_data(), "folds": 1, "least": 5},
        combine="collect",
    ),
    **ENSEMBLES,
    **{name: by_sums(name, UNSEEN) for name in BY_SUMS},
    **{name: machine(name, UNSEEN) for name in MACHINES},
    **{name: tree(name, UNSEEN) for name in ("trees.start", "trees.cells", "trees.loss")},
    **{name: tree(name, LIVES) for name in BOOSTED},
    "trees.cells, survival": tree("trees.cells", LIVES),
    **{f"survival.{name}": survival(f"survival.{name}", LIVES) for name in SURVIVAL},
    **{name: network(name, UNSEEN) for name in ("neural.moments", "neural.train")},
    **{name: ranking(name, LIVES) for name in ("evaluation.pairs", "evaluation.pairs_own")},
    "survival.log_rank": survival("survival.log_rank", GROUPS),
    "screening.tables": tables("histogram", **DESCRIPTIVE["descriptive.histogram"].values),
}
GLM = [name for name in PLANS if name.startswith("glm.") and name != "glm.present"]
WITH_DESIGN = [*(name for name in GLM if name != "glm.derivatives, order 0"), *BY_SUMS]


def rebuilt(name: str, made: Design) -> Plan:
    if name in BY_SUMS:
        return by_sums(name, made)
    order = int(name[-1]) if "order" in name else 2
    return at(made, name.partition(",")[0], order)


def hospital(rows: pd.DataFrame, policy: Policy) -> pc.Sites:
    return pc.Sites(tables_of(rows), BOOK, policy=policy)


def code(rows: pd.DataFrame, policy: Policy, plan: Plan, where: str | None = None) -> str:
    sites = hospital(rows, policy)
    return refusal(lambda: ask(sites, plan, "clear", where)) or hidden(sites, plan, where)


def hidden(sites: pc.Sites, plan: Plan, where: str | None) -> str:
    """Why a hospital hid all of an answer by name, from its own log; "" where it did not."""
    if plan.combine != "collect":
        return ""
    federation = sites.federation(cohort=None if where is None else Cohort(where=where))
    answers = federation.total(plan).by_site.values()
    if not all(flags.all() for one in answers for flags in one.hidden.values()):
        return ""
    return str(federation.transport.sites["a"].log[-1].code)  # type: ignore[attr-defined]


def task_of(plan: Plan) -> Task:
    return lookup(plan.task, plan.version)


def test_every_installed_task_is_here() -> None:
    """Those that answer with noise are judged by its price; three never leave a trust domain; masks
    are in tests/evaluation/test_networks.py."""
    known = {task.name for task in [*model_tasks, *evaluation_tasks]}
    exact = {name for name in known if ".private_" not in name} - {
        "ensemble.sizes", "trees.sums", "trees.risk_sums", "neural.count",
        "evaluation.masks"
    }  # fmt: skip
    assert exact == {plan.task for plan in PLANS.values()}


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", PLANS)
def test_patients_in_all(name: str, k: int) -> None:
    policy, rows = open_policy(k), ROWS.assign(age=60)  # one value of all
    assert code(rows[: k - 1], policy, PLANS[name]) == "TOO_FEW_PATIENTS"
    assert code(rows[:k], policy, PLANS[name]) == ""


def inside(number: int) -> str:
    """A condition that so many patients fulfil."""
    return f"cost >= {np.sort(ROWS['cost'])[-number]}"


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", PLANS)
def test_patients_in_a_cohort_and_outside_of_it(name: str, k: int) -> None:
    policy = replace(open_policy(), min_subset=k)
    for few, enough in ((k - 1, k), (len(ROWS) - k + 1, len(ROWS) - k)):
        assert code(ROWS, policy, PLANS[name], inside(few)) == "SUBSET_TOO_SMALL"
        assert code(ROWS, policy, PLANS[name], inside(enough)) == ""


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", PLANS)
def test_patients_by_which_cohorts_differ(name: str, k: int) -> None:
    for apart, expected in ((k - 1, "COHORT_TOO_CLOSE"), (k, "")):
        sites = hospital(ROWS, replace(open_policy(), min_difference=k))
        assert refusal(lambda sites=sites: ask(sites, PLANS[name], where=inside(60))) == ""
        assert second(sites, PLANS[name], inside(60 + apart)) == expected
        assert refusal(lambda sites=sites: ask(sites, PLANS[name], where=inside(60))) == ""


def second(sites: pc.Sites, plan: Plan, where: str) -> str:
    """The code of a refusal; a subgroup's table is hidden as a whole instead."""
    try:
        total = ask(sites, plan, where=where)
    except PolyclinicError as error:
        return error.code
    shown = [*total.hidden.values()]
    shown += [flags for one in total.by_site.values() for flags in one.hidden.values()]
    return "COHORT_TOO_CLOSE" if shown and all(flags.all() for flags in shown) else ""


@cache
def grouped(number: int) -> pd.DataFrame:
    """So many patients in `group`, and in `pain` the level "odd"."""
    rows = ROWS.copy()
    rows["group"] = np.where(np.arange(len(rows)) % 20 < 0, "yes", "no")
    chosen = rows.index[:: len(rows) // number][:number]
    rows.loc[chosen, "group"] = "yes"
    rows["pain"] = np.where(rows["group"] == "yes", "odd", "none")
    rows["few"] = np.where(rows["group"] == "yes", 1, 0)
    return rows


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", WITH_DESIGN)
def test_patients_of_a_level(name: str, k: int) -> None:
    plan = rebuilt(name, design(level("group", "yes")))
    product = rebuilt(name, design([level("group", "yes"), level("pain", "odd")]))
    for one in (plan, product)[: 1 if name in PARTS else 2]:  # no parts by products at all
        assert code(grouped(k - 1), open_policy(k), one) == "LEVEL_TOO_SMALL"
        assert code(grouped(k), open_policy(k), one) == ""


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", WITH_DESIGN)
def test_patients_of_the_level_that_has_no_column(name: str, k: int) -> None:
    plan = rebuilt(name, design(*(level("pain", one) for one in ("none", "some", "much"))))
    assert code(grouped(k - 1), open_policy(k), plan) == "LEVEL_TOO_SMALL"
    assert code(grouped(k), open_policy(k), plan) == ""


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", [*GLM, "naive_bayes.moments"])
def test_patients_of_an_outcome(name: str, k: int) -> None:
    rows = [grouped(n).assign(sick=lambda frame: frame["group"]) for n in (k - 1, k)]
    plan = rebuilt(name, PLAIN)
    if name in GLM:
        values = {**plan.values, "family": "binomial", "classes": 2}
        plan = replace(plan, values=values, _derived={})
    assert code(rows[0], open_policy(k), plan) == "LEVEL_TOO_SMALL"
    assert code(rows[1], open_policy(k), plan) == ""


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", WITH_DESIGN)
def test_patients_per_coefficient(name: str, k: int) -> None:
    policy = replace(open_policy(), patients_per_coefficient=float(k))
    plan = rebuilt(name, design(value("age"), value("lab")))
    assert code(ROWS[: 3 * k - 1], policy, plan) == "SATURATED"
    assert code(ROWS[: 3 * k], policy, plan) == ""
    residual = replace(open_policy(), min_residual=k)
    assert code(ROWS[: 3 + k - 1], residual, plan) == "SATURATED"
    assert code(ROWS[: 3 + k], residual, plan) == ""


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", [*GLM, "naive_bayes.moments", *MOMENTS])
def test_patients_who_carry_the_weights(name: str, k: int) -> None:
    policy = replace(open_policy(), min_effective=float(k))
    plan = rebuilt(name, design(value("age"), weight="few"))

    def shown(rows: pd.DataFrame) -> bool:
        try:
            total = ask(hospital(rows, policy), plan)
        except PolyclinicError as error:
            assert error.code == "EFFECTIVE_SIZE"
            return False
        return not any(total[n].all() for n in ("too_large",) if n in total.values)

    assert not shown(grouped(k - 1))
    assert shown(grouped(k))


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize(
    "name", ["glm.moments", "glm.derivatives", "naive_bayes.moments", *MOMENTS]
)
def test_leverage(name: str, k: int) -> None:
    """One of m patients of a level has the leverage 1 / m."""
    policy = replace(open_policy(), max_leverage=1 / (k - 0.5))
    plan = rebuilt(name, design(level("group", "yes")))
    assert code(grouped(k - 1), policy, plan) == "LEVERAGE"
    assert code(grouped(k), policy, plan) == ""


@pytest.mark.parametrize("name", WITH_DESIGN)
def test_levels_of_a_column(name: str) -> None:
    plan = rebuilt(name, design(*(level("pain", one) for one in ("some", "much", "odd"))))
    for most, expected in ((3, "TOO_MANY_LEVELS"), (4, "")):
        assert code(ROWS, replace(open_policy(), max_levels=most), plan) == expected
    for n, expected in ((39, "TOO_MANY_LEVELS"), (40, "")):
        assert code(ROWS[:n], replace(open_policy(), max_level_density=0.1), plan) == expected


Cells = Callable[[Any], Any]
BY = {"name": "group", "levels": 2}
HIDING: dict[str, tuple[Plan, str, Cells]] = {
    "descriptive.moments": (
        Plan(
            "descriptive.moments",
            {
                **DESCRIPTIVE["descriptive.moments"].values,
                "by": BY,
                "centre": np.zeros((3, 1)),
                "exponent": np.full((3, 1), 7),
            },
        ),
        "s1",
        lambda a: a[2, 0],
    ),
    "descriptive.levels": (
        descriptive("levels", by=None, columns=[BY]),
        "levels:group",
        lambda a: a[0, 1],
    ),
    "descriptive.histogram": (
        descriptive("histogram", by=None, edges={"few": np.array([[0.5]])}),
        "bins:few",
        lambda a: a[0, 1],
    ),
    "descriptive.cross_table": (
        descriptive("cross_table", a=BY, b=PAIN),
        "table",
        lambda a: a[1, 3],
    ),
    "descriptive.products": (
        descriptive("products", columns=["lab"], centre=np.zeros(1), exponent=np.full(1, 6)),
        "product",
        lambda a: a[0, 0],
    ),
    "screening.tables": (
        tables("levels", by=None, columns=[BY]),
        "levels/levels:group",
        lambda a: a[0, 1],
    ),
    "evaluation.scores": (
        scoring(UNSEEN, [[0.0, 0.0]], where={"column": "group", "level": 1.0}),
        "losses",
        lambda a: a[0],
    ),
}


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", HIDING)
def test_patients_of_a_cell(name: str, k: int) -> None:
    plan, leaf, cell = HIDING[name]
    for number, hidden in ((k - 1, True), (k, False)):
        rows = grouped(number).copy()
        rows["lab"] = rows["lab"].where(rows["group"] == "yes")
        total = ask(hospital(rows, open_policy(k)), plan)
        assert bool(cell(total.hidden[leaf])) == hidden
        assert (cell(total[leaf]) == 0) == hidden


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", PARTS)
def test_patients_of_a_part(name: str, k: int) -> None:
    """Groups of fewer than the minimum do not help, nor a cell of all beside the one of a few."""
    rich = 2.0**19
    for number, expected in ((k - 1, "CELL_TOO_SMALL"), (k, "")):
        rows = ROWS.assign(cost=np.where(grouped(number)["few"] == 1, rich, ROWS["cost"]))
        plan = by_sums(name, design(value("cost")), apart=rich / 2)
        assert code(rows, open_policy(k), plan) == expected


def test_every_task_that_hides_is_here() -> None:
    """Those that never hide refuse as a whole, or are made of those that do."""
    hiding = {
        plan.task
        for plan in PLANS.values()
        if any(leaf.small == "hide" for leaf in task_of(plan).leaves(plan))
    }
    made_of_others = {"descriptive.together", "descriptive.each_site"}
    by_score = {"effects.overlap"}  # in test_effects.py
    by_name = {
        "evaluation.own",
        "evaluation.alone",
        "ensemble.base",
        "ensemble.scores",
        "survival.held_out_own",
        "evaluation.pairs_own",
    }  # all of it, as `test_patients_in_all` shows
    assert hiding - made_of_others - by_name - by_score <= set(HIDING)
