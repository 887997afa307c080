"""A column that only one patient carries makes a sum of that patient's record.

Rare indicator, reference level, interaction, indicator of a missing value, column of three values;
what all but one patient have, what two columns have together, an outcome that others cannot have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.plan import Plan
from polyclinic.models.glm.exposure import Asked, exposure, few_values
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
    sites = hospitals(data=LACKING)
    for plan in plans:
        code = refusal(lambda plan=plan: ask(sites, plan, sums))
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
    fit = derivatives(made, np.zeros(3), "gaussian")
    for plan in (moments(made), fit):
        for sums in MODES:
            code = refusal(lambda plan=plan, sums=sums: ask(hospitals(), plan, sums))
            assert code == "LEVEL_TOO_SMALL"


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
    for weights in (heavy, alone):
        plan = moments(made, class_weight=weights)
        found = column_sums(ask(exposed(), plan), made)
        assert close(found, [SECRET["age"], SECRET["lab"]])
        assert refusal(lambda plan=plan: ask(hospitals(), plan, sums)) == "LEVEL_TOO_SMALL"
    doubled = np.where(heavy == 1.0, 2.0, 1.0)
    twice, once = (moments(made, class_weight=w) for w in (doubled, np.ones(513)))
    sites = exposed()
    apart = column_sums(ask(sites, twice), made) - column_sums(ask(sites, once), made)
    assert close(apart, [SECRET["age"], SECRET["lab"]])
    assert refusal(lambda: ask(hospitals(), twice, sums)) == "LEVEL_TOO_SMALL"


def test_a_plan_cannot_say_what_is_judged() -> None:
    """Values that a task does not read change nothing about its rules."""
    terms = [[value("chol"), Factor("power", "age", (k / 20,))] for k in range(60)]
    values = derivatives(design(*terms), np.zeros(61)).values
    for more in ({}, {"order": 0}, {"order": -1}):
        plan = Plan("glm.scores", {**values, "by": "row", **more})
        assert refusal(lambda plan=plan: ask(hospitals(), plan)) == "SATURATED"


LAB = value("lab")
GROUP, DRUG = level("group", "yes"), level("drug", "yes")
ALL_BUT_ONE: dict[str, tuple[Factor, float]] = {  # with what the victim counts in their sum
    "level": (level("rare", "no"), 0.0),
    "twice": (Factor("affine", "rare", (1.0, 1.0)), 2.0),
    "step": (Factor("bspline", "rare", (0.0, 0.0, -1.0, 0.5, 2.0)), 0.0),
    "missing": (Factor("missing", "cost"), 0.0),
}
GAPS = FRAME.copy()
GAPS.loc[GAPS.index != VICTIM, "cost"] = np.nan


@pytest.mark.parametrize("name", ALL_BUT_ONE)
def test_a_sum_over_all_but_one(name: str) -> None:
    """Beside the sum over all: what a factor of a product leaves out counts like what it holds."""
    factor, times = ALL_BUT_ONE[name]
    data = GAPS if name == "missing" else FRAME
    every, rest = (design(term, response="visits") for term in ([LAB], [factor, LAB]))
    sites = exposed(data)
    whole, part = (column_sums(ask(sites, moments(made)), made)[0] for made in (every, rest))
    assert close((whole - part) / (1.0 - times), SECRET["lab"])
    fit = derivatives(rest, np.zeros(2), "gaussian", order=1)
    for sums in MODES:
        guarded = hospitals(data=data)
        for plan in (moments(rest), fit):
            code = refusal(lambda p=plan, g=guarded, s=sums: ask(g, p, s))
            assert code == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("sums", MODES)
def test_what_two_common_factors_leave_out_together(sums: str) -> None:
    no_group, no_drug = level("group", "no"), level("drug", "no")
    parts = [[LAB], [no_group, LAB], [no_drug, LAB], [no_group, no_drug, LAB]]
    sites = exposed()
    all_, g, d, both = (column_sums(ask(sites, moments(design(p))), design(p))[0] for p in parts)
    assert close(all_ - g - d + both, SECRET["lab"])
    last = moments(design(parts[-1]))
    assert refusal(lambda: ask(hospitals(), last, sums)) == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("sums", MODES)
def test_outcomes_that_few_can_have(sums: str) -> None:
    """The outcome's sums are over the rows with an allowed one: a filter that the plan chooses."""
    made = design(value("age"), response="few", weight="lab")
    plan = moments(made, "binomial", response_exponent=1)  # of 0 1 2 3 remain 0 and 2
    lab = float(FRAME.loc[5, "lab"])
    assert FRAME.loc[5, "few"] == 2 and close(ask(exposed(), plan)["outcome"][1], lab)
    assert refusal(lambda: ask(hospitals(), plan, sums)) == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("number", [1, 4, 5])
