"""The objective of machines in the coordinates in which the coordinator solves.

Columns have spread 1 there, and mean 0 where their mean is much larger than their spread; a
number's outcome is divided by a power of two. A lower bound of the optimum comes from the dual: a
machine's slopes, each between 0 and C (a square's: 0 or more), are a point of it, so that sums show
how far the optimum can be at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm import Spec
from polyclinic.models.glm.scale import Scale, unpack
from polyclinic.models.glm.spec import Moments
from polyclinic.models.learner import Fixed
from polyclinic.models.svm.spec import SVMSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """The objective at one place, and its derivatives.

    value      with the losses' corners rounded off
    primal     with their corners
    gap        what the optimum is below `primal` at most
    moved      what rounding the corners off takes from `value`; nothing at the optimum
    corner     what would be left of the gap where the gradient vanishes: it is the rounding's
    curvature  (d, d), or None where it was not asked for
    """

    value: float
    primal: float
    gap: float
    moved: float
    corner: float
    gradient: Floats
    curvature: Floats | None


@dataclass(frozen=True)
class Frame:
    """Maps between the sites' units and the coordinator's.

    moments  of the columns; of random features, which are alike, the counts only
    map      centre and spread of the columns before random features, else empty
    """

    spec: SVMSpec
    moments: Moments
    map: Mapping[str, Floats]

    @cached_property
    def _scale(self) -> Scale:
        return Scale(Spec(self.spec.design, "binomial", 2), self.moments)

    @cached_property
    def _fixed(self) -> Fixed:
        return Fixed(self.spec)

    @cached_property
    def transform(self) -> Floats:
        """Matrix from standard to raw coefficients, without the outcome's unit, (d, d)."""
        if self.spec.features is not None:
            return np.eye(self.spec.width)
        return self._scale.transform()

    @property
    def spread(self) -> Floats:
        """The sites' spread of every coefficient's column, (d,)."""
        return np.ones(self.spec.width) if self.spec.features is not None else self._scale.spread

    @property
    def shift(self) -> Floats:
        return np.zeros(0) if self.spec.features is not None else self.moments.shift

    @cached_property
    def penalty(self) -> Floats:
        """Weights of the squares of raw coefficients, (d,)."""
        weight = np.ones(self.spec.width)
        if self.spec.design.intercept:
            scaling = self.spec.intercept_scaling
            weight[0] = 0.0 if scaling is None else scaling**-2
        return weight

    @cached_property
    def quadratic(self) -> Floats:
        """Matrix of the penalty in standard units, (d, d)."""
        return np.asarray(self.transform.T @ (self.penalty[:, None] * self.transform))

    @property
    def unit(self) -> float:
        """The outcome's unit: raw coefficients are so many times the standard ones."""
        return float(2.0 ** self.spec.plain().response_exponent)

    @property
    def cost(self) -> float:
        """Weight of the losses in standard units."""
        return self.spec.C if self.spec.squared else self.spec.C / self.unit

    def plan(self, asked: Mapping[str, Any], order: int, step: str, **state: Any) -> Plan:
        """The plan that evaluates the candidates of `asked`, see `svm.kernel.Question`."""
        weight = self.moments.class_weight
        more = {
            **asked,
            "theta": asked["theta"] / self.spread,
            "past": asked["past"] / self.spread,
            "order": order,
            "shift": self.shift,
            "class_weight": np.zeros(0) if weight is None else weight,
            **self.map,
            **state,
        }
        return Plan("svm.machines", self._fixed.plan_values(**more), step)

    def losses(self, total: Total, theta: Floats, start: int, share: float = 1.0) -> Floats:
        """Objective at the candidates from `start` on; infinite where it could not be shown."""
        own = slice(start, start + len(theta))
        losses = self.cost * total["loss"][own] + [share * self._penalty(one) for one in theta]
        return np.where(total["too_large"][own] > 0, np.inf, losses)

    def banded(self, band: Mapping[str, Any]) -> dict[str, Any]:
        """A band as sites are told it."""
        return {"theta": band["theta"] / self.spread, "width": float(band["width"])}

    def sharp(self, total: Total, theta: Floats, k: int) -> float:
        """The objective with its corners at candidate `k`; infinite if it could not be held."""
        if int(total["too_large"][k]):
            return float("inf")
        return self.cost * float(total["sharp"][k]) + self._penalty(theta)

    def point(self, total: Total, theta: Floats, k: int, share: float = 1.0) -> Point | None:
        """The objective at candidate `k`; None if it could not be held or shown."""
        if int(total["too_large"][k]):
            return None
        s, penalty = self.spread, share * self._penalty(theta)
        loss = self.cost * float(total["loss"][k])
        slope = self.cost * total["gradient"][k] / s
        curvature = None
        if "hessian" in total.values:
            hessian = unpack(total["hessian"][k], self.spec.width)
            curvature = self.cost * hessian / np.outer(s, s) + share * self.quadratic
        sharp = self.cost * float(total["sharp"][k])
        dual_part = self.cost * float(total["dual"][k])
        gap = penalty + sharp - self._bound(dual_part, slope, theta, share)
        bound = dual_part + float(theta @ slope)
        moved = loss - sharp if self.spec.squared else bound - loss
        corner = max(sharp - bound, 0.0)
        gradient = slope + share * (self.quadratic @ theta)
        values = loss + penalty, sharp + penalty, max(gap, 0.0), moved, corner
        return Point(*values, gradient, curvature)

    def _bound(self, dual: float, slope: Floats, theta: Floats, share: float) -> float:
        """What no objective is below: the slopes bound the losses by `dual` and a linear part.

        A free intercept, about the columns' means, is bounded only where its slope is 0; what is
        left of that counts as if the optimum's were within a margin of this one.
        """
        raw, at = np.linalg.solve(self.transform.T, slope), self.transform @ theta
        held = self.penalty > 0
        rest = 0.0
        if not held.all():
            raw[1:] -= raw[0] * self._mean
            rest = float(raw[0] * (at[0] + at[1:] @ self._mean) - np.abs(raw[0]) * self._margin)
        return dual + rest - 0.5 * float(raw[held] ** 2 @ (1.0 / self.penalty[held])) / share

    @property
    def _mean(self) -> Floats:
        """Of the columns, (d - 1,)."""
        if self.spec.features is not None:
            return np.zeros(self.spec.features.components)
        return np.asarray(np.ldexp(self.moments.mean, self.spec.design.exponents))

    @property
    def _margin(self) -> float:
        """1 for classes, the size of the outcome for a number."""
        if self.spec.classifies:
            return 1.0
        return float(np.sqrt(max(self.moments.y_square / self.moments.weight, 0.0)))

    @property
    def least(self) -> float:
        """An objective that is as good as 0: a millionth of one missed row's."""
        return 1e-6 * self.cost * self._margin ** (2 if self.spec.squared else 1)

    def raw(self, theta: Floats) -> Floats:
        """Raw coefficients, the intercept first, of standard ones (k, d)."""
        return np.asarray(self.unit * theta @ self.transform.T)

    def objective(self, standard: float) -> float:
        """In the outcome's own unit."""
        return standard * self.unit**2

    def _penalty(self, theta: Floats) -> float:
        return 0.5 * float(theta @ self.quadratic @ theta)
