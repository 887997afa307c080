"""Survival and incidence curves from counts on a grid.

Kaplan & Meier: S(t) = product over t_k <= t of 1 - d_k / Y_k, with d_k events and Y_k at risk at
edge k. Greenwood: var S(t) = S(t)^2 sum d_k / (Y_k (Y_k - d_k)); intervals on the scale of
log(-log S). Restricted mean: the area under S up to a horizon, its variance sum A_k^2 d_k /
(Y_k (Y_k - d_k)) with A_k the area beyond t_k. Aalen & Johansen: F_c(t) = sum S(t_k-1) d_ck / Y_k,
with the delta method's variance (Marubini & Valsecchi, *Analysing Survival Data* (1995), 10.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.distributions import normal_quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Counts of one group.

    edges   ends of the intervals, (K,)
    late    patients per way to leave and interval, at the end of their run, (ways, K + 1); way 0
            is censored, the last interval is open
    early   the same at the beginning of their run
    """

    edges: Floats
    late: Ints
    early: Ints

    @property
    def patients(self) -> int:
        return int(self.late.sum())

    @property
    def counts(self) -> Floats:
        """Half of each step at its end and half at its beginning, which is nearest to the truth."""
        return np.asarray(0.5 * (self.late + self.early))

    @property
    def events(self) -> Floats:
        """Of any cause, (K,)."""
        return np.asarray(self.counts[1:, :-1].sum(axis=0))

    @property
    def at_risk(self) -> Floats:
        """Just before each edge, (K,)."""
        left = np.cumsum(self.counts.sum(axis=0))
        return np.asarray(self.patients - np.append(0.0, left[:-2]))

    def followed(self, time: float) -> float:
        """Patients at risk just before `time`."""
        done = np.searchsorted(self.edges, time, side="left")
        return float(self.patients - self.counts[:, :done].sum())


@dataclass(frozen=True)
class Curve:
    """A survival curve at the edges, (K,) each. exact_low, exact_high: between them lies the curve
    of the times as they are."""

    times: Floats
    survival: Floats
    se: Floats
    lower: Floats
    upper: Floats
    at_risk: Floats
    events: Floats
    exact_low: Floats
    exact_high: Floats

    @property
    def distance(self) -> float:
        """How far from the exact curve it is at most, at an edge."""
        gap = np.maximum(self.exact_high - self.survival, self.survival - self.exact_low)
        return float(gap.max(initial=0.0))

    def median(self, share: float = 0.5) -> tuple[float, float, float]:
        """First edge at which no more than `share` survive, with its interval; infinite if none."""
        found = [self._first(values, share) for values in (self.survival, self.lower, self.upper)]
        return found[0], found[1], found[2]

    def _first(self, values: Floats, share: float) -> float:
        below = np.flatnonzero(values <= share)
        return float(self.times[below[0]]) if len(below) else float("inf")

    def at(self, time: float) -> float:
        """Survival at a time."""
        k = np.searchsorted(self.times, time, side="right")
        return float(self.survival[k - 1]) if k else 1.0

    def mean(self, horizon: float) -> tuple[float, float]:
        """Mean time up to `horizon`, and its standard error."""
        inside = self.times < horizon
        times = np.concatenate([[0.0], self.times[inside], [horizon]])
        height = np.append(1.0, self.survival[inside])
        areas = height * np.diff(times)
        beyond = areas[::-1].cumsum()[::-1][1:]  # under the curve after each edge
        y, d = self.at_risk[inside], self.events[inside]
        part = np.divide(d, y * (y - d), out=np.zeros_like(d), where=y > d)
        return float(areas.sum()), float(np.sqrt((beyond**2 * part).sum()))


