"""Bins of a hospital's node put together until each has enough patients.

Bins next to each other are joined, and the patients of all of them are counted at the bin that has
the most. So every cell has none or at least `least` patients, of whom no two hold more than nine
tenths of a sum or leave less than a tenth of the largest to the others; and the cells of each line
add up to the same node: nothing is hidden that totals could show.

A split then moves whole cells: rows go where the bin goes that they are counted at. So a node is a
union of cells of its parent, and has none or enough patients itself.

The lines of two children are joined alike, from the cells of their parent, so that these less one
child's show no few patients of the other's: of the parent's cells in a cell, either each goes to
one side as a whole, or at least `least` patients are left over whatever parent's cells are taken
off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.kernels import Bins, compiled, jit

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Lines:
    """Patients per bin of each line of a node, and how they share in its sums of magnitudes.

    rows, count  rows and patients, (n_lines, n_bins)
    once         patients, each at one of the bins that they have rows in: those of several bins
                 together are no fewer than these added up
    total, first, second  of patients' parts, (n_lines, n_bins, n_lanes)
    most         the largest part of a patient in all bins together where patients have several
                 rows, (n_lanes,); empty: each has one
    """

    rows: Ints
    count: Ints
    once: Ints
    total: Ints
    first: Ints
    second: Ints
    most: Ints

    def __add__(self, other: Lines) -> Lines:
        """Of both, who are different patients."""
        return Lines(
            self.rows + other.rows,
            self.count + other.count,
            self.once + other.once,
            self.total + other.total,
            np.maximum(self.first, other.first),
            np.maximum(np.minimum(self.first, other.first), np.maximum(self.second, other.second)),
            np.maximum(self.most, other.most),
        )

    def at(self, where: Ints) -> Lines:
        """Of patients with one row each, with each bin's counted at bin `where`."""
        n_lines, n_bins = where.shape
        to = (where + n_bins * np.arange(n_lines)[:, None]).ravel()
        count, total, first, second = (
            np.zeros_like(part) for part in (self.count, self.total, self.first, self.second)
        )
        size, lanes = n_lines * n_bins, total.shape[2]
        np.add.at(count.reshape(size), to, self.count.ravel())
        np.add.at(total.reshape(size, lanes), to, self.total.reshape(size, lanes))
        mine, top = self.first.reshape(size, lanes), first.reshape(size, lanes)
        np.maximum.at(top, to, mine)
        is_top, rest = mine == top[to], second.reshape(size, lanes)
        np.maximum.at(rest, to, np.where(is_top, self.second.reshape(size, lanes), mine))
        several = np.zeros_like(top)
        np.add.at(several, to, is_top)
        rest[several > 1] = top[several > 1]
        return Lines(count, count, count, total, first, second, self.most)


def lines_of(
    bins: Bins, parts: Ints, n_bins: int, patient: Ints | None = None, fast: bool | None = None
) -> Lines:
    """Of rows with bins (n_rows, n_lines) and parts of sums (n_rows, n_lanes), 0 or more.

    patient  of each row, ascending; None: each row is a patient
    """
    if patient is not None:
        return _of_patients(bins, parts, n_bins, patient)
    shape, lanes = (bins.shape[1], n_bins), parts.shape[1]
    count = np.zeros(shape, np.int64)
    total, first, second = (np.zeros((*shape, lanes), np.int64) for _ in range(3))
    if compiled() if fast is None else fast:
        jit(_share)(bins, parts, count, total, first, second)
    else:
        for line in range(bins.shape[1]):
            place = bins[:, line].astype(np.int64)
            count[line] = np.bincount(place, minlength=n_bins)
            _top_two(place, parts, total[line], first[line], second[line])
    return Lines(count, count, count, total, first, second, np.zeros(0, np.int64))


