"""Which rows, and which patients, stand behind the cells of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def values(partition: Partition, name: str) -> Floats:
    """The column's values, (n_rows,). Raises BAD_DATA for an absent column."""
    if name not in partition.columns:
        raise PolyclinicError(
            f"{partition.site} has no column {name}",
            code="BAD_DATA",
            rule="every site holds every column of the plan",
        )
    return partition.columns[name]


def levels(partition: Partition, coded: Mapping[str, Any]) -> Ints:
    """The level index per row, -1 where missing. Raises BAD_DATA for an index out of range."""
    raw = values(partition, coded["name"])
    known = ~np.isnan(raw)
    found = np.where(known, raw, -1.0).astype(np.int64)
    if np.any(known & ((found != raw) | (found < 0) | (found >= coded["levels"]))):
        raise PolyclinicError(
            f"column {coded['name']} holds a level that the plan does not know",
            code="BAD_DATA",
            rule="levels come from the codebook only",
        )
    return found


def groups(partition: Partition, by: Mapping[str, Any] | None) -> list[Mask]:
    """Row masks: all rows first, then the rows of each level of `by`."""
    everyone = np.ones(partition.n_rows, dtype=bool)
    if by is None:
        return [everyone]
    index = levels(partition, by)
    return [everyone, *(index == level for level in range(by["levels"]))]


def n_groups(by: Mapping[str, Any] | None) -> int:
    """Number of masks that `groups` returns."""
    return 1 if by is None else 1 + int(by["levels"])


def count_rows(cell: Ints, size: int) -> Ints:
    """Rows per cell, (size,); `cell` holds the cell's number per row, -1 for none."""
    return np.bincount(cell[cell >= 0], minlength=size).astype(np.int64)


def count_patients(partition: Partition, cell: Ints, size: int) -> Ints:
    """Patients per cell, (size,): a patient with several rows in a cell counts once in it."""
    if partition.key is None:
        return count_rows(cell, size)
    inside = cell >= 0
    _, ordinal = np.unique(partition.key[inside], return_inverse=True)
    pairs = np.unique(ordinal.astype(np.int64) * size + cell[inside])
    return count_rows(pairs % size, size)
