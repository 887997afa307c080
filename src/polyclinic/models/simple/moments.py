"""Weighted means and variances of the terms of a design, of all rows and of each outcome class.

Round 1 sums z and z^2 of z = x - c for c = 0, the next of the deviations from the mean so found:

    mean = c + S1/W,   variance = S2/W - (S1/W)^2

(the corrected two-pass algorithm of Chan, Golub & LeVeque, *The American Statistician* 37, 1983).
Sums are of numbers scaled by powers of two, first by the bound that the codebook declares, then by
the spread that the round before has shown; a third round happens only where that was far off.

What leaves the site: the number of rows and patients, of all and of each class; and of each term
the weighted sums of z and z^2, of all rows and of each class. With classes every number stands in
one term only: of a class of few patients, sums of several functions would be equations for values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.design import Design, exponent
from polyclinic.core.errors import InputError
from polyclinic.core.exposure import Exposure, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.rows import invalid
from polyclinic.models.simple.nearest import BLOCK_ROWS
from polyclinic.models.simple.rows import Exposed, Own, Table, design, values, view

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INDICATORS = ("level", "missing", "site")
MAX_ROUNDS = 5
RESOLVED = 2.0**-20  # a scaled variance that the ring's unit of 2**-64 holds to 1e-13
SMALLEST = 2.0**-26  # of a spread beside the size of the values: what rounding leaves of it
LARGEST = 2.0**60


@dataclass(frozen=True)
class MomentsTask(Exposed):
    """Sums of deviations. Plan state: centre (n_groups, n_terms), exponent (n_groups, n_terms).

    Group 0 are all rows, without weights where there are classes; then comes one group per class.
    """

    name: str
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        classes, p = int(plan.values["spec"].get("classes", 0)), len(design(plan).terms)
        return (
            Leaf("n", (), "count", "int64", unit="rows"),
            Leaf("patients", (), "count", "int64", unit="patients"),
            Leaf("invalid", (), "count", "int64", unit="rows"),
            Leaf("counts", (classes,), "count", "int64", unit="rows"),
            Leaf("weight", (1 + classes,), "sum"),
            Leaf("x", (1 + classes, p), "sum"),
            Leaf("xx", (1 + classes, p), "sum of squares"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows, state = Table.of(plan, partition), plan.values["state"]
        classes = int(plan.values["spec"].get("classes", 0))
        if classes:
            check_forms(design(plan))
        weights, x, xx = [], [], []
        for g in range(1 + classes):
            w = np.ones(len(rows.y)) if classes and not g else rows.weight
            w = w * (rows.y == g - 1) if g else w
            first, second = powers(rows.x, w, state["centre"][g], state["exponent"][g])
            weights.append(w.sum())
            x.append(first)
            xx.append(second)
        labels = rows.y[~invalid(view(plan), rows.y)].astype(np.int64)
        leaves: dict[str, Any] = {
            "n": len(rows.y),
            "patients": rows.patients,
            "invalid": len(rows.y) - len(labels),
            "counts": np.bincount(labels, minlength=classes)[:classes].astype(np.int64),
            "weight": np.array(weights),
            "x": np.array(x),
            "xx": np.array(xx),
        }
        return Contribution(leaves, Evidence(rows.patients))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Also how the patients of a class share in its sums."""
        found = super().exposure(plan, partition, own)
        by_class = self._by_class(plan, partition)
        return replace(found, columns={**found.columns, **by_class})

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Also the terms within each class."""
        names, size = super().candidates(plan)
        classes = range(int(plan.values["spec"].get("classes", 0)))
        terms = design(plan).names
        return (*names, *(_within(name, k) for k in classes for name in terms)), size

    def _by_class(self, plan: Plan, partition: Partition) -> dict[str, Shares]:
        """Of what says yes or no a sum is a count, whoever shares in it."""
        rows, asked = Table.of(plan, partition), design(plan)
        z = np.ldexp(rows.x, -asked.exponents)
        found = {}
        for k in range(int(plan.values["spec"].get("classes", 0))):
            part = (z * z) * (rows.weight * (rows.y == k))[:, None]
            for j, name in enumerate(asked.names):
                counted = not np.any((rows.x[:, j] != 0) & (rows.x[:, j] != 1))
                parts = np.zeros(len(z)) if counted else part[:, j]
                found[_within(name, k)] = Shares.of(parts, rows.key)
        return found


def powers(x: Floats, weight: Floats, centre: Floats, exponent: Ints) -> tuple[Floats, Floats]:
    """Weighted sums of z and of z^2, z = (x - centre) / 2^exponent, (n_terms,) each."""
    unit, (first, second) = np.ldexp(1.0, -exponent), np.zeros((2, x.shape[1]))
    for start in range(0, len(x), BLOCK_ROWS):
        at = slice(start, start + BLOCK_ROWS)
        z = x[at] - centre
        z *= unit
        first += weight[at] @ z
        z *= z
        second += weight[at] @ z
    return first, second


def check_forms(asked: Design) -> None:
    """Raises InputError where a number stands in more than one term."""
    read = [{f.column for f in term.factors if f.kind not in INDICATORS} for term in asked.terms]
    taken = Counter(column for columns in read for column in columns)
    if several := [column for column, times in taken.items() if times > 1]:
        raise InputError(
            f"{several[0]} stands in more than one term",
            code="BAD_FORMULA",
            rule="terms of naive Bayes count as independent: every number is in one, in one form",
            next="leave the others out",
        )


def _within(name: str, label: int) -> str:
    return f"(class {label} of) {name}"


@dataclass(frozen=True)
class Moments:
    """Of all rows.

    n, patients   rows, and patients behind them
    counts        rows per class, (n_classes,)
    weight        sums of weights: of all rows, then of each class, (1 + n_classes,)
    mean, variance   of the terms, divided by the weight, (1 + n_classes, n_terms)
    rounds        that found them
    """

    n: int
    patients: int
    counts: NDArray[np.int64]
    weight: Floats
    mean: Floats
    variance: Floats
    rounds: int

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Terms that are the same in all rows but for rounding, (n_terms,)."""
        return np.asarray(np.sqrt(self.variance[0]) <= 2.0**-49 * np.abs(self.mean[0]))


