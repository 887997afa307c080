"""Sums of losses, slopes and curvatures of machines over the rows of one partition.

A row misses its margin by u = 1 - s f(x), s = +1 or -1 by class; a number is missed twice, by
u = y - f(x) - epsilon and by u = f(x) - y - epsilon. A loss is max(0, u)^2 or max(0, u). The corner
of the latter, which is the largest of a u over 0 <= a <= 1, is rounded off by taking the entropy of
a relative to an earlier a0, over a sharpness t, off inside. With z0 the logit of a0 that is
(log(1 + exp(z0 + t u)) - log(1 + exp(z0))) / t, of slope a = 1 / (1 + exp(-(z0 + t u))). Each step
takes the a of the one before as its a0; so the corners come back, and the a of all rows, times C,
are a point of the dual. z0 is the sum of t u over the steps before: of these only two sums are
known, of t, and of t times their coefficients. The slope of a square has a corner, too: where
hospitals look it is 2 log(1 + exp(t u)) / t.
Reference: Tseng & Bertsekas, "On the convergence of the exponential multiplier method for convex
programming", Mathematical Programming 60 (1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, spence

from polyclinic.models.glm.kernel import BLOCK_ROWS, TOO_LARGE, Rows
from polyclinic.models.svm import compiled
from polyclinic.models.trees.kernels import compiled as there_is_numba

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PerRow:
    """Loss, loss with its corner, part in the dual, two derivatives in f, (n_rows, m) each.

    edge  how much of a row's part comes or goes as f moves: the sums of several candidates tell
          those rows apart from others
    """

    loss: Floats
    sharp: Floats
    dual: Floats
    first: Floats
    curvature: Floats
    edge: Floats

    def plus(self, other: PerRow) -> PerRow:
        """Both losses of a row."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return PerRow(*(a + b for a, b in pairs))

    def times(self, weight: Floats | None) -> PerRow:
        """With every row's weight."""
        if weight is None:
            return self
        return PerRow(*(value * weight for value in vars(self).values()))


def _softplus(z: Floats) -> Floats:
    """log(1 + exp(z)) without overflow."""
    found = np.log1p(np.exp(-np.abs(z)))
    found += np.maximum(z, 0.0)
    return np.asarray(found)


def _dilogarithm(z: Floats) -> Floats:
    """-Li2(-exp(-z)) for z of 0 or more."""
    return np.asarray(-spence(1.0 + np.exp(-z)))


def _decision(x: Floats, theta: Floats, intercept: bool) -> Floats:
    """Decision values under `theta` (m, d): (n_rows, m)."""
    lead = int(intercept)
    if len(theta) == 1:  # BLAS is slower over rows as short as these
        f = np.einsum("ij,j->i", x, theta[0, lead:])[:, None]
    else:
        f = x @ np.ascontiguousarray(theta[:, lead:].T)
    if intercept:
        f += theta[:, 0]
    return np.asarray(f)


@dataclass(frozen=True)
class Added:
    """Of a block of rows: sums of loss, loss with its corner and part in the dual, (m,); two
    derivatives in f of each row, (n_rows, m)."""

    loss: Floats
    sharp: Floats
    dual: Floats
    first: Floats
    curvature: Floats


