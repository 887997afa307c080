"""Predictors of the attacker's own: sums of risks and losses that would be one patient's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.contribution import Total
from polyclinic.core.design import Factor
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.groups import group_size
from polyclinic.core.plan import Plan
from polyclinic.evaluation.scores import ScoresTask
from polyclinic.models.glm import Spec
from polyclinic.privacy.policy import Policy
from tests.attacks.world import (
    EACH,
    FRAME,
    SECRET,
    ask,
    close,
    column_sums,
    design,
    exposed,
    hospitals,
    level,
    moments,
    refusal,
    scoring,
    value,
)

MODES = ("clear", "secure", "auto")
ROWS = FRAME[FRAME["site"] == "a"]
GROUP, DRUG, SICK = (level(name, "yes") for name in ("group", "drug", "sick"))
FEMALE = level("sex", "female")
MEN = float((ROWS["sex"] == "male").sum())
CHOL = design(value("chol"))
GENTLE = scoring(CHOL, [[-2.4, 0.01]])
OUTCOMES = design(GROUP, DRUG, SICK, value("chol"))


def changed(plan: Plan, **values: object) -> Plan:
    return replace(plan, values={**plan.values, **values}, _derived={})


def by_name(plan: Plan, **values: object) -> Plan:
    """The same predictor, each hospital for itself; `least` of 1 merges no level."""
    return Plan("evaluation.own", {**plan.values, "least": 1, **values}, "own", combine="collect")


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def after_412(risks: float) -> float:
    """All others have the risk 0 or 1, so the rest of the sum is the victim's."""
    return 412.0 + logit(risks % 1)


def above_half(risks: float) -> float:
    """All others have the risk 1/2."""
    return 1000 * logit(risks - 0.5 * (EACH - 1))


def slightly(*factors: Factor) -> Plan:
    return scoring(design([*factors, value("chol")]), [[0.0, 0.001]])


def nearly(column: str, rest: float) -> Factor:
    return Factor("affine", column, (1.0, rest))


PREDICTORS: dict[str, tuple[Plan, Callable[[float], float]]] = {
    "steep": (scoring(CHOL, [[-412.0, 1.0]]), after_412),
    "steep in an offset": (
        scoring(design(value("age"), offset="chol"), [[-412.0, 0.0]]),
        after_412,
    ),
    "steep, a level covers it": (
        scoring(design(FEMALE, [FEMALE, value("chol")]), [[0.0, -412.0, 1.0]]),
        lambda risks: after_412(risks - MEN / 2),
    ),
    "steep, a fold covers it": (
        scoring(CHOL, [[0.0, 0.0], [-412.0, 1.0]], folds=2),
        lambda risks: after_412(risks - EACH / 4),
    ),
    "rare term": (slightly(level("rare", "yes")), above_half),
    "nearly rare term": (slightly(nearly("rare", 2.0**-30)), above_half),
    "nearly rare product": (slightly(nearly("group", 1e-9), nearly("drug", 1e-9)), above_half),
}
WRONG = scoring(OUTCOMES, [[-60.0, -35.0, -35.0, 120.0, 0.001]])


@pytest.mark.parametrize("name", PREDICTORS)
def test_it_works_without_rules(name: str) -> None:
    plan, secret_of = PREDICTORS[name]
    risks = ask(exposed(), replace(plan, to=("a",)))["predicted"].sum()
    assert close(secret_of(risks), SECRET["chol"])
    own = ask(exposed(), by_name(plan)).by_site["a"]
    assert own["means"][0] == round(risks / own["n"], 2)  # of that sum, to hundredths


def refused(plan: Plan, sums: str) -> bool:
    """Whether nothing is seen of the victim's hospital, and nothing in a sum with it."""
    try:
        total = ask(hospitals(), plan, sums)
    except PolyclinicError as error:
        return error.code in {"EFFECTIVE_SIZE", "LEVEL_TOO_SMALL", "LEVERAGE"}
    return plan.combine == "collect" and is_hidden(total.by_site["a"])


def is_hidden(one: Total) -> bool:
    hidden = all(flags.all() for flags in one.hidden.values())
    assert not hidden or not any(words.any() for words in one.values.values())
    return hidden


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("name", PREDICTORS)
def test_it_is_refused(name: str, sums: str) -> None:
    plan, _ = PREDICTORS[name]
    assert refused(plan, sums)
    assert refused(by_name(plan), sums)


