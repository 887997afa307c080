"""Harrell's concordance: pairs of patients whose risks and times are in the right order.

A pair is comparable when the shorter time ended with the event; of equal times an event comes
before a censored one, and two events are no pair. It is right when the earlier one has the higher
risk; equal risks count half. With c_i, k_i the right and all pairs of patient i, C = sum c / sum k,
and its infinitesimal jackknife variance is sum (c_i - C k_i)^2 / (sum k / 2)^2.

Reference: Therneau & Watson, "The concordance statistic and the Cox model" (2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.groups import groups_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PAIRS = ("concordant", "discordant", "tied_risk")


@dataclass(frozen=True)
class Pairs:
    """counts: right, wrong, tied; squares: sums of c^2, c k, k^2 over patients."""

    counts: Ints
    squares: Floats

    @staticmethod
    def none() -> Pairs:
        return Pairs(np.zeros(3, dtype=np.int64), np.zeros(3))

    @staticmethod
    def of(sums: Mapping[str, Any]) -> Pairs:
        """From what sites give."""
        counts = np.array([int(sums[name]) for name in PAIRS], dtype=np.int64)
        return Pairs(counts, np.asarray(sums["squares"]))

    def leaves(self) -> dict[str, Any]:
        """What sites give."""
        counts: dict[str, Any] = dict(zip(PAIRS, self.counts.tolist(), strict=True))
        return {**counts, "squares": self.squares}

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(self.counts + other.counts, self.squares + other.squares)


def pairs(time: Floats, event: NDArray[np.bool_], risk: Floats) -> Pairs:
    """Pairs of rows, (n,) each. O(n log n)."""
    place = 2 * np.unique(time, return_inverse=True)[1] + ~event
    order = np.argsort(place, kind="stable")
    place, event = place[order], event[order]
    rank = np.unique(risk, return_inverse=True)[1][order].astype(np.int64)
    n = len(order)
    # Partners of an event: all rows after its time. Of any row: events before its time.
    after = np.searchsorted(place, place, side="right")[event]
    mine, everyone = rank[event], np.full(int(event.sum()), n)
    right = _smaller(rank, everyone, mine) - _smaller(rank, after, mine)
    no_wrong = _smaller(rank, everyone, mine + 1) - _smaller(rank, after, mine + 1)
    before = np.append(0, np.cumsum(event))[np.searchsorted(place, place, side="left")]
    not_above = _smaller(rank[event], before, rank + 1)
    below = _smaller(rank[event], before, rank)
    good = before - not_above + 0.5 * (not_above - below)
    good[event] += right + 0.5 * (no_wrong - right)
    every = before.astype(np.float64)
    every[event] += n - after
    counts = [right.sum(), (n - after - no_wrong).sum(), (no_wrong - right).sum()]
    squares = np.array([good @ good, good @ every, every @ every])
    return Pairs(np.array(counts, dtype=np.int64), squares)


def _smaller(values: Ints, stop: Ints, level: Ints) -> Ints:
    """Per query the number of the first `stop` values that are below `level`.

    Bit by bit from the highest: values are sorted stably by the bit, queries follow theirs.
    """
    first, last, found = np.zeros_like(stop), stop, np.zeros(len(stop), dtype=np.int64)
    top = int(max(values.max(initial=0), level.max(initial=0)))
    for bit in reversed(range(top.bit_length())):
        is_one = (values >> bit) & 1 == 1
        zeros = np.append(0, np.cumsum(~is_one))
        zeros_first, zeros_last = zeros[first], zeros[last]
        up = (level >> bit) & 1 == 1
        found += np.where(up, zeros_last - zeros_first, 0)
        first = np.where(up, zeros[-1] + first - zeros_first, zeros_first)
        last = np.where(up, zeros[-1] + last - zeros_last, zeros_last)
        values = np.concatenate([values[~is_one], values[is_one]])
    return found


def grouped(risk: Floats, keys: Ints, size: int) -> Floats:
    """The number of each row's group: `size` patients and more, next to each other in risk."""
    return risk if size <= 1 else groups_of(risk, keys, size).astype(np.float64)


def concordance_of(found: Pairs) -> dict[str, float]:
    """C with its standard error, from the numbers of pairs."""
    right, wrong, tied = (float(count) for count in found.counts)
    comparable = right + wrong + tied
    if not comparable:
        return {"c": float("nan"), "se": float("nan"), "pairs": 0.0}
    c = (right + 0.5 * tied) / comparable
    cc, ck, kk = (float(v) for v in found.squares)
    variance = (cc - 2 * c * ck + c * c * kk) / comparable**2
    return {"c": c, "se": float(np.sqrt(max(variance, 0.0))), "pairs": comparable}
