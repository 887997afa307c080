"""Centres, cells and tables that are chosen to single out one patient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyclinic.core.design import Factor
from polyclinic.core.plan import Plan
from polyclinic.models.simple import GaussianNBSpec, KMeansSpec
from polyclinic.models.simple.rows import values
from tests.attacks.world import (
    FRAME,
    SECRET,
    TABLES,
    VICTIM,
    ask,
    close,
    design,
    exposed,
    hospitals,
    level,
    refusal,
    unguarded,
    value,
)

COLUMNS = ("age", "chol", "cost")
WHAT = replace(design(*(value(name) for name in COLUMNS)), response="")
HERE = np.array([SECRET[name] for name in COLUMNS])
MEAN, SPREAD = FRAME[list(COLUMNS)].mean().to_numpy(), FRAME[list(COLUMNS)].std().to_numpy()


def clusters(centres: Any, group: int = 1, what: Any = WHAT, **more: Any) -> Plan:
    """A round of clusters whose centres are in the columns' own units."""
    centres = np.asarray(centres, dtype=np.float64)
    spec = KMeansSpec(what, len(centres), group=group).to_data()
    p = centres.shape[1]
    state = {"centre": MEAN[:p], "scale": SPREAD[:p]}
    state |= {"centres": (centres - MEAN[:p]) / SPREAD[:p], "round": -1, **more}
    task = "kmeans.clusters" if group == 1 else "kmeans.grouped_clusters"
    return Plan(task, values(spec, **state), "clusters")


def cells(nodes: list[int], group: int = 1, axis: int = 2, at: float = 0.0) -> Plan:
    spec = KMeansSpec(WHAT, 2, group=group).to_data()
    split = {"node": np.array([1]), "axis": np.array([axis]), "at": np.array([at])}
    state = {"centre": MEAN, "scale": SPREAD, "axes": np.eye(3), "split": split}
    task = "kmeans.cells" if group == 1 else "kmeans.grouped_cells"
    return Plan(task, values(spec, **state, ask=np.array(nodes)), "cells")


def raw(total: Any, k: int) -> Any:
    return total["x"][k] * SPREAD + total["n"][k] * MEAN


CENTRES = [[30.0, 200.0], [60.0, 240.0], [75.0, 280.0]]
AROUND = [HERE, MEAN + 0.3 * SPREAD, MEAN - SPREAD, MEAN + SPREAD]


def test_a_centre_at_the_victim():
    plan = clusters(AROUND)
    shown = ask(exposed(), plan)
    alone = int(unguarded(plan)["n"][0])
    assert shown["n"][0] >= alone >= 1
    assert refusal(lambda: ask(hospitals(), far())) == "CELL_TOO_SMALL"
    assert refusal(lambda: ask(hospitals(), far(), "secure")) == "CELL_TOO_SMALL"


def far() -> Plan:
    """All but the victim are nearest to centres that lie on top of them."""
    others = np.delete(FRAME[list(COLUMNS)].to_numpy(), VICTIM, axis=0)[::8]
    return clusters([HERE, *others[:80]])


def test_it_would_show_the_victim_without_the_rules():
    total = unguarded(far())
    assert total["n"][0] == 1 and close(raw(total, 0), HERE)


def test_groups_hold_the_minimum_whatever_is_asked():
    others = FRAME[list(COLUMNS)].to_numpy()
    for centres in ([HERE, *others[::40]], [HERE, HERE + 1e-9, *others[5:60:9]], AROUND):
        total = ask(hospitals(), clusters(centres, group=5))
        assert total["n"].sum() == len(FRAME)
        own = unguarded(clusters(centres, group=5))
        assert all(n == 0 or n >= 5 for n in own["n"])
        assert not any(close(raw(own, k)[1], SECRET["chol"]) for k in range(len(own["n"])))


def test_two_cells_that_differ_by_one():
    cost = (np.sort(FRAME.cost[FRAME.site == "a"].to_numpy()) - MEAN[2]) / SPREAD[2]
    at = [float(cost[k : k + 2].mean()) for k in (120, 121)]
    first, second = (cells([2], at=one) for one in at)
    assert unguarded(second)["n"][0] - unguarded(first)["n"][0] == 1
    sites = hospitals()
    ask(sites, first)
    assert refusal(lambda: ask(sites, second)) == "COHORT_TOO_CLOSE"
    sites = exposed()
    found = [raw(ask(sites, plan), 0) for plan in (first, second)]
    assert len(found) == 2
    own = [raw(unguarded(plan), 0)[2] for plan in (first, second)]
    assert close(own[1] - own[0], cost[121] * SPREAD[2] + MEAN[2])


def test_two_rounds_over_groups_differ_by_none_or_by_groups():
    sites, before = hospitals(), None
    for step in np.linspace(-600.0, 600.0, 6):
        plan = clusters([HERE + np.array([0.0, 0.0, 900.0 + step]), MEAN], group=5)
        assert refusal(lambda plan=plan: ask(sites, plan)) == ""
        now = unguarded(plan)["n"]
        assert before is None or abs(int(now[0] - before[0])) in (0, *range(5, 999))
        before = now


