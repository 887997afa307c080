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

Floats = NDArray[np.float64]
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
def jit(function: Callable[..., Any], freely: frozenset[str] = frozenset()) -> Callable[..., Any]:
    """The compiled function, kept on disk where there is a folder to write to; `freely`: what the
    compiler may do with floating-point numbers."""
    import numba

    made: dict[str, Any] = {"nogil": True, "fastmath": set(freely) or False}
    made["error_model"] = "numpy"  # no exception for a division by 0, so no branch
    found: Callable[..., Any]
    try:
        found = numba.njit(cache=True, **made)(function)
    except RuntimeError:  # a service may have no folder of its own
        found = numba.njit(**made)(function)
    return found


def to_lanes(
    first: Floats,
    second: Floats,
    weight: Floats,
    scales: tuple[float, float],
    out: Ints,
    fast: bool | None = None,
) -> None:
    """Rounded derivatives of the rows, in the lanes of `out`, (n_rows, width + 1), and one row.

    first (n_rows, width); second, weight (n_rows,); scales: of the two.
    """
    most = float(1 << GRADIENT_BITS), float(1 << HESSIAN_BITS)
    if compiled() if fast is None else fast:
        from polyclinic.models.trees import loops

        loops.to_lanes(first, second, weight, scales, most, out)
        return
    scaled = np.clip(first * (weight * scales[0])[:, None], -most[0], most[0])
    out[:, :-1] = np.rint(scaled, out=scaled)
    out[:, -1] = np.rint(np.clip(second * (weight * scales[1]), 0.0, most[1]))
    out[:, -1] += 1 << COUNT


def add_lines(
    bins: Bins, order: Order, lanes: Ints, columns: Ints, out: Ints, fast: bool | None = None
) -> None:
    """Add the rows `order` of one node into its lines.

    bins (n_rows, n_features); lanes (n_rows, n_lanes); columns: features of the lines, ascending;
    out (n_lines, n_bins, n_lanes), changed in place. At most MOST_ROWS rows.
    """
    if compiled() if fast is None else fast:
        from polyclinic.models.trees import loops

        loops.add_lines(bins, order, lanes, columns, out)
        return
    values = lanes[order]
    for j, column in enumerate(columns):
        place = bins[order, column].astype(np.int64)
        for lane in range(lanes.shape[1]):
            out[j, :, lane] += _sums(place, values[:, lane], out.shape[1])


def add_nodes(
    bins: Bins,
    order: Order,
    ranges: tuple[Ints, Ints],
    lanes: Ints,
    columns: Ints,
    at: Ints,
    out: tuple[Ints, Ints, Ints],
    fast: bool | None = None,
) -> None:
    """Add the rows of some nodes of a tree into their histograms.

    ranges: where the rows of node `at[k]` begin and stop in `order`; columns (n_nodes, n_lines);
    out: first derivatives (n_nodes, n_lines, n_bins, width), second ones, rows, changed in place.
    """
    if compiled() if fast is None else fast:
        from polyclinic.models.trees import loops

        loops.add_nodes(bins, order, *ranges, lanes, columns, at, *out)
        return
    g, h, n = out
    for node, begin, stop in zip(at, *ranges, strict=True):
        for start in range(begin, stop, MOST_ROWS):
            packed = np.zeros((*h.shape[1:], lanes.shape[1]), np.int64)
            part = order[start : min(start + MOST_ROWS, stop)]
            add_lines(bins, part, lanes, columns[node], packed, False)
            g[node] += packed[..., :-1]
            h[node] += packed[..., -1] & ((1 << COUNT) - 1)
            n[node] += packed[..., -1] >> COUNT


def _sums(place: Ints, values: Ints, size: int) -> Ints:
    """Exact sums of whole numbers by place: bincount adds in floating point, so by halves."""
    high, low = values >> 24, values & 0xFFFFFF
    halves = [np.bincount(place, half, size).astype(np.int64) for half in (high, low)]
    total: Ints = (halves[0] << 24) + halves[1]
    return total


def divide(column: Bins, order: Order, left: NDArray[np.bool_], fast: bool | None = None) -> int:
    """Sort the rows `order` of a node by child, in place and stably; the number that go left.

    column (n_rows,): the bins of the feature; left (n_bins,): which of them go left.
    """
    if compiled() if fast is None else fast:
        from polyclinic.models.trees import loops

        return int(loops.divide(column, order, left, np.empty_like(order)))
    mask = left[column[order]]
    order[:] = np.concatenate([order[mask], order[~mask]])
    return int(np.count_nonzero(mask))


def add_values(
    margin: Floats,
    order: Order,
    ranges: tuple[Ints, Ints],
    values: Floats,
    fast: bool | None = None,
) -> None:
    """Add each leaf's value to the margins of its rows, (n_rows, width); ranges as `add_nodes`."""
    if compiled() if fast is None else fast:
        from polyclinic.models.trees import loops

        loops.add_values(margin, order, *ranges, values)
        return
    for begin, stop, value in zip(*ranges, values, strict=True):
        margin[order[begin:stop]] += value
