"""Two sums over groups of patients that differ by one patient show that patient by subtraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core.contribution import Total
from polyclinic.core.errors import PolyclinicError, Refused
from polyclinic.core.plan import Plan
from polyclinic.core.sampling import uniform
from tests.attacks.world import (
    EACH,
    FRAME,
    SECRET,
    VICTIM,
    ask,
    close,
    column_sums,
    descriptive,
    design,
    exposed,
    hospitals,
    moments,
    refusal,
    scoring,
    value,
)

MADE = design(value("chol"), value("age"))
ALL = moments(MADE)
EXCEPT = f"not (age == {SECRET['age']:g} and cost == {SECRET['cost']})"
GAPS = FRAME.copy()
GAPS.loc[VICTIM, "lab"] = np.nan
OPEN_MODES = ("clear", "secure")


def difference(one: Total, two: Total) -> Any:
    return column_sums(one, MADE) - column_sums(two, MADE)


def rows(**chosen: Any) -> Plan:
    return Plan(ALL.task, {**ALL.values, "rows": chosen}, "moments")


Asking = Callable[[pc.Sites, str], Total]
PAIRS: dict[str, tuple[Asking, Asking]] = {
    "cohorts": (
        lambda sites, sums: ask(sites, ALL, sums, "age > 0"),
        lambda sites, sums: ask(sites, ALL, sums, EXCEPT),
    ),
    "folds": (
        lambda sites, sums: ask(sites, ALL, sums),
        lambda sites, sums: ask(sites, rows(folds=EACH, without=VICTIM), sums),
    ),
    "completeness": (
        lambda sites, sums: ask(sites, ALL, sums),
        lambda sites, sums: (
            sites.cohort(columns=["lab", "chol", "age", "sick"])
            .federation(sums=sums)  # type: ignore[arg-type]
            .total(ALL)
        ),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_it_works_without_rules(name: str) -> None:
    first, second = PAIRS[name]
    sites = exposed(GAPS)
    found = difference(first(sites, "clear"), second(sites, "clear"))
    # Folds and gaps leave one patient of every hospital out; the others' are known to be so.
    if name == "folds":
        left = FRAME.groupby("site").nth(VICTIM)
        found = found - left.loc[left["site"] != "a", ["chol", "age"]].sum().to_numpy()
    assert close(found, [SECRET["chol"], SECRET["age"]])


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("sums", OPEN_MODES)
@pytest.mark.parametrize("name", PAIRS)
def test_the_second_of_two_is_refused(name: str, sums: str, turn: int) -> None:
    first, second = PAIRS[name][::turn]
    sites = hospitals(data=GAPS)
    first_code = refusal(lambda: first(sites, sums))
    code = refusal(lambda: second(sites, sums))
    assert {first_code, code} & {"COHORT_TOO_CLOSE", "SUBSET_TOO_SMALL"}


def test_a_sample_that_leaves_one_patient_out_or_holds_one() -> None:
    """The part that is drawn and the seed are the attacker's; both are tuned for one patient."""
    made = design(value("chol"), intercept=False)
    whole = moments(made)
    keys = np.arange(EACH)
    kept = {}
    for seed in range(1000):
        place = uniform(keys, seed, 1, "a")
        first, last = np.argsort(place)[[0, -1]]
        if first == VICTIM and "one" not in kept:
            kept["one"] = (seed, np.sort(place)[:2].mean())
        if last == VICTIM and "all but one" not in kept:
            kept["all but one"] = (seed, np.sort(place)[-2:].mean())
    plans = {}
    for name, (seed, part) in kept.items():
        chosen = {"sample": float(part), "seed": seed, "round": 1}
        plans[name] = Plan(whole.task, {**whole.values, "rows": chosen}, "moments", to=("a",))
    everyone = replace(whole, to=("a",))
    sums = {
        name: column_sums(ask(exposed(), plan), made)[0]
        for name, plan in {**plans, "all": everyone}.items()
    }
    assert close(sums["one"], SECRET["chol"])
    assert close(sums["all"] - sums["all but one"], SECRET["chol"])
    sites = hospitals()
    ask(sites, everyone)
    assert refusal(lambda: ask(sites, plans["one"])) == "TOO_FEW_PATIENTS"
    assert refusal(lambda: ask(sites, plans["all but one"])) == "COHORT_TOO_CLOSE"
    for plan in plans.values():
        sites = hospitals()
        ask(sites, whole, "secure")
        secure = replace(plan, to=())
        assert refusal(lambda sites=sites, plan=secure: ask(sites, plan, "secure"))


def test_three_cohorts_of_which_no_two_are_close() -> None:
    """A tracker: the sum of two parts less their whole is one patient."""
    parts = ("age < 61 or cost == 9431.26", "age >= 61")
    sites, open_sites = hospitals(), exposed()
    one, two, whole = (ask(open_sites, ALL, "clear", where) for where in (*parts, None))
    assert close(difference(one, whole) + column_sums(two, MADE), [SECRET["chol"], SECRET["age"]])
    codes = [
        refusal(lambda where=where: ask(sites, ALL, "clear", where)) for where in (*parts, None)
    ]
    assert codes == ["", "", "COHORT_TOO_CLOSE"]


def test_subgroups_of_an_evaluation() -> None:
    """Scores of all, then of a subgroup that leaves the victim out."""
    made = design(value("chol"), value("lab"))
    everyone = scoring(made, [[0.0, 0.0, 0.0]])
    most = scoring(made, [[0.0, 0.0, 0.0]], where={"column": "rare", "level": 0.0})
    one = scoring(made, [[0.0, 0.0, 0.0]], where={"column": "rare", "level": 1.0})
    assert ask(exposed(), everyone)["n"] - ask(exposed(), most)["n"] == 1
    for sums in OPEN_MODES:
        sites = hospitals()
        before = int(ask(sites, everyone, sums)["n"])
        for plan in (most, one):
            try:
                total = ask(sites, plan, sums)
            except Refused as error:
                assert error.code in {"COHORT_TOO_CLOSE", "TOO_FEW_PATIENTS"}
                continue
            assert int(total.hidden["n"].sum()) >= 1 and before - int(total["n"]) != 1


def test_a_difference_in_another_step_or_under_another_name_is_one_too() -> None:
    """Another task over the same column is the same column."""
    sites = hospitals()
    ask(sites, ALL, "clear")
    centre = np.zeros((1, 1))
    other = descriptive(
        "moments",
        columns=["chol"],
        by=None,
        centre=centre,
        exponent=centre.astype(np.int64) + 9,
        powers=1,
        centred=False,
    )
    assert refusal(lambda: ask(sites, other, "clear", EXCEPT)) in {
        "COHORT_TOO_CLOSE",
        "SUBSET_TOO_SMALL",
    }


def test_one_hospital_more() -> None:
    """The same sum over other hospitals shows the hospital that is in one of them."""
    sites = hospitals()
    ask(sites, ALL, "secure")
    fewer = Plan(ALL.task, ALL.values, "moments", to=("a", "b"))
    with pytest.raises(PolyclinicError) as caught:
        ask(sites, fewer, "secure")
    assert caught.value.code == "BELOW_THRESHOLD"
