"""Spline basis functions with agreed knots (numpy only).

References: de Boor, *A Practical Guide to Splines* (2001), ch. IX; Hastie, Tibshirani & Friedman,
*The Elements of Statistical Learning* (2009), section 5.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bspline_basis(x: Floats, index: int, degree: int, knots: Sequence[float]) -> Floats:
    """B-spline basis function `index` at `x`, (n,); `knots` are boundary, inner ..., boundary.

    The basis has ``len(knots) - 2 + degree + 1`` functions; outside the boundary values are those
    at the boundary.
    """
    lower, upper = float(knots[0]), float(knots[-1])
    t = np.concatenate([[lower] * degree, np.asarray(knots, dtype=float), [upper] * degree])
    z = np.clip(x, lower, upper)
    last = len(t) - degree - 2  # the interval that also holds the upper boundary
    functions = {
        i: np.where((z >= t[i]) & ((z < t[i + 1]) | ((i == last) & (z == upper))), 1.0, 0.0)
        for i in range(index, index + degree + 1)
    }
    for d in range(1, degree + 1):
        for i in range(index, index + degree + 1 - d):
            left, right = t[i + d] - t[i], t[i + d + 1] - t[i + 1]
            value = np.zeros_like(z)
            if left > 0:
                value += (z - t[i]) / left * functions[i]
            if right > 0:
                value += (t[i + d + 1] - z) / right * functions[i + 1]
            functions[i] = value
    return np.where(np.isnan(x), np.nan, functions[index])


def natural_basis(x: Floats, index: int, knots: Sequence[float]) -> Floats:
    """Natural cubic basis function `index` of ``len(knots) - 1`` at `x`; linear beyond the knots.

    Function 0 is x itself, scaled to [0, 1] on the boundaries; the others bend at the knots.
    """
    lower, upper = float(knots[0]), float(knots[-1])
    t = (np.asarray(knots, dtype=float) - lower) / (upper - lower)
    z = (x - lower) / (upper - lower)
    if index == 0:
        return z

    def d(k: int) -> Floats:
        cubes = np.maximum(z - t[k], 0.0) ** 3 - np.maximum(z - t[-1], 0.0) ** 3
        return np.asarray(cubes / (t[-1] - t[k]))

    return d(index - 1) - d(len(t) - 2)