def test_a_cell_around_the_victim():
    at = float((SECRET["cost"] - 1.0 - MEAN[2]) / SPREAD[2])
    few = int((FRAME.cost[: len(FRAME) // 3] > SECRET["cost"] - 1.0).sum())
    total = unguarded(cells([3], at=at))
    assert total["n"][0] == few < 5
    assert refusal(lambda: ask(hospitals(), cells([3], at=at))) == "CELL_TOO_SMALL"
    sites = hospitals()
    ask(sites, cells([1], at=at))
    assert refusal(lambda: ask(sites, cells([2], at=at))) in ("COHORT_TOO_CLOSE", "CELL_TOO_SMALL")
    assert refusal(lambda: ask(hospitals(), cells([2, 3], group=5, at=at))) == ""


@pytest.mark.parametrize(
    "terms",
    [
        (value("age"), (level("sex", "male"), value("chol"))),
        (value("chol"), (value("chol"), value("chol"))),
        (value("age"), Factor("power", "chol", (1.5,))),
        (value("age"), Factor("affine", "chol", (2.0, 1.0))),
        (value("age"), Factor("log", "chol")),
    ],
)
def test_sums_over_groups_are_of_columns_not_of_their_powers_and_products(terms):
    """One power of a column in each of five plans, over the same five: their values."""
    what = replace(design(value("age"), value("chol")), response="")
    made = [
        replace(t, factors=f if isinstance(f, tuple) else (f,))
        for t, f in zip(what.terms, terms, strict=True)
    ]
    for group in (1, 5):
        plan = clusters(CENTRES, group=group, what=replace(what, terms=tuple(made)))
        assert refusal(lambda plan=plan: ask(hospitals(), plan)) != ""
        plain = clusters(CENTRES, group=group, what=what)
        assert refusal(lambda plan=plain: ask(hospitals(), plan)) == ""


def test_sums_over_groups_have_no_weights():
    """A column weighted by itself is its square."""
    what = replace(
        design(value("age"), value("chol"), weight="chol", weight_bound=512.0), response=""
    )
    for group in (1, 5):
        plan = clusters(CENTRES, group=group, what=what)
        assert refusal(lambda plan=plan: ask(hospitals(), plan)) != ""


def test_a_sample_has_no_sum_of_squares():
    plan = clusters(AROUND, group=5, round=3)
    sample = Plan(plan.task, {**plan.values, "spec": {**plan.values["spec"], "batch": 0.2}})
    own = unguarded(sample)
    assert 0 < own["n"].sum() < 120 and own["inertia"] == 0.0
    assert unguarded(clusters(AROUND, group=5))["inertia"] > 0.0


def test_the_size_of_groups_belongs_to_the_step():
    single = clusters(AROUND, group=5)
    spec = {**single.values["spec"], "group": 1}
    plan = Plan("kmeans.grouped_clusters", {**single.values, "spec": spec}, "clusters")
    assert refusal(lambda: ask(hospitals(), plan)) == "BAD_MESSAGE"
    plan = Plan("kmeans.clusters", single.values, "clusters")
    assert refusal(lambda: ask(hospitals(), plan)) == "BAD_MESSAGE"


def test_one_value_that_is_nearly_all_of_a_column_pulls_others_into_its_group():
    data = FRAME.copy()
    data["cost"] = np.where(data.index % 11 == 0, data.cost, 0.0)
    centres = [HERE, *FRAME[list(COLUMNS)].to_numpy()[::20]]
    own = unguarded(clusters(centres, group=5), data)
    assert refusal(lambda: ask(hospitals(data=data), clusters(centres, group=5))) == ""
    values = data.cost[:240][data.cost > 0]
    assert not any(close(raw(own, k)[2], v) for k in range(len(own["n"])) for v in values)
    rows = clusters(centres)
    assert refusal(lambda: ask(hospitals(data=data), rows)) == "CELL_TOO_SMALL"


def test_naive_bayes_of_a_rare_level_or_a_rare_product():
    for terms in ((level("rare", "yes"), value("chol")), ((level("rare", "yes"), value("chol")),)):
        spec = GaussianNBSpec(design(*terms), 2).to_data()
        shape = (3, len(terms))
        state = {"centre": np.zeros(shape), "exponent": np.zeros(shape, dtype=np.int64)}
        plan = Plan("naive_bayes.moments", values(spec, **state), "means")
        assert refusal(lambda plan=plan: ask(hospitals(), plan)) == "LEVEL_TOO_SMALL"
        assert refusal(lambda plan=plan: ask(hospitals(), plan, "secure")) == "LEVEL_TOO_SMALL"
    assert len(TABLES) == 3


@pytest.mark.parametrize("sums", ["clear", "secure"])
def test_naive_bayes_of_powers_within_a_class_of_six(sums):
    """Sums of x, x^2, ... over six patients are six equations for their values."""
    data = FRAME.copy()
    data.loc[[VICTIM, 3, 50, 99, 120, 151], "rare"] = "yes"
    powers = [Factor("power", "chol", (p,)) for p in (0.5, 1.0, 1.5)]
    for factors, wanted in ((powers[:1], ""), (powers, "SITE_FAILED")):
        spec = GaussianNBSpec(design(*factors, response="rare"), 2).to_data()
        shape = (3, len(factors))
        state = {"centre": np.zeros(shape), "exponent": np.full(shape, 8)}
        plan = Plan("naive_bayes.moments", values(spec, **state), "means")
        assert refusal(lambda plan=plan: ask(hospitals(data=data), plan, sums)) == wanted
