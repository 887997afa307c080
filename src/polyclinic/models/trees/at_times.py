"""What a hospital knows of those at risk at each time, added up from its chunks.

Chunks say by stratum and time what they hold: numbers of rows and events, the events' weights, the
risks, and the largest of these. From their sums follows a table of the times of events, which
chunks are handed so that each finds the derivatives, or losses, of its own rows (cox.py). Times,
and all else here, stay in the hospital.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.by_time import ByTime
from polyclinic.models.exact import WIDE, floats_of, sums_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Highest:
    """Of the margins of each stratum the largest, (n_strata,); the sum, (n_strata, PARTS); and the
    number of rows. A commutative monoid under `+`."""

    most: Floats
    sums: Ints
    rows: Ints

    def __add__(self, other: Highest) -> Highest:
        most = np.maximum(self.most, other.most)
        return Highest(most, self.sums + other.sums, self.rows + other.rows)

    @property
    def mean(self) -> Floats:
        """0 of strata without rows."""
        return floats_of(self.sums, WIDE) / np.maximum(self.rows, 1)


@dataclass(frozen=True)
class Largest:
    """Risks of rows that are among the `parts` - 1 largest of their chunk and stratum at their
    time; (n_rows,) each."""

    stratum: Ints
    time: Floats
    risk: Floats

    def __add__(self, other: Largest) -> Largest:
        names = [one.name for one in fields(self)]
        both = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in names)
        return Largest(*both)


@dataclass(frozen=True)
class Table:
    """Of the times at which events count, the latest first, stratum after stratum.

    parts    a row is at most so large a part of a risk set; 1: any
    top      of each stratum the margin whose risk is 1, (n_strata,)
    mean     of each stratum's margins, (n_strata,)
    start    where each stratum begins in what follows, (n_strata + 1,)
    time     (n_times,), as all below
    whole    risk of all at risk
    most     the largest risk that a row counts with
    once, twice, count   weight of the events from the earliest time up to this one: over `whole`,
             over its square, and as it is
    """

    parts: int
    top: Floats
    mean: Floats
    start: Ints
    time: Floats
    whole: Floats
    most: Floats
    once: Floats
    twice: Floats
    count: Floats


def table_of(
    times: ByTime,
    risks: ByTime,
    largest: Largest,
    parts: int,
    bound: int,
    top: Floats,
    mean: Floats,
    limited: bool,
) -> Table:
    """The table of all rows.

    times    rows, those with the event, and the whole numbers of the weights of these
    risks    whole numbers of the weighted risks, at the same times
    bound    2^bound is no less than a weight
    limited  whether larger risks than a `parts`-th count as that
    """
    edges = np.searchsorted(times.stratum, np.arange(len(top) + 1))
    found = []
    for k, (a, b) in enumerate(pairwise(edges.tolist())):
        rows, events = np.cumsum(times.sums[a:b, 0]), times.sums[a:b, 1]
        at = np.flatnonzero((events > 0) & (rows >= parts))
        time, sums = times.time[a:b][at], np.cumsum(risks.sums[a:b], axis=0)[at]
        whole, most = floats_of(sums, bound), np.full(len(at), np.inf)
        if limited and len(at):
            mine = largest.stratum == k
            most, cut = _most(sums, time, largest.time[mine], largest.risk[mine], parts, bound)
            whole = np.where(cut & (most > 0), parts * most, whole)
        weight = floats_of(times.sums[a:b, 2:][at], bound)
        share, square = np.zeros(len(at)), np.zeros(len(at))
        np.divide(weight, whole, out=share, where=whole > 0)
        np.divide(share, whole, out=square, where=whole > 0)
        # Sums over the events up to each time, from the earliest, which stands last.
        until = (np.cumsum(part[::-1])[::-1] for part in (share, square, weight))
        found.append((time, whole, most, *until))
    start = np.cumsum([0, *(len(one[0]) for one in found)])
    columns = (np.concatenate(part) for part in zip(*found, strict=True))
    return Table(parts, top, mean, start, *columns)


def _most(
    sums: Ints, at: Floats, time: Floats, risk: Floats, parts: int, bound: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """The largest that a risk counts with at each of some times, and whether one is larger."""
    order = np.argsort(-time, kind="stable")
    left, ends = risk[order], np.searchsorted(-time[order], -at, side="right")
    most, limited = np.full(len(at), np.inf), np.zeros(len(at), dtype=bool)
    for cut in range(parts):  # the largest ones count alike, the others are as they are
        each = floats_of(sums, bound) / (parts - cut)
        running = np.append(0.0, np.maximum.accumulate(left))
        largest = running[ends]
        found = np.isinf(most) & ((largest <= each) | (cut == parts - 1))
        most[found] = each[found]
        limited |= found & (cut > 0)
        if not np.isinf(most).any():
            break
        sums = sums - sums_of(largest, np.arange(len(at)), bound)
        left = np.minimum(running[:-1], left)
    # Sets only grow towards earlier times, and so does the most: what is lost is rounding.
    return np.maximum.accumulate(most), limited
