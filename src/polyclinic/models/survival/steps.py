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
