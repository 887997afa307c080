"""Secondary suppression: a hidden cell must not be what is left of a known total."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def cover(
    behind: NDArray[np.int64], hidden: NDArray[np.bool_], axes: Sequence[str], minimum: int
) -> NDArray[np.bool_]:
    """More hidden cells, until in every line none are, or two or more with enough patients.

    Parameters
    ----------
    behind : patients per cell; hidden : the cells that are too small; both of the leaf's shape.
    axes : the leaf's `closed`.
    minimum : patients that must stand behind the hidden cells of a line together.
    """
    hidden = hidden.copy()
    before = -1
    while (now := int(np.count_nonzero(hidden))) != before:
        before = now
        for axis in axes:
            place = -1 if axis == "last" else 0
            counts = np.moveaxis(behind, place, -1)
            marks = np.moveaxis(hidden, place, -1)
            for at in np.ndindex(counts.shape[:-1]):
                _cover(counts[at], marks[at], axis, minimum)
    return hidden


def _cover(counts: NDArray[np.int64], mark: NDArray[np.bool_], axis: str, minimum: int) -> None:
    """Cover one line; along "groups" what is in no group is one more cell, which is never shown."""
    if axis != "groups":
        _cover_line(counts, mark, minimum)
        return
    rest = max(int(counts[0] - counts[1:].sum()), 0)
    whole = np.append(counts[1:], rest)
    marks = np.append(mark[1:], 0 < rest < minimum)
    _cover_line(whole, marks, minimum)
    mark[1:] = marks[:-1]


def _cover_line(counts: NDArray[np.int64], mark: NDArray[np.bool_], minimum: int) -> None:
    while True:
        number = np.count_nonzero(mark & (counts > 0))
        enough = number != 1 and counts[mark].sum() >= minimum
        shown = np.flatnonzero((counts > 0) & ~mark)
        if number == 0 or enough or not len(shown):
            return
        mark[shown[np.argmin(counts[shown])]] = True
