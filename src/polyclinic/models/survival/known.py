"""What a hospital knows of its event times, added up from what its chunks tell.

Chunks tell, by stratum and distinct time, how many rows have the event and their weight; of each
stratum the rows, and sums and extremes of the columns. All that is added are whole numbers. They
stay in the hospital, the times as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.models.by_time import ByTime, starts_of
from polyclinic.models.exact import PARTS, WIDE, floats_of, sums_of
from polyclinic.models.survival.kernel import ROUNDED
from polyclinic.models.survival.rows import Rows, key_of, rows_of
from polyclinic.models.survival.spec import CoxSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Times:
    """Event times of all rows, which chunks are told.

    stratum   numbers of the strata in which there is an event, (S,)
    start     where each begins in what follows, (S + 1,)
    time      event times, in each stratum the latest first, (K,)
    mean      of the columns over each stratum, (S, p)
    alike     columns that are the same in every row of a stratum, (S, p)
    centre    of the columns over all rows, (p,)
    top       2^top is no less than the sum of the weights
    wide      2^wide is no less than a column's distance from its mean, (p,)
    """

    stratum: Ints
    start: Ints
    time: Floats
    mean: Floats
    alike: Bools
    centre: Floats
    top: int
    wide: Ints


@dataclass(frozen=True)
class Known:
    """The same with what only the site adds up from: events at each time, and their weight."""

    times: Times
    ties: Ints
    weight: Floats


def facts(spec: CoxSpec, partition: Partition) -> dict[str, Any]:
    """What one chunk tells."""
    rows = rows_of(spec, partition)
    used, number = _counting(rows)
    strata, p = int(np.prod([1, *spec.levels], dtype=np.int64)), rows.x.shape[1]
    weight = np.ones(len(used)) if rows.weight is None else rows.weight[used]
    low, high = np.full((strata, p), np.inf), np.full((strata, p), -np.inf)
    sums = np.zeros((strata, p, PARTS), np.int64)
    for k in np.unique(number):
        x = rows.x[used[number == k]]
        low[k], high[k] = x.min(axis=0), x.max(axis=0)
        sums[k] = sums_of(x.sum(axis=0), np.arange(p), WIDE)
    happened = np.flatnonzero(rows.event[used])
    happened = happened[np.lexsort((-rows.time[used[happened]], number[happened]))]
    stratum, time = number[happened], rows.time[used[happened]]
    starts = starts_of(stratum, time)
    ties = np.diff(starts, append=len(time))
    by_time = np.column_stack([ties, sums_of(weight[happened], starts, WIDE)])
    return {
        "times": vars(ByTime(stratum[starts], time[starts], by_time)),
        "rows": np.bincount(number, minlength=strata).astype(np.int64),
        "sums": sums,
        "low": low,
        "high": high,
        "heaviest": np.array([np.abs(weight).max(initial=0.0)]),
    }


def _counting(rows: Rows) -> tuple[Ints, Ints]:
    """Places of the rows that count, and their strata."""
    used = np.flatnonzero(rows.used)
    return used, np.zeros(len(used), np.int64) if rows.stratum is None else rows.stratum[used]


def known_of(found: Mapping[str, Any]) -> Known:
    """Of what all chunks have told."""
    by = ByTime(**found["times"])
    stratum, first = np.unique(by.stratum, return_index=True)
    rows = found["rows"]
    of_all = floats_of(found["sums"].sum(axis=0), WIDE) / max(int(rows.sum()), 1)
    mean = floats_of(found["sums"][stratum], WIDE) / rows[stratum][:, None]
    low, high = found["low"][stratum], found["high"][stratum]
    apart = np.maximum(high - mean, mean - low)
    alike = apart <= ROUNDED * np.maximum(np.abs(low), np.abs(high))
    bound = float(found["heaviest"][0]) * max(int(rows.sum()), 1)
    times = Times(
        stratum,
        np.append(first, len(by.time)).astype(np.int64),
        by.time,
        mean,
        alike,
        of_all,
        int(np.frexp(bound)[1]),
        np.frexp(apart.max(axis=0, initial=0.0))[1].astype(np.int64),
    )
    return Known(times, by.sums[:, 0], floats_of(by.sums[:, 1:], WIDE))


@dataclass(frozen=True)
class Piece:
    """A chunk's rows in strata with an event, stratum after stratum, the latest first; behind all
    of them those who are at risk at no event.

    rows     places in the chunk, (n,)
    stratum  place among the strata, (n,)
    person   the patient in his stratum, (n,)
    x        columns less their mean over the stratum, (n, p)
    at       the first event time at which a row is at risk, (n,); after all times: at none
    """

    rows: Ints
    stratum: Ints
    person: Ints
    x: Floats
    event: Bools
    weight: Floats
    offset: Floats | None
    at: Ints

    def eta(self, theta: Floats) -> Floats:
        """Linear predictors (n, m), column by column: a row's does not hang on the others."""
        found = np.zeros((len(self.rows), len(theta)))
        with np.errstate(all="ignore"):
            for j in range(self.x.shape[1]):
                found += self.x[:, j, None] * theta[:, j]
            if self.offset is not None:
                found += self.offset[:, None]
        return found


def piece_of(spec: CoxSpec, partition: Partition, times: Times) -> Piece:
    """A chunk's rows in order; made once."""

    def make() -> Piece:
        rows = rows_of(spec, partition)
        used, number = _counting(rows)
        inside = np.isin(number, times.stratum)
        used, number = used[inside], np.searchsorted(times.stratum, number[inside])
        at, never = np.empty(len(used), np.int64), len(times.time)
        for k, (a, b) in enumerate(pairwise(times.start.tolist())):
            mine = number == k
            place = np.searchsorted(-times.time[a:b], -rows.time[used[mine]])
            at[mine] = np.where(place < b - a, a + place, never)
        order = np.lexsort((-rows.time[used], number, at))
        used, number, at = used[order], number[order], at[order]
        x = rows.x[used] - times.mean[number]
        x[times.alike[number]] = 0.0
        keys = np.stack([number, partition.keys[used]], axis=1)
        person = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
        weight = np.ones(len(used)) if rows.weight is None else rows.weight[used]
        offset = None if rows.offset is None else rows.offset[used]
        return Piece(used, number, person, x, rows.event[used], weight, offset, at)

    found: Piece = partition.cached(f"piece {key_of(spec)}", make)
    return found
