"""Which columns of a model matrix say something that the columns before them do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TOLERANCE = 1e-10  # share of a column's sum of squares that is left beside the others


def independent_columns(gram: Floats) -> NDArray[np.bool_]:
    """Mask of columns kept by elimination in their order (Cholesky without pivoting).

    A column is dropped when the columns before it explain all but 1e-10 of its sum of squares.
    """
    left = gram.copy()
    size = np.diag(gram).copy()
    keep = np.zeros(len(gram), dtype=bool)
    for j in range(len(gram)):
        pivot = left[j, j]
        keep[j] = size[j] > 0 and pivot > TOLERANCE * size[j]
        if keep[j]:
            row = left[j].copy()
            left -= np.outer(row, row) / pivot
    return keep


def combination(gram: Floats, keep: NDArray[np.bool_], column: int) -> Floats:
    """Coefficients by which the kept columns before `column` make it up, (n_columns,)."""
    before = keep & (np.arange(len(gram)) < column)
    found = np.zeros(len(gram))
    if gram[column, column] > 0 and before.any():
        part = gram[np.ix_(before, before)]
        found[before] = np.linalg.lstsq(part, gram[before, column], rcond=1e-12)[0]
    return found
