"""Whole numbers by time, added up from the chunks of a hospital. They stay there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ByTime:
    """Whole numbers by stratum, ascending, and in it by time, the latest first.

    stratum, time (n_times,), none twice; sums (n_times, n_sums). A commutative monoid under `+`.
    """

    stratum: Ints
    time: Floats
    sums: Ints

    def __add__(self, other: ByTime) -> ByTime:
        stratum = np.concatenate([self.stratum, other.stratum])
        time = np.concatenate([self.time, other.time])
        order = np.lexsort((-time, stratum))
        stratum, time = stratum[order], time[order]
        starts = starts_of(stratum, time)
        place = np.empty(len(order), np.int64)
        place[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
        sums = np.zeros((len(starts), self.sums.shape[1]), np.int64)
        sums[place[: len(self.time)]] = self.sums
        sums[place[len(self.time) :]] += other.sums
        return ByTime(stratum[starts], time[starts], sums)


def starts_of(stratum: Ints, time: Floats) -> Ints:
    """Where each time begins of rows in that order."""
    fresh = np.append(True, (np.diff(stratum) != 0) | (np.diff(time) != 0))
    return np.flatnonzero(fresh[: len(time)])
