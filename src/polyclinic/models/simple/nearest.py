"""The nearest of some centres; ties go to the first, however rows are cut into blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLOCK_ROWS = 4096  # of 30 columns, they and what is made of them stay in a core's cache
CLOSE = 1e-9  # of the squared sizes: two distances as near as this are compared exactly


def nearest(x: Floats, centres: Floats) -> NDArray[np.int64]:
    """Number of the nearest centre of rows `x` (n_rows, n_terms), (n_rows,)."""
    out = np.zeros(len(x), dtype=np.int64)
    if len(centres) < 2:
        return out
    squares = np.einsum("ij,ij->i", centres, centres)
    for at in _blocks(len(x)):
        block = x[at]
        score = -2.0 * centres @ block.T
        score += squares[:, None]
        size = np.einsum("ij,ij->i", block, block) + squares.max()
        close = score <= score.min(axis=0) + CLOSE * size
        label = close.argmax(axis=0)
        for i in np.flatnonzero(np.count_nonzero(close, axis=0) > 1):
            label[i] = np.square(centres - block[i]).sum(axis=1).argmin()
        out[at] = label
    return out


def spread(x: Floats, weight: Floats, label: NDArray[np.int64], centres: Floats) -> float:
    """Weighted squared distances from each row's own centre, summed."""
    total = 0.0
    for at in _blocks(len(x)):
        d = x[at] - centres[label[at]]
        total += float(weight[at] @ np.einsum("ij,ij->i", d, d))
    return total


def sums(x: Floats, weight: Floats, label: NDArray[np.int64], size: int) -> Floats:
    """Weighted sums of rows by label, (size, n_terms); of rows below 0 none."""
    out, names = np.zeros((size, x.shape[1])), np.arange(size)[:, None]
    for at in _blocks(len(x)):
        out += ((label[at] == names) * weight[at]) @ x[at]
    return out


def _blocks(n_rows: int) -> list[slice]:
    return [slice(a, a + BLOCK_ROWS) for a in range(0, n_rows, BLOCK_ROWS)]
