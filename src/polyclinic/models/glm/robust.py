"""Robust (sandwich) covariance of the coefficients: bread from the fit, meat from one more round.

"row": HC0, White (1980). "site": clustered by site, Liang & Zeger (1986), with the usual
finite-sample factor G/(G-1) * (n-1)/(n-k). Few sites make the latter unreliable.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm.inference import GLMFit
from polyclinic.models.glm.scale import unpack

Floats = NDArray[np.float64]


def scores_plan(fit: GLMFit, by: str) -> Plan:
    """The round that sums products of score vectors; `by` is "row" or "site"."""
    plan = fit.scale.plan(fit.theta, 1, f"robust errors by {by}")
    return Plan("glm.scores", {**plan.values, "by": by}, plan.step)


def robust_covariance(fit: GLMFit, total: Total, by: str) -> Floats:
    """Covariance of the raw coefficients, (size, size), from the total of `scores_plan`."""
    spread, transform = fit.scale.spread, fit.scale.transform()
    meat = unpack(total["meat"], len(spread)) / np.outer(spread, spread)
    factor = 1.0
    if by == "site":
        clusters, n, k = total.number("clusters"), fit.scale.moments.n, int(fit.active.sum())
        factor = clusters / (clusters - 1.0) * (n - 1.0) / (n - k)
    covariance = factor * transform @ (fit.inverse @ meat @ fit.inverse) @ transform.T
    return np.where(np.isnan(fit.covariance), np.nan, covariance)
