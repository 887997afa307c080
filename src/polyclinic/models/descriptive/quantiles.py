"""Quantiles of the pooled rows, by histograms that are refined around them round by round.

A quantile of n values (Hyndman & Fan 1996, type 7: numpy's and R's default) is interpolated between
two order statistics. Each is enclosed in a bin; every round cuts that bin into smaller ones, until
it is narrow enough, holds too few values to be cut again, or hidden cells stop the progress. The
answer states the bin: the quantile certainly lies between `lower` and `upper`.

No bin is ever narrowed below `least` values, so that an answer never singles out a patient; the
smallest and largest values are replaced by the `least`-th from either end.

What leaves the site: the histograms of histogram.py with edges chosen from earlier totals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.descriptive.column import Column
from polyclinic.models.descriptive.cumulative import Cumulative
from polyclinic.models.descriptive.histogram import closed, grid

Floats = NDArray[np.float64]

FIRST_BINS = 8
MOST_BINS = 16
MAX_ROUNDS = 30
SLOW = 0.75  # a round that leaves more than this part of a bin's width was the last for it


@dataclass(frozen=True)
class Quantiles:
    """Quantiles `q` of each column, in all rows and by the levels of `by`.

    Parameters
    ----------
    q : probabilities in [0, 1].
    tolerance : a bin is narrow enough at this part of the column's range.
    least : values that a bin keeps, and place of the guarded extremes "low" and "high"; these are
        None with fewer than twice as many values.

    Model: ``{"all": {column: answers}, "by": {level: {column: answers}}}``; answers has one entry
    per probability (key: ``str(q)``) and "low", "high": ``{"value", "lower", "upper", "exact"}``,
    or None without values and where all of them are hidden. `lower`, `upper` are None beyond the
    agreed range; `exact` only for whole numbers.
    """

    columns: tuple[Column, ...]
    q: tuple[float, ...] = (0.25, 0.5, 0.75)
    by: Column | None = None
    tolerance: float = 1e-4
    least: int = 5

    def __post_init__(self) -> None:
        if not all(0.0 <= q <= 1.0 for q in self.q):
            raise ValueError("probabilities lie between 0 and 1")
        if self.least < 1:
            raise ValueError("least is at least 1")

    def init(self, seed: int) -> State:
        groups = 1 if self.by is None else 1 + len(self.by.levels)
        tracks = {}
        for column in self.columns:
            edges = closed(column, grid(column, *column.range, FIRST_BINS))
            tracks[column.name] = [{"edges": edges}] * groups
        return {"round": 0, "tracks": tracks}

    def plan(self, state: State) -> Plan | None:
        tracks = state["tracks"]
        finished = not any(track["edges"].size for groups in tracks.values() for track in groups)
        if finished or state["round"] == MAX_ROUNDS:
            return None
        # All columns are asked until the last is settled: one site's arrays look like another's.
        edges = {
            name: np.stack([_padded(track["edges"], self._most_edges) for track in groups])
            for name, groups in tracks.items()
        }
        values = {"by": self.by.coded() if self.by else None, "edges": edges}
        return Plan("descriptive.histogram", values, "quantiles")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        tracks = {
            column.name: [
                self._follow(column, track, edges, g, total)
                for g, (track, edges) in enumerate(
                    zip(
                        state["tracks"][column.name], plan.values["edges"][column.name], strict=True
                    )
                )
            ]
            for column in self.columns
        }
        return {"round": state["round"] + 1, "tracks": tracks}

    def model(self, state: State) -> dict[str, Any]:
        groups = [
            {c.name: self._answers(c, state["tracks"][c.name][g]) for c in self.columns}
            for g in range(1 + (len(self.by.levels) if self.by else 0))
        ]
        levels = self.by.levels if self.by else ()
        return {"all": groups[0], "by": dict(zip(levels, groups[1:], strict=True))}

    def progress(self, state: State) -> Mapping[str, float]:
        open_bins = sum(
            track["edges"].size > 0 for groups in state["tracks"].values() for track in groups
        )
        return {"columns left": float(open_bins)}

    @property
    def _most_edges(self) -> int:
        """Edges that a column and group may need in any round: the arrays keep one shape."""
        return max(FIRST_BINS + 2, (2 * len(self.q) + 2) * (MOST_BINS + 1))

    def _follow(
        self,
        column: Column,
        track: Mapping[str, Any],
        edges: Floats,
        g: int,
        total: Total,
    ) -> dict[str, Any]:
        """One column and group after a round: what is known now, and the edges to ask next."""
        finite = edges[np.isfinite(edges)]
        if not finite.size:
            return {**track, "edges": finite}
        n, leaf = int(total[f"n:{column.name}"][g]), f"bins:{column.name}"
        counts = total[leaf][g]
        hidden = total.hidden[leaf][g] if leaf in total.hidden else np.zeros_like(counts)
        known = Cumulative.from_data(track["known"]) if "known" in track else Cumulative.unknown(n)
        known = known.refined(finite, counts[: finite.size + 1], hidden[: finite.size + 1])
        ranks = sorted({rank for pair in self._places(n).values() for rank in pair[:2]})
        widths: dict[str, float] = track.get("widths", {})
        new_widths, wanted = {}, [np.empty(0)]
        for rank in ranks:
            i, j = known.around(rank, self.least)
            a, b = float(known.edges[i]), float(known.edges[j])
            before = widths.get(str(rank), math.inf)
            new_widths[str(rank)] = min(b - a, np.finfo(float).max)
            if b - a <= SLOW * before and math.isfinite(b - a):
                held = int(known.high[j] - known.low[i])
                wanted.append(self._cut(column, a, b, held, max(1, len(total.sites))))
        return {
            "known": known.to_data(),
            "widths": new_widths,
            "edges": np.unique(np.concatenate(wanted)),
        }

    def _cut(self, column: Column, a: float, b: float, held: int, sites: int) -> Floats:
        """Edges that cut [a, b) so that every bin may hold enough patients at every site."""
        lower, upper = column.range
        if held < 2 * self.least or b - a <= self.tolerance * (upper - lower):
            return np.empty(0)
        if column.is_whole and b - a <= 1.0:
            return np.empty(0)
        parts = min(max(held // (2 * self.least * sites), 2), MOST_BINS)
        return grid(column, a, b, parts)

    def _places(self, n: int) -> dict[str, tuple[int, int, float]]:
        """Per answer the two ranks (from 0) and the weight of the second."""
        places = {str(q): q * (n - 1) for q in self.q} if n else {}
        if n >= 2 * self.least:
            places |= {"low": float(self.least - 1), "high": float(n - self.least)}
        return {
            name: (math.floor(at), math.ceil(at), at - math.floor(at))
            for name, at in places.items()
        }

    def _answers(self, column: Column, track: Mapping[str, Any]) -> dict[str, Any]:
        names = [str(q) for q in self.q] + ["low", "high"]
        known = Cumulative.from_data(dict(track["known"])) if "known" in track else None
        if known is None or known.n == 0:
            return dict.fromkeys(names)
        places = self._places(known.n)
        return {
            name: self._answer(column, known, *places[name]) if name in places else None
            for name in names
        }

    def _answer(
        self,
        column: Column,
        known: Cumulative,
        first: int,
        second: int,
        weight: float,
    ) -> dict[str, Any] | None:
        one = self._enclose(column, known, first)
        two = one if second == first else self._enclose(column, known, second)
        value, lower, upper = (  # + 0.0: no minus zero
            (x if x == y else (1 - weight) * x + weight * y) + 0.0
            for x, y in zip(one, two, strict=True)
        )
        if not math.isfinite(value):
            return None
        return {
            "value": value,
            "lower": lower if math.isfinite(lower) else None,
            "upper": upper if math.isfinite(upper) else None,
            "exact": lower == upper,
        }

    def _enclose(self, column: Column, known: Cumulative, rank: int) -> tuple[float, float, float]:
        """Best guess, lower and upper bound of the order statistic of that rank."""
        i, j = known.around(rank, self.least)
        a, b = float(known.edges[i]), float(known.edges[j])
        below = float(known.low[i] + known.high[i]) / 2
        inside = float(known.low[j] + known.high[j]) / 2 - below
        place = min(max((rank + 0.5 - below) / inside, 0.0), 1.0) if inside > 0 else 0.5
        if math.isfinite(a) and math.isfinite(b):
            value = a + (b - a) * place
        else:
            value = b if math.isfinite(b) else a
        if not column.is_whole:
            return value, a, b
        a, b = a + 0.5, b - 0.5
        return float(min(max(np.rint(value), a), b)), a, b


def _padded(edges: Floats, size: int) -> Floats:
    return np.concatenate([edges, np.full(size - edges.size, np.inf)])
