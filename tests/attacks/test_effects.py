"""Models of treatment and outcome that give one patient nearly all of a weight, or switch one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polyclinic.core.plan import Plan
from polyclinic.models.effects import Spec
from polyclinic.models.effects.algorithm import question
from polyclinic.models.effects.means import MeansTask
from polyclinic.models.effects.modify import ModifyScoresTask, ModifyTask
from polyclinic.models.effects.overlap import OverlapTask
from polyclinic.privacy.policy import open_policy
from tests.attacks.world import (
    FRAME,
    SECRET,
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

MODES = ("clear", "secure", "auto")
SEX, SICK, GROUP = level("sex", "male"), level("sick", "yes"), level("group", "yes")
COST = design(SEX, value("chol"), value("age"), value("lab"), response="cost")
EVENT = design(SEX, value("chol"), value("age"), value("lab"), response="sick")
INSIDE = design(SEX, GROUP, [GROUP, value("chol")], value("age"), response="cost")
OTHERS = np.sort(FRAME.chol.to_numpy())[-2]
BELOW, ABOVE = (SECRET["chol"] + OTHERS) / 2, SECRET["chol"] + 10.0  # the victim has the most


def effect(what: Any, response: str = "cost", **options: Any) -> Spec:
    return Spec(what, "sex", response == "sick", **options)


def wire(spec: Spec, coef: Any) -> Any:
    """Raw coefficients, intercept first, in the units of plans."""
    return np.ldexp(np.asarray(coef, dtype=np.float64), np.r_[0, spec.matrix.exponents])[None]


def means(spec: Spec, coef: Any, method: str = "ipw", outcome: Any = None) -> Plan:
    state = {"method": method, "propensity": wire(spec, coef)}
    if method != "ipw":
        size = len(spec.covariates) + 1
        state["outcome"] = np.zeros((1, 2, size)) if outcome is None else outcome
    return question(spec, "effects.means", state, "means")


def beyond(cut: float, slope: float = 100.0) -> list[float]:
    """A propensity of 1 for cholesterol beyond `cut`, else 0: the victim alone, or nobody."""
    return [-slope * cut, slope, 0.0, 0.0]


def unit(spec: Spec) -> float:
    return 2.0 ** spec.outcome().response_exponent


@pytest.mark.parametrize("trim", [0.001, 0.01, 0.1])
def test_two_propensities_without_rules_show_the_outcome_of_one_patient(trim):
    """She is untreated: her weight is 1 / trim under the one, 1 / (1 - trim) under the other."""
    spec = effect(COST, method="ipw", trim=trim)
    one, two = (unguarded(means(spec, beyond(cut)))["u"][0] for cut in (BELOW, ABOVE))
    assert close((one - two) * unit(spec) / (1 / trim - 1 / (1 - trim)), SECRET["cost"])
    assert FRAME.sex[VICTIM] == "female"


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("slope", [1.0, 1e9])
@pytest.mark.parametrize("trim", [0.001, 0.1])
def test_such_propensities_are_refused(trim, slope, sums):
    spec = effect(COST, method="ipw", trim=trim)
    for cut in (BELOW, ABOVE):
        plan = means(spec, beyond(cut, slope))
        code = refusal(lambda plan=plan: ask(hospitals(), plan, sums))
        assert code in {"NO_OVERLAP", "EFFECTIVE_SIZE"}
    assert refusal(lambda: ask(hospitals(), means(spec, [0.1, 0.001, 0.0, 0.0]), sums)) == ""


@pytest.mark.parametrize("task", ["effects.overlap", "effects.influence", "effects.modify"])
def test_so_they_are_in_every_step(task):
    spec = effect(COST, modifiers=("age",))
    size = len(spec.covariates) + 1
    state: dict[str, Any] = {"propensity": wire(spec, beyond(BELOW))}
    if task != "effects.overlap":
        state["outcome"] = np.zeros((1, 2, size))
    if task == "effects.influence":
        state |= {"method": "aipw", "mean": np.zeros(2)}
        state |= {"by_propensity": np.zeros((2, size)), "by_outcome": np.zeros((2, size))}
    if task == "effects.modify":
        state["effect"] = np.zeros((1, 2))

    def answer(coef: Any) -> str:
        plan = question(spec, task, {**state, "propensity": wire(spec, coef)}, task)
        return refusal(lambda: ask(hospitals(), plan))

    for slope in (1.0, 100.0, 1e9):
        assert {answer(beyond(cut, slope)) for cut in (BELOW, ABOVE)} == {"NO_OVERLAP"}
    assert answer([0.1, 0.001, 0.0, 0.0]) == ""


@pytest.mark.parametrize("sums", MODES)
def test_a_weight_that_is_large_for_one_who_is_not_certain(sums):
    """Nobody is all but certain of an arm; she has some 900 times the weight of the others."""
    data = far_off()
    spec = effect(COST, method="ipw", trim=0.001)
    coef = [7.0 - 0.04 * 500.0, 0.04, 0.0, 0.0]
    found = ask(exposed(data), means(spec, coef))
    assert found["u"][0] * unit(spec) / found["v"][0] > 0.6 * SECRET["cost"]
    code = refusal(lambda: ask(hospitals(data=data), means(spec, coef), sums))
    assert code == "EFFECTIVE_SIZE"
    assert refusal(lambda: ask(hospitals(data=data), means(spec, np.array(coef) / 9), sums)) == ""


def far_off() -> Any:
    """All have 200 or less, she has 500."""
    data = FRAME.copy()
    data["chol"] = data.chol.clip(100, 200)
    data.loc[VICTIM, "chol"] = 500.0
    return data


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("folds", [0, 2, 5])
def test_weights_that_are_held_for_all_others(sums, folds):
    """Beyond its bounds a weight does not change, so that two models differ in hers alone."""
    spec = effect(COST, trim=0.1, cross_fit=bool(folds), folds=folds or 5)
    gentle = [-2.3 - 0.02 * 200, 0.02, 0.0, 0.0]
    none = [-2.3 - 0.005 * 500, 0.005, 0.0, 0.0]
    totals = []
    for coef in (gentle, none):
        plan = means(spec, coef, "aipw")
        if folds:  # in her fold only
            values = dict(plan.values["state"])
            flat = wire(spec, [0.0, 0.0, 0.0, 0.0])
            rows = [values["propensity"] if k == VICTIM % folds else flat for k in range(folds)]
            values |= {"propensity": np.vstack(rows), "outcome": np.zeros((folds, 2, 4))}
            plan = question(spec, "effects.means", values, "means")
        totals.append(ask(exposed(far_off()), plan)["u"][0])
        code = refusal(lambda plan=plan: ask(hospitals(data=far_off()), plan, sums))
        assert code == ("EFFECTIVE_SIZE" if coef is gentle else "")
    e = 1 / (1 + np.exp(-(gentle[0] + 0.02 * 500)))
    weight = 1 / max(1 - e, 0.1) - 1 / 0.9
    assert close((totals[0] - totals[1]) * unit(spec), weight * SECRET["cost"])


@pytest.mark.parametrize("sums", MODES)
def test_a_steep_propensity_within_a_level(sums):
    spec = effect(INSIDE, method="ipw", trim=0.1)
    coef = [0.0, -50.0 * SECRET["chol"], 50.0, 0.0]
    code = refusal(lambda: ask(hospitals(), means(spec, coef), sums))
    assert code in {"NO_OVERLAP", "EFFECTIVE_SIZE"}


@pytest.mark.parametrize("sums", MODES)
@pytest.mark.parametrize("slope", [5.0, 1e6])
def test_a_steep_model_of_the_outcome(slope, sums):
    spec = effect(EVENT, "sick", method="regression")
    steep = wire(spec, beyond(BELOW, slope))[0]
    plan = means(spec, np.zeros(4), "regression", np.stack([steep, steep])[None])
    one = unguarded(plan)["u"][0]
    assert abs(one - 1.0) < 1e-6  # the only one beyond the cut
    assert refusal(lambda: ask(hospitals(), plan, sums)) == "NO_OVERLAP"


def test_squares_of_one_patient():
    data = FRAME.copy()
    spec = effect(COST, method="ipw")
    state = {"method": "ipw", "propensity": wire(spec, [0.1, 0.001, 0.0, 0.0])}
    plan = question(spec, "effects.squares", state, "squares")
    assert refusal(lambda: ask(hospitals(data=data), plan)) == ""
    data.loc[VICTIM, "cost"] = 2.0**20
    assert refusal(lambda: ask(hospitals(data=data), plan)) == "EFFECTIVE_SIZE"


@pytest.mark.parametrize("task", [ModifyTask(), ModifyScoresTask(), MeansTask(), OverlapTask()])
@pytest.mark.parametrize("method", ["ipw", "aipw"])
def test_the_ledger_knows_who_and_which_columns_stand_behind_a_sum(method, task):
    spec = effect(COST, method=method, modifiers=("age",) if "modify" in task.name else ())
    state = {
        "propensity": wire(spec, [0.1, 0.001, 0.0, 0.0]),
        "outcome": np.zeros((1, 2, 4)),
        "effect": np.zeros((1, 2)),
        "method": method,
    }
    rows = exposed().rows("a", None)
    plan = question(spec, task.name, state, "step")
    (members,) = task.exposure(plan, rows, {}).members
    assert {"sex", "chol", "age", "lab", "cost"} <= set(members.columns)
    assert len(members.patients) == rows.n_patients


@pytest.mark.parametrize("sums", MODES)
def test_influences_of_one_patient(sums):
    """What scores do to the means is free as well: it cannot single out the largest number."""
    spec = effect(COST, method="regression")
    size = len(spec.covariates) + 1
    steep = np.zeros((2, size))
    state = {
        "method": "regression",
        "propensity": np.zeros((1, size)),
        "outcome": np.zeros((1, 2, size)),
        "mean": np.zeros(2),
        "by_propensity": np.zeros((0, size)),
        "by_outcome": steep,
    }
    plan = question(spec, "effects.influence", state, "errors")
    assert refusal(lambda: ask(hospitals(), plan, sums)) == ""
    data = FRAME.copy()
    data.loc[VICTIM, "cost"] = 2.0**20
    state["by_outcome"] = np.repeat(wire(spec, [1e6, 0, 0, 0]), 2, axis=0)
    plan = question(spec, "effects.influence", state, "errors")
    code = refusal(lambda: ask(hospitals(data=data), plan, sums))
    assert code == "EFFECTIVE_SIZE"


@pytest.mark.parametrize("few", [1, 4])
@pytest.mark.parametrize("sums", MODES)
def test_too_few_treated_with_a_level(few, sums):
    """Fewer than the minimum of an arm have a level; over all hospitals."""
    data = FRAME.copy()
    men = data.index[(data.sex == "male") & (data.group == "yes")]
    data.loc[men[few:], "group"] = "no"
    spec = effect(design(SEX, GROUP, value("age"), response="cost"), method="ipw")
    plan = means(spec, [0.1, 0.1, 0.0])
    code = refusal(lambda: ask(hospitals(data=data), plan, sums))
    assert code == "LEVEL_TOO_SMALL"
    data.loc[men[:8], "group"] = "yes"
    if sums != "clear":
        assert refusal(lambda: ask(hospitals(data=data), plan, sums)) == ""


@pytest.mark.parametrize("sums", MODES)
def test_too_few_events_in_an_arm(sums):
    data = FRAME.copy()
    men = data.index[(data.sex == "male") & (data.sick == "yes")]
    data.loc[men[3:], "sick"] = "no"
    spec = effect(EVENT, "sick", method="ipw")
    plan = means(spec, [0.1, 0.001, 0.0, 0.0])
    assert refusal(lambda: ask(hospitals(data=data), plan, sums)) == "LEVEL_TOO_SMALL"


@pytest.mark.parametrize("k", [5, 10])
def test_few_patients_in_a_part_of_the_propensity_are_hidden(k):
    """Five neighbours count at their mean; a policy that wants more patients shows no part."""
    spec, data = effect(COST), FRAME[FRAME.site == "a"]
    men = np.sort(data.chol[data.sex == "male"])
    for number in (1, 4, 5, 9):
        cut = (men[-number] + men[-number - 1]) / 2 - np.log(19) / 0.05  # beyond it, e > 0.95
        coef = wire(spec, [-0.05 * cut, 0.05, 0.0, 0.0])
        plan = question(spec, "effects.overlap", {"propensity": coef}, "overlap")
        total = ask(hospitals(open_policy(k), data), plan)
        assert not np.isin(total["scores"], np.arange(1, k)).any()
        assert total.hidden["scores"].any() == (k > 5)


def test_an_edge_of_the_histogram_on_either_side_of_one_patient():
    """She alone would cross it, and show her arm."""
    spec, sites = effect(COST), hospitals()
    names = ["chol", "age", "lab"]
    columns, victim = FRAME[names].to_numpy(dtype=float), np.array([SECRET[n] for n in names])
    coef = np.array([-0.0013, 0.01, 0.00177])
    along = columns @ coef
    coef[2] += (np.median(along) - along[VICTIM]) / (victim[2] - np.median(columns[:, 2]))

    def histogram(beside):
        at = wire(spec, [beside - coef @ victim, *coef])
        plan = question(spec, "effects.overlap", {"propensity": at}, "overlap")
        return ask(sites, plan)["scores"]

    one, two = histogram(1e-9), histogram(-1e-9)
    assert one.sum() > 600 and np.array_equal(one, two)
