"""Loss, gradient and Hessian of a generalised linear model over the rows of one partition.

Rows are taken in blocks that fit the cache. A block's design is read once; the Hessian is its
product with itself, weighted. Within a partition blocks are added in their order, so its result
does not depend on threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.glm.family import Family

Floats = NDArray[np.float64]
BLOCK_ROWS = 4096  # smaller blocks lose to the interpreter lock, larger ones to the cache
A_PRODUCT = 1_000_000  # multiplications that OpenBLAS does without first copying what it multiplies
FEWEST_ROWS = 384  # of such a product; of more columns a symmetric one of half the work is quicker
TOO_LARGE = 2.0**52


@dataclass(frozen=True)
class Rows:
    """Rows of a partition, ready for the kernel.

    x       (n_rows, n_terms), without intercept
    y       (n_rows,): outcome, or class index for several classes
    weight  (n_rows,) or None for ones; 0 leaves a row out
    offset  (n_rows,) or None
    """

    x: Floats
    y: Floats
    weight: Floats | None
    offset: Floats | None

    def blocks(
        self, shift: Floats | None, size: int = BLOCK_ROWS
    ) -> Iterator[tuple[slice, Floats]]:
        n_rows, n_terms = self.x.shape
        buffer = np.empty((min(size, n_rows), n_terms)) if shift is not None else None
        for start in range(0, n_rows, size):
            at = slice(start, min(start + size, n_rows))
            block = self.x[at]
            if buffer is not None and shift is not None:
                block = np.subtract(block, shift, out=buffer[: len(block)])
            yield at, block


@dataclass(frozen=True)
class Derivatives:
    """Sums over rows for m candidates: loss (m,), gradient (m, d), hessian (m, d, d)."""

    loss: Floats
    gradient: Floats
    hessian: Floats

    @property
    def too_large(self) -> NDArray[np.bool_]:
        """Candidates so far off that a sum cannot be held, (m,)."""
        parts = (self.loss, self.gradient, self.hessian)
        worst = [
            np.abs(part.reshape(len(self.loss), -1)).max(axis=1, initial=0.0) for part in parts
        ]
        return np.asarray(~(np.max(worst, axis=0) < TOO_LARGE))


def one_predictor(
    rows: Rows, family: Family, theta: Floats, order: int, shift: Floats | None, intercept: bool
) -> Derivatives:
    """Derivatives for one linear predictor at `theta` (m, d); `order` 0, 1 or 2."""
    m, d = theta.shape
    lead = int(intercept)
    loss, gradient, hessian = _empty(m, d, order)
    size = BLOCK_ROWS if order == 2 else 2 * BLOCK_ROWS
    products = _Products(d, lead, size)
    slope = np.ascontiguousarray(theta[:, lead:].T)
    for at, x in rows.blocks(shift, size):
        eta = x @ slope
        if intercept:
            eta += theta[:, 0]
        if rows.offset is not None:
            eta += rows.offset[at, None]
        value, first, second = family.derivatives(eta, rows.y[at, None])
        if rows.weight is not None:
            w = rows.weight[at, None]
            value, first, second = value * w, first * w, second * w
        loss += value.sum(axis=0)
        if order >= 1:
            gradient[:, lead:] += first.T @ x
            if intercept:
                gradient[:, 0] += first.sum(axis=0)
        for k in range(m if order == 2 else 0):
            products.add(hessian[k], x, second[:, k])
    return Derivatives(loss, gradient, hessian)


class _Products:
    """Weighted products of the columns, the intercept first, of blocks of `size` rows at most."""

    def __init__(self, d: int, lead: int, size: int) -> None:
        self._lead, p = lead, d - lead
        at_once = min(size, A_PRODUCT // max(p * p, 1))
        self._whole = at_once < FEWEST_ROWS
        self._rows = -(-size // -(-size // at_once)) if not self._whole else size
        self._weighted = np.empty((self._rows, d if self._whole else p))

    def add(self, out: Floats, x: Floats, weight: Floats) -> None:
        """Add those of the rows `x` to `out`, (d, d)."""
        lead = self._lead
        if self._whole:
            root = np.sqrt(weight)
            z = self._weighted[: len(root)]
            z[:, :lead] = root[:, None]
            np.multiply(x, root[:, None], out=z[:, lead:])
            out += z.T @ z
            return
        if lead:
            along = weight @ x
            out[0, 0] += weight.sum()
            out[0, 1:] += along
            out[1:, 0] += along
        for start in range(0, len(x), self._rows):
            some = x[start : start + self._rows]
            z = np.multiply(
                some, weight[start : start + len(some), None], out=self._weighted[: len(some)]
            )
            out[lead:, lead:] += some.T @ z


def many_predictors(
    rows: Rows, classes: int, theta: Floats, order: int, shift: Floats | None, intercept: bool
) -> Derivatives:
    """Derivatives of the multinomial loss at `theta` (m, q * d).

    q = `classes` - 1 linear predictors against class 0, or q = `classes` for the symmetric form;
    parameters lie class by class.
    """
    d = rows.x.shape[1] + int(intercept)
    m, size = theta.shape
    q = size // d
    loss, gradient, hessian = _empty(m, size, order)
    for at, x in rows.blocks(shift):
        full = np.hstack([np.ones((len(x), 1)), x]) if intercept else x
        label = rows.y[at].astype(np.int64) - (classes - q)
        w = np.ones(len(x)) if rows.weight is None else rows.weight[at]
        for k in range(m):
            p, value, first = _softmax(full @ theta[k].reshape(q, d).T, label, q < classes)
            loss[k] += w @ value
            if order >= 1:
                gradient[k] += ((first * w[:, None]).T @ full).ravel()
            if order == 2:
                _add_blocks(hessian[k], full, p, w, d)
    return Derivatives(loss, gradient, hessian)


def _softmax(
    eta: Floats, label: NDArray[np.int64], reference: bool
) -> tuple[Floats, Floats, Floats]:
    top = eta.max(axis=1, keepdims=True)
    if reference:
        top = np.maximum(top, 0.0)
    e = np.exp(eta - top)
    total = e.sum(axis=1, keepdims=True) + (np.exp(-top) if reference else 0.0)
    p = e / total
    first = p.copy()
    rows = np.flatnonzero(label >= 0)
    first[rows, label[rows]] -= 1.0
    value = (top + np.log(total))[:, 0]
    value[rows] -= eta[rows, label[rows]]
    return p, value, first


def _add_blocks(hessian: Floats, x: Floats, p: Floats, w: Floats, d: int) -> None:
    q = p.shape[1]
    for a in range(q):
        for b in range(a, q):
            weight = w * p[:, a] * ((a == b) - p[:, b])
            block = x.T @ (x * weight[:, None])
            hessian[a * d : (a + 1) * d, b * d : (b + 1) * d] += block
            if a != b:
                hessian[b * d : (b + 1) * d, a * d : (a + 1) * d] += block.T


def _empty(m: int, size: int, order: int) -> tuple[Floats, Floats, Floats]:
    return (
        np.zeros(m),
        np.zeros((m, size if order >= 1 else 0)),
        np.zeros((m, size, size) if order == 2 else (m, 0, 0)),
    )
