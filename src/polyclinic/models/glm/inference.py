"""From the optimum to coefficients, standard errors and fit statistics in raw units.

Covariance of the coefficients: inverse information times dispersion; with an L2 penalty
(H + P)^-1 H (H + P)^-1; with an L1 penalty none is valid, so none is given. Where the link is not
canonical the information is the expected one, as in iteratively reweighted least squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm.family import FAMILIES, MULTINOMIAL
from polyclinic.models.glm.rank import combination, independent_columns
from polyclinic.models.glm.scale import Scale, unpack
from polyclinic.models.glm.solution import Optimum

Floats = NDArray[np.float64]
LARGE_STEP = 0.1  # standard errors: a solver that ends further off has not arrived


@dataclass(frozen=True)
class GLMFit:
    """A fitted generalised linear model, raw units.

    coef         (n_predictors, width), intercept first where there is one
    covariance   (size, size), NaN for coefficients without one
    theta, scale for further rounds at the same point (robust errors), standard units
    inverse      (size, size): inverse of the penalised Hessian, standard units
    distance     how far the solver ended from the optimum, in standard errors
    events       which coefficients each part of a gradient was computed at, see `Optimum`
    """

    coef: Floats
    covariance: Floats
    theta: Floats
    inverse: Floats
    scale: Scale
    active: NDArray[np.bool_]
    curvature: Floats
    loss: float
    deviance: float | None
    null_deviance: float | None
    loglik: float | None
    null_loglik: float | None
    dispersion: float
    df_resid: float
    rounds: int
    end: str
    distance: float | None
    events: tuple[tuple[int, int, int, int], ...] = field(default=(), kw_only=True)

    @property
    def converged(self) -> bool:
        if self.end == "averaged":
            return self.distance is not None and self.distance < LARGE_STEP
        return self.end == "converged"

    @property
    def aic(self) -> float | None:
        if self.loglik is None:
            return None
        return 2.0 * int(self.active.sum()) - 2.0 * self.loglik

    @property
    def pseudo_r2(self) -> float | None:
        """Share of the null deviance explained: R2 for least squares, McFadden's for classes."""
        if not self.null_deviance or self.deviance is None:
            return None
        return 1.0 - self.deviance / self.null_deviance

    def made_up_of(self, column: int) -> dict[int, float]:
        """For a dropped coefficient: the others that it is a combination of, and by how much."""
        spec = self.scale.spec
        gram = self.curvature[: spec.width, : spec.width]
        found = combination(gram, self.active[: spec.width], column)
        return {j: float(c) for j, c in enumerate(found) if abs(c) > 1e-6}