@dataclass(frozen=True)
class Question:
    """What is asked of the rows, for m candidates.

    theta      (m, d), intercept first, raw units without the outcome's
    machine    (m,): class that a candidate tells from the others
    squared    whether losses are squares
    sharpness  (m,): see the module; 0: nothing is rounded off, as only squares allow
    past       (m, d), with `past_sharpness` (m,): the two sums of the steps before
    weight     (m, 2): of rows outside and inside the machine's class
    classes    of the outcome; 0: a number
    epsilon    see the module
    """

    theta: Floats
    machine: NDArray[np.int64]
    squared: bool
    sharpness: Floats
    past: Floats
    past_sharpness: Floats
    weight: Floats
    classes: int
    epsilon: float
    intercept: bool

    def side(self, y: Floats) -> Floats:
        """+1 for rows of the machine's class, -1 for others, (n_rows, m)."""
        return np.where(y[:, None] == self.machine, 1.0, -1.0)

    def rows(self, x: Floats, y: Floats) -> PerRow:
        """What each row of `x` (n_rows, n_columns) adds, without its weight."""
        f = _decision(x, self.theta, self.intercept)
        if self.squared:
            return self._squares(f, y)
        before = _decision(x, self.past, self.intercept)
        if self.classes:
            side = self.side(y)
            return self._round(1.0 - side * f, self.past_sharpness - side * before, -side, 1.0)
        y, e = y[:, None], self.epsilon
        far = self.past_sharpness * y - before
        tube = self.past_sharpness * e
        above = self._round(y - f - e, far - tube, -1.0, y - e)
        below = self._round(f - y - e, -far - tube, 1.0, -y - e)
        return above.plus(below)

    def added(self, x: Floats, y: Floats, weight: Floats | None) -> Added:
        """Sums over a block of rows."""
        if self.squared and self.classes and not self.sharpness.any():
            return self._margins(x, y, weight)
        each = self.rows(x, y).times(self.weights(y, weight))
        loss, sharp, dual = (part.sum(axis=0) for part in (each.loss, each.sharp, each.dual))
        return Added(loss, sharp, dual, each.first, each.curvature)

    def _margins(self, x: Floats, y: Floats, weight: Floats | None) -> Added:
        """`added` for squares of classes with their corner, in fewer passes over the block."""
        side, w = self.side(y), self.weights(y, weight)
        over = _decision(x, self.theta, self.intercept)
        over *= side
        np.subtract(1.0, over, out=over)
        np.maximum(over, 0.0, out=over)
        weighted = over if w is None else over * w
        square = np.einsum("ij,ij->j", weighted, over)
        dual = 2.0 * weighted.sum(axis=0) - square
        curvature: Floats = np.where(over > 0.0, 2.0, 0.0)
        if w is not None:
            curvature *= w
        side *= weighted
        side *= -2.0
        return Added(square, square, dual, side, curvature)

    def _round(self, missed: Floats, logit: Floats, sign: Any, want: Any) -> PerRow:
        """Losses of rows missed by `missed`, of derivative `sign` in f; `logit` is z0."""
        at = logit + self.sharpness * missed
        a = expit(at)
        loss = (_softplus(at) - _softplus(logit)) / self.sharpness
        sharp = np.maximum(missed, 0.0)
        bend = self.sharpness * a * (1.0 - a)
        return PerRow(loss, sharp, a * want, sign * a, bend, bend)

    def _squares(self, f: Floats, y: Floats) -> PerRow:
        if self.classes:
            side: Any = self.side(y)
            return self._square(1.0 - side * f, -side, 1.0)
        y, e = y[:, None], self.epsilon
        return self._square(y - f - e, -1.0, y - e).plus(self._square(f - y - e, 1.0, -y - e))

    def _square(self, missed: Floats, sign: Any, want: Any) -> PerRow:
        """Squared losses; rounded off where the sharpness is not 0."""
        over = np.maximum(missed, 0.0)
        square, some = over * over, over > 0.0
        if not self.sharpness.any():
            first: Floats = 2.0 * over
            curvature: Floats = np.where(some, 2.0, 0.0)
            return PerRow(square, square, first * want - square, sign * first, curvature, curvature)
        at, t = self.sharpness * missed, self.sharpness
        over = _softplus(at) / t
        a: Floats = np.asarray(expit(at))
        dual = 2.0 * over * want - over * over
        loss = square + 2.0 * _dilogarithm(np.abs(at)) * np.where(some, -1.0, 1.0) / t**2
        loss += some * np.pi**2 / (3.0 * t**2)
        return PerRow(loss, square, dual, 2.0 * sign * over, 2.0 * a, 2.0 * t * a * (1.0 - a))

    def weights(self, y: Floats, weight: Floats | None) -> Floats | None:
        """Weights of the rows, (n_rows, m) or (n_rows, 1); None where all are 1."""
        own = None if weight is None else weight[:, None]
        if not self.classes or np.all(self.weight == 1.0):
            return own
        by_class = np.where(self.side(y) > 0, self.weight[:, 1], self.weight[:, 0])
        return by_class if own is None else by_class * own