def _of_patients(bins: Bins, parts: Ints, n_bins: int, patient: Ints) -> Lines:
    """Of patients with several rows, whose parts in a bin are added up."""
    shape, lanes = (bins.shape[1], n_bins), parts.shape[1]
    rows, count, once = (np.zeros(shape, np.int64) for _ in range(3))
    total, first, second = (np.zeros((*shape, lanes), np.int64) for _ in range(3))
    starts = np.flatnonzero(np.diff(patient, prepend=-1))
    number = np.cumsum(np.diff(patient, prepend=-1) != 0) - 1
    most = np.zeros(lanes, np.int64)
    if len(starts):
        most = np.add.reduceat(parts, starts, axis=0).max(axis=0)
    for line in range(bins.shape[1]):
        place = bins[:, line].astype(np.int64)
        rows[line] = np.bincount(place, minlength=n_bins)
        once[line] = np.bincount(place[starts], minlength=n_bins)
        pairs, at = np.unique(number * n_bins + place, return_inverse=True)
        sums = np.zeros((len(pairs), lanes), np.int64)
        np.add.at(sums, at, parts)
        count[line] = np.bincount(pairs % n_bins, minlength=n_bins)
        _top_two(pairs % n_bins, sums, total[line], first[line], second[line])
    return Lines(rows, count, once, total, first, second, most)


def _top_two(place: Ints, parts: Ints, total: Ints, first: Ints, second: Ints) -> None:
    """Sum and the two largest parts by place, (n_bins, n_lanes) each."""
    for lane in range(parts.shape[1]):
        order = np.lexsort((-parts[:, lane], place))
        at, values = place[order], parts[order, lane]
        starts = np.flatnonzero(np.diff(at, prepend=-1))
        if len(starts):
            total[at[starts], lane] = np.add.reduceat(values, starts)
        first[at[starts], lane] = values[starts]
        more = starts + 1
        more = more[(more < len(at)) & ~np.isin(more, starts)]
        second[at[more], lane] = values[more]


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
    names = ("rows", "once", "total", "first", "second", "most")
    stacked = [np.stack([getattr(side, name) for side in sides]) for name in names]
    run: Callable[..., Any] = jit(_join) if (compiled() if fast is None else fast) else _join
    run(*stacked, known, before is not None, least, out)
    return out


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


def _join(  # noqa: C901 - one compiled loop
    rows: Any, once: Any, total: Any, first: Any, second: Any, most: Any, before: Any, mixed: Any,
    least: Any, out: Any,
) -> None:  # fmt: skip
    """Close a group of runs of `before` as soon as it may stand alone; see `joined`."""
    n_sides, n_lines, n_bins = rows.shape
    n_lanes, several = total.shape[3], most.shape[1] > 0
    starts = np.zeros(n_bins + 1, np.int64)
    for line in range(n_lines):
        groups, start, b = 0, 0, 0
        while b < n_bins:
            b += 1
            while b < n_bins and before[line, b] == before[line, b - 1]:
                b += 1
            begin = start
            good = False
            while True:  # the group from begin to b; at the end of the line with the ones before
                good = True
                for side in range(n_sides):
                    there, patients = 0, 0
                    for k in range(begin, b):
                        there += rows[side, line, k]
                        patients += once[side, line, k]
                    if there > 0 and patients < least:
                        good = False
                    for lane in range(n_lanes):
                        whole, top, next_ = 0, 0, 0
                        for k in range(begin, b):
                            whole += total[side, line, k, lane]
                            one, two = first[side, line, k, lane], second[side, line, k, lane]
                            if several:
                                top = min(top + one, most[side, lane])
                                next_ = top
                            else:
                                next_ = max(min(top, one), max(next_, two))
                                top = max(top, one)
                        if top > 0 and (
                            10 * (top + next_) > 9 * whole or 10 * (whole - top - next_) < top
                        ):
                            good = False
                if mixed and n_sides == 2:
                    rows_left, rows_right, run_left, run_right = 0, 0, 0, 0
                    both, left_over = 0, 0
                    for k in range(begin, b):
                        rows_left += rows[0, line, k]
                        rows_right += rows[1, line, k]
                        run_left += once[0, line, k]
                        run_right += once[1, line, k]
                        if k + 1 == b or before[line, k + 1] != before[line, k]:
                            both += min(rows_left, rows_right)
                            left_over += min(run_left, run_right)
                            rows_left, rows_right, run_left, run_right = 0, 0, 0, 0
                    if both > 0 and left_over < least:
                        good = False
                if good or b < n_bins or begin == 0:
                    break
                groups -= 1
                begin = starts[groups]
            if good or b == n_bins:
                starts[groups] = begin
                groups += 1
                start = b
        starts[groups] = n_bins
        for group in range(groups):
            largest, at = -1, starts[group]
            for k in range(starts[group], starts[group + 1]):
                there = 0
                for side in range(n_sides):
                    there += rows[side, line, k]
                if there > largest and before[line, k] == k:
                    largest, at = there, k
            for k in range(starts[group], starts[group + 1]):
                out[line, k] = at
