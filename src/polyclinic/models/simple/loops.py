"""The compiled passes over rows. Imported where numba is installed only; see nearest.py.

A row is scaled, z = (x - centre) / scale, where it is looked at. Rows are added in short runs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from polyclinic.models.trees.kernels import jit

RUN = 256  # rows that are added before they are added to the others
_pass = partial(jit, freely=frozenset({"reassoc", "contract"}))  # what is not finite stays so


@_pass
def _scaled(row: Any, centre: Any, scale: Any, divided: Any, z: Any) -> None:
    for j in range(len(z)):
        z[j] = row[j] - centre[j]
    if divided:
        for j in range(len(z)):
            z[j] = z[j] / scale[j]


@_pass
def _square(z: Any, centre: Any) -> Any:
    found = 0.0
    for j in range(len(z)):
        found += (z[j] - centre[j]) * (z[j] - centre[j])
    return found


@_pass
def _nearest_of(z: Any, centres: Any, score: Any, bound: Any) -> Any:
    """Of the centres whose score is within the bound, by their distances as they are."""
    least, at = np.inf, 0
    for q in range(len(centres)):
        if score[q] <= bound:
            far = _square(z, centres[q])
            if far < least:
                least, at = far, q
    return at


@_pass
def nearest(
    x: Any, centre: Any, scale: Any, divided: Any, centres: Any, squares: Any, close: Any, out: Any
) -> None:
    """See `nearest.nearest`."""
    n, p = x.shape
    k, largest = len(centres), squares.max()
    z, score = np.empty(p), np.empty(k)
    for i in range(n):
        _scaled(x[i], centre, scale, divided, z)
        size, best = largest, np.inf
        for j in range(p):
            size += z[j] * z[j]
        for q in range(k):
            s = 0.0
            for j in range(p):
                s += z[j] * centres[q, j]
            s = squares[q] - 2.0 * s
            score[q] = s
            best = min(best, s)
        bound, near, at = best + close * size, 0, 0
        for q in range(k):
            if score[q] <= bound:
                near += 1
                at = q
        out[i] = at if near == 1 else _nearest_of(z, centres, score, bound)


@_pass
def added(
    x: Any, centre: Any, scale: Any, divided: Any, weight: Any, label: Any, centres: Any,
    n: Any, total: Any, sums: Any,
) -> Any:  # fmt: skip
    """See `nearest.added`."""
    k, p = centres.shape
    z, part, run = np.empty(p), np.zeros((k, p)), np.zeros(k)
    far = 0.0
    for start in range(0, len(x), RUN):
        part[:] = 0.0
        run[:] = 0.0
        run_far = 0.0
        for i in range(start, min(start + RUN, len(x))):
            q, w = label[i], weight[i]
            if q < 0:
                continue
            _scaled(x[i], centre, scale, divided, z)
            for j in range(p):
                part[q, j] += w * z[j]
            run_far += w * _square(z, centres[q])
            run[q] += w
            n[q] += 1
        far += run_far
        for q in range(k):
            total[q] += run[q]
            for j in range(p):
                sums[q, j] += part[q, j]
    return far


@_pass
def walked(
    x: Any, centre: Any, scale: Any, divided: Any, axes: Any, place: Any, axis: Any, at: Any,
    out: Any,
) -> None:  # fmt: skip
    """See `kmeans_tasks.nodes_of`; place: of each node among the splits, -1: it is whole."""
    n, p = x.shape
    z = np.empty(p)
    for i in range(n):
        _scaled(x[i], centre, scale, divided, z)
        node = 1
        while node < len(place) and place[node] >= 0:
            split = place[node]
            along, s = axis[split], 0.0
            for j in range(p):
                s += z[j] * axes[along, j]
            node = 2 * node + (1 if s > at[split] else 0)
        out[i] = node


@_pass
def closer(x: Any, tried: Any, distance: Any, out: Any) -> None:
    """See `nearest.closer`."""
    for t in range(len(tried)):
        for i in range(len(x)):
            out[t, i] = min(_square(x[i], tried[t]), distance[i])