@pytest.mark.parametrize("sums", MODES)
def test_an_ordinary_predictor_is_not(sums: str) -> None:
    for plan in (GENTLE, changed(GENTLE, predictors=GENTLE.values["predictors"] * 2, folds=2)):
        assert ask(hospitals(), plan, sums)["n"] == 3 * EACH
        total = ask(hospitals(), by_name(plan), sums)
        assert [one["n"] for one in total.by_site.values()] == [EACH] * 3


def test_all_on_the_right_side_but_one() -> None:
    """The sum of the losses is the victim's loss."""
    found = ask(exposed(), replace(WRONG, to=("a",)))["losses"][1]
    assert close(1000 * (10 - np.log(np.expm1(found))), SECRET["chol"])
    for sums in MODES:
        assert refused(WRONG, sums) and refused(by_name(WRONG), sums)
    near = scoring(OUTCOMES, [[-1.0, -0.5, -0.5, 2.0, 0.001]])
    assert not refused(near, "clear") and not refused(by_name(near), "clear")


def losses(plan: Plan) -> Plan:
    """Their sums for an outcome that the victim only has, and for one that nobody has."""
    values = [{**one, "design": {**one["design"], "response": "age"}}
              for one in plan.values["predictors"]]  # fmt: skip
    return changed(plan, predictors=values)


@pytest.mark.parametrize("sums", MODES)
def test_an_outcome_of_one_patient(sums: str) -> None:
    """(p - 1)^2 - p^2 is left of the difference of two sums."""
    only = scoring(design(value("chol"), response="rare"), [[-2.4, 0.01]])
    found = ask(exposed(), only)["losses"][0] - ask(exposed(), losses(only))["losses"][0]
    assert close(100 * (2.4 + logit((1 - found) / 2)), SECRET["chol"])
    assert refused(only, sums) and refused(by_name(only), sums)
    assert not refused(losses(only), sums)


INSIDE = {"column": "group", "level": 1.0}


def test_a_subgroup_in_which_one_patient_has_a_term() -> None:
    plan = changed(slightly(DRUG), where=INSIDE)
    many = int((ROWS["group"] == "yes").sum())
    risks = ask(exposed(), replace(plan, to=("a",)))["predicted"].sum()
    assert close(1000 * logit(risks - (many - 1) / 2), SECRET["chol"])
    for sums in MODES:
        total = ask(hospitals(), plan, sums)
        assert all(flags.min(initial=9) >= 1 for flags in total.hidden.values())
    whole = ask(hospitals(), changed(GENTLE, where=INSIDE))
    assert not any(flags.any() for flags in whole.hidden.values())


def test_a_subgroup_in_which_one_patient_has_the_outcome() -> None:
    made = design(value("chol"), response="drug")
    plan = changed(scoring(made, [[-2.4, 0.01]]), where=INSIDE)
    found = ask(exposed(), plan)["losses"][0] - ask(exposed(), losses(plan))["losses"][0]
    assert close(100 * (2.4 + logit((1 - found) / 2)), SECRET["chol"])
    for sums in MODES:
        total = ask(hospitals(), replace(plan, to=("a",)) if sums == "clear" else plan, sums)
        assert total.hidden["losses"].min() >= 1 and total["n"] > 0


def test_a_subgroup_that_a_steep_predictor_scores() -> None:
    plan = changed(PREDICTORS["steep"][0], where={"column": "sex", "level": 0.0})
    risks = ask(exposed(), replace(plan, to=("a",)))["predicted"].sum()
    assert close(after_412(risks), SECRET["chol"])
    for sums in MODES:
        assert all(flags.all() for flags in ask(hospitals(), plan, sums).hidden.values())


def test_few_patients_behind_a_subgroup_are_counted_as_few() -> None:
    """All of its patients stand behind ordinary scores, one behind those of a steep predictor."""
    rows = exposed().rows("a", None)
    for plan, few in ((GENTLE, False), (PREDICTORS["steep"][0], True)):
        one = changed(plan, where={"column": "sex", "level": 0.0})
        behind = ScoresTask().local(one, rows).evidence.cells
        assert behind["n"] == (1 if few else EACH - MEN)