@dataclass(frozen=True)
class Sums:
    """For m candidates: loss, loss with corners, the dual but for its penalty, (m,) each; gradient
    (m, d); Hessian (m, d, d)."""

    loss: Floats
    sharp: Floats
    dual: Floats
    gradient: Floats
    hessian: Floats

    @property
    def too_large(self) -> NDArray[np.bool_]:
        """Candidates so far off that a sum cannot be held, (m,)."""
        parts = (self.loss, self.sharp, self.dual, self.gradient, self.hessian)
        each = np.hstack([part.reshape(len(self.loss), -1) for part in parts])
        return np.asarray(~(np.abs(each).max(axis=1) < TOO_LARGE))


def sums(rows: Rows, asked: Question, order: int, shift: Floats | None, of_rows: int = 0) -> Sums:
    """Sums up to derivatives of `order` 0, 1 or 2; `rows` may be a sample of `of_rows`."""
    enough = max(len(rows.y), of_rows) >= compiled.LEAST_ROWS
    if enough and _at_once(rows, asked) and there_is_numba():
        return one_pass(rows, asked, order, shift)
    m, d = asked.theta.shape
    lead, w = int(asked.intercept), rows.weight
    loss, sharp, dual = np.zeros(m), np.zeros(m), np.zeros(m)
    gradient = np.zeros((m, d if order >= 1 else 0))
    hessian = np.zeros((m, d, d) if order == 2 else (m, 0, 0))
    for at, x in rows.blocks(shift, BLOCK_ROWS):
        each = asked.added(x, rows.y[at], None if w is None else w[at])
        loss += each.loss
        sharp += each.sharp
        dual += each.dual
        if order >= 1:
            gradient[:, lead:] += each.first.T @ x
            if lead:
                gradient[:, 0] += each.first.sum(axis=0)
        for k in range(m if order == 2 else 0):
            hessian[k] += _products(x, each.curvature[:, k], lead)
    return Sums(loss, sharp, dual, gradient, hessian)


def _products(x: Floats, curvature: Floats, lead: int) -> Floats:
    """Weighted products of the columns, the intercept first."""
    some = curvature > 0.0
    root = np.sqrt(curvature[some])
    z = x[some]
    z *= root[:, None]
    out = np.empty((z.shape[1] + lead,) * 2)
    out[lead:, lead:] = z.T @ z
    if lead:
        out[0, 0] = root @ root
        out[0, 1:] = out[1:, 0] = root @ z
    return out


def _at_once(rows: Rows, asked: Question) -> bool:
    """Whether the sums are among those that are compiled."""
    one = asked.classes > 0 and len(asked.theta) == 1
    known = one and asked.squared != bool(asked.sharpness.any())
    return known and rows.x.flags.c_contiguous


def one_pass(rows: Rows, asked: Question, order: int, shift: Floats | None) -> Sums:
    """`sums` of one machine of classes, without rounded squares, by compiled code."""
    lead, p = int(asked.intercept), rows.x.shape[1]
    theta, past = (np.append(np.zeros(1 - lead), one[0]) for one in (asked.theta, asked.past))
    off = np.zeros(p) if shift is None else shift
    own = np.zeros(0) if rows.weight is None else rows.weight
    first, bend = np.zeros(p + 1), np.zeros(len(rows.y) if order == 2 else 0)
    given = (rows.x, rows.y, own, asked.weight[0], float(asked.machine[0]), theta)
    if asked.squared:
        loss, missed = compiled.squares(*given, off, first, bend)
        sharp, dual = loss, 2.0 * missed - loss
    else:
        sharpness = np.append(asked.past_sharpness, asked.sharpness)
        loss, sharp, dual = compiled.rounded(*given, past, sharpness, off, first, bend)
    hessian = np.zeros((1, 0, 0))
    if order == 2:
        hessian = compiled.products(rows.x, off, bend, lead)[None]
    gradient = first[None, 1 - lead :] if order >= 1 else np.zeros((1, 0))
    return Sums(np.array([loss]), np.array([sharp]), np.array([dual]), gradient, hessian)
