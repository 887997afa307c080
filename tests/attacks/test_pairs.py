"""What two columns have together, and neither alone, may be one patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polyclinic as pc
from polyclinic.core.contribution import Total
from polyclinic.core.design import Design, Factor
from polyclinic.core.plan import Plan
from polyclinic.data.codebook import Patient
from polyclinic.data.read import split_frame
from polyclinic.models.glm.exposure import Asked, exposure, slots
from tests.attacks.world import (
    BOOK,
    FRAME,
    SECRET,
    VICTIM,
    ask,
    close,
    column_sums,
    derivatives,
    design,
    exposed,
    gradient,
    hessian,
    hospitals,
    level,
    moments,
    refusal,
    value,
)

MODES = ("clear", "secure", "auto")
LAB = value("lab")
GROUP, DRUG = level("group", "yes"), level("drug", "yes")
TOGETHER = design(GROUP, [DRUG, LAB], value("age"))


def entries() -> list[Plan]:
    """Plans in whose answer an entry is the sum over those in `group` who have the drug."""
    gaussian = derivatives(TOGETHER, np.zeros(4), "gaussian")
    return [
        gaussian,
        derivatives(TOGETHER, np.zeros(4), "binomial"),
        Plan("glm.information", gaussian.values),
        derivatives(design([DRUG, LAB], response="group"), np.zeros(2), "gaussian", order=1),
        derivatives(design([value("drug"), LAB], response="group"), np.zeros(2), order=1),
    ]


def test_two_columns_that_one_patient_has_both_of() -> None:
    """Each of them many have; their entry of the Hessian, or of the gradient, is the victim."""
    found = hessian(ask(exposed(), entries()[0]), TOGETHER)
    assert close(found[1, 2], SECRET["lab"])
    made = design([DRUG, LAB], response="group")
    slope = gradient(ask(exposed(), entries()[3]), made)
    assert close(-slope[1], SECRET["lab"])
    for sums in MODES:
        sites = hospitals()
        for plan in entries():
            code = refusal(lambda p=plan, g=sites, s=sums: ask(g, p, s))
            assert code == "LEVEL_TOO_SMALL"


def all_but_victim(one: str, other: str) -> Any:
    """Who has `one` has `other` as well, but for the victim, who has only the one."""
    data = FRAME.copy()
    data.loc[data[one] == "yes", other] = "yes"
    data.loc[VICTIM, [one, other]] = ["yes", "no"]
    return data


@pytest.mark.parametrize("sums", MODES)
def test_one_of_two_columns_that_one_patient_has_alone(sums: str) -> None:
    """What the entry of the two leaves of the other entries is the victim."""
    for one, other in (("drug", "group"), ("group", "drug")):
        made = design(GROUP, [DRUG, LAB], LAB, response="visits")
        plan, data = derivatives(made, np.zeros(4), "gaussian"), all_but_victim(one, other)
        found = hessian(ask(exposed(data), plan), made)
        whole = found[0, 2] if one == "drug" else found[1, 3]
        assert close(whole - found[1, 2], SECRET["lab"])
        assert refusal(lambda p=plan, d=data: ask(hospitals(data=d), p, sums)) == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("number", [2, 4, 5])
def test_two_columns_that_a_few_patients_have_both_of(number: int) -> None:
    data = FRAME.copy()
    more = data.index[(data["site"] == "a") & (data["group"] == "yes")]
    others = [row for row in more if row != VICTIM][: number - 1]
    data.loc[others, "drug"] = "yes"
    # Half the minimum is enough for a yes-or-no column as it stands.
    for drug, least in ((DRUG, 5), (value("drug"), 3)):
        plan = derivatives(design(GROUP, [drug, LAB], value("age")), np.zeros(4), "gaussian")
        code = refusal(lambda plan=plan: ask(hospitals(data=data), plan))
        assert code == ("" if number >= least else "LEVEL_TOO_SMALL")


def test_other_hospitals_make_up_for_what_two_columns_have() -> None:
    data = FRAME.copy()
    for site in "bc":
        rows = data.index[(data["site"] == site) & (data["group"] == "yes")]
        data.loc[rows[:9], "drug"] = "yes"
    plan = entries()[0]
    assert refusal(lambda: ask(hospitals(data=data), plan)) == "LEVEL_TOO_SMALL"
    assert refusal(lambda: ask(hospitals(data=data), plan, "auto")) == ""
    together = hessian(ask(hospitals(data=data), plan, "secure"), TOGETHER)[1, 2]
    both = data[(data["group"] == "yes") & (data["drug"] == "yes")]
    assert len(both) == 19 and close(together, both["lab"].sum())


def test_a_plan_alone_names_what_others_can_make_up_for() -> None:
    """The names are the same at every hospital, whatever its rows are."""
    made = design(GROUP, [DRUG, LAB], [level("rare", "no"), GROUP, value("age")], value("few"))
    plan = derivatives(made, np.zeros(5))
    asked = Asked(plan.values["theta"], 2, True, True, curved=True)
    names = slots(plan, asked)
    assert len(set(names)) == len(names)
    for site in "abc":
        rows = hospitals().rows(site, None)
        seen = exposure(plan, rows, {}, asked)
        assert set(seen.slots) <= set(names)
        counted = [name for name, counts in seen.values.items() if set(counts) <= {"0", "1"}]
        assert {f"{name} = {v}" for name in counted for v in (0, 1)} <= set(names)
        assert "'level group (1.0,)' and 'level drug (1.0,):value lab ()': both" not in names


def test_plain_columns_together_are_a_count_without_weights() -> None:
    made = design(GROUP, DRUG, [GROUP, level("sex", "male")], value("age"))
    plan = derivatives(made, np.zeros(5), "gaussian")
    for sums in MODES:
        assert refusal(lambda sums=sums: ask(hospitals(), plan, sums)) == ""


PLAIN: dict[str, Design] = {
    "levels": design(GROUP, DRUG, LAB, response="visits"),
    "as they stand": design(value("group"), value("drug"), LAB, response="visits"),
    "a product": design([GROUP, level("sex", "female")], DRUG, LAB, response="visits"),
}
TILT = np.array([0.0, 0.0, 0.0, 0.05])


def curved(made: Design) -> dict[str, tuple[Plan, Callable[[Total], float]]]:
    """Plans by which two plain columns hold the weight of one patient, and how it tells the lab."""

    def entry(total: Total, leaf: str = "hessian") -> float:
        packed = {"hessian": [total[leaf]]} if leaf != "hessian" else total
        return float(hessian(packed, made)[1, 2])

    def logit(total: Total) -> float:
        return float(2.0 * np.arccosh(0.5 / np.sqrt(entry(total))) / TILT[3])

    scored = derivatives(replace(made, response="lab"), np.zeros(4), "gaussian").values
    weighted = replace(made, weight="lab")
    return {
        "logistic": (derivatives(made, TILT), logit),
        "poisson": (derivatives(made, TILT, "poisson"), lambda t: np.log(entry(t)) / TILT[3]),
        "information": (
            Plan("glm.information", derivatives(made, TILT, "poisson").values),
            lambda t: np.log(entry(t, "information")) / TILT[3],
        ),
        "weight": (derivatives(weighted, np.zeros(4), "gaussian"), entry),
        "scores": (
            Plan("glm.scores", {**scored, "by": "row"}),
            lambda t: np.sqrt(entry(t, "meat")),
        ),
    }


@pytest.mark.parametrize("columns", PLAIN)
@pytest.mark.parametrize("kind", ["logistic", "poisson", "information", "weight", "scores"])
def test_weights_of_one_patient_who_has_two_plain_columns(kind: str, columns: str) -> None:
    """With weights their entry of the Hessian is no count, but that patient's weight."""
    made = PLAIN[columns]
    plan, read = curved(made)[kind]
    assert close(read(ask(exposed(), plan)), SECRET["lab"])
    for sums in MODES:
        code = refusal(lambda sums=sums: ask(hospitals(), plan, sums))
        assert code == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("several", [False, True])
