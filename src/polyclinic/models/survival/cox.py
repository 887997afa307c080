"""Cox regression: proportional hazards, with a baseline per site and stratum.

    hazard(t | x) = h0_s(t) exp(x beta + offset)

The baselines h0_s drop out of the partial likelihood. That of data stratified by site is the sum of
the sites' own, so its gradient and Hessian are sums of theirs and Newton's method on these sums is
exact: the coefficients are those of the pooled rows with one stratum per site, and no event time
leaves a hospital. Rounds: counts; no effect (which gives the scale and the log-rank score test);
Newton until a step is no longer felt; then what was asked for besides.

References: Cox, "Regression models and life-tables", JRSS B 34 (1972); Therneau & Grambsch,
*Modeling Survival Data* (2000), ch. 3, 6 and 7.

What leaves the site: see `polyclinic.models.survival.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Total
from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.glm.newton import Newton
from polyclinic.models.glm.scale import Point, Scale, unpack
from polyclinic.models.glm.spec import Moments, Spec
from polyclinic.models.learner import values
from polyclinic.models.survival.fit import CoxFit, Diagnosis
from polyclinic.models.survival.spec import CoxSpec

Floats = NDArray[np.float64]


def cox(spec: CoxSpec) -> Stages:
    """The algorithm that fits `spec`; its last result is a `CoxFit`."""
    from polyclinic.models.survival.grid import GridScale, NoEffectOnGrid

    made = CoxScale if spec.by_site else GridScale

    def counts(results: Sequence[Any]) -> Algorithm:
        return Counts(spec)

    def null(results: Sequence[Any]) -> Algorithm:
        return NoEffect(spec) if spec.by_site else NoEffectOnGrid(spec)

    def solve(results: Sequence[Any]) -> Algorithm:
        scale = scale_of(spec, results[0], results[1], made)
        return FromNoEffect(scale, _point(scale, results[1]))

    def diagnose(results: Sequence[Any]) -> Algorithm:
        scale = scale_of(spec, results[0], results[1], made)
        return Diagnose(scale, results[0], results[1], results[2])

    return Stages((counts, null, solve, diagnose))


@dataclass(frozen=True)
class Counts:
    """One round: how many patients and events there are."""

    spec: CoxSpec

    def init(self, seed: int) -> State:
        return {"counts": None}

    def plan(self, state: State) -> Plan | None:
        if state["counts"] is not None:
            return None
        return Plan("survival.counts", values(self.spec), "patients and events")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        counts = {name: float(value) for name, value in total.values.items()}
        check_counts(counts, self.spec.design)
        return {"counts": counts}

    def model(self, state: State) -> dict[str, float]:
        return dict(state["counts"])

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


def check_counts(counts: Mapping[str, float], design: Design) -> None:
    """Raises NO_ROWS, NO_WEIGHT, OUTCOME_NOT_ALLOWED or NO_EVENTS."""
    if not counts["n"] and design.weight:
        raise InputError(
            "every row has weight zero, or there is none",
            code="NO_WEIGHT",
            rule="at least one row has a weight above 0",
            next="look at the weights",
        )
    if not counts["n"]:
        raise InputError(
            "no row is left to fit",
            code="NO_ROWS",
            rule="a fit needs rows that are complete in the formula's columns",
            next="look at the missing values: polyclinic check",
        )
    if counts["not_allowed"]:
        raise InputError(
            f"{design.response}, {design.event}: {counts['not_allowed']:.0f} rows hold no time or "
            "no way to end",
            code="OUTCOME_NOT_ALLOWED",
            rule="a duration is a finite number of 0 or more, an event is a level",
            next="correct the columns or the codebook",
        )
    if not counts["events"] or counts["weight"] <= 0:
        raise InputError(
            f"{design.event}: no patient has the event",
            code="NO_EVENTS",
            rule="a survival model needs events",
            next="look at the cohort, at the event column and at cause=",
        )


@dataclass(frozen=True)
class NoEffect:
    """One round at coefficients of zero."""

    spec: CoxSpec

    def init(self, seed: int) -> State:
        return {"sums": None}

    def plan(self, state: State) -> Plan | None:
        if state["sums"] is not None:
            return None
        theta = np.zeros((1, self.spec.size))
        asked = values(self.spec, theta=theta, order=2)
        return Plan("survival.derivatives", asked, "no effect")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        if int(total["too_large"][0]):
            raise InputError(
                "the sums without any effect are too large, or show too few patients",
                code="NO_START",
                rule="offsets are of moderate size, and several patients share in the risk sets",
                next="look at offset( ) and weights( )",
            )
        return {"sums": dict(total.values)}

    def model(self, state: State) -> dict[str, Any]:
        return dict(state["sums"])

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class CoxScale(Scale):
    """Maps between wire, standard and raw units of a Cox regression."""

    cox: CoxSpec

    def plan(self, theta: Floats, order: int, step: str, **rows: Any) -> Plan:
        """The plan that evaluates the rows of `theta` (m, size), standard units."""
        at = np.atleast_2d(theta) / self.spread
        return Plan("survival.derivatives", values(self.cox, theta=at, order=order), step)

    def start(self) -> Floats:
        """No effect."""
        return np.zeros(self.spec.size)


def scale_of(
    spec: CoxSpec,
    counts: Mapping[str, float],
    null: Mapping[str, Any],
    made: type[CoxScale] = CoxScale,
) -> CoxScale:
    """Standard units: each term's spread within the risk sets is 1."""
    size = spec.size
    diagonal = np.zeros(size)
    if size:
        upper = np.triu_indices(size)
        diagonal = null["hessian"][0][upper[0] == upper[1]]
    sd = np.sqrt(np.maximum(diagonal, 0.0) / max(counts["weight"], 1e-300))
    zeros = np.zeros(size)
    moments = Moments(
        n=int(counts["n"]),
        patients=int(counts["patients"]),
        weight=counts["weight"],
        y_mean=0.0,
        mean=zeros,
        sd=sd,
        shift=zeros,
        counts=np.zeros(0, dtype=np.int64),
        class_weight=None,
        saturated=0.0,
        constant=0.0,
        y_square=0.0,
        class_weights_sum=np.zeros(0),
    )
    inner = Spec(spec.design, "cox", 0, spec.l2, spec.l1, rows=spec.rows, solver=spec.solver)
    return made(inner, moments, spec)


