"""Times on an agreed grid, coarse enough that every step holds enough patients.

A grid of ascending edges cuts time into intervals (e_k-1, e_k]; the last one is open. A site takes
consecutive intervals together into runs that hold at least `least` of its patients who left in one
way (one cause, or censored), and puts all of these at the end of their run; of the last ones too
few for a run of their own it makes its last run longer. So what leaves is about no one or about
`least` patients and more, in every interval and every way to leave, and the pooled sums are those
of data in which times were moved to later edges. The beginnings of the runs leave as well: between
the two lies the truth, which bounds how far a curve is from the exact one.
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


def runs(interval: Ints, intervals: int, least: int) -> tuple[Ints, Ints]:
    """First and last interval of the run that each row is in, (n_rows,) each.

    Fewer rows than `least` are one run.
    """
    counts = np.bincount(interval, minlength=intervals)
    filled = np.flatnonzero(counts)
    first, last = np.zeros(intervals, np.int64), np.zeros(intervals, np.int64)
    begun, held, done = 0, 0, 0  # places in `filled`; rows in the run that is open
    for place, k in enumerate(filled):
        held += counts[k]
        if held >= least:
            inside = filled[begun : place + 1]
            first[inside], last[inside] = inside[0], inside[-1]
            done, begun, held = begun, place + 1, 0
    if held:  # too few are left: the last run goes on to the end
        inside = filled[done:] if begun else filled
        first[inside], last[inside] = inside[0], inside[-1]
    return first[interval], last[interval]


def joint_runs(
    interval: Ints, intervals: int, size: int, marks: NDArray[np.bool_], least: Ints
) -> tuple[Ints, Ints, bool]:
    """Runs of `size` rows and more in which no mark is rare.

    marks  (n_rows, q); in a run each of them is on none of the rows or on `least` (q,) and more
    Returns first and last interval of each row's run; False: all rows are one run that does not
    hold enough.
    """
    total = np.bincount(interval, minlength=intervals)
    counts = np.zeros((intervals, marks.shape[1]), np.int64)
    np.add.at(counts, interval, marks)
    filled = np.flatnonzero(total)

    def enough(a: int, b: int) -> bool:
        seen = counts[filled[a:b]].sum(axis=0)
        held = total[filled[a:b]].sum()
        return bool(held >= size and not np.any((seen > 0) & (seen < least)))

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