@pytest.mark.parametrize("sums", MODES)
def test_a_factor_of_one_patient_in_a_product_of_all(sums: str) -> None:
    """Beside a predictor of the other factor, the difference is the victim's."""
    rest = slightly(Factor("affine", "rare", (0.0, 0.1)))
    both = slightly(nearly("rare", 0.1))
    found, other = (ask(exposed(), one)["predicted"].sum() for one in (both, rest))
    risk = 1 / (1 + np.exp(-0.0001 * SECRET["chol"]))
    assert close(1000 * logit(found - other + risk) / 1.1, SECRET["chol"])
    for plan in (both, rest):
        assert refusal(lambda plan=plan: ask(hospitals(), plan, sums)) == "LEVEL_TOO_SMALL"


def test_an_offset_of_one_patient() -> None:
    plan = scoring(design(value("age"), offset="rare"), [[0.0, 0.0]])
    found = ask(exposed(), plan)["predicted"].sum()
    assert close(found - EACH * 3 / 2, 1 / (1 + np.exp(-1.0)) - 0.5)
    for sums in MODES:
        assert refusal(lambda sums=sums: ask(hospitals(), plan, sums)) == "LEVEL_TOO_SMALL"


def top(many: int) -> float:
    """A threshold above which so many risks of hospital ``a`` lie."""
    largest = np.sort(ROWS["chol"])[::-1]
    edge = (largest[many - 1] + largest[many]) / 2
    return float(1 / (1 + np.exp(2.4 - 0.01 * edge)))


def test_thresholds_between_two_patients() -> None:
    """Moved up and down they find a risk, and by it a value, to any digit."""
    plan = replace(changed(GENTLE, least=1, thresholds=[top(1)]), to=("a",))
    assert ask(exposed(), plan)["above"].sum() == 1
    six = [changed(plan, thresholds=[top(n)]) for n in (6, 7)]
    assert [ask(exposed(), one)["above"].sum() for one in six] == [6, 7]
    for one in (plan, *six):
        assert refusal(lambda one=one: ask(hospitals(), one)) == "CELL_TOO_SMALL"
        for sums in ("secure", "auto"):
            every = replace(one, to=(), _derived={})
            code = refusal(lambda every=every, sums=sums: ask(hospitals(), every, sums))
            assert code == "CELL_TOO_SMALL"


@pytest.mark.parametrize("least", [2, 5, 6, 7])
def test_counts_above_thresholds_differ_by_no_few(least: int) -> None:
    many = [top(n) for n in range(1, 40)]
    plan = replace(changed(GENTLE, least=least, thresholds=many), to=("a",))
    above = ask(hospitals(), plan)["above"].sum(axis=1)
    steps = np.diff(above, prepend=0)
    assert above[-1] > 20 and steps[steps > 0].min() >= group_size(least)
    assert group_size(least) == (5 if least <= 5 else 10)


def test_they_are_asked_by_name_only() -> None:
    spec = Spec(CHOL, "binomial", 2).to_data()
    own = replace(by_name(GENTLE), combine="sum", _derived={})
    alone = Plan("evaluation.alone", {"spec": spec, "folds": 2, "least": 5})
    for plan in (own, alone):
        with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
            ask(hospitals(), plan)
        federation = hospitals().federation(sums="clear")
        site = federation.transport.sites["a"]  # type: ignore[attr-defined]
        assert codec.decode(site.answer(plan.to_bytes())) == {"code": "BAD_MESSAGE"}


def test_a_model_of_their_own_with_a_rare_term() -> None:
    for made in (design([level("rare", "yes"), value("chol")], value("age")), CHOL):
        values = {"spec": Spec(made, "binomial", 2).to_data(), "folds": 2, "least": 1}
        plan = Plan("evaluation.alone", values, combine="collect")
        assert not is_hidden(ask(exposed(), plan).by_site["a"])
        assert is_hidden(ask(hospitals(), plan).by_site["a"]) == (made is not CHOL)


def test_a_level_of_one_patient_is_merged() -> None:
    """Then the rare term is 0 for all, and only the number of such levels is said."""
    plan, _ = PREDICTORS["rare term"]
    found = ask(hospitals(), by_name(plan, least=5)).by_site
    assert [int(one["merged"]) for one in found.values()] == [1, 0, 0]
    assert found["a"]["means"][0] == 0.5
    both = scoring(design(level("pain", "odd"), level("rare", "yes")), [[0.0, 1.0, 1.0]])
    found = ask(hospitals(), by_name(both, least=5)).by_site
    assert [int(one["merged"]) for one in found.values()] == [2, 0, 0]


