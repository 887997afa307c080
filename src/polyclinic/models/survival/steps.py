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


def rows_for(least: int, key: Ints | None) -> int:
    """Rows behind which there are `least` patients, whoever they are."""
    if key is None or not len(key) or least <= 1:
        return least
    return least * int(np.unique(key, return_counts=True)[1].max())


def joint_runs(
    interval: Ints,
    intervals: int,
    size: int,
    marks: NDArray[np.bool_],
    least: Ints,
    apart: bool = False,
) -> tuple[Ints, Ints, bool]:
    """Runs of `size` rows and more in which no mark is rare.

    marks  (n_rows, q); in a run each of them is on none of the rows or on `least` (q,) and more
    apart  in a run of several intervals also outside of any one of them
    Returns first and last interval of each row's run; False: all rows are one run that does not
    hold enough.
    """
    total = np.bincount(interval, minlength=intervals)
    counts = np.zeros((intervals, marks.shape[1]), np.int64)
    np.add.at(counts, interval, marks)
    filled = np.flatnonzero(total)

    def enough(a: int, b: int) -> bool:
        inside = counts[filled[a:b]]
        seen = inside.sum(axis=0)
        rare = seen < least
        if apart and b - a > 1:
            rare |= seen - inside.max(axis=0) < least
        return bool(total[filled[a:b]].sum() >= size and not np.any((seen > 0) & rare))

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
    first, last = np.zeros(intervals, np.int64), np.zeros(intervals, np.int64)
    for a, b in pairwise(ends):
        if b > a:
            first[filled[a:b]], last[filled[a:b]] = filled[a], filled[b - 1]
    return first[interval], last[interval], enough(*ends[-2:])


def base_runs(interval: Ints, intervals: int, status: Ints, least: int) -> tuple[Ints, Ints]:
    """First and last interval of the base run of each row, (n_rows,) each.

    status  the way in which each row left
    """
    levels = np.unique(status)
    levels = levels[[int(np.sum(status == level)) >= least for level in levels]]
    marks = status[:, None] == levels
    first, last, _ = joint_runs(interval, intervals, least, marks, np.full(len(levels), least))
    return first, last


def united(
    first: Ints,
    last: Ints,
    intervals: int,
    size: int,
    marks: NDArray[np.bool_],
    least: Ints,
    apart: bool = False,
) -> tuple[Ints, Ints, bool]:
    """Base runs taken together as `joint_runs` takes intervals.

    Where sums of each mark leave they are `apart`: else those of a base run less those of the mark
    could be of a few.
    """
    begin, end, whole = joint_runs(last, intervals, size, marks, least, apart)
    starts = np.full(intervals, intervals, dtype=np.int64)
    np.minimum.at(starts, last, first)
    return starts[begin], end, whole
