"""The rows of a site under given models of treatment and outcome, and each row's part in an effect.

With the propensity e(x) = P(A = 1 | x), held within [trim, 1 - trim], and the outcome models
m_0(x), m_1(x), every mean of an outcome under arm a solves sum(U - mu V) = 0:

    ipw         U = w Y                   V = w       (Hajek: weights add up to 1)
    regression  U = g m                   V = g
    aipw        U = g m + w (Y - m)       V = g

with, for the average effect (ate), g = 1, w_1 = A / e and w_0 = (1 - A) / (1 - e); for the effect
in the treated (att), g = w_1 = A and w_0 = (1 - A) e / (1 - e).
References: Lunceford & Davidian, Statistics in Medicine 23 (2004); Bang & Robins, Biometrics 61
(2005).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.effects.spec import Spec
from polyclinic.models.glm.family import FAMILIES
from polyclinic.models.learner import spec_in

Floats = NDArray[np.float64]
LOGISTIC = FAMILIES["binomial"]


@dataclass(frozen=True)
class Rows:
    """Rows under the models of a plan; the outcome in units of its power of two.

    x      (n, p + 1): intercept, and covariates in units of their powers of two
    a, y   treatment and outcome, (n,)
    score  propensity as modelled; `e` the same within the bounds, `free` where these do not hold it
    mean   outcome under each arm, (n, 2), and its derivative in the linear predictor, `slope`;
           None without a model of the outcome
    """

    x: Floats
    a: Floats
    y: Floats
    score: Floats
    e: Floats
    free: Floats
    mean: Floats | None
    slope: Floats | None

    @property
    def arms(self) -> Floats:
        """1 in the row's own arm, (n, 2)."""
        return np.column_stack([1.0 - self.a, self.a])

    @property
    def spread(self) -> Floats:
        """e (1 - e): where it vanishes for all but a few, the propensities single these out."""
        return self.score * (1.0 - self.score)


@dataclass(frozen=True)
class Parts:
    """Each row's part in the equations of the two means; all (n, 2), arm 0 first.

    u, v          see the module
    u_e, v_e      their derivatives in the propensity's linear predictor
    u_m           derivative of u in the linear predictor of the arm's own outcome model
    """

    u: Floats
    v: Floats
    u_e: Floats
    v_e: Floats
    u_m: Floats


def spec_of(plan: Plan) -> Spec:
    """The effect that a plan is about, made once."""
    found: Spec = spec_in(plan, Spec.from_data)
    return found


def rows_of(plan: Plan, partition: Partition) -> Rows:
    """The rows of a partition under the models in "state"."""
    spec, state = spec_of(plan), plan.values["state"]
    e = spec.matrix.exponents
    raw = spec.matrix.matrix(partition.columns, partition.site)
    x = np.hstack([np.ones((len(raw), 1)), np.ldexp(raw, -e)])
    columns, factor = partition.columns, spec.arm.factors[0]
    a = columns[spec.treatment]
    if factor.kind == "level":
        a = np.where(np.isnan(a), np.nan, (a == factor.args[0]).astype(np.float64))
    unit = spec.outcome().response_exponent
    y = np.ldexp(columns[spec.design.response], -unit)
    score = LOGISTIC.mean(_linear(x, state["propensity"], partition.keys))
    held = np.clip(score, spec.trim, 1.0 - spec.trim)
    mean = slope = None
    if "outcome" in state:
        linear = [_linear(x, state["outcome"][:, arm], partition.keys) for arm in (0, 1)]
        eta = np.column_stack(linear)
        mean = LOGISTIC.mean(eta) if spec.binary else eta
        slope = mean * (1.0 - mean) if spec.binary else np.ones_like(eta)
    return Rows(x, a, y, score, held, (held == score).astype(np.float64), mean, slope)


def _linear(x: Floats, coef: Floats, keys: NDArray[np.int64]) -> Floats:
    """Linear predictor; with coefficients of several folds each row's own, which left it out."""
    if len(coef) == 1:
        return np.asarray(x @ coef[0])
    return np.asarray(np.einsum("ij,ij->i", x, coef[keys % len(coef)]))


def weights(spec: Spec, rows: Rows) -> tuple[Floats, Floats, Floats]:
    """Weights w, target g and the derivative of w in the linear predictor; (n, 2), (n,), (n, 2)."""
    a, e, free = rows.a, rows.e, rows.free
    odds = e / (1.0 - e)
    if spec.estimand == "att":
        w = np.column_stack([(1.0 - a) * odds, a])
        return w, a, np.column_stack([w[:, 0] * free, np.zeros(len(a))])
    w = np.column_stack([(1.0 - a) / (1.0 - e), a / e])
    change = np.column_stack([(1.0 - a) * odds * free, -a / odds * free])
    return w, np.ones(len(a)), change


def parts(spec: Spec, method: str, rows: Rows) -> Parts:
    """Each row's part under a method."""
    w, target, change = weights(spec, rows)
    g, none = np.repeat(target[:, None], 2, axis=1), np.zeros_like(w)
    y = rows.y[:, None]
    if method == "ipw" or rows.mean is None or rows.slope is None:
        return Parts(w * y, w, change * y, change, none)
    if method == "regression":
        return Parts(g * rows.mean, g, none, none, g * rows.slope)
    left = y - rows.mean
    u = g * rows.mean + w * left
    return Parts(u, g, change * left, none, (g - w) * rows.slope)


def influence(spec: Spec, state: Mapping[str, Any], rows: Rows) -> Floats:
    """Each row's influence on the two means, times the sum of V, (n, 2).

    Its own part, and what it does to the models: its score times what these do to the means.
    """
    one = parts(spec, state["method"], rows)
    found = one.u - state["mean"] * one.v
    if len(state["by_propensity"]):
        score = rows.a - rows.score
        found = found + score[:, None] * (rows.x @ state["by_propensity"].T)
    if len(state["by_outcome"]) and rows.mean is not None:
        left = rows.arms * (rows.y[:, None] - rows.mean)
        found = found + left * (rows.x @ state["by_outcome"].T)
    return np.asarray(found)