def test_outcomes_of_few(number: int) -> None:
    data = FRAME.assign(few=0)
    data.loc[data.index[:number], "few"] = 1
    plan = moments(design(value("age"), response="few", weight="lab"), "gamma")
    total = ask(exposed(data), plan)
    assert close(total["outcome"][1], data["lab"][:number].sum())
    assert (refusal(lambda: ask(hospitals(data=data), plan)) == "") == (number == 5)


@pytest.mark.parametrize("sums", MODES)
def test_a_weight_that_few_with_an_allowed_outcome_have(sums: str) -> None:
    """Enough rows are left, and of them one has nearly all of the weight."""
    data = FRAME.assign(few=np.select([FRAME.index % 2 == 0, FRAME.index % 5 == 0], [0, 1], 3))
    data["cost"] = np.where(data["few"] == 3, 2.0**10, 1.0)
    data.loc[16, "cost"] = 2.0**15
    others = int((data["few"] < 3).sum()) - 1
    made = design(value("age"), response="few", weight="cost", weight_bound=2.0**20)
    plan = moments(made, "binomial", classes=2)
    total = ask(exposed(data), plan)["outcome"][0]
    assert close(total, 2.0**15 + others) and total > 50 * others
    assert refusal(lambda: ask(hospitals(data=data), plan, sums)) == "EFFECTIVE_SIZE"


@pytest.mark.parametrize("family", ["binomial", "multinomial"])
@pytest.mark.parametrize("sums", MODES)
def test_a_count_of_the_outcomes_that_are_not_allowed(family: str, sums: str) -> None:
    response, classes = ("few", 0) if family == "binomial" else ("pain", 3)
    plan = moments(design(value("age"), response=response), family, classes=classes)
    assert ask(exposed(), plan)["invalid"] == (2 if family == "binomial" else 1)
    assert refusal(lambda: ask(hospitals(), plan, sums)) == "LEVEL_TOO_SMALL"


def test_one_name_for_two_terms() -> None:
    """Else what is judged under the name is the last of them."""
    rare = (level("rare", "yes"), LAB)
    for first, second in (("z", "z"), ("(loss)", "z"), ("z", "(residual of) z")):
        made = Design(
            (Term(first, rare, 64.0), Term(second, (value("age"),), 128.0)),
            "sick",
            response_bound=1,
        )
        for plan in (moments(made), derivatives(made, np.zeros(3), "gaussian")):
            for sums in MODES:
                code = refused(lambda plan=plan, sums=sums: ask(hospitals(), plan, sums))
                assert code == "BAD_MESSAGE"


def refused(ask_it: Callable[[], Any]) -> str:
    with pytest.raises(PolyclinicError) as caught:
        ask_it()
    return caught.value.code


def test_values_that_look_alike_are_counted_apart() -> None:
    """100000 and 100000.4 read the same with six digits."""
    data = FRAME.copy()
    data["cost"] = np.where(data.index == VICTIM, 100000.0, 100000.4)
    made = design(value("cost"), value("age"))
    total = column_sums(ask(exposed(data), moments(made)), made)[0]
    assert close(total, 100000.0 + 719 * 100000.4)
    counts = few_values(made, data[["cost", "age"]].to_numpy(), None)["value cost ()"]
    assert counts == {"100000": 1, "100000.4": 719}
    assert refusal(lambda: ask(hospitals(data=data), moments(made))) == "LEVEL_TOO_SMALL"


def means(column: str, exponent: int) -> Plan:
    return Plan("glm.present", {"columns": [column, "age"], "exponents": np.array([exponent, 7])})


