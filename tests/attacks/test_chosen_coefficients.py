"""Coefficients that make every weight, or every residual, vanish but one patient's.

The Hessian is then that patient's products, the gradient its record, the loss a number of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core.plan import Plan
from tests.attacks.world import (
    SECRET,
    ask,
    close,
    derivatives,
    design,
    exposed,
    gradient,
    hessian,
    hospitals,
    level,
    refusal,
    unguarded,
    value,
)

MODES = ("clear", "secure", "auto")
GROUP, DRUG, SICK = (level(name, "yes") for name in ("group", "drug", "sick"))
LARGE = design(value("chol"), value("age"), value("lab"), response="visits")
INSIDE = design(GROUP, [GROUP, value("chol")], value("age"), value("lab"))
WRONG = design(GROUP, DRUG, SICK, value("chol"), value("age"))
AT = SECRET["chol"]
POINTS = {  # family, design, coefficients with the intercept first
    "logistic, slope 5,000": ("binomial", LARGE, [-5000 * AT, 5000.0, 0.0, 0.0]),
    "poisson, slope 200": ("poisson", LARGE, [-200 * AT, 200.0, 0.0, 0.0]),
    "logistic, inside a level": ("binomial", INSIDE, [0.0, -50 * AT, 50.0, 0.0, 0.0]),
}
WRONG_AT = [-80.0, -60.0, -60.0, 160.0, 0.0, 0.0]  # all far on the right side, the victim is not


@pytest.mark.parametrize("name", POINTS)
def test_a_point_that_isolates_works_without_rules(name: str) -> None:
    family, made, theta = POINTS[name]
    found = hessian(unguarded(derivatives(made, theta, family)), made)
    row = found[1] / found[1, 1]
    wanted = [SECRET["age"], SECRET["lab"]]
    assert close(row[-2:] * (AT if made is LARGE else 1.0), wanted)


def shown(plan: Plan, sums: str) -> bool:
    """Whether the victim's hospital lets a candidate out."""
    try:
        total = hospitals().federation(sums=sums).total(plan)  # type: ignore[arg-type]
    except Exception as error:
        assert getattr(error, "code", "") in {"LEVERAGE", "EFFECTIVE_SIZE", "LEVEL_TOO_SMALL"}
        return False
    return not total["too_large"].all()


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", POINTS)
def test_it_is_refused_or_the_candidate_left_out(name: str, order: int, sums: str) -> None:
    family, made, theta = POINTS[name]
    inside = made is INSIDE and order == 0  # there the loss is of all patients outside the level
    if not inside:
        assert not shown(derivatives(made, theta, family, order), sums)
    gentle = derivatives(made, np.zeros(len(theta)), family, order)
    assert shown(gentle, sums)


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_one_patient_on_the_wrong_side(order: int, sums: str) -> None:
    """Everyone else is fitted perfectly: the weights are all alike, the residuals are not."""
    plan = derivatives(WRONG, WRONG_AT, order=order)
    total = ask(exposed(), plan)
    assert close(total["loss"], 40.0)
    if order:
        assert close(-gradient(total, WRONG)[4:], [SECRET["chol"], SECRET["age"]])
    assert not shown(plan, sums)
    near = derivatives(WRONG, np.asarray(WRONG_AT) / 80, order=order)
    assert shown(near, sums) == (order < 2)  # the Hessian has an entry of the victim alone


PLAIN = design(value("chol"), value("age"), value("lab"))


def planes(slope: float) -> list[Plan]:
    """Everybody is certain; the victim, who has the most, is on one side and then on the other."""
    cuts = (AT - 10.0, AT + 10.0)
    return [derivatives(PLAIN, [-slope * cut, slope, 0.0, 0.0], order=1) for cut in cuts]


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("slope", [1e3, 1e4, 1e6])
def test_two_planes_around_one_patient(slope: float, sums: str) -> None:
    one, two = (gradient(unguarded(plan), PLAIN) for plan in planes(slope))
    assert close((one - two)[1:], [SECRET[name] for name in ("chol", "age", "lab")])
    assert not any(shown(plan, sums) for plan in planes(slope))
    assert all(shown(plan, sums) for plan in planes(1e-3))


def test_one_candidate_of_many_is_left_out_and_the_others_are_not() -> None:
    _, made, theta = POINTS["logistic, slope 5,000"]
    many = np.vstack([np.zeros(4), theta, [0.1, 0.0, 0.0, 0.0]])
    total = ask(hospitals(), derivatives(made, many, order=1))
    alone = ask(hospitals(), replace(derivatives(made, many, order=1), to=("a",)))
    assert total["too_large"].astype(bool).tolist() == [False, True, False]
    assert alone["too_large"].tolist() == [0, 1, 0]
    assert alone["loss"][1] == 0 and not alone["gradient"][1].any()
    assert alone["loss"][0] > 0


def test_robust_errors_at_a_point_that_isolates() -> None:
    made, theta = LARGE, POINTS["logistic, slope 5,000"][2]
    plan = Plan("glm.scores", {**derivatives(made, theta).values, "by": "row"})
    for sums in MODES:
        code = refusal(lambda sums=sums: ask(hospitals(), plan, sums))
        assert code == "EFFECTIVE_SIZE"


def test_information_at_a_point_that_isolates() -> None:
    plan = Plan("glm.information", derivatives(LARGE, [-0.1 * AT, 0.1, 0, 0], "poisson").values)
    for sums in MODES:
        assert refusal(lambda sums=sums: ask(hospitals(), plan, sums)) == "EFFECTIVE_SIZE"


@pytest.mark.parametrize("sums", MODES)
def test_weights_too_large_for_a_number_are_not_let_out(sums: str) -> None:
    for slope in (1e6, 1e12, 1e300):
        plan = derivatives(LARGE, [0.0, slope, 0.0, 0.0], "poisson", order=1)
        assert not shown(plan, sums)