@dataclass(frozen=True)
class MomentsAlgorithm:
    """Rounds of a `MomentsTask`; model: `Moments`.

    Parameters
    ----------
    task : name of the task.
    spec : data of the learner's spec, with "design", "rows" and, with classes, "classes".
    """

    task: str
    spec: Mapping[str, Any]

    def init(self, seed: int) -> State:
        what, groups = Design.from_data(self.spec["design"]), 1 + int(self.spec.get("classes", 0))
        exponents = np.broadcast_to(what.exponents, (groups, len(what.terms)))
        centre = np.zeros(exponents.shape)
        return {"round": 0, "done": False, "centre": centre, "exponent": exponents.copy()}

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        asked = values(self.spec, centre=state["centre"], exponent=state["exponent"])
        return Plan(self.task, asked, "variances" if state["round"] else "means")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        asked, sums = plan.values["state"], dict(total.values)
        if not state["round"]:
            _check(self.spec, sums)
        mean, variance = _scaled(sums)
        centre = asked["centre"] + np.ldexp(mean, asked["exponent"])
        spread = np.sqrt(variance)
        exact = bool(np.all((sums["x"] == 0) & (sums["xx"] == 0)))
        settled = (variance >= RESOLVED) | (np.ldexp(spread, asked["exponent"]) <= _least(centre))
        done = exact or (state["round"] > 0 and bool(np.all(settled)))
        floor = SMALLEST * np.maximum(np.abs(mean), 2.0**-20)
        finer = np.vectorize(exponent, otypes=[np.int64])(np.maximum(spread, floor))
        return {
            "round": state["round"] + 1,
            "done": done or state["round"] + 1 == MAX_ROUNDS,
            "centre": centre,
            "exponent": asked["exponent"] + finer.reshape(centre.shape),
            "asked": dict(asked),
            "sums": sums,
        }

    def model(self, state: State) -> Moments:
        sums, asked = state["sums"], state["asked"]
        mean, variance = _scaled(sums)
        variance = np.ldexp(variance, 2 * asked["exponent"])
        centre = asked["centre"] + np.ldexp(mean, asked["exponent"])
        variance = np.where(np.sqrt(variance) <= _least(centre), 0.0, variance)
        n, patients = int(sums["n"]), int(sums["patients"])
        counts, weight = sums["counts"], sums["weight"]
        return Moments(n, patients, counts, weight, centre, variance, state["round"])

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


