"""The Cox partial likelihood as a loss of trees, with a baseline for every hospital and stratum.

Of the rows at risk at the time of event i, S_i = sum of w_j exp(m_j); tied events have one risk set
(Breslow). With d = 1 for an event, and sums over the events up to a row's own time,

    loss = sum w_i d_i (log S_i - m_i)    g = exp(m) R - d    h = exp(m) (R - min(w, 1) exp(m) Q)
    R = sum w_i / S_i                     Q = sum w_i / S_i^2

each times the row's weight; h is the diagonal of the Hessian, for a weight of k > 1 that of k rows.
It is 0 or more. Without ties and weights these are XGBoost's (`survival:cox`); of tied rows that
one counts only those before them, so its answer hangs on their order.

No time leaves a hospital, only histograms of g and h, and these follow the order of times. Whoever
chooses margins chooses who makes up the risk sets: where all risk is with a few patients, a sum of
g counts the events until the last of them leaves. So beyond a border nobody is more than one
`parts`-th of a risk set: larger risks count as the one that is just that, found for each set, and
an event with fewer than `parts` at risk counts nowhere. Then such a sum is a mean over as many
patients. The logarithm in the loss would tell the same, so there margins count as no further than
`FAR` from the stratum's mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.survival.concordance import grouped, pairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
LOWEST = -60.0  # of a margin less the largest of its stratum: smaller risks count as this one
FAR = 3.0  # relative hazards from 1/20 to 20


@dataclass(frozen=True)
class _Stratum:
    """Rows of one stratum, the latest first.

    rows   their numbers
    ends   the last row of each time, (n_times,); at: the time of each row, by number
    events weight of the events at each time, (n_times,)
    counted  whether enough were at risk at the row's time
    """

    rows: Ints
    ends: Ints
    at: Ints
    events: Floats
    counted: Bools


@dataclass(frozen=True)
class _Risks:
    """Of a stratum's times: the sum of risks `whole`, and the largest that a row counts with."""

    whole: Floats
    most: Floats


class RiskSets:
    """Rows in the order of their times; all arguments (n_rows,), weights above 0.

    key      breaks ties of time, so that the order of rows does not matter
    stratum  number of each row's; None: all rows are of one
    parts    a row is at most so large a part of a risk set; 1: any
    """

    def __init__(
        self,
        time: Floats,
        event: Bools,
        weight: Floats,
        key: Ints,
        stratum: Ints | None = None,
        parts: int = 1,
    ) -> None:
        self.event, self.weight, self.parts = event.astype(np.float64), weight, parts
        numbers = np.zeros(len(time), np.int64) if stratum is None else stratum
        order = np.lexsort((key, event, -time, numbers))
        cuts = np.flatnonzero(np.diff(numbers[order])) + 1
        self.strata = [self._stratum(part, time) for part in np.split(order, cuts) if len(part)]

    def _stratum(self, rows: Ints, time: Floats) -> _Stratum:
        fresh = np.append(True, np.diff(time[rows]) < 0)
        at = np.cumsum(fresh) - 1
        ends = np.append(np.flatnonzero(fresh)[1:], len(rows)) - 1
        counted = ends + 1 >= self.parts
        events = np.zeros(len(ends))
        np.add.at(events, at, self.weight[rows] * self.event[rows])
        return _Stratum(rows, ends, at, events * counted, counted[at])

    def derivatives(self, margin: Floats) -> tuple[Floats, Floats]:
        """First and second at margins (n_rows,), of a weight of one."""
        first, second = np.zeros(len(margin)), np.zeros(len(margin))
        for one in self.strata:
            weight = self.weight[one.rows]
            risk = _risk(margin[one.rows])
            sets = self._sets(one, weight * risk)
            share = one.events / sets.whole
            # Sums over the events up to each time, from the earliest, which stands last.
            once, twice, count = (
                np.append(np.cumsum(part[::-1])[::-1], 0.0)
                for part in (share, share / sets.whole, one.events)
            )
            # Up to time number `until` a row counts with its risk, then with the most.
            until = np.maximum(np.searchsorted(sets.most, weight * risk), one.at)
            once, twice, cut = once[until], twice[until], count[one.at] - count[until]
            own = np.minimum(weight, 1.0) * risk
            event = self.event[one.rows] * one.counted
            first[one.rows] = risk * once + cut / (self.parts * weight) - event
            left = (1.0 - 1.0 / self.parts) * cut / (self.parts * weight)
            second[one.rows] = np.maximum(risk * (once - own * twice), 0.0) + left
        return first, second

    def _sets(self, one: _Stratum, risk: Floats) -> _Risks:
        """Of risks in the order of the rows: the sets at each time, the latest first."""
        whole = np.cumsum(risk)[one.ends]
        most = np.full(len(whole), np.inf)
        if self.parts == 1:
            return _Risks(whole, most)
        left, limited = risk, np.zeros(len(whole), dtype=bool)
        for cut in range(self.parts):  # the largest ones count alike, the others are as they are
            each = np.cumsum(left)[one.ends] / (self.parts - cut)
            largest = np.maximum.accumulate(left)
            found = np.isinf(most) & (largest[one.ends] <= each)
            most[found] = each[found]
            limited |= found & (cut > 0)
            left = np.minimum(np.append(0.0, largest[:-1]), left)
        # Sets only grow towards earlier times, and so does the most: what is lost is rounding.
        most = np.maximum.accumulate(np.where(np.isinf(most), 0.0, most))
        return _Risks(np.where(limited & (most > 0), self.parts * most, whole), most)

    def losses(self, margin: Floats) -> Floats:
        """What each row adds to the loss, (n_rows,); 0 of censored ones."""
        found = np.zeros(len(margin))
        for one in self.strata:
            mine, weight = margin[one.rows], self.weight[one.rows]
            if self.parts > 1:
                mine = np.clip(mine, mine.mean() - FAR, mine.mean() + FAR)
            top = float(mine.max())
            whole = np.cumsum(weight * _risk(mine))[one.ends]
            event = weight * self.event[one.rows] * one.counted
            found[one.rows] = event * (np.log(whole)[one.at] + top - mine)
        return found

    def pairs(self, margin: Floats, least: int) -> tuple[Ints, Floats]:
        """Concordant, discordant and tied pairs of one stratum, and sums of their squares; risks
        of `least` rows next to each other count as one."""
        counts, squares = np.zeros(3, np.int64), np.zeros(3)
        for one in self.strata:
            each = np.arange(len(one.rows))
            risk, event = grouped(margin[one.rows], each, least), self.event[one.rows] > 0
            found = pairs(-one.at.astype(np.float64), event, risk)
            counts += found.counts
            squares += found.squares
        return counts, squares


def _risk(margin: Floats) -> Floats:
    """exp(m) over the largest one."""
    found: Floats = np.exp(np.maximum(margin - margin.max(), LOWEST))
    return found
