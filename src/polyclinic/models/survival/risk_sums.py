"""Risk sets of all rows of a hospital, from the sums that its chunks tell by event time.

At event time k, with S and D sums over those at risk and over those with the event there, R = S - D
and d events, every event i has phi_i = R0 + u_i D0 and m_i = (R1 + u_i D1) / phi_i, u_i = 1 - f_i
(see kernel.py). So all that is summed over the events at k is made of few numbers, such as

    sum a m m' = A R1 R1' + B (R1 D1' + D1 R1') + C D1 D1',
    A, B, C = sums of a / phi^2, a u / phi^2, a u^2 / phi^2

Running totals are whole numbers: they do not hang on how rows lie in chunks. Sums of vectors are
asked for over some times after the other, so that what is held at once has a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.task import Answer, Question
from polyclinic.models.by_time import ByTime
from polyclinic.models.exact import PARTS, floats_of
from polyclinic.models.survival.crowd import carried, nearly_all_leave
from polyclinic.models.survival.known import Known
from polyclinic.models.survival.pieces import Table, scales

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
MOST = 2**22  # whole numbers that are asked for at once


@dataclass
class RiskSums:
    """Of each candidate and event time, (m, K).

    whole, squares   risk of those at risk, and squares of the patients' risks
    left             patients at risk, (K,)
    once, less, ...  as in `Table`, of the events at this time alone
    total, apart     sum of a log(phi) over the events at this time; how far one is from their mean
    lost             candidates whose sums are not finite, (m,)
    """

    whole: Floats
    squares: Floats
    left: Ints
    once: Floats
    twice: Floats
    less: Floats
    less_twice: Floats
    total: Floats
    apart: Floats
    lost: Bools

    @staticmethod
    def none(m: int, times: int) -> RiskSums:
        whole, squares, once, twice, less, less_twice, total, apart = np.zeros((8, m, times))
        left, lost = np.zeros(times, np.int64), np.zeros(m, bool)
        return RiskSums(whole, squares, left, once, twice, less, less_twice, total, apart, lost)

    def table(self, known: Known) -> Table:
        """What chunks are handed."""
        once, twice = (_ahead(known, part) for part in (self.once, self.twice))
        loss = self.total / known.ties
        return Table(once, twice, self.less, self.less_twice, loss, self.apart, self.lost)

    def flagged(self, known: Known) -> list[Ints]:
        """Of each candidate the times before which nearly all risk has not yet been there."""
        found = []
        for whole in self.whole:
            each = [
                a + 1 + nearly_all_leave(whole[a:b])
                for a, b in pairwise(known.times.start.tolist())
            ]
            found.append(np.concatenate([np.zeros(0, np.int64), *each]))
        return found

    def crowd(self, known: Known, leaving: list[Floats]) -> Floats:
        """As `polyclinic.models.survival.crowd.crowds`; `leaving` as chunks tell it."""
        found = np.full(len(self.whole), np.inf)
        for k, whole in enumerate(self.whole):
            for a, b in pairwise(known.times.start.tolist()):
                here = slice(a, b)
                each = carried(whole[here], self.squares[k, here], self.left[here])
                found[k] = min(found[k], each)
            parts, squares = leaving[k].T
            fewest = parts**2 / np.maximum(squares, 1e-300)
            found[k] = min(found[k], fewest.min(initial=np.inf))
            if self.lost[k]:
                found[k] = 0.0
        return found


@dataclass(frozen=True)
class Band:
    """Sums of vectors over those at risk, at some times and one candidate.

    times    which ones
    R1, D1   (times, p): over those at risk without an event there, and over those with it
    at       the event time of each event, counted in the band, (E,); u, phi, a  (E,)
    observed sum of w x over the events at each time, (times, p)
    """

    times: slice
    R1: Floats
    D1: Floats
    at: Ints
    u: Floats
    phi: Floats
    a: Floats
    observed: Floats

    def by_time(self, values: Floats) -> Floats:
        """Sums over the events at each time, (times, 1)."""
        return np.bincount(self.at, values, minlength=len(self.R1))[:, None].astype(np.float64)

    def products(self) -> Floats:
        """Sum of a m m' over the events, (p, p)."""
        a, u = self.a / self.phi**2, self.u
        one, two, three = (self.by_time(part) for part in (a, a * u, a * u * u))
        cross = self.R1.T @ (two * self.D1)
        found = self.R1.T @ (one * self.R1) + cross + cross.T + self.D1.T @ (three * self.D1)
        return np.asarray(found)

    def means(self) -> Floats:
        """Mean over the risk set, that of tied events as the mean of theirs, (times, p)."""
        ties = np.bincount(self.at, minlength=len(self.R1))[:, None]
        once = self.by_time(1.0 / self.phi) * self.R1 + self.by_time(self.u / self.phi) * self.D1
        return np.asarray(once / ties)

    def moved(self) -> tuple[Floats, Floats]:
        """Sums of a m / phi over the events at each time, and of f times that, (times, p)."""
        a, u = self.a / self.phi**2, self.u
        one, two, three = (self.by_time(part) for part in (a, a * u, a * u * u))
        every = one * self.R1 + two * self.D1
        return every, every - (two * self.R1 + three * self.D1)


def ahead(known: Known, values: Floats) -> Floats:
    """Sums over the events at each time and at earlier ones, (K, p)."""
    return np.ascontiguousarray(_ahead(known, values.T).T)


