"""The Cox partial likelihood as a loss of trees, with a baseline for every hospital and stratum.

Of the rows at risk at the time of event i, S_i = sum of w_j exp(m_j); tied events have one risk set
(Breslow). With d = 1 for an event, and sums over the events up to a row's own time,

    loss = sum w_i d_i (log S_i - m_i)    g = exp(m) R - d    h = exp(m) (R - min(w, 1) exp(m) Q)
    R = sum w_i / S_i                     Q = sum w_i / S_i^2

each times the row's weight; h is the diagonal of the Hessian, for a weight of k > 1 that of k rows.
It is 0 or more. Without ties and weights these are XGBoost's (`survival:cox`); of tied rows that
one counts only those before them, so its answer hangs on their order.

No time leaves a hospital, only histograms of g and h. Both follow the order of times within it.
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


@dataclass(frozen=True)
class _Stratum:
    """Rows of one stratum, the latest first.

    rows   their numbers
    ends   the last row of each time, (n_times,); at: the time of each row, by number
    events weight of the events at each time, (n_times,)
    """

    rows: Ints
    ends: Ints
    at: Ints
    events: Floats


class RiskSets:
    """Rows in the order of their times; all arguments (n_rows,), weights above 0.

    key      breaks ties of time, so that the order of rows does not matter
    stratum  number of each row's; None: all rows are of one
    """

    def __init__(
        self, time: Floats, event: Bools, weight: Floats, key: Ints, stratum: Ints | None
    ) -> None:
        self.event, self.weight = event.astype(np.float64), weight
        numbers = np.zeros(len(time), np.int64) if stratum is None else stratum
        order = np.lexsort((key, event, -time, numbers))
        cuts = np.flatnonzero(np.diff(numbers[order])) + 1
        self.strata = [self._stratum(part, time) for part in np.split(order, cuts) if len(part)]

    def _stratum(self, rows: Ints, time: Floats) -> _Stratum:
        fresh = np.append(True, np.diff(time[rows]) < 0)
        at = np.cumsum(fresh) - 1
        ends = np.append(np.flatnonzero(fresh)[1:], len(rows)) - 1
        events = np.zeros(len(ends))
        np.add.at(events, at, self.weight[rows] * self.event[rows])
        return _Stratum(rows, ends, at, events)

    def _risks(self, one: _Stratum, margin: Floats) -> tuple[Floats, Floats, float]:
        """exp(m) of the rows, S at each time, both divided by exp of the third."""
        mine = margin[one.rows]
        top = float(mine.max())
        risk = np.exp(np.maximum(mine - top, LOWEST))
        return risk, np.cumsum(self.weight[one.rows] * risk)[one.ends], top

    def derivatives(self, margin: Floats) -> tuple[Floats, Floats]:
        """First and second at margins (n_rows,), of a weight of one."""
        first, second = np.zeros(len(margin)), np.zeros(len(margin))
        for one in self.strata:
            risk, at_risk, _ = self._risks(one, margin)
            share = one.events / at_risk
            once, twice = (np.cumsum(part[::-1])[::-1][one.at] for part in (share, share / at_risk))
            first[one.rows] = risk * once - self.event[one.rows]
            own = np.minimum(self.weight[one.rows], 1.0) * risk
            second[one.rows] = np.maximum(risk * (once - own * twice), 0.0)
        return first, second

    def losses(self, margin: Floats) -> Floats:
        """What each row adds to the loss, (n_rows,); 0 of censored ones."""
        found = np.zeros(len(margin))
        for one in self.strata:
            _, at_risk, top = self._risks(one, margin)
            mine = self.weight[one.rows] * self.event[one.rows]
            found[one.rows] = mine * (np.log(at_risk)[one.at] + top - margin[one.rows])
        return found

    def pairs(self, margin: Floats, least: int) -> tuple[Ints, Floats]:
        """Concordant, discordant and tied pairs of one stratum, and sums of their squares; risks
        of `least` rows next to each other count as one."""
        counts, squares = np.zeros(3, np.int64), np.zeros(3)
        for one in self.strata:
            risk, event = grouped(margin[one.rows], least), self.event[one.rows] > 0
            found = pairs(-one.at.astype(np.float64), event, risk)
            counts += found.counts
            squares += found.squares
        return counts, squares
