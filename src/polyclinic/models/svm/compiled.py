"""Sums of one machine over the rows of classes, row by row in one pass, where numba is installed.

They are those of `polyclinic.models.svm.kernel` but for rounding: rows are added in short runs, and
of a corner that is rounded off nothing is left from `FAR` on, which is below what the ring holds.
"""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.kernels import jit

Floats = NDArray[np.float64]
LEAST_ROWS = 1 << 14  # of a call: fewer are not worth the compiler's second
AT_ONCE, LANES = 512, 8  # rows and columns of which products are taken together
RUN = 256  # rows that are added before they are added to the others
FAR = 45.0  # exp(-FAR) is below 2**-64
FREELY = frozenset({"reassoc", "contract"})  # what is not finite stays so


def squares(*given: Any) -> tuple[float, float]:
    """Sums of squares and of what is missed; see `_squares`."""
    found: tuple[float, float] = jit(_squares, FREELY)(*given)
    return found


def rounded(*given: Any) -> tuple[float, float, float]:
    """Sums of losses, of losses with their corner and of slopes; see `_rounded`."""
    found: tuple[float, float, float] = jit(_rounded, FREELY)(*given)
    return found


def products(x: Floats, shift: Floats, curvature: Floats, lead: int) -> Floats:
    """Weighted products of the columns, the intercept first, over rows with a curvature.

    Columns of zeros fill whole vector registers, and of two arrays NumPy takes the quicker product.
    """
    d, wide = x.shape[1] + lead, -(-(x.shape[1] + lead) // LANES) * LANES
    found, some = np.zeros((wide, wide)), np.zeros((2, AT_ONCE, wide))
    for start in range(0, len(x), AT_ONCE):
        at = slice(start, start + AT_ONCE)
        n = jit(_scaled, FREELY)(x[at], shift, curvature[at], lead, some)
        if n:
            found += some[0, :n].T @ some[1, :n]
    return found[:d, :d]


def parted(*given: Any) -> float:
    """Weight of the far rows that miss their margin; see `_parted`."""
    return float(jit(_parted, FREELY)(*given))


def _squares(
    x: Any, y: Any, own: Any, weight: Any, kind: Any, theta: Any, shift: Any, first: Any, bend: Any
) -> Any:
    """Squares of what `theta` (d,), the intercept first, misses.

    own (n_rows,) or empty: weights; weight (2,): outside and inside the class `kind`. Changed in
    place: `first` (d,), the gradient; `bend` (n_rows,) or empty, curvatures.
    """
    n, p = x.shape
    square, missed = 0.0, 0.0
    part = np.zeros(p)
    for start in range(0, n, RUN):
        run_square, run_missed, run_slope = 0.0, 0.0, 0.0
        part[:] = 0.0
        for i in range(start, min(start + RUN, n)):
            f = 0.0
            for j in range(p):
                f += (x[i, j] - shift[j]) * theta[j + 1]
            inside = y[i] == kind
            side, w = (1.0, weight[1]) if inside else (-1.0, weight[0])
            if len(own):
                w *= own[i]
            over = 1.0 - side * (f + theta[0])
            if not over <= 0.0:
                run_square += w * over * over
                run_missed += w * over
                slope = -2.0 * w * over * side
                run_slope += slope
                for j in range(p):
                    part[j] += slope * (x[i, j] - shift[j])
            if len(bend):
                bend[i] = 0.0 if over <= 0.0 else 2.0 * w
        square += run_square
        missed += run_missed
        first[0] += run_slope
        for j in range(p):
            first[j + 1] += part[j]
    return square, missed


def _rounded(
    x: Any,
    y: Any,
    own: Any,
    weight: Any,
    kind: Any,
    theta: Any,
    past: Any,
    sharpness: Any,
    shift: Any,
    first: Any,
    bend: Any,
) -> Any:
    """`_squares` of a hinge whose corner is rounded off; sharpness (2,): of the past, and now."""
    n, p = x.shape
    before, t = sharpness
    losses, sharp, slopes = 0.0, 0.0, 0.0
    part = np.zeros(p)
    for start in range(0, n, RUN):
        run_loss, run_sharp, run_a, run_slope = 0.0, 0.0, 0.0, 0.0
        part[:] = 0.0
        for i in range(start, min(start + RUN, n)):
            f, g = 0.0, 0.0
            for j in range(p):
                u = x[i, j] - shift[j]
                f += u * theta[j + 1]
                g += u * past[j + 1]
            inside = y[i] == kind
            side, w = (1.0, weight[1]) if inside else (-1.0, weight[0])
            if len(own):
                w *= own[i]
            missed = 1.0 - side * (f + theta[0])
            logit = before - side * (g + past[0])
            at = logit + t * missed
            e = 0.0 if abs(at) > FAR else exp(-abs(at))
            e0 = 0.0 if abs(logit) > FAR else exp(-abs(logit))
            a = (1.0 if at >= 0.0 else e) / (1.0 + e)
            soft = max(at, 0.0) - max(logit, 0.0)
            if e != e0:
                soft += log((1.0 + e) / (1.0 + e0))
            run_loss += w * soft / t
            run_sharp += w * max(missed, 0.0)
            run_a += w * a
            if not a <= 0.0:
                slope = -w * a * side
                run_slope += slope
                for j in range(p):
                    part[j] += slope * (x[i, j] - shift[j])
            if len(bend):
                bend[i] = w * t * e / ((1.0 + e) * (1.0 + e))
        losses += run_loss
        sharp += run_sharp
        slopes += run_a
        first[0] += run_slope
        for j in range(p):
            first[j + 1] += part[j]
    return losses, sharp, slopes


def _parted(
    x: Any,
    y: Any,
    own: Any,
    weight: Any,
    kind: Any,
    theta: Any,
    shift: Any,
    width: Any,
    slope: Any,
    near: Any,
) -> Any:
    """Sums over the rows that miss by more than `width`; see `svm.band.Band`. Changed in place:
    `slope` (d,), and `near` (n_rows,), which rows are neither these nor as far on the other side.
    """
    n, p = x.shape
    total = 0.0
    part = np.zeros(p)
    for start in range(0, n, RUN):
        run, run_side = 0.0, 0.0
        part[:] = 0.0
        for i in range(start, min(start + RUN, n)):
            f = 0.0
            for j in range(p):
                f += (x[i, j] - shift[j]) * theta[j + 1]
            inside = y[i] == kind
            side, w = (1.0, weight[1]) if inside else (-1.0, weight[0])
            if len(own):
                w *= own[i]
            missed = 1.0 - side * (f + theta[0])
            near[i] = not abs(missed) > width
            if missed > width:
                run += w
                run_side += w * side
                for j in range(p):
                    part[j] += w * side * (x[i, j] - shift[j])
        total += run
        slope[0] += run_side
        for j in range(p):
            slope[j + 1] += part[j]
    return total


def _scaled(x: Any, shift: Any, curvature: Any, lead: Any, out: Any) -> Any:
    """The rows with a curvature, and times it, one under the other in `out`; their number."""
    found = 0
    for i in range(len(x)):
        if not curvature[i] <= 0.0:
            if lead:
                out[0, found, 0] = curvature[i]
                out[1, found, 0] = 1.0
            for j in range(x.shape[1]):
                u = x[i, j] - shift[j]
                out[0, found, j + lead] = curvature[i] * u
                out[1, found, j + lead] = u
            found += 1
    return found