def test_a_predictor_of_one_hospital() -> None:
    """A term that is 0 elsewhere makes the total this hospital's own."""
    made = design([Factor("site", "a"), value("chol")], response="visits")
    plan = changed(scoring(made, [[0.0, 1.0]]), outcome="number")
    one = {**plan.values["predictors"][0], "family": "gaussian"}
    plan = changed(plan, predictors=[one])
    assert close(ask(exposed(), plan)["sums"][4], ROWS["chol"].sum())
    strict = Policy(release_alone=False)
    assert refusal(lambda: ask(hospitals(strict), plan, "secure")) == "ALONE_NOT_ALLOWED"
    own = by_name(GENTLE)
    assert refusal(lambda: ask(exposed(), own)) == ""
    assert is_or_refused(hospitals(strict), own)


def is_or_refused(sites: pc.Sites, plan: Plan) -> bool:
    try:
        return is_hidden(ask(sites, plan).by_site["a"])
    except PolyclinicError as error:
        return error.code == "ALONE_NOT_ALLOWED"


@pytest.mark.parametrize("sums", MODES)
def test_sums_of_a_column_and_of_a_predictor_of_it(sums: str) -> None:
    """Over cohorts that differ by the victim: both are sums of the same column."""
    made = design(value("lab"), response="visits")
    plan = changed(scoring(made, [[0.0, 1.0]]), outcome="number")
    plan = changed(plan, predictors=[{**plan.values["predictors"][0], "family": "gaussian"}])
    wide, other = "age <= 71", "age <= 71 and not (age == 71 and cost == 9431.26)"
    both = design(value("lab"), value("age"))
    free = exposed()
    all_of_them = column_sums(ask(free, moments(both), sums, wide), both)[0]
    assert close(all_of_them - ask(free, plan, sums, other)["sums"][4], SECRET["lab"])
    sites = hospitals()
    assert refusal(lambda: ask(sites, moments(both), sums, wide)) == ""
    assert refusal(lambda: ask(sites, plan, sums, other)) == "COHORT_TOO_CLOSE"


def test_measures_of_their_own_of_a_subgroup() -> None:
    """All patients of a hospital, and all but the victim."""
    most = {"column": "rare", "level": 0.0}
    plans = (by_name(GENTLE), by_name(GENTLE, where=most))
    free, sites = exposed(), hospitals()
    every, rest = (ask(free, plan).by_site["a"] for plan in plans)
    assert every["n"] - rest["n"] == 1
    every, rest = (ask(sites, plan).by_site["a"] for plan in plans)
    assert not is_hidden(every) and is_hidden(rest)


def test_folds_without_a_predictor() -> None:
    site = hospitals().federation(sums="clear").transport.sites["a"]  # type: ignore[attr-defined]
    plan = changed(GENTLE, folds=3)
    assert codec.decode(site.answer(plan.to_bytes())) == {"code": "BAD_MESSAGE"}


@pytest.mark.parametrize("sums", MODES)
def test_terms_that_cancel_for_all_but_one(sums: str) -> None:
    """Each is of many; that only one has the one and not the other is counted."""
    made = design([GROUP, value("chol")], [GROUP, level("drug", "no"), value("chol")])
    plan = scoring(made, [[0.0, 0.001, -0.001]])
    found = ask(exposed(), replace(plan, to=("a",)))["predicted"].sum()
    assert close(above_half(found), SECRET["chol"])
    gentle = scoring(made, [[0.0, 0.001, 0.001]])
    for one in (plan, gentle):
        assert refusal(lambda one=one: ask(hospitals(), one, sums)) == "LEVEL_TOO_SMALL"


def test_a_hospital_of_its_own_measures_risks_only() -> None:
    """A mean of what is not between 0 and 1 is as exact as one likes, whatever it is rounded to."""
    one = {**GENTLE.values["predictors"][0], "family": "gaussian"}
    for sums in MODES:
        with pytest.raises(PolyclinicError, match="BAD_MESSAGE"):
            ask(hospitals(), by_name(changed(GENTLE, predictors=[one])), sums)