def _ahead(known: Known, values: Floats) -> Floats:
    found = np.empty_like(values)
    for a, b in pairwise(known.times.start.tolist()):
        found[:, a:b] = np.cumsum(values[:, a:b][:, ::-1], axis=1)[:, ::-1]
    return found


Asking = Generator[Question, Answer, RiskSums]


def risk_sums(
    known: Known,
    top: Floats,
    efron: bool,
    told: Mapping[str, Any],
    use: Callable[[int, Band], None] | None = None,
    observed: bool = False,
) -> Asking:
    """Asks for the sums by event time, some times after the other.

    top   largest eta of each candidate and stratum
    told  goes with every question
    use   is given the sums of vectors of each candidate, if it is there
    """
    times, tied = known.times, efron and bool((known.ties > 1).any())
    asked = {"top": top, "vectors": use is not None, "tied": tied, "observed": observed}
    bounds = scales(times, asked, len(top))
    found = RiskSums.none(len(top), len(times.time))
    found.lost |= ~np.isfinite(top).all(axis=1)
    adding = _Adding(known, found, efron, asked, bounds, use)
    width = max(1, MOST // (len(bounds) * PARTS))
    for first in range(0, len(times.time), width):
        here = slice(first, min(first + width, len(times.time)))
        more = {**told, **asked, "ask": "at times", "first": here.start, "stop": here.stop}
        answer = yield Question(more, long=True)
        adding.add(here, ByTime(**answer["times"]))
    return found


class Totals:
    """Running totals within strata, over one stretch of times after the other."""

    def __init__(self, known: Known) -> None:
        self.edges = list(pairwise(known.times.start.tolist()))
        self.sum = np.zeros((), np.int64)

    def upto(self, sums: Ints, here: slice) -> Ints:
        """Totals at the times `here`, of their sums (times, ...)."""
        found = np.empty_like(sums)
        for a, b in self.edges:
            low, high = max(a, here.start) - here.start, min(b, here.stop) - here.start
            if low < high:
                np.cumsum(sums[low:high], axis=0, out=found[low:high])
                if a < here.start:
                    found[low:high] += self.sum
        self.sum = found[-1].copy()
        return found


@dataclass
class _Adding:
    """Adds up what chunks tell, some times after the other."""

    known: Known
    found: RiskSums
    efron: bool
    asked: Mapping[str, Any]
    bounds: Ints
    use: Callable[[int, Band], None] | None
    totals: Totals = field(init=False)

    def __post_init__(self) -> None:
        self.totals = Totals(self.known)

    def add(self, here: slice, by: ByTime) -> None:
        """The times `here`."""
        own = np.zeros((here.stop - here.start, len(self.bounds) + 1, PARTS), np.int64)
        rows = by.stratum - here.start
        own[rows, 0, 0] = by.sums[:, 0]
        own[rows, 1:] = by.sums[:, 1:].reshape(len(rows), len(self.bounds), PARTS)
        running = self.totals.upto(own, here)
        self.found.left[here] = running[:, 0, 0]
        own, running = own[:, 1:], running[:, 1:]
        m, tied = len(self.found.whole), bool(self.asked["tied"])
        seen = len(self.bounds) - (len(self.known.times.wide) if self.asked["observed"] else 0)
        observed = self._floats(own, seen, len(self.bounds))
        for first in range(0, seen, seen // m):
            last = first + seen // m
            half = last if not tied else (first + 1 + last) // 2
            squares = self._floats(running, first, first + 1)[:, 0]
            died = np.zeros((len(own), half - first - 1))  # those with the event there, if apart
            if tied:
                running[:, first + 1 : half] += running[:, half:last] - own[:, half:last]
                died = self._floats(own, half, last)
            rest = self._floats(running, first + 1, half)
            self._candidate(first * m // seen, here, squares, rest, died, observed)

    def _floats(self, words: Ints, first: int, last: int) -> Floats:
        mine = slice(first, last)
        return np.asarray(np.ldexp(floats_of(words[:, mine], 0), self.bounds[mine]))

    def _candidate(
        self, k: int, here: slice, squares: Floats, rest: Floats, died: Floats, observed: Floats
    ) -> None:
        found, known = self.found, self.known
        ties, R0, D0 = known.ties[here], rest[:, 0], died[:, 0]
        found.squares[k, here], found.whole[k, here] = squares, R0 + D0
        at = np.repeat(np.arange(len(ties)), ties)
        order = np.arange(len(at)) - np.repeat(np.cumsum(ties) - ties, ties)
        f = order / ties[at] if self.efron else np.zeros(len(at))
        a, phi = (known.weight[here] / ties)[at], R0[at] + (1.0 - f) * D0[at]
        with np.errstate(all="ignore"):
            sums = {
                "once": a / phi,
                "less": a * f / phi,
                "twice": a / phi**2,
                "less_twice": a * f * (2.0 - f) / phi**2,
                "total": a * np.log(phi),
            }
        good = np.all(phi > 0) and all(np.isfinite(one).all() for one in sums.values())
        found.lost[k] |= not good
        if found.lost[k]:
            return
        for name, one in sums.items():
            getattr(found, name)[k, here] = np.bincount(at, one, minlength=len(ties))
        mean, last = found.total[k, here] / ties, np.cumsum(ties) - 1  # phi falls from the first on
        logs = sums["total"]
        found.apart[k, here] = np.maximum(logs[last - ties + 1] - mean, mean - logs[last])
        if self.use is not None:
            self.use(k, Band(here, rest[:, 1:], died[:, 1:], at, 1.0 - f, phi, a, observed))
