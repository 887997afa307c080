"""Sums as equations: with as many of them as patients, the patients are their solution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polyclinic.core.design import Design, Factor
from polyclinic.core.plan import Plan
from polyclinic.core.sampling import uniform
from tests.attacks.world import (
    EACH,
    FRAME,
    SECRET,
    VICTIM,
    ask,
    close,
    derivatives,
    design,
    exposed,
    gradient,
    hospitals,
    level,
    refusal,
    scoring,
    unguarded,
    value,
)

MODES = ("clear", "secure", "auto")
FEW = FRAME.groupby("site").head(40).reset_index(drop=True)


def above(edge: float) -> Factor:
    """1 from `edge` on."""
    return Factor("bspline", "chol", (1.0, 0.0, 0.0, edge, 600.0))


def test_a_model_with_as_many_columns_as_patients() -> None:
    """The attacker knows every cholesterol and solves X'y for who is sick."""
    mine = FEW[FEW["site"] == "a"].sort_values("chol")
    cuts = mine["chol"].to_numpy()
    made = design(*(above(float(edge)) for edge in (cuts[:-1] + cuts[1:]) / 2))
    plan = derivatives(made, np.zeros(len(cuts)), "gaussian", order=1)
    sums = -gradient(ask(exposed(FEW), replace(plan, to=("a",))), made)
    found = sums - np.append(sums[1:], 0.0)
    assert np.allclose(found, mine["sick"] == "yes")
    for mode in MODES:
        assert refusal(lambda mode=mode: ask(hospitals(data=FEW), plan, mode)) == "SATURATED"


def known(many: int) -> Design:
    return design(*(Factor("power", "age", (1 + k / 10,)) for k in range(many)), response="sick")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("many", [EACH // 10 - 1, EACH // 10])
def test_the_number_of_columns(many: int, order: int) -> None:
    """Ten patients per coefficient, of which the intercept is one."""
    plan = derivatives(known(many), np.zeros(many + 1), "gaussian", order=order)
    code = refusal(lambda: ask(hospitals(), plan))
    assert (code == "SATURATED") == (many + 1 > EACH // 10)


def drawn(first: bool) -> dict[str, object]:
    """A sample that holds the victim only, by trying seeds."""
    for seed in range(2000):
        place = uniform(np.arange(EACH), seed, 1, "a")
        if int(np.argmin(place)) == VICTIM:
            part = float(np.sort(place)[:2].mean())
            return {"sample": part, "seed": seed, "round": 1} | ({} if first else {"part": 0})
    raise AssertionError("no seed draws the victim alone")


@pytest.mark.parametrize("family", ["binomial", "multinomial"])
def test_the_gradient_of_one_record(family: str) -> None:
    """The gradient of one row is its residual times its record; their ratio is the record."""
    made = design(value("chol"), value("age"), value("lab"))
    base = derivatives(made, np.zeros(4), family, order=1, classes=2)
    chosen = drawn(True)
    batch = Plan(base.task, {**base.values, "rows": chosen}, "batch")
    found = gradient(unguarded(batch), made)
    assert close(found[1:] / found[0], [SECRET["chol"], SECRET["age"], SECRET["lab"]])
    folds = {"folds": 2, "without": 1 - VICTIM % 2}
    for rows in (chosen, drawn(False), {**chosen, **folds}):
        plan = Plan(base.task, {**base.values, "rows": rows}, "batch")
        for mode in MODES:
            asked = replace(plan, to=("a",)) if mode == "clear" else plan
            code = refusal(lambda asked=asked, mode=mode: ask(hospitals(), asked, mode))
            assert code in {"TOO_FEW_PATIENTS", "SATURATED"}


def test_a_predictor_for_one_patient() -> None:
    """Scores in which only the victim counts: by a rare column, or by a fold of one patient."""
    rare = design([level("rare", "yes"), value("chol")], response="visits")
    numbers = scoring(rare, [[0.0, 1.0]])
    numbers = Plan(numbers.task, {**numbers.values, "outcome": "number"}, "scores")
    values = [{**one, "family": "gaussian"} for one in numbers.values["predictors"]]
    numbers = Plan(numbers.task, {**numbers.values, "predictors": values}, "scores")
    assert close(unguarded(numbers)["sums"][4], SECRET["chol"])

    folds = [[0.0, 0.0]] * EACH
    folds[VICTIM] = [0.0, 0.001]
    one = scoring(design(value("chol")), folds, folds=EACH)
    missed = np.sqrt(unguarded(one)["losses"][0] - 0.25 * (EACH - 1))
    assert close(1000 * np.log((1 - missed) / missed), SECRET["chol"])
    for plan in (numbers, one):
        for mode in MODES:
            code = refusal(lambda plan=plan, mode=mode: ask(hospitals(), plan, mode))
            assert code == "LEVEL_TOO_SMALL"


def test_scores_that_tell_patients_apart() -> None:
    """A predictor that is a number of the patient's, so that a bin of scores is a patient."""
    plan = scoring(design(value("chol")), [[-8.0, 16 / 512]])
    alone = unguarded(Plan(plan.task, {**plan.values, "least": 1}, "scores"))
    assert (alone["histogram"].sum(axis=0) == 1).sum() > 100
    for mode in MODES:
        fine = Plan(plan.task, {**plan.values, "least": 1}, "scores")
        assert (
            refusal(lambda mode=mode, fine=fine: ask(hospitals(), fine, mode)) == "CELL_TOO_SMALL"
        )
        bins = ask(hospitals(), plan, mode)["histogram"].sum(axis=0)
        assert bins[bins > 0].min() >= 5