def kaplan_meier(table: Table, confidence: float = 0.95, exact: bool = False) -> Curve:
    """The curve of a group, for events of any cause; `exact`: the edges are the times."""
    y, d = table.at_risk, table.events
    share = np.divide(d, y, out=np.zeros_like(d), where=y > 0)
    survival: Floats = np.asarray(np.cumprod(1.0 - share), dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(np.where(d > 0, d / (y * (y - d)), 0.0))
        se = np.where(survival > 0, survival * np.sqrt(greenwood), 0.0)
        z = float(normal_quantile(0.5 + confidence / 2))
        half = z * np.sqrt(greenwood) / np.log(survival)
        inside = (survival > 0) & (survival < 1)
        lower = np.where(inside, survival ** np.exp(-half), survival)
        upper = np.where(inside, survival ** np.exp(half), survival)
    low, high = (survival, survival) if exact else bounds(table)
    return Curve(table.edges, survival, se, lower, upper, table.at_risk, table.events, low, high)


def bounds(table: Table) -> tuple[Floats, Floats]:
    """Curves below and above that of the true times, which lie between early and late.

    Below: every event as soon as it may be, with as few at risk as there may be. Above: only those
    that are sure, with as many at risk as there may be, and of the hazards the smallest.
    """
    early, late = table.early[1:, :-1].sum(axis=0), table.late[1:, :-1].sum(axis=0)
    begun, ended = np.cumsum(early), np.cumsum(late)
    surely = table.patients - np.cumsum(table.early.sum(axis=0))[:-1]  # at risk after edge k
    perhaps = table.patients - np.append(0, np.cumsum(table.late.sum(axis=0)))[:-2]
    low = np.cumprod(np.where(late > 0, surely / np.maximum(surely + late, 1), 1.0))
    open_now = begun - ended
    low = low * np.where(open_now > 0, surely / np.maximum(surely + open_now, 1), 1.0)
    high = np.ones(len(early))
    kept = early.astype(float).copy()
    for k in range(len(early)):
        sure = kept[: k + 1].copy()
        spare = float(open_now[k])
        for j in range(k, -1, -1):  # the events that may come later: those of the largest hazards
            if spare <= 0:
                break
            taken = min(sure[j], spare)
            sure[j] -= taken
            spare -= taken
        y = perhaps[: k + 1]
        high[k] = np.prod(np.where(sure > 0, (y - sure) / np.maximum(y, 1), 1.0))
    low, high = np.minimum.accumulate(low), np.clip(high, 0.0, 1.0)
    return np.clip(low, 0.0, 1.0), np.maximum(np.minimum.accumulate(high), low)


@dataclass(frozen=True)
class Incidence:
    """Probability of leaving by one cause, at the edges, (K,) each."""

    times: Floats
    incidence: Floats
    se: Floats
    lower: Floats
    upper: Floats


def cumulative_incidence(table: Table, cause: int, confidence: float = 0.95) -> Incidence:
    """Of cause number `cause`, from 1, beside all others; intervals of log(-log F)."""
    y, every = table.at_risk, table.events
    d = table.counts[cause, :-1]
    share = np.divide(every, y, out=np.zeros_like(y), where=y > 0)
    before = np.append(1.0, np.cumprod(1.0 - share)[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        jump = np.where(y > 0, before * d / y, 0.0)
        first = np.where(y > every, every / (y * (y - every)), 0.0)
        second = np.where(y > 0, before**2 * (y - d) * d / y**3, 0.0)
        third = np.where(y > 0, before * d / y**2, 0.0)
    f = np.cumsum(jump)
    # sum over k <= t of (F_t - F_k)^2 a_k, and of (F_t - F_k) b_k, opened up
    variance = f**2 * np.cumsum(first) - 2 * f * np.cumsum(f * first) + np.cumsum(f**2 * first)
    variance += np.cumsum(second) - 2 * (f * np.cumsum(third) - np.cumsum(f * third))
    se = np.sqrt(np.maximum(variance, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        half = float(normal_quantile(0.5 + confidence / 2)) * se / (f * np.log(f))
        inside = (f > 0) & (f < 1)
        lower = np.where(inside, f ** np.exp(-half), f)
        upper = np.where(inside, f ** np.exp(half), f)
    return Incidence(table.edges, f, se, lower, upper)
