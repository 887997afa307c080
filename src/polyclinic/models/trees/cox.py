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

S_i is the sum of whole numbers (exact.py), so that it is the same however rows are cut and ordered:
a row's derivatives follow from a table of the times of events (at_times.py), which may be that of
more rows than are here.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import exponent
from polyclinic.models.by_time import ByTime, starts_of
from polyclinic.models.exact import PARTS, WIDE, sums_of
from polyclinic.models.survival.concordance import grouped, pairs
from polyclinic.models.trees.at_times import (
    Highest,
    Largest,
    Table,
    table_of,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
LOWEST = -60.0  # of a margin less the largest of its stratum: smaller risks count as this one
FAR = 3.0  # relative hazards from 1/20 to 20


class RiskSets:
    """Rows in the order of their times; all arguments (n_rows,), weights above 0.

    key      breaks ties of time, so that the order of rows does not matter
    stratum  number of each row's; None: all rows are of one
    parts    a row is at most so large a part of a risk set; 1: any
    strata   their number, where some may have no row here
    bound    2^bound is no less than a weight, here or in another chunk
    """

    def __init__(
        self,
        time: Floats,
        event: Bools,
        weight: Floats,
        key: Ints,
        stratum: Ints | None = None,
        parts: int = 1,
        strata: int = 0,
        bound: int | None = None,
    ) -> None:
        numbers = np.zeros(len(time), np.int64) if stratum is None else stratum
        self.parts, self.strata = parts, strata or int(numbers.max(initial=0)) + 1
        self.bound = exponent(weight.max(initial=0.0)) if bound is None else bound
        self.order = np.lexsort((key, event, -time, numbers))  # the latest first
        self.stratum, self.time = numbers[self.order], time[self.order]
        self.event, self.weight = event[self.order].astype(np.float64), weight[self.order]
        self.starts = starts_of(self.stratum, self.time)
        edges = np.searchsorted(self.stratum, np.arange(self.strata + 1)).tolist()
        self._slices = [(k, slice(a, b)) for k, (a, b) in enumerate(pairwise(edges)) if a < b]

    def times(self) -> ByTime:
        """Rows, rows with the event, and the weights of these."""
        sizes = np.diff(self.starts, append=len(self.time))
        events = np.add.reduceat(self.event.astype(np.int64), self.starts)
        weights = sums_of(self.weight * self.event, self.starts, self.bound)
        return self._by_time(np.column_stack([sizes, events, weights]))

    def highest(self, margin: Floats) -> Highest:
        """Of margins (n_rows,), as they are here and below in the order of the arguments."""
        margin = margin[self.order]
        most, rows = np.full(self.strata, -np.inf), np.zeros(self.strata, np.int64)
        sums, whole = np.zeros((self.strata, PARTS), np.int64), np.zeros(1, np.int64)
        for k, here in self._slices:
            most[k], rows[k] = margin[here].max(), here.stop - here.start
            sums[k] = sums_of(margin[here], whole, WIDE)[0]
        return Highest(most, sums, rows)

    def risks(self, margin: Floats, top: Floats) -> ByTime:
        """Weighted risks, where those at the margins `top` (n_strata,) are 1."""
        return self._by_time(sums_of(self._weighted(margin, top), self.starts, self.bound))

    def largest(self, margin: Floats, top: Floats, parts: int) -> Largest:
        """Of these the ones that may be among the `parts` - 1 largest of a risk set: the others are
        never more than a `parts`-th of it."""
        risk, kept = self._weighted(margin, top), np.zeros(len(margin), dtype=bool)
        for _, here in self._slices:
            left = risk[here]
            for _ in range(parts - 1):  # what each row drives out of the largest so far
                left = np.minimum(np.append(0.0, np.maximum.accumulate(left)[:-1]), left)
            kept[here] = left < risk[here]
        return Largest(self.stratum[kept], self.time[kept], risk[kept])

    def derivatives(self, margin: Floats, table: Table | None = None) -> tuple[Floats, Floats]:
        """First and second at margins (n_rows,), of a weight of one; `table` of these rows and
        others, None: there are no others."""
        table = table or self._alone(margin)
        first, second = np.zeros(len(margin)), np.zeros(len(margin))
        for k, here in self._slices:
            a, b = table.start[k : k + 2]
            if a == b:
                continue
            rows, weight, at = self.order[here], self.weight[here], self._at(table, k, here)
            risk = _risk(margin[rows], table.top[k])
            once, twice, count = (
                np.append(part[a:b], 0.0) for part in (table.once, table.twice, table.count)
            )
            # Up to time number `until` a row counts with its risk, then with the most.
            until = np.maximum(np.searchsorted(table.most[a:b], weight * risk), at)
            once, twice, cut = once[until], twice[until], count[at] - count[until]
            own = np.minimum(weight, 1.0) * risk
            event = self.event[here] * (self.time[here] <= table.time[a])
            first[rows] = risk * once + cut / (table.parts * weight) - event
            left = (1.0 - 1.0 / table.parts) * cut / (table.parts * weight)
            second[rows] = np.maximum(risk * (once - own * twice), 0.0) + left
        return first, second

    def losses(self, margin: Floats, table: Table | None = None) -> Floats:
        """What each row adds to the loss, (n_rows,); 0 of censored ones. `table` is that of margins
        that are `near`."""
        if table is None:
            high = self.highest(margin)
            table = self._alone(self.near(margin, high.mean, self.parts), high.mean)
        margin, found = self.near(margin, table.mean, table.parts), np.zeros(len(margin))
        for k, here in self._slices:
            a, b = table.start[k : k + 2]
            if a == b:
                continue
            rows, at = self.order[here], np.minimum(self._at(table, k, here), b - a - 1)
            event = self.weight[here] * self.event[here] * (self.time[here] <= table.time[a])
            whole = np.log(table.whole[a:b])[at]
            found[rows] = event * (whole + table.top[k] - margin[rows])
        return found

    def near(self, margin: Floats, mean: Floats, parts: int) -> Floats:
        """Margins as `near` to the mean of their stratum, (n_strata,)."""
        found = np.empty(len(margin))
        found[self.order] = near(margin[self.order], mean[self.stratum], parts)
        return found

    def pairs(self, margin: Floats, least: int) -> tuple[Ints, Floats]:
        """Concordant, discordant and tied pairs of one stratum, and sums of their squares; risks
        of `least` rows next to each other count as one."""
        counts, squares = np.zeros(3, np.int64), np.zeros(3)
        for _, here in self._slices:
            mine, event = margin[self.order[here]], self.event[here] > 0
            risk = grouped(mine, np.arange(len(mine)), least)
            found = pairs(self.time[here], event, risk)
            counts += found.counts
            squares += found.squares
        return counts, squares

    def _by_time(self, sums: Ints) -> ByTime:
        return ByTime(self.stratum[self.starts], self.time[self.starts], sums)

    def _weighted(self, margin: Floats, top: Floats) -> Floats:
        return self.weight * _risk(margin[self.order], top[self.stratum])

    def _at(self, table: Table, k: int, here: slice) -> Ints:
        """The number in the table of the last time of an event that each row is at risk at."""
        a, b = table.start[k : k + 2]
        return np.searchsorted(-table.time[a:b], -self.time[here])

    def _alone(self, margin: Floats, mean: Floats | None = None) -> Table:
        """The table of no other rows; with `mean` that of losses."""
        high, limited = self.highest(margin), self.parts > 1 and mean is None
        largest = self.largest(margin, high.most, self.parts if limited else 1)
        more = (self.parts, self.bound, high.most, high.mean if mean is None else mean, limited)
        return table_of(self.times(), self.risks(margin, high.most), largest, *more)


def near(margin: Floats, mean: Floats, parts: int) -> Floats:
    """Margins in the loss, no further than `FAR` from a mean where risk sets are limited."""
    return margin if parts == 1 else np.clip(margin, mean - FAR, mean + FAR)


def _risk(margin: Floats, top: Floats) -> Floats:
    """exp(m) over the largest one."""
    found: Floats = np.exp(np.maximum(margin - top, LOWEST))
    return found
