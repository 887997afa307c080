"""The nearest of some centres, and sums by them; ties go to the first, however rows are cut.

Over many rows they are compiled where numba is installed: the same but for rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import CHUNK_ROWS
from polyclinic.models.trees.kernels import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BLOCK_ROWS = 4096  # of 30 columns, they and what is made of them stay in a core's cache
CLOSE = 1e-9  # of the squared sizes: two distances as near as this are compared exactly
LEAST_ROWS = CHUNK_ROWS  # of a call: fewer are not worth the compiler's second


class Scaled(NamedTuple):
    """Rows `x` (n_rows, n_terms) as (x - centre) / scale, made block by block."""

    x: Floats
    centre: Floats
    scale: Floats

    @staticmethod
    def of(x: Floats) -> Scaled:
        """Rows as they are."""
        return Scaled(x, np.zeros(x.shape[1]), np.ones(x.shape[1]))

    @property
    def rows(self) -> int:
        return len(self.x)

    def block(self, at: slice = np.s_[:]) -> Floats:
        """Some of the rows, scaled."""
        z = self.x[at] - self.centre
        z /= self.scale
        return z

    def given(self) -> tuple[Any, ...]:
        """As compiled passes take them."""
        return (*self, bool(np.any(self.scale != 1.0)))


def fast(n_rows: int) -> bool:
    """Whether a pass over so many rows is compiled."""
    return n_rows >= LEAST_ROWS and compiled()


def nearest(rows: Scaled, centres: Floats, quick: bool | None = None) -> Ints:
    """Number of the nearest of `centres` (k, n_terms), (n_rows,)."""
    out = np.zeros(rows.rows, dtype=np.int64)
    if len(centres) < 2:
        return out
    squares = np.einsum("ij,ij->i", centres, centres)
    if fast(rows.rows) if quick is None else quick:
        from polyclinic.models.simple import loops

        loops.nearest(*rows.given(), centres, squares, CLOSE, out)
        return out
    for at in _blocks(rows.rows):
        block = rows.block(at)
        score = -2.0 * centres @ block.T
        score += squares[:, None]
        size = np.einsum("ij,ij->i", block, block) + squares.max()
        close = score <= score.min(axis=0) + CLOSE * size
        label = close.argmax(axis=0)
        for i in np.flatnonzero(np.count_nonzero(close, axis=0) > 1):
            label[i] = np.square(centres - block[i]).sum(axis=1).argmin()
        out[at] = label
    return out


class Added(NamedTuple):
    """By label: rows and weights (k,), weighted sums (k, n_terms); and the weighted squared
    distances of the rows from the centres of their labels, summed."""

    n: Ints
    weight: Floats
    x: Floats
    spread: float


def added(
    rows: Scaled, weight: Floats, label: Ints, centres: Floats, quick: bool | None = None
) -> Added:
    """Sums of rows by label; of those below 0 none."""
    k, p = centres.shape
    n, total, sums, spread = np.zeros(k, np.int64), np.zeros(k), np.zeros((k, p)), 0.0
    if fast(rows.rows) if quick is None else quick:
        from polyclinic.models.simple import loops

        spread = loops.added(*rows.given(), weight, label, centres, n, total, sums)
        return Added(n, total, sums, spread)
    names = np.arange(k)[:, None]
    for at in _blocks(rows.rows):
        block, own = rows.block(at), label[at]
        mine = (own == names) * weight[at]
        n += np.count_nonzero(own == names, axis=1)
        total += mine.sum(axis=1)
        sums += mine @ block
        d = block - centres[own]
        spread += float((weight[at] * (own >= 0)) @ np.einsum("ij,ij->i", d, d))
    return Added(n, total, sums, spread)


def closer(x: Floats, tried: Floats, distance: Floats, quick: bool) -> Floats:
    """The smaller of each row's `distance`, squared, and that from each of `tried` (m, n_terms);
    (m, n_rows)."""
    if quick:
        from polyclinic.models.simple import loops

        out = np.empty((len(tried), len(x)))
        loops.closer(x, tried, distance, out)
        return out
    return np.asarray(np.minimum(distance, np.square(x - tried[:, None]).sum(axis=2)))


def _blocks(n_rows: int) -> list[slice]:
    return [slice(a, min(a + BLOCK_ROWS, n_rows)) for a in range(0, n_rows, BLOCK_ROWS)]
