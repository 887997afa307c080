"""Bins of a hospital's node put together until each has enough patients.

Bins next to each other are joined, and the patients of all of them are counted at the bin that has
the most. So every cell has none or at least `least` patients, none or two of whom make up nearly all
of it, and the cells of each line add up to the same node: nothing is hidden that totals could show.

A split then moves whole cells: rows go where the bin goes that they were counted at. So a node is a
union of cells of its parent, and has none or enough patients itself.

The lines of two children are joined alike, from the cells of their parent. A cell's patients that go
to either side are known beside the parent's cells only together: of the parent's cells in it, either
each goes to one side as a whole, or at least `least` patients would be left over whatever parent's
cells are taken off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.kernels import Bins, compiled

Ints = NDArray[np.int64]
TWO, REST = 9, 10  # of ten parts two patients hold nine at most; the others a tenth of the largest


@dataclass(frozen=True)
class Lines:
    """Patients per bin of each line of a node, and how they share in its sums of magnitudes.

    count (n_lines, n_bins); total, first, second (n_lines, n_bins, n_lanes)
    """

    count: Ints
    total: Ints
    first: Ints
    second: Ints

    def at(self, where: Ints) -> Lines:
        """With each bin's patients counted at bin `where` (n_lines, n_bins)."""
        n_lines, n_bins = where.shape
        to = (where + n_bins * np.arange(n_lines)[:, None]).ravel()
        count, total, first, second = (np.zeros_like(part) for part in vars(self).values())
        size, lanes = n_lines * n_bins, total.shape[2]
        np.add.at(count.reshape(size), to, self.count.ravel())
        np.add.at(total.reshape(size, lanes), to, self.total.reshape(size, lanes))
        mine, most = self.first.reshape(size, lanes), first.reshape(size, lanes)
        np.maximum.at(most, to, mine)
        top, rest = mine == most[to], second.reshape(size, lanes)
        np.maximum.at(rest, to, np.where(top, self.second.reshape(size, lanes), mine))
        several = np.zeros_like(most)
        np.add.at(several, to, top)
        rest[several > 1] = most[several > 1]
        return Lines(count, total, first, second)


def lines_of(bins: Bins, parts: Ints, n_bins: int, fast: bool | None = None) -> Lines:
    """Of patients with bins (n_patients, n_lines) and parts of sums (n_patients, n_lanes)."""
    shape = (bins.shape[1], n_bins)
    found = Lines(
        np.zeros(shape, np.int64),
        *(np.zeros((*shape, parts.shape[1]), np.int64) for _ in range(3)),
    )
    if compiled() if fast is None else fast:
        _jit(_share)(bins, parts, found.count, found.total, found.first, found.second)
        return found
    for line in range(bins.shape[1]):
        place = bins[:, line].astype(np.int64)
        found.count[line] = np.bincount(place, minlength=n_bins)
        for lane in range(parts.shape[1]):
            order = np.lexsort((-parts[:, lane], place))
            at, values = place[order], parts[order, lane]
            starts = np.flatnonzero(np.diff(at, prepend=-1))
            if len(starts):
                found.total[line, at[starts], lane] = np.add.reduceat(values, starts)
            found.first[line, at[starts], lane] = values[starts]
            more = starts + 1
            more = more[(more < len(at)) & ~np.isin(more, starts)]
            found.second[line, at[more], lane] = values[more]
    return found


def joined(sides: list[Lines], before: Ints | None, least: int, fast: bool | None = None) -> Ints:
    """At which bin each bin's patients are counted, (n_lines, n_bins).

    sides   the node, or two siblings
    before  the same of their parent; None: of a root, each at its own
    """
    n_lines, n_bins = sides[0].count.shape
    out = np.tile(np.arange(n_bins), (n_lines, 1))
    if least <= 1:
        return out
    known = out.copy() if before is None else before
    stacked = [np.stack([getattr(side, name) for side in sides]) for name in vars(sides[0])]
    run = _jit(_join) if (compiled() if fast is None else fast) else _join
    run(*stacked, known, before is not None, least, out)
    return out


@cache
def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    import numba

    found: Callable[..., Any] = numba.njit(nogil=True, cache=True)(function)
    return found


def _share(bins: Any, parts: Any, count: Any, total: Any, first: Any, second: Any) -> None:
    for i in range(len(bins)):
        for line in range(bins.shape[1]):
            b = bins[i, line]
            count[line, b] += 1
            for lane in range(parts.shape[1]):
                value = parts[i, lane]
                total[line, b, lane] += value
                if value > first[line, b, lane]:
                    second[line, b, lane] = first[line, b, lane]
                    first[line, b, lane] = value
                elif value > second[line, b, lane]:
                    second[line, b, lane] = value


def _join(
    count: Any, total: Any, first: Any, second: Any, before: Any, mixed: Any, least: Any, out: Any
) -> None:
    """Close a group of runs of `before` as soon as it may stand alone; see `joined`."""
    n_sides, n_lines, n_bins = count.shape
    n_lanes = total.shape[3]
    starts = np.zeros(n_bins + 1, np.int64)
    for line in range(n_lines):
        groups, start, b = 0, 0, 0
        while b < n_bins:
            b += 1
            while b < n_bins and before[line, b] == before[line, b - 1]:
                b += 1
            open_from = start
            good = False
            while True:  # the group from open_from to b; at the end of the line with the ones before
                good = True
                mix, run_left, run_right = 0, 0, 0
                for side in range(n_sides):
                    patients = 0
                    for k in range(open_from, b):
                        patients += count[side, line, k]
                    if 0 < patients < least:
                        good = False
                    for lane in range(n_lanes):
                        whole, top, next_ = 0, 0, 0
                        for k in range(open_from, b):
                            whole += total[side, line, k, lane]
                            one, two = first[side, line, k, lane], second[side, line, k, lane]
                            next_ = max(min(top, one), max(next_, two))
                            top = max(top, one)
                        if top > 0 and (
                            10 * (top + next_) > 9 * whole or 10 * (whole - top - next_) < top
                        ):
                            good = False
                if mixed and n_sides == 2:
                    for k in range(open_from, b):
                        run_left += count[0, line, k]
                        run_right += count[1, line, k]
                        if k + 1 == b or before[line, k + 1] != before[line, k]:
                            mix += min(run_left, run_right)
                            run_left, run_right = 0, 0
                    if 0 < mix < least:
                        good = False
                if good or b < n_bins or open_from == 0:
                    break
                groups -= 1
                open_from = starts[groups]
            if good or b == n_bins:
                starts[groups] = open_from
                groups += 1
                start = b
        starts[groups] = n_bins
        for group in range(groups):
            most, at = -1, starts[group]
            for k in range(starts[group], starts[group + 1]):
                patients = 0
                for side in range(n_sides):
                    patients += count[side, line, k]
                if patients > most and before[line, k] == k:
                    most, at = patients, k
            for k in range(starts[group], starts[group + 1]):
                out[line, k] = at