@dataclass(frozen=True)
class Inference:
    """Last rounds: what the solver has not summed yet. Its result is the `GLMFit`."""

    scale: Scale
    optimum: Optimum

    @property
    def _needs_information(self) -> bool:
        return self.scale.spec.family == "gamma"

    def init(self, seed: int) -> State:
        has = self.optimum.curvature is not None
        return {
            "curvature": self.optimum.curvature if has else None,
            "loss": self.optimum.loss if has else None,
            "gradient": None,
            "information": None,
            "pearson": None,
        }

    def plan(self, state: State) -> Plan | None:
        if state["curvature"] is None:
            return self.scale.plan(self.optimum.theta, 2, "standard errors")
        if self._needs_information and state["information"] is None:
            plan = self.scale.plan(self.optimum.theta, 2, "standard errors")
            return Plan("glm.information", plan.values, plan.step)
        return None

    def update(self, state: State, plan: Plan, total: Total) -> State:
        size, s = self.scale.spec.size, self.scale.spread
        if plan.task == "glm.information":
            information = unpack(total["information"], size) / np.outer(s, s)
            return {**state, "information": information, "pearson": total.number("pearson")}
        point = self.scale.point(total, self.optimum.theta)
        if point is None:
            return {**state, "curvature": np.zeros((size, size)), "loss": 0.0}
        return {
            **state,
            "curvature": point.curvature,
            "loss": point.loss,
            "gradient": point.gradient,
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> GLMFit:
        scale, spec, theta = self.scale, self.scale.spec, self.optimum.theta
        curvature, active = state["curvature"], self._active(state["curvature"])
        theta = np.where(active, theta, 0.0)
        information = curvature if state["information"] is None else state["information"]
        inverse = _inverse(curvature + scale.quadratic, active)
        bread = inverse
        if state["information"] is not None:
            bread = _inverse(information + scale.quadratic, active)
        fit = _statistics(scale, state, int(active.sum()))
        transform = scale.transform()
        dispersion = np.ldexp(fit["dispersion"], -2 * spec.response_exponent)
        covariance = dispersion * transform @ (bread @ information @ bread) @ transform.T
        valid = active & ~(spec.l1 > 0)
        covariance = np.where(np.outer(valid, valid), covariance, np.nan)
        return GLMFit(
            coef=(transform @ theta).reshape(spec.predictors, spec.width),
            covariance=covariance,
            theta=theta,
            inverse=inverse,
            scale=scale,
            active=active,
            curvature=curvature,
            rounds=self.optimum.rounds,
            end=self.optimum.end,
            distance=self._distance(state, active),
            events=self.optimum.events,
            **fit,
        )

    def _active(self, curvature: Floats) -> NDArray[np.bool_]:
        spec = self.scale.spec
        if self.optimum.active is not None:
            return self.optimum.active
        if spec.l2 > 0 or spec.l1 > 0:
            return np.ones(spec.size, dtype=bool)
        one = independent_columns(curvature[: spec.width, : spec.width])
        return np.tile(one, spec.predictors)

    def _distance(self, state: State, active: NDArray[np.bool_]) -> float | None:
        if state["gradient"] is None:
            return self.optimum.step
        keep = np.ix_(active, active)
        g = state["gradient"][active]
        matrix = (state["curvature"] + self.scale.quadratic)[keep]
        return float(np.sqrt(max(float(g @ np.linalg.pinv(matrix, hermitian=True) @ g), 0.0)))


def _inverse(matrix: Floats, active: NDArray[np.bool_]) -> Floats:
    """Inverse within the active coefficients, 0 elsewhere."""
    inverse, keep = np.zeros_like(matrix), np.ix_(active, active)
    try:
        root = np.linalg.inv(np.linalg.cholesky(matrix[keep]))
        inverse[keep] = root.T @ root
    except np.linalg.LinAlgError:  # separated data: no information in some direction
        inverse[keep] = np.linalg.pinv(matrix[keep], hermitian=True)
    return inverse


def _statistics(scale: Scale, state: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Deviance, log-likelihood, dispersion and their null counterparts, raw units."""
    spec, m = scale.spec, scale.moments
    unit = 2.0 ** (2 * spec.response_exponent)
    loss, df = float(state["loss"]), m.weight - rank
    deviance = 2.0 * (loss - m.saturated) * unit
    dispersion = 1.0
    if spec.family == "gaussian":
        dispersion = deviance / df if df > 0 else float("nan")
    elif spec.family == "gamma":
        dispersion = float(state["pearson"] or 0.0) / df if df > 0 else float("nan")
    null = _null_loss(scale)
    return {
        "loss": loss * unit,
        "deviance": deviance,
        "dispersion": dispersion,
        "df_resid": df,
        "null_deviance": None if null is None else 2.0 * (null - m.saturated) * unit,
        "loglik": _loglik(scale, loss, dispersion),
        "null_loglik": None if null is None else _loglik(scale, null, dispersion),
    }


def _null_loss(scale: Scale) -> float | None:
    """Loss of the model with an intercept only, where it has a closed form."""
    spec, m = scale.spec, scale.moments
    if spec.design.offset:
        return None
    if spec.family in (MULTINOMIAL, "binomial"):
        share = m.class_weights_sum / m.class_weights_sum.sum()
        return -float(m.class_weights_sum @ np.log(share))
    if spec.family == "gaussian":
        return 0.5 * (m.y_square - m.weight * m.y_mean**2)
    family = FAMILIES[spec.family]
    eta = np.array([family.link(m.y_mean)])
    return m.weight * float(family.derivatives(eta, np.array([m.y_mean]))[0][0])


def _loglik(scale: Scale, loss: float, dispersion: float) -> float:
    spec, m = scale.spec, scale.moments
    if spec.family == "gaussian":
        variance = max(2.0 * loss * 2.0 ** (2 * spec.response_exponent) / m.weight, 1e-300)
        return float(-0.5 * m.weight * (np.log(2 * np.pi * variance) + 1.0))
    if spec.family == "gamma":
        if not dispersion > 0:
            return float("nan")
        shape, log_y = 1.0 / dispersion, m.saturated - m.weight
        constant = m.weight * (shape * np.log(shape) - gammaln(shape))
        return float(constant - shape * loss + (shape - 1.0) * log_y)
    return -(loss + m.constant)
