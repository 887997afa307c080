"""Times on an agreed grid, coarse enough that every step holds enough patients.

A grid of ascending edges cuts time into intervals (e_k-1, e_k]; the last one is open. A site takes
consecutive intervals together into runs in which nobody, or at least `least` of its patients, left
in each way that the event column knows; intervals that are left over at the end make the runs
before longer. So what leaves is about no one or about `least` patients and more. These base runs
depend on the grid and on `least` only. What asks for more, by groups or by columns, takes base runs
together: so one analysis less another on the same grid is never about a few. The beginnings of the
runs leave as well as their ends: between the two lies the truth.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def interval_of(time: Floats, edges: Floats) -> Ints:
    """Number of the interval of each time; len(edges) after the last edge."""
    return np.asarray(np.searchsorted(edges, time, side="left"), dtype=np.int64)


def most_rows(key: Ints | None) -> int:
    """Most rows of one patient."""
    if key is None or not len(key):
        return 1
    return int(np.unique(key, return_counts=True)[1].max())


def rows_behind(least: int, most: int) -> int:
    """Rows behind which there are `least` patients of at most `most` rows each."""
    return least if least <= 1 else least * most


def joint_runs(
    rows: Ints, marks: Ints, size: int, least: Ints, apart: bool = False
) -> tuple[Ints, Ints, bool]:
    """Runs of `size` rows and more in which no mark is rare.

    rows   in each interval, (intervals,)
    marks  rows with each mark, (intervals, q); in a run each of them is on none or on `least` (q,)
           and more
    apart  in a run of several intervals also outside of any one of them
    Returns first and last interval of each interval's run, (intervals,), 0 where there is no row;
    False: all rows are one run that does not hold enough.
    """
    filled = np.flatnonzero(rows)

    def enough(a: int, b: int) -> bool:
        inside = marks[filled[a:b]]
        seen = inside.sum(axis=0)
        rare = seen < least
        if apart and b - a > 1:
            rare |= seen - inside.max(axis=0) < least
        return bool(rows[filled[a:b]].sum() >= size and not np.any((seen > 0) & rare))

    ends = [0]
    for place in range(1, len(filled) + 1):
        if enough(ends[-1], place):
            ends.append(place)
    # Too few are left: the runs before go on to the end, until it holds enough.
    while len(ends) > 1 and ends[-1] < len(filled):
        ends.pop()
        if enough(ends[-1], len(filled)):
            ends.append(len(filled))
    if len(ends) == 1:
        ends.append(len(filled))
    first, last = np.zeros((2, len(rows)), np.int64)
    for a, b in pairwise(ends):
        if b > a:
            first[filled[a:b]], last[filled[a:b]] = filled[a], filled[b - 1]
    return first, last, enough(*ends[-2:])


def base_runs(statuses: Ints, least: int) -> tuple[Ints, Ints]:
    """First and last interval of each interval's base run, (intervals,) each.

    statuses  rows that left in each way, (intervals, ways)
    """
    known = statuses[:, statuses.sum(axis=0) >= least]
    wanted = np.full(known.shape[1], least)
    first, last, _ = joint_runs(statuses.sum(axis=1), known, least, wanted)
    return first, last


def united(
    first: Ints,
    last: Ints,
    rows: Ints,
    marks: Ints,
    size: int,
    least: Ints,
    apart: bool = False,
) -> tuple[Ints, Ints, bool]:
    """Base runs taken together as `joint_runs` takes intervals.

    Where sums of each mark leave they are `apart`: else those of a base run less those of the mark
    could be of a few.
    """
    filled = np.flatnonzero(rows)
    of_runs, marks_of_runs = np.zeros_like(rows), np.zeros_like(marks)
    np.add.at(of_runs, last[filled], rows[filled])
    np.add.at(marks_of_runs, last[filled], marks[filled])
    begin, end, whole = joint_runs(of_runs, marks_of_runs, size, least, apart)
    starts = np.full(len(rows), len(rows), dtype=np.int64)
    np.minimum.at(starts, last[filled], first[filled])
    found = np.zeros((2, len(rows)), np.int64)
    found[:, filled] = starts[begin[last[filled]]], end[last[filled]]
    return found[0], found[1], whole
