"""Coordinates in which the coordinator solves: terms centred where needed, each with spread 1.

A coefficient vector is laid out predictor by predictor, intercept first. Sites work in units of the
design's powers of two ("wire"); solvers in standard units; people read raw units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm.family import FAMILIES, MULTINOMIAL
from polyclinic.models.glm.spec import Moments, Spec

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """The penalised objective at one place, in standard units; `curvature` is the loss's alone."""

    objective: float
    loss: float
    gradient: Floats
    curvature: Floats


@dataclass(frozen=True)
class Scale:
    """Maps between wire, standard and raw units, and holds the penalty in standard units."""

    spec: Spec
    moments: Moments

    @property
    def spread(self) -> Floats:
        """Wire spread of every coefficient's term, 1 for intercepts and constants, (size,)."""
        sd = np.where(self.moments.sd > 0, self.moments.sd, 1.0)
        lead = np.ones(int(self.spec.design.intercept))
        return np.asarray(np.tile(np.concatenate([lead, sd]), self.spec.predictors))

    @property
    def is_term(self) -> NDArray[np.bool_]:
        """False for intercepts, which no penalty touches, (size,)."""
        lead = np.zeros(int(self.spec.design.intercept), dtype=bool)
        one = np.concatenate([lead, np.ones(len(self.spec.design.terms), dtype=bool)])
        return np.tile(one, self.spec.predictors)

    @property
    def _raw_per_standard(self) -> Floats:
        """Raw coefficient per standard one, without the outcome's unit, (size,)."""
        lead = np.zeros(int(self.spec.design.intercept), dtype=np.int64)
        e = np.tile(np.concatenate([lead, self.spec.design.exponents]), self.spec.predictors)
        return np.asarray(np.ldexp(1.0 / self.spread, -e), dtype=np.float64)

    @property
    def quadratic(self) -> Floats:
        """Matrix of the L2 penalty, (size, size): against class 0 the classes are coupled."""
        spec = self.spec
        one = np.where(self.is_term, self._raw_per_standard**2, 0.0)[: spec.width] * spec.l2
        q = spec.predictors
        couple = np.eye(q)
        if spec.family == MULTINOMIAL and not spec.symmetric:
            couple -= 1.0 / spec.classes
        return np.asarray(np.kron(couple, np.diag(one)), dtype=np.float64)

    @property
    def absolute(self) -> Floats:
        """Weights of the L1 penalty, (size,)."""
        weight = self.spec.l1 * np.ldexp(1.0, -self.spec.response_exponent)
        return np.where(self.is_term, weight * self._raw_per_standard, 0.0)

    def plan(self, theta: Floats, order: int, step: str, **rows: Any) -> Plan:
        """The plan that evaluates the rows of `theta` (m, size), standard units."""
        spec, moments = self.spec, self.moments
        class_weight = moments.class_weight if moments.class_weight is not None else np.zeros(0)
        values = spec.values(
            theta=np.atleast_2d(theta) / self.spread,
            order=order,
            shift=moments.shift,
            class_weight=class_weight,
            response_exponent=spec.response_exponent,
        )
        values["rows"] = {**values["rows"], **rows}
        return Plan("glm.derivatives", values, step)

    def penalty(self, theta: Floats, share: float = 1.0) -> float:
        smooth = 0.5 * float(theta @ self.quadratic @ theta)
        return share * (smooth + float(self.absolute @ np.abs(theta)))

    def losses(self, total: Total, thetas: Floats, share: float = 1.0) -> Floats:
        """Objective at each candidate; infinite where a sum could not be held or shown."""
        losses = total["loss"] + [self.penalty(theta, share) for theta in thetas]
        return np.where(total["too_large"] > 0, np.inf, losses)

    def point(
        self, total: Total, theta: Floats, share: float = 1.0, index: int = 0
    ) -> Point | None:
        """Objective with derivatives at candidate `index`; None if a sum could not be shown."""
        if int(total["too_large"][index]):
            return None
        s, size = self.spread, self.spec.size
        curvature = np.zeros((0, 0))
        if "hessian" in total.values:
            curvature = unpack(total["hessian"][index], size) / np.outer(s, s)
        loss = float(total["loss"][index])
        gradient = total["gradient"][index] / s + share * (self.quadratic @ theta)
        return Point(loss + self.penalty(theta, share), loss, gradient, curvature)

    def start(self) -> Floats:
        """The model without terms."""
        spec, theta = self.spec, np.zeros(self.spec.size)
        if not spec.design.intercept or spec.design.offset:
            return theta
        if spec.family == MULTINOMIAL:
            share = np.log(self.moments.class_weights_sum)
            share = share - (share.mean() if spec.symmetric else share[0])
            theta[:: spec.width] = share if spec.symmetric else share[1:]
        else:
            theta[0] = FAMILIES[spec.family].link(self.moments.y_mean)
        return theta

    def transform(self) -> Floats:
        """Matrix from standard to raw coefficients, (size, size)."""
        spec = self.spec
        unit = float(np.ldexp(1.0, spec.response_exponent))
        one = np.diag(self._raw_per_standard[: spec.width])
        if spec.design.intercept:
            one[0, 1:] = -self.moments.shift / self.spread[1 : spec.width]
        return np.asarray(unit * np.kron(np.eye(spec.predictors), one), dtype=np.float64)


def unpack(packed: Floats, size: int) -> Floats:
    """Symmetric (size, size) matrix from its upper triangle, row by row."""
    full = np.zeros((size, size))
    full[np.triu_indices(size)] = packed
    return full + np.triu(full, 1).T
