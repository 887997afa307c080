"""The nearest of some centres; ties go to the first, however rows are cut into blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLOCK_ROWS = 16_384
CLOSE = 1e-9  # of the squared sizes: two distances as near as this are compared exactly


def nearest(x: Floats, centres: Floats) -> NDArray[np.int64]:
    """Number of the nearest centre of rows `x` (n_rows, n_terms), (n_rows,)."""
    out = np.zeros(len(x), dtype=np.int64)
    if len(centres) < 2:
        return out
    squares = np.einsum("ij,ij->i", centres, centres)
    for start in range(0, len(x), BLOCK_ROWS):
        block = x[start : start + BLOCK_ROWS]
        score = squares - 2.0 * (block @ centres.T)
        label, rows = score.argmin(axis=1), np.arange(len(block))
        best = score[rows, label]
        score[rows, label] = np.inf
        size = np.einsum("ij,ij->i", block, block) + squares.max()
        for i in np.flatnonzero(score.min(axis=1) - best <= CLOSE * size):
            label[i] = np.square(centres - block[i]).sum(axis=1).argmin()
        out[start : start + BLOCK_ROWS] = label
    return out


def spread(x: Floats, weight: Floats, label: NDArray[np.int64], centres: Floats) -> float:
    """Weighted squared distances from each row's own centre, summed."""
    d = x - centres[label]
    return float(weight @ np.einsum("ij,ij->i", d, d))


def sums(x: Floats, weight: Floats, label: NDArray[np.int64], size: int) -> Floats:
    """Weighted sums of rows by label, (size, n_terms)."""
    out = np.zeros((size, x.shape[1]))
    for k in range(size):
        inside = label == k
        out[k] = weight[inside] @ x[inside]
    return out