def _least(centre: Floats) -> Floats:
    """A spread this small beside the mean is rounding of the values themselves."""
    return np.asarray(2.0**-50 * np.abs(centre))


def _scaled(sums: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """Mean and variance of the scaled deviations; zeros of a group without weight."""
    weight = np.where(sums["weight"] > 0, sums["weight"], 1.0)[:, None]
    mean = sums["x"] / weight
    return mean, np.maximum(sums["xx"] / weight - mean * mean, 0.0)


def check_state(plan: Plan, groups: int) -> None:
    """Raises ValueError where a plan's centre and exponent are not such as rounds before give."""
    state, shape = plan.values["state"], (groups, len(design(plan).terms))
    if set(state) != {"centre", "exponent"}:
        raise ValueError("a round of moments has a centre and a scale")
    centre, exponents = state["centre"], state["exponent"]
    if not is_array(centre, shape, "f") or np.any(np.abs(centre) > LARGEST):
        raise ValueError("the centre is a finite number per group and term")
    if not is_array(exponents, shape, "i") or np.any(np.abs(exponents) > 1000):
        raise ValueError("the scale is a power of two per group and term")


def is_array(value: Any, shape: tuple[int, ...], kind: str) -> bool:
    """Whether `value` is a finite array of this shape and kind of number."""
    fits = isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind == kind
    return fits and bool(np.all(np.isfinite(value)))


def _check(spec: Mapping[str, Any], sums: Mapping[str, Any]) -> None:
    """Raises InputError for rows that nothing can be learnt from."""
    if int(sums["n"]) == 0 and spec["design"]["weight"]:
        raise InputError(
            "no row is left to fit, or every row has weight zero",
            code="NO_WEIGHT",
            rule="at least one row has a weight above 0",
            next="look at the weights, and at the missing values",
        )
    if int(sums["n"]) == 0:
        raise InputError(
            "no row is left to fit",
            code="NO_ROWS",
            rule="a fit needs rows that are complete in the formula's columns",
            next='look at the missing values: polyclinic check, or missing = "mean" in the study',
        )
    if not spec.get("classes", 0):
        return
    response = spec["design"]["response"]
    if int(sums["invalid"]):
        raise InputError(
            f"{response}: {int(sums['invalid'])} rows hold an outcome that this model cannot have",
            code="OUTCOME_NOT_ALLOWED",
            rule="the outcome is a level of the codebook",
            next="correct the column or the codebook",
        )
    counts = sums["counts"]
    if np.count_nonzero(counts) < 2:
        raise InputError(
            f"{response}: all {int(sums['n'])} rows are of one class",
            code="ONE_CLASS",
            rule="a classifier needs at least two outcome classes among the rows",
            next="look at the cohort and at the outcome's definition",
        )
    if np.any(counts == 0):
        raise InputError(
            f"{response}: no row of level number {int(np.argmin(counts))}",
            code="EMPTY_CLASS",
            rule="every class of the outcome has rows",
            next="merge or remove the level in the codebook",
        )


class OfMoments:
    """Base of an algorithm whose rounds are those of the moments.

    task  name of the `MomentsTask`
    """

    task: ClassVar[str]
    spec: Any

    @property
    def _rounds(self) -> MomentsAlgorithm:
        return MomentsAlgorithm(self.task, self.spec.to_data())

    def init(self, seed: int) -> State:
        return self._rounds.init(seed)

    def plan(self, state: State) -> Plan | None:
        return self._rounds.plan(state)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return self._rounds.update(state, plan, total)

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def moments(self, state: State) -> Moments:
        """What the rounds found."""
        return self._rounds.model(state)


class Counted:
    """Base of a result that follows from moments."""

    moments: Moments

    @property
    def rounds(self) -> int:
        return self.moments.rounds

    @property
    def n(self) -> int:
        return self.moments.n

    @property
    def patients(self) -> int:
        return self.moments.patients
