"""First and second derivatives of the losses, as whole numbers.

    squared    1/2 (m - y)^2                     g = m - y         h = 1
    logistic   log(1 + exp(m)) - y m             g = p - y         h = p (1 - p)
    softmax    log(sum exp m_k) - m_y            g_k = p_k - y_k   h_k = 2 p_k (1 - p_k)
    poisson    exp(m) - y m                      g = mu - y        h = exp(0.7) mu
    focal      -(1 - q)^c log q                  g = s (1 - q)^c (c q log q - (1 - q))
    cox        see cox.py

The softmax's factor 2 and the Poisson's damping are XGBoost's. In the focal loss q is the
probability of the class that the row has, s is 1 for the event and -1 without, and c its `focus`.
It is not convex: where q is small its second derivative is negative. So h is the larger of that,

    q (1 - q)^c ((1 - q) (1 + 2 c) + c (1 - q - c q) log q),

and of (1 - q)^c q (1 - q), the curvature of the logistic loss in a row that counts (1 - q)^c. It is
above 0, and a badly predicted row moves as under the logistic loss.

Reference: T.-Y. Lin et al., "Focal loss for dense object detection", ICCV (2017).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.kernels import GRADIENT_BITS, HESSIAN_BITS, to_lanes
from polyclinic.models.trees.spec import POISSON_DAMPING, Spec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LEAST = 1e-16  # of a second derivative, as in XGBoost


def probabilities(margin: Floats) -> Floats:
    """Softmax over the last axis."""
    e = np.exp(margin - margin.max(axis=1, keepdims=True))
    found: Floats = e / e.sum(axis=1, keepdims=True)
    return found


def mean(margin: Floats, loss: str) -> Floats:
    """The expected outcome at a margin (n_rows, n_lanes)."""
    if loss == "softmax":
        return probabilities(margin)
    if loss in ("logistic", "focal"):
        with np.errstate(over="ignore"):
            found: Floats = 1.0 / (1.0 + np.exp(-margin))
        return found
    return np.exp(np.minimum(margin, 700.0)) if loss in ("poisson", "cox") else margin


def start(sums: Floats, weight: float, loss: str) -> Floats:
    """The margin of a model without a split, from weighted sums of the outcome per lane."""
    average = sums / weight if weight > 0 else np.zeros_like(sums)
    if loss == "squared":
        return average
    if loss == "poisson":
        return np.log(np.maximum(average, 1e-6))
    p = np.clip(average, 1e-6, 1 - 1e-6)
    return np.log(p) - np.log(1 - p) if loss in ("logistic", "focal") else np.log(p)


def targets(y: Floats, spec: Spec) -> Floats:
    """What each lane is to predict, (n_rows, n_lanes)."""
    if spec.lanes == 1:
        return y[:, None]
    found: Floats = (y[:, None] == np.arange(spec.lanes)).astype(np.float64)
    return found


def derivatives(margin: Floats, target: Floats, spec: Spec) -> tuple[Floats, Floats]:
    """First and second, (n_rows, n_lanes) each; the second is 1 column where all are equal."""
    if spec.loss == "squared":
        return margin - target, np.ones((len(margin), 1))
    if spec.loss == "focal":
        return focal(margin, target, spec.focus)
    expected = mean(margin, spec.loss)
    if spec.loss == "poisson":
        expected = np.minimum(expected, spec.response_bound)
        return expected - target, np.exp(POISSON_DAMPING) * expected
    second = np.maximum(expected * (1.0 - expected), LEAST)
    return expected - target, second * (2.0 if spec.loss == "softmax" else 1.0)


def focal(margin: Floats, target: Floats, focus: float) -> tuple[Floats, Floats]:
    """Derivatives of the focal loss, (n_rows, 1) each."""
    sign = 2.0 * target - 1.0
    log = -np.logaddexp(0.0, -sign * margin)
    q, rest = np.exp(log), np.exp(-np.logaddexp(0.0, sign * margin))
    weight = rest**focus
    first = sign * weight * (focus * q * log - rest)
    exact = q * weight * (rest * (1.0 + 2.0 * focus) + focus * (rest - focus * q) * log)
    return first, np.maximum(np.maximum(exact, weight * q * rest), LEAST)


def whole(first: Floats, second: Floats, weight: Floats, spec: Spec) -> Ints:
    """Lanes for the kernel, (n_rows, width + 1); `first` (n_rows, width), `second` (n_rows,)."""
    out = np.empty((len(first), first.shape[1] + 1), dtype=np.int64)
    exponents = GRADIENT_BITS - spec.gradient_exponent, HESSIAN_BITS - spec.hessian_exponent
    g, h = (float(np.ldexp(1.0, exponent)) for exponent in exponents)
    to_lanes(first, second, weight, (g, h), out)
    return out


def losses(margin: Floats, target: Floats, loss: str, focus: float = 0.0) -> Floats:
    """Of each row, (n_rows,)."""
    if loss == "focal":
        away = (1.0 - 2.0 * target[:, 0]) * margin[:, 0]
        return np.exp(-focus * np.logaddexp(0.0, -away)) * np.logaddexp(0.0, away)
    if loss == "squared":
        found: Floats = 0.5 * ((margin - target) ** 2).sum(axis=1)
        return found
    if loss == "poisson":
        return np.exp(np.minimum(margin[:, 0], 700.0)) - target[:, 0] * margin[:, 0]
    if loss == "logistic":
        return np.logaddexp(0.0, margin[:, 0]) - target[:, 0] * margin[:, 0]
    top = margin.max(axis=1)
    sums = np.log(np.exp(margin - top[:, None]).sum(axis=1)) + top
    return np.asarray(sums - (margin * target).sum(axis=1))
