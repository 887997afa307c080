"""A column that only one patient carries makes a sum of that patient's record.

Rare indicator, reference level, interaction, indicator of a missing value, column of three values.
"""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.design import Design, Factor
from polyclinic.core.plan import Plan
from tests.attacks.world import (
    FRAME,
    SECRET,
    VICTIM,
    ask,
    close,
    column_sums,
    derivatives,
    design,
    exposed,
    hessian,
    hospitals,
    level,
    moments,
    refusal,
    value,
)

MODES = ("clear", "secure", "auto")
RARE: dict[str, Factor] = {
    "indicator": level("rare", "yes"),
    "level": level("pain", "odd"),
    "third value": Factor("bspline", "few", (1.0, 0.0, 0.0, 1.5, 2.5, 4.0)),
    "missing": Factor("missing", "lab"),
}
LACKING = FRAME.copy()
LACKING.loc[VICTIM, "lab"] = np.nan
LACKING.loc[[5, 29], "few"] = [0, 3]
LACKING.loc[VICTIM, "few"] = 2


def with_column(rare: Factor) -> Design:
    """Products of the rare column with what is wanted: each sum is the victim's value."""
    fills = {"lab": 9.0} if rare.kind == "missing" else {}
    return design([rare, value("chol")], [rare, value("age")], fills=fills)


def beside(rare: Factor) -> Design:
    """The rare column on its own; its products are in X'X."""
    fills = {"lab": 9.0} if rare.kind == "missing" else {}
    return design(rare, value("chol"), value("age"), fills=fills)


@pytest.mark.parametrize("name", RARE)
def test_it_works_without_rules(name: str) -> None:
    made = with_column(RARE[name])
    sums = column_sums(ask(exposed(LACKING), moments(made)), made)
    assert close(sums, [SECRET["chol"], SECRET["age"]])
    made = beside(RARE[name])
    found = hessian(ask(exposed(LACKING), derivatives(made, np.zeros(4), "gaussian")), made)
    assert close(found[1, 2:], [SECRET["chol"], SECRET["age"]])


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("name", RARE)
def test_it_is_refused(name: str, sums: str) -> None:
    rare = RARE[name]
    plans = (
        moments(with_column(rare)),
        derivatives(with_column(rare), np.zeros(3), "gaussian", order=1),
        derivatives(beside(rare), np.zeros(4), "gaussian"),
        derivatives(beside(rare), np.zeros(4), "binomial"),
    )
    for plan in plans:
        code = refusal(lambda plan=plan: ask(hospitals(data=LACKING), plan, sums))
        assert code == "LEVEL_TOO_SMALL"


def reference() -> Design:
    """All levels but the one that only the victim has: the intercept minus them is the victim."""
    return design(*(level("pain", name) for name in ("none", "some", "much")), value("chol"))


def test_a_reference_level_of_one_patient() -> None:
    made = reference()
    plan = derivatives(made, np.zeros(5), "gaussian")
    found = hessian(ask(exposed(), plan), made)
    assert close(found[0, 4] - found[1:4, 4].sum(), SECRET["chol"])
    for sums in MODES:
        assert refusal(lambda sums=sums: ask(hospitals(), plan, sums)) == "LEVEL_TOO_SMALL"


def combination() -> Design:
    """In `group`, and in `group` without the drug: the difference is the victim."""
    group = level("group", "yes")
    return design([group, value("chol")], [group, level("drug", "no"), value("chol")])


def test_columns_that_differ_in_one_patient() -> None:
    made = combination()
    found = column_sums(ask(exposed(), moments(made)), made)
    assert close(found[0] - found[1], SECRET["chol"])
    assert refusal(lambda: ask(hospitals(), moments(made))) == "LEVERAGE"
    fit = derivatives(made, np.zeros(3), "gaussian")
    assert refusal(lambda: ask(hospitals(), fit)) == "LEVERAGE"


@pytest.mark.parametrize("sums", MODES)
def test_an_interaction_that_one_patient_has(sums: str) -> None:
    both = design([level("group", "yes"), level("drug", "yes"), value("chol")])
    assert close(column_sums(ask(exposed(), moments(both)), both), SECRET["chol"])
    assert refusal(lambda: ask(hospitals(), moments(both), sums)) == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("sums", MODES)
def test_one_patient_left_out_by_a_weight_of_the_plan(sums: str) -> None:
    """`class_weight` weighs rows by any column that is read as a class."""
    made = design(value("age"), value("lab"), response="chol")
    heavy = np.full(513, 2.0**-40)
    heavy[int(SECRET["chol"])] = 1.0
    alone = np.where(heavy == 1.0, 1.0, 0.0)
    for weights, codes in ((heavy, {"EFFECTIVE_SIZE", "LEVERAGE"}), (alone, {"LEVEL_TOO_SMALL"})):
        plan = moments(made, class_weight=weights)
        found = column_sums(ask(exposed(), plan), made)
        assert close(found, [SECRET["age"], SECRET["lab"]])
        assert refusal(lambda plan=plan: ask(hospitals(), plan, sums)) in codes


def test_a_plan_cannot_say_what_is_judged() -> None:
    """Values that a task does not read change nothing about its rules."""
    terms = [[value("chol"), Factor("power", "age", (k / 20,))] for k in range(60)]
    values = derivatives(design(*terms), np.zeros(61)).values
    for more in ({}, {"order": 0}, {"order": -1}):
        plan = Plan("glm.scores", {**values, "by": "row", **more})
        assert refusal(lambda plan=plan: ask(hospitals(), plan)) == "SATURATED"