def _point(scale: CoxScale, null: Mapping[str, Any]) -> Point:
    s, theta = scale.spread, scale.start()
    loss = float(null["loss"][0])
    curvature = unpack(null["hessian"][0], scale.spec.size) / np.outer(s, s)
    return Point(loss, loss, null["gradient"][0] / s + scale.quadratic @ theta, curvature)


@dataclass(frozen=True)
class FromNoEffect(Newton):
    """Newton's method from a point that is known already."""

    known: Point

    def init(self, seed: int) -> State:
        return self._accept(super().init(seed), self.known, 1.0)


@dataclass(frozen=True)
class Diagnose:
    """Last rounds: what was asked for beside the coefficients. Its result is the `CoxFit`."""

    scale: CoxScale
    counts: Mapping[str, float]
    null: Mapping[str, Any]
    optimum: Any

    @property
    def _wanted(self) -> list[str]:
        spec = self.scale.cox
        if spec.rows:  # without a fold: only its coefficients are used
            return []
        found = ["scores"] if spec.robust else []
        if "concordance" in spec.diagnostics:
            found.append("concordance")
        if "proportional" in spec.diagnostics and spec.size and spec.by_site:
            found.append("schoenfeld")
        if ("baseline" in spec.diagnostics and spec.edges) or not spec.by_site:
            found.append("risk_sets")
        return found if spec.by_site else [*found, "derivatives"]

    def init(self, seed: int) -> State:
        return {"done": {}}

    def plan(self, state: State) -> Plan | None:
        left = [name for name in self._wanted if name not in state["done"]]
        if not left:
            return None
        return diagnosis_plan(self.scale, self.optimum.theta, left[0])

    def update(self, state: State, plan: Plan, total: Total) -> State:
        name = plan.task.partition(".")[2]
        return {"done": {**state["done"], name: dict(total.values)}}

    def model(self, state: State) -> CoxFit:
        diagnosis = Diagnosis(state["done"])
        return CoxFit.of(self.scale, self.counts, self.null, self.optimum, diagnosis)

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


STEPS = {
    "scores": "robust errors",
    "concordance": "concordance",
    "schoenfeld": "proportional hazards",
    "risk_sets": "baseline hazard",
    "derivatives": "beside one baseline per site",
}


def diagnosis_plan(scale: CoxScale, theta: Floats, name: str, by: str = "") -> Plan:
    """One round about the fitted coefficients, standard units."""
    spec = scale.cox
    more: dict[str, Any] = {"by": by or spec.robust} if name == "scores" else {}
    if name in ("risk_sets", "derivatives"):
        more = {"order": 0 if spec.by_site else 2}
    asked = values(spec, theta=np.atleast_2d(theta) / scale.spread, **more)
    return Plan(f"survival.{name}", asked, STEPS[name])
