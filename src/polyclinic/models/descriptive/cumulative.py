"""What histograms with hidden cells say for certain about the number of values below an edge.

For edges e_1 < ... < e_m the number of values below e_i is known to lie in [low_i, high_i]. A shown
cell adds its exact count from edge to edge; a hidden one adds at least what other sites showed in
it. The bounds are passed along the edges in both directions, so that hidden cells blur only the
place where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cumulative:
    """Bounds on the number of values below each edge; first edge -inf, last edge +inf.

    `edges`, `low`, `high` have one shape (m,); low <= true count <= high.
    """

    edges: Floats
    low: Ints
    high: Ints

    @staticmethod
    def unknown(n: int) -> Cumulative:
        """Nothing is known but that there are `n` values."""
        ends = np.array([0, n], dtype=np.int64)
        return Cumulative(np.array([-np.inf, np.inf]), ends, ends.copy())

    @property
    def n(self) -> int:
        return int(self.low[-1])

    def refined(self, edges: Floats, counts: Ints, hidden: Ints) -> Cumulative:
        """With a further histogram over ascending finite `edges`, (k,).

        counts  values per cell, (k + 1,): below the first edge, between, from the last edge on
        hidden  number of sites that hid the cell, (k + 1,)
        """
        ends = np.concatenate([[-np.inf], edges, [np.inf]])
        low, high = self.at(ends)
        for i in range(1, len(ends)):
            low[i] = max(low[i], low[i - 1] + counts[i - 1])
            if not hidden[i - 1]:
                high[i] = min(high[i], high[i - 1] + counts[i - 1])
        for i in range(len(ends) - 2, -1, -1):
            high[i] = min(high[i], high[i + 1] - counts[i])
            if not hidden[i]:
                low[i] = max(low[i], low[i + 1] - counts[i])
        fresh = Cumulative(ends, low, high)
        every = np.union1d(self.edges, ends)
        bounds = [one.at(every) for one in (self, fresh)]
        return Cumulative(
            every, np.maximum(bounds[0][0], bounds[1][0]), np.minimum(bounds[0][1], bounds[1][1])
        )

    def at(self, edges: Floats) -> tuple[Ints, Ints]:
        """Bounds at any `edges`, from those at the nearest known ones."""
        below = np.searchsorted(self.edges, edges, side="right") - 1
        above = np.searchsorted(self.edges, edges, side="left")
        return self.low[below], self.high[above]

    def around(self, rank: int, least: int) -> tuple[int, int]:
        """Positions (i, j) of the tightest edges between which the value of `rank` certainly lies.

        `rank` counts from 0. The interval is widened until it surely holds `least` values or all.
        """
        i = int(np.flatnonzero(self.high <= rank)[-1])
        j = int(np.flatnonzero(self.low > rank)[0])
        while self.low[j] - self.high[i] < least:
            down = self.edges[i] - self.edges[i - 1] if self.high[i] or i > 1 else None
            up = self.edges[j + 1] - self.edges[j] if self._beyond(j) else None
            if down is not None and (up is None or down <= up):
                i -= 1
            elif up is not None:
                j += 1
            else:
                break
        return i, j

    def _beyond(self, j: int) -> bool:
        """Whether there is a finite edge after edge `j`, or a value that may lie there."""
        last = len(self.edges) - 1
        return j < last - 1 or (j == last - 1 and bool(self.low[j] < self.n))

    def to_data(self) -> dict[str, Any]:
        return {"edges": self.edges, "low": self.low, "high": self.high}

    @staticmethod
    def from_data(data: dict[str, Any]) -> Cumulative:
        return Cumulative(data["edges"], data["low"], data["high"])