def present(data: Any) -> float:
    return float(ask(exposed(data), means("lab", 6))["sum"][0] * 64)


@pytest.mark.parametrize("sums", MODES)
def test_a_mean_of_one_known_value(sums: str) -> None:
    data = FRAME.copy()
    data.loc[data.index != VICTIM, "lab"] = np.nan
    assert close(present(data), SECRET["lab"])
    assert refusal(lambda: ask(hospitals(data=data), means("lab", 6), sums)) == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("sums", MODES)
def test_a_mean_that_two_patients_make_up(sums: str) -> None:
    data = FRAME.copy()
    data["lab"] = 0.0
    data.loc[VICTIM, "lab"] = SECRET["lab"]
    assert close(present(data), SECRET["lab"])
    assert refusal(lambda: ask(hospitals(data=data), means("lab", 6), sums)) == "EFFECTIVE_SIZE"


def test_a_mean_is_compared_with_other_sums_of_the_column() -> None:
    whole, without = "age <= 71", f"age <= 71 and not (cost == {SECRET['cost']})"
    sites, open_sites = hospitals(), exposed()
    made = design(value("lab"), value("age"))
    first = column_sums(ask(open_sites, moments(made), where=whole), made)[0]
    second = ask(open_sites, means("lab", 6), where=without)["sum"][0] * 64
    assert close(first - second, SECRET["lab"])
    ask(sites, moments(made), where=whole)
    code = refusal(lambda: ask(sites, means("lab", 6), where=without))
    assert code == "COHORT_TOO_CLOSE"


def test_a_column_with_a_few_gaps_is_filled_with_its_mean() -> None:
    """Who has no value is in the model and not in the mean: no sum of theirs is left over."""
    data = FRAME.copy()
    for site in "abc":
        data.loc[data.index[data["site"] == site][30:42], "lab"] = np.nan
    sites = hospitals(data=data)
    ask(sites, means("lab", 6))
    filled = design(value("lab"), Factor("missing", "lab"), value("age"), fills={"lab": 9.0})
    assert refusal(lambda: ask(sites, moments(filled))) == ""


def test_of_a_filled_column_the_members_are_those_who_have_it() -> None:
    data = FRAME.copy()
    data.loc[[30, 31], "lab"] = np.nan
    plan = moments(design(value("lab"), value("age"), fills={"lab": 9.0}))
    rows = hospitals(data=data).rows("a", None)
    everyone, lab = exposure(plan, rows, {}, Asked(None, 2, False, False)).members
    assert "lab" not in everyone.columns and len(everyone.patients) == 240
    assert lab.columns == ("lab",) and len(lab.patients) == 238


@pytest.mark.parametrize("sums", MODES)
def test_tables_are_not_made_of_tasks_that_answer_with_noise(sums: str) -> None:
    """Inside of another task nothing would add the noise, and nothing judges exact sums."""
    near = np.array([0.0, SECRET["lab"] - 1e-3, SECRET["lab"] + 1e-3, 64.0])
    inner = {"task": "descriptive.private_histogram", "version": 1}
    part = {**inner, "values": {"edges": {"lab": near}}}
    for plan in (
        Plan("descriptive.together", {"parts": {"x": part}}),
        Plan("descriptive.each_site", {**inner, "sites": {"": part["values"]}}, combine="collect"),
    ):
        assert refused(lambda plan=plan: ask(hospitals(), plan, sums)) == "UNKNOWN_TASK"


@pytest.mark.parametrize("sums", MODES)
def test_a_gap_that_is_filled_with_two_numbers(sums: str) -> None:
    """Where one patient has the gap, the difference is what is wanted of that patient."""
    made = [
        design([value("lab"), value("chol")], value("lab"), fills={"lab": fill})
        for fill in (9.0, 10.0)
    ]
    one, two = (column_sums(ask(exposed(LACKING), moments(m)), m)[0] for m in made)
    assert close(two - one, SECRET["chol"])
    for m in made:
        assert refusal(lambda m=m: ask(hospitals(data=LACKING), moments(m), sums)) == (
            "LEVEL_TOO_SMALL"
        )