def test_how_many_two_plain_columns_have_to_share(number: int, several: bool) -> None:
    """Half the minimum, of patients: more rows of the same make up for nothing."""
    rows = [VICTIM, *FRAME.index[(FRAME["site"] == "a") & (FRAME["group"] == "yes")][:2]][:number]
    data = FRAME.copy()
    data.loc[rows, "drug"] = "yes"
    data["person"] = data.index
    if several:
        data = pd.concat([data, data.loc[rows], data.loc[rows]], ignore_index=True)
    book = BOOK.model_copy(update={"patient": Patient(id="person")}) if several else BOOK
    sites = pc.Sites(split_frame(data, "site", book), book)
    code = refusal(lambda: ask(sites, derivatives(PLAIN["levels"], TILT)))
    assert code == ("" if number == 3 else "LEVEL_TOO_SMALL")


def test_other_hospitals_make_up_for_two_plain_columns() -> None:
    data = FRAME.copy()
    for site in "bc":
        rows = data.index[(data["site"] == site) & (data["group"] == "yes")]
        data.loc[rows[:9], "drug"] = "yes"
    plan = derivatives(PLAIN["levels"], TILT)
    assert refusal(lambda: ask(hospitals(data=data), plan)) == "LEVEL_TOO_SMALL"
    assert refusal(lambda: ask(hospitals(data=data), plan, "auto")) == ""


POWER = Factor("power", "pain", (2.0,))


def dose(rows: slice) -> Any:
    """`pain` as 0, 1, 2; at the drug only the victim and the others of `rows` have 2."""
    data = FRAME.copy()
    data["pain"] = data["pain"].replace("odd", "much")
    data.loc[(data["drug"] == "yes") & (data["pain"] == "much"), "pain"] = "some"
    more = data.index[(data["site"] == "a") & (data["drug"] == "yes")].drop(VICTIM)
    data.loc[[VICTIM, *more[rows]], "pain"] = "much"
    return data


@pytest.mark.parametrize("sums", MODES)
def test_two_functions_of_a_column_of_three_values(sums: str) -> None:
    """0, 1, 2 and 0, 1, 4: their difference leaves those of 2, and at the drug that is one."""
    made = design([value("pain"), DRUG, LAB], [POWER, DRUG, LAB])
    x = column_sums(ask(exposed(dose(slice(0))), moments(made)), made)
    assert close((x[1] - x[0]) / 2.0, SECRET["lab"])
    code = refusal(lambda: ask(hospitals(data=dose(slice(0))), moments(made), sums))
    assert code == "LEVEL_TOO_SMALL"
    enough = refusal(lambda: ask(hospitals(data=dose(slice(0, 4))), moments(made), sums))
    assert enough in ("", "LEVERAGE")
