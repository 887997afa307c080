"""First rounds of a fit: counts, means and spreads, so that every later sum is well scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.glm.family import MULTINOMIAL
from polyclinic.models.glm.spec import Moments, Spec

MEAN_TO_SPREAD = 16.0  # above this ratio of mean to spread a term is centred before it is squared
OUTCOMES = {
    "gaussian": "a number",
    "binomial": "0 or 1",
    "poisson": "a count of 0 or more",
    "gamma": "a number above 0",
    MULTINOMIAL: "a level of the codebook",
}


@dataclass(frozen=True)
class MomentsAlgorithm:
    """One round; a second, about the means, when a term's mean is much larger than its spread."""

    spec: Spec

    def init(self, seed: int) -> State:
        return {"first": None, "second": None, "shift": None}

    def plan(self, state: State) -> Plan | None:
        values = self.spec.values(response_exponent=self.spec.response_exponent)
        if state["first"] is None:
            return Plan("glm.moments", values, "counts and means")
        if state["shift"] is not None and state["second"] is None:
            return Plan("glm.moments", {**values, "shift": state["shift"]}, "spread about means")
        return None

    def update(self, state: State, plan: Plan, total: Total) -> State:
        sums = dict(total.values)
        if state["first"] is not None:
            return {**state, "second": sums}
        _check(self.spec, sums)
        mean, sd = _mean_sd(sums, np.zeros(len(sums["x"])))
        far = np.abs(mean) > MEAN_TO_SPREAD * sd
        needs = self.spec.design.intercept and bool(far.any())
        return {**state, "first": sums, "shift": np.where(far, mean, 0.0) if needs else None}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> Moments:
        sums = state["first"]
        shift = np.zeros(len(sums["x"])) if state["shift"] is None else state["shift"]
        mean, sd = _mean_sd(state["second"] or sums, shift)
        weight, y, yy, saturated, constant = (float(v) for v in sums["outcome"])
        by_class, class_weight = sums["class_weights"], self._class_weight(sums)
        if class_weight is not None:
            by_class = by_class * class_weight
            weight = float(by_class.sum())
            y = float(by_class[1]) if self.spec.family == "binomial" else 0.0
        return Moments(
            int(sums["n"]),
            int(sums["patients"]),
            weight,
            y / weight,
            mean,
            sd,
            shift,
            sums["counts"],
            class_weight,
            saturated,
            constant,
            yy,
            by_class,
        )

    def _class_weight(self, sums: Mapping[str, Any]) -> Any:
        wanted = self.spec.class_weight
        if wanted is None:
            return None
        if wanted == "balanced":
            by_class = sums["class_weights"]
            return by_class.sum() / (len(by_class) * np.maximum(by_class, 1e-300))
        return np.asarray(wanted, dtype=np.float64)


def _mean_sd(sums: Mapping[str, Any], shift: Any) -> tuple[Any, Any]:
    """Mean, and spread about `shift` corrected to be about the mean."""
    weight = float(sums["outcome"][0])
    if "x" not in sums or weight <= 0:
        return np.zeros(len(sums["x"])), np.zeros(len(sums["x"]))
    offset = sums["x"] / weight
    variance = np.maximum(sums["xx"] / weight - offset * offset, 0.0)
    floor = (1e-12 * (np.abs(shift) + np.abs(offset))) ** 2
    return shift + offset, np.sqrt(np.where(variance > floor, variance, 0.0))


def _check(spec: Spec, sums: Mapping[str, Any]) -> None:
    response = spec.design.response
    if int(sums["n"]) and not int(sums["invalid"]) and float(sums["outcome"][0]) <= 0:
        raise InputError(
            "every row has weight zero",
            code="NO_WEIGHT",
            rule="at least one row has a weight above 0",
            next="look at the weights",
        )
    if int(sums["n"]) == 0:
        raise InputError(
            "no row is left to fit",
            code="NO_ROWS",
            rule="a fit needs rows that are complete in the formula's columns",
            next='look at the missing values: polyclinic check, or missing = "mean" in the study',
        )
    if int(sums["invalid"]):
        raise InputError(
            f"{response}: {int(sums['invalid'])} rows hold an outcome that this model cannot have",
            code="OUTCOME_NOT_ALLOWED",
            rule=f"the outcome is {OUTCOMES[spec.family]}",
            next="choose another model, or correct the column or the codebook",
        )
    counts = sums["counts"]
    if len(counts) and np.count_nonzero(counts) < 2:
        raise InputError(
            f"{response}: all {int(sums['n'])} rows are of one class",
            code="ONE_CLASS",
            rule="a classifier needs at least two outcome classes among the rows",
            next="look at the cohort and at the outcome's definition",
        )
    if spec.family == MULTINOMIAL and np.any(counts == 0):
        raise InputError(
            f"{response}: no row of level number {int(np.argmin(counts))}",
            code="EMPTY_CLASS",
            rule="every class of the outcome has rows",
            next="merge or remove the level in the codebook",
        )
    if spec.family == "poisson" and float(sums["outcome"][1]) == 0:
        raise InputError(
            f"{response}: every count is 0",
            code="ONE_CLASS",
            rule="a count model needs at least one event",
            next="look at the cohort",
        )
