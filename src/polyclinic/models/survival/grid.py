"""Cox regression with one baseline for all sites, on an agreed grid.

    loss = sum_k d_k log(R_k) - sum of w eta over events,
    R_k = sum of w exp(eta) over those who leave at edge k or later

With Efron's rule those who leave in an interval are taken off evenly while its events happen. How
far this is from the exact fit is seen in two ways: by one Newton step on a grid of every second
edge, and beside the fit stratified by site, which needs no grid, at the same coefficients.

What leaves the site: see `polyclinic.models.survival.risk_sets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.glm.scale import Point
from polyclinic.models.learner import values
from polyclinic.models.survival.cox import CoxScale
from polyclinic.models.survival.grid_sums import Derived, Sums
from polyclinic.models.survival.spec import CoxSpec

Floats = NDArray[np.float64]


def plan_of(spec: CoxSpec, theta: Floats, order: int, step: str) -> Plan:
    """The plan that evaluates the rows of `theta` (m, size), wire units."""
    asked = values(spec, theta=np.atleast_2d(theta), order=order)
    return Plan("survival.risk_sets", asked, step)


@dataclass(frozen=True)
class NoEffectOnGrid:
    """One round at coefficients of zero."""

    spec: CoxSpec

    def init(self, seed: int) -> State:
        return {"sums": None}

    def plan(self, state: State) -> Plan | None:
        if state["sums"] is not None:
            return None
        return plan_of(self.spec, np.zeros(self.spec.size), 2, "no effect")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        if int(total["too_large"][0]) or not total["deaths"].any():
            raise InputError(
                "no site has enough patients for a step of the grid",
                code="NO_START",
                rule="a step holds ten patients per coefficient and at least twenty, none or "
                "enough of them with the event, and of every level",
                next="use fewer columns, coarser ones, or stratify by site",
            )
        return {"sums": dict(total.values)}

    def model(self, state: State) -> dict[str, Any]:
        """The sums, and what follows from them in the form of a fit stratified by site."""
        sums = Sums.of(state["sums"])
        zero = np.zeros(self.spec.size)
        loss, gradient, hessian = sums.derivatives(zero, self.spec.ties == "efron")
        return {
            "loss": np.array([loss]),
            "gradient": gradient[None],
            "hessian": hessian[np.triu_indices(len(zero))][None],
            "left_out": int(state["sums"]["left_out"]),
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class GridScale(CoxScale):
    """Maps between units, and from sums on the grid to the objective."""

    def plan(self, theta: Floats, order: int, step: str, **rows: Any) -> Plan:
        """The plan that evaluates the rows of `theta` (m, size), standard units."""
        return plan_of(self.cox, np.atleast_2d(theta) / self.spread, order, step)

    def losses(self, total: Total, thetas: Floats, share: float = 1.0) -> Floats:
        """Objective at each candidate; infinite where a sum could not be held or shown."""
        found = []
        for index, theta in enumerate(thetas):
            loss = self._derived(total, theta, index)[0] if not total["too_large"][index] else 0.0
            found.append(loss + self.penalty(theta, share))
        return np.where(total["too_large"] > 0, np.inf, found)

    def point(
        self, total: Total, theta: Floats, share: float = 1.0, index: int = 0
    ) -> Point | None:
        """Objective with derivatives at candidate `index`; None if a sum could not be shown."""
        if int(total["too_large"][index]):
            return None
        loss, gradient, hessian = self._derived(total, theta, index)
        s = self.spread
        slope = gradient / s + share * (self.quadratic @ theta)
        curvature = hessian / np.outer(s, s)
        return Point(loss + self.penalty(theta, share), loss, slope, curvature)

    def _derived(self, total: Any, theta: Floats, index: int) -> Derived:
        efron = self.cox.ties == "efron"
        return Sums.of(total, index).derivatives(theta / self.spread, efron)
