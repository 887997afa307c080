"""Coefficients that leave all patients out of a machine's sums but one, or but all but one.

A squared loss counts the patients who miss their margin: whom else it counts at another point is
what two sums differ by.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.design import Design
from polyclinic.core.plan import Plan
from polyclinic.models.glm.scale import unpack
from polyclinic.models.learner import values
from polyclinic.models.svm import SVMSpec
from tests.attacks.world import (
    SECRET,
    ask,
    close,
    design,
    exposed,
    gradient,
    hospitals,
    level,
    value,
)

MODES = ("clear", "secure")
MADE = design(value("chol"), value("age"), value("lab"))
LOSSES = ("squared_hinge", "hinge")
AT = SECRET["chol"]
NAMES = ["chol", "age", "lab"]


def machines(
    theta: Any, loss: str = "squared_hinge", order: int = 2, made: Design = MADE, **more: Any
) -> Plan:
    """`theta` (m, d) or (d,) of raw columns, the intercept first."""
    raw = np.atleast_2d(np.asarray(theta, dtype=np.float64))
    e = np.concatenate([[0], made.exponents])
    m = len(raw)
    state = {
        "theta": np.ldexp(raw, e),
        "machine": np.ones(m, dtype=np.int64),
        "sharpness": np.full(m, 0.0 if loss == "squared_hinge" else 4.0),
        "past": np.zeros(raw.shape),
        "past_sharpness": np.zeros(m),
        "order": order,
        "shift": np.zeros(len(made.terms)),
        "class_weight": np.zeros(0),
        **more,
    }
    return Plan("svm.machines", values(SVMSpec(made, loss), **state), "machines")


def curve(coef: Any, theta: Any) -> Plan:
    e = np.concatenate([[0], MADE.exponents])
    raw = np.atleast_2d(np.asarray(theta, dtype=np.float64))
    state = {
        "coef": np.ldexp(np.atleast_2d(np.asarray(coef, dtype=np.float64)), e),
        "theta": raw,
        "machine": np.zeros(len(raw), dtype=np.int64),
        "target": np.array([[0.1, 0.9]]),
        "shift": np.zeros(3),
    }
    return Plan("svm.platt", values(SVMSpec(MADE, "hinge"), **state), "probability curve")


def products(total: Any, at: int = 0) -> Any:
    e = np.concatenate([[0], MADE.exponents])
    return np.ldexp(unpack(total["hessian"][at], 4), e[:, None] + e)


def shown(plan: Plan, sums: str, sites: pc.Sites | None = None) -> list[bool]:
    """Which candidates leave."""
    try:
        total = ask(sites or hospitals(), plan, sums)
    except Exception as error:
        code = getattr(error, "code", "")
        assert code in {"EFFECTIVE_SIZE", "COHORT_TOO_CLOSE", "LEVEL_TOO_SMALL"}, error
        return [False] * len(plan.values["state"]["theta"])
    return (total["too_large"] == 0).tolist()


ALL_BUT_ONE = [0.0, 1 / (AT - 0.1), 0.0, 0.0]  # only the largest value reaches the margin
ZERO = [0.0, 0.0, 0.0, 0.0]  # everybody misses it
GROUPS = design(level("group", "yes"), level("drug", "yes"), level("sick", "yes"), value("chol"))
ONE_ONLY = [-80.0, -60.0, -60.0, 160.0, 0.0]  # all far on the right side, the victim is not


def test_the_victim_stands_out_where_there_are_no_rules() -> None:
    whole, less = (ask(exposed(), machines(theta)) for theta in (ZERO, ALL_BUT_ONE))
    row = (products(whole) - products(less))[0] / 2
    assert close(row[1:], [SECRET[name] for name in NAMES])
    for loss in LOSSES:
        total = ask(exposed(), machines(ONE_ONLY, loss, 1, GROUPS))
        slope = gradient(total, GROUPS)
        assert close(slope[-1] / slope[0], AT)


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_patient_alone_is_left_out(loss: str, order: int, sums: str) -> None:
    assert shown(machines(ONE_ONLY, loss, order, GROUPS), sums) == [False]
    assert shown(machines(ZERO, loss, order), sums) == [True]


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_all_but_one_beside_all(order: int, sums: str) -> None:
    """In one plan, in two plans one after the other, and in the other order."""
    both = machines([ZERO, ALL_BUT_ONE], order=order)
    assert shown(both, sums) == [True, False]
    for pair in ([ZERO, ALL_BUT_ONE], [ALL_BUT_ONE, ZERO]):
        sites = hospitals()
        found = [shown(machines(theta, order=order), sums, sites) for theta in pair]
        assert found[pair.index(ALL_BUT_ONE)] == [False]


@pytest.mark.parametrize("sums", MODES)
def test_the_objective_at_many_steps_beside_the_corner(sums: str) -> None:
    steps = np.array([0.5, 0.99, 1.0 + 1e-4, 1.0 + 2e-4])
    plan = machines(np.outer(steps, ALL_BUT_ONE), order=0)
    assert shown(plan, sums) == [True, True, False, False]


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_corner_so_sharp_that_one_patient_is_on_it(loss: str, sums: str) -> None:
    on_it = [0.0, 1 / AT, 0.0, 0.0]
    for order in (0, 1, 2):
        sharp = machines(on_it, loss, order, sharpness=np.full(1, 1e9))
        assert shown(sharp, sums) == [False]
    blunt = machines(on_it, loss, 2, sharpness=np.full(1, 4.0))
    assert shown(blunt, sums) == [True]


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sharpness", [1e6, 1e9, 1e14])
def test_corners_so_sharp_that_nobody_is_on_them(sharpness: float, loss: str, sums: str) -> None:
    """Rounded they leave nobody out, but all slopes are 0 or 1: two sums differ by one record."""
    pair = [
        machines(theta, loss, 1, sharpness=np.full(1, sharpness)) for theta in (ZERO, ALL_BUT_ONE)
    ]
    if loss == "hinge":
        whole, less = (gradient(ask(exposed(), plan), MADE) for plan in pair)
        assert close((less - whole)[1:], [SECRET[name] for name in NAMES])
    sites = hospitals()
    assert not any(shown(plan, sums, sites)[0] for plan in pair)


@pytest.mark.parametrize("sums", MODES)
def test_steps_before_that_leave_one_patient_on_the_corner(sums: str) -> None:
    past = np.ldexp(np.array([[0.0, 1e9 / AT, 0.0, 0.0]]), np.concatenate([[0], MADE.exponents]))
    more = {"past": past, "past_sharpness": np.full(1, 1e9)}
    for order in (0, 1, 2):
        assert shown(machines(ZERO, "hinge", order, **more), sums) == [False]


@pytest.mark.parametrize("sums", MODES)
def test_a_curve_on_which_one_patient_is_undecided(sums: str) -> None:
    isolating = curve([-AT, 1.0, 0.0, 0.0], [[5000.0, 0.0]])
    total = ask(exposed(), curve([-AT - 0.01, 1.0, 0.0, 0.0], [[500.0, 0.0]]))
    assert np.isfinite(total["loss"]).all()
    assert shown(isolating, sums) == [False]
    assert shown(curve([-2.4, 0.01, 0.0, 0.0], [[1.0, 0.0]]), sums) == [True]


@pytest.mark.parametrize("sums", MODES)
def test_an_honest_fit_goes_through(sums: str) -> None:
    for loss in LOSSES:
        model = pc.LinearSVC(loss=loss)
        sites = hospitals()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pc.DataWarning)
            privacy = pc.SecureSum() if sums == "secure" else None
            model.fit(sites, "sick ~ age + lab + sex", privacy=privacy)
        assert model.gap_ < 3e-2
