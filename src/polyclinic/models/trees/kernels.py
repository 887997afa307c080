"""Sums over rows by bin, compiled where numba is installed; the same bits without it.

All numbers are whole, so the order of additions changes nothing. A lane holds the sum of one
derivative; the last lane holds second derivatives below bit `COUNT` and rows from it on, so that
one addition counts and sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bins = NDArray[np.uint8] | NDArray[np.uint16]
Order = NDArray[np.int32]

GRADIENT_BITS, HESSIAN_BITS = 34, 29
COUNT = 46
MOST_ROWS = 1 << (COUNT - HESSIAN_BITS - 1)  # rows of one call: more could run into the count


@cache
def compiled() -> bool:
    """Whether numba is here."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function, kept on disk where there is a folder to write to."""
    import numba

    found: Callable[..., Any]
    try:
        found = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # a service may have no folder of its own
        found = numba.njit(nogil=True)(function)
    return found


def add_lines(
    bins: Bins, order: Order, lanes: Ints, columns: Ints, out: Ints, fast: bool | None = None
) -> None:
    """Add the rows `order` of one node into its lines.

    bins (n_rows, n_features); lanes (n_rows, n_lanes); columns: features of the lines, (n_lines,);
    out (n_lines, n_bins, n_lanes), changed in place. At most MOST_ROWS rows.
    """
    if compiled() if fast is None else fast:
        jit(_add_two if lanes.shape[1] == 2 else _add_many)(bins, order, lanes, columns, out)
        return
    values = lanes[order]
    for j, column in enumerate(columns):
        place = bins[order, column].astype(np.int64)
        for lane in range(lanes.shape[1]):
            out[j, :, lane] += _sums(place, values[:, lane], out.shape[1])


def _sums(place: Ints, values: Ints, size: int) -> Ints:
    """Exact sums of whole numbers by place: bincount adds in floating point, so by halves."""
    high, low = values >> 24, values & 0xFFFFFF
    halves = [np.bincount(place, half, size).astype(np.int64) for half in (high, low)]
    total: Ints = (halves[0] << 24) + halves[1]
    return total


def _add_two(bins: Any, order: Any, lanes: Any, columns: Any, out: Any) -> int:
    """Two lanes. A block's rows are touched first, so that memory answers for many at once;
    unsigned places need no check for negative ones."""
    zero, one, width = np.uint64(0), np.uint64(1), np.uint64(bins.shape[1])
    table, flat, at = bins.reshape(-1), out.reshape(-1), columns.astype(np.uint64)
    n_lines, size = np.uint64(len(columns)), np.uint64(2 * out.shape[1])
    straight = n_lines == width  # all columns, in their order
    seen = 0
    for start in range(0, len(order), 64):
        stop = min(start + 64, len(order))
        for i in range(start, stop):
            row = np.uint64(order[i])
            seen ^= lanes[row, zero] ^ np.int64(table[row * width])
            seen ^= np.int64(table[row * width + width - one])
        for i in range(start, stop):
            row = np.uint64(order[i])
            first, second = lanes[row, zero], lanes[row, one]
            base, line = row * width, zero
            if straight:
                for j in range(n_lines):
                    place = line + (np.uint64(table[base + j]) << one)
                    flat[place] += first
                    flat[place + one] += second
                    line += size
                continue
            for j in range(n_lines):
                place = line + (np.uint64(table[base + at[j]]) << one)
                flat[place] += first
                flat[place + one] += second
                line += size
    return seen


def _add_many(bins: Any, order: Any, lanes: Any, columns: Any, out: Any) -> None:
    n_lines, n_lanes = len(columns), lanes.shape[1]
    for i in range(len(order)):
        row = order[i]
        for j in range(n_lines):
            b = bins[row, columns[j]]
            for lane in range(n_lanes):
                out[j, b, lane] += lanes[row, lane]


def divide(column: Bins, order: Order, left: NDArray[np.bool_], fast: bool | None = None) -> int:
    """Sort the rows `order` of a node by child, in place and stably; the number that go left.

    column (n_rows,): the bins of the feature; left (n_bins,): which of them go left.
    """
    if compiled() if fast is None else fast:
        return int(jit(_divide)(column, order, left, np.empty_like(order)))
    mask = left[column[order]]
    order[:] = np.concatenate([order[mask], order[~mask]])
    return int(np.count_nonzero(mask))


def _divide(column: Any, order: Any, left: Any, buffer: Any) -> int:
    n_left, n_right = 0, 0
    for i in range(len(order)):
        row = order[i]
        if left[column[row]]:
            order[n_left] = row
            n_left += 1
        else:
            buffer[n_right] = row
            n_right += 1
    for i in range(n_right):
        order[n_left + i] = buffer[i]
    return n_left
