"""Risk sets of all rows of a hospital, asked of its chunks step by step.

A derivative of the Cox loss needs the sums over those still at risk at each time. So the site asks
every chunk what it holds by distinct time, adds that up (at_times.py), and hands down a table, by
which each chunk finds the derivatives of its own rows. All that is added are whole numbers, and the
largest of some numbers: the table is the same however rows are cut.

None of it leaves the site, times least of all; what does is in survival.py and cells.py.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.exposure import Exposure, Members, Shares, unpacked
from polyclinic.core.task import Answer, Question
from polyclinic.models.also_in_one_place import AlsoInOnePlace
from polyclinic.models.by_time import ByTime
from polyclinic.models.exact import PARTS, WIDE, floats_of, sums_of
from polyclinic.models.trees.at_times import Highest, Largest, table_of
from polyclinic.models.trees.cox import RiskSets, near
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Asking = Generator[Question, Answer, Any]
ASKED = ("times", "highest", "risks")


@dataclass(frozen=True)
class ExactShares:
    """`Shares` in one sum; total and squares as whole numbers, (PARTS,), so that they are exact."""

    total: Ints
    squares: Ints
    first: float
    second: float

    @staticmethod
    def of(parts: Floats, key: Ints | None = None) -> ExactShares:
        """Of rows, 0 or more each; rows of a patient are added first."""
        starts = np.arange(len(parts))
        if key is not None:
            starts = np.flatnonzero(np.diff(key, prepend=-1))
            parts = np.add.reduceat(parts, starts)
        if not len(parts):
            return ExactShares(np.zeros(PARTS, np.int64), np.zeros(PARTS, np.int64), 0.0, 0.0)
        second, first = np.partition(np.append(parts, 0.0), -2)[-2:].tolist()
        start = np.zeros(1, np.int64)
        total, squares = (sums_of(each, start, WIDE)[0] for each in (parts, parts**2))
        return ExactShares(total, squares, first, second)

    def __add__(self, other: ExactShares) -> ExactShares:
        first, second = sorted((self.first, self.second, other.first, other.second))[:1:-1]
        total, squares = self.total + other.total, self.squares + other.squares
        return ExactShares(total, squares, first, second)

    @property
    def shares(self) -> Shares:
        """As the gate reads them."""
        total, squares = (floats_of(one, WIDE) for one in (self.total, self.squares))
        return Shares(total, squares, np.asarray(self.first), np.asarray(self.second))


class AtRisk:
    """What is known of some rows of a hospital.

    times   rows and events by time
    parts   a row is at most so large a part of a risk set
    table   at the margins of trees that were asked for last
    shares  how patients share in the curvature there, once it was asked for
    """

    def __init__(self, spec: Spec, class_weight: Floats) -> None:
        self.spec, self.class_weight = spec, class_weight
        self.times: ByTime | None = None
        self.parts = 1
        self.table: dict[str, Any] = {}
        self.shares: Answer | None = None
        self._at: tuple[Floats, Stack] | None = None

    def at(self, base: Floats, trees: Stack, about: Mapping[str, Any]) -> Asking:
        """The table at the margins of these trees, about which chunks are told."""
        was = self._at
        same = was is not None and np.array_equal(was[0], base) and was[1].trees == trees.trees
        if was is None or not same or not trees.starts_with(was[1]):
            (table,) = yield from self.tables(about)
            self.table, self.shares, self._at = {"table": vars(table)}, None, (base, trees)
        return self.table

    def tables(self, about: Mapping[str, Any], losses: bool = False) -> Asking:
        """The table at margins about which chunks are told; with `losses` a second one, that these
        are found by."""
        if self.times is None:
            found = yield Question({**about, "ask": "times"}, long=True)
            self.times, self.parts = ByTime(**found["times"]), int(found["parts"])
        found = yield Question({**about, "ask": "highest"})
        high = Highest(**found["highest"])
        tables = [(yield from self._table(about, high.most, high.mean, self.parts))]
        if losses:
            top = near(high.most, high.mean, self.parts)
            more = {**about, "mean": high.mean, "near": self.parts}
            tables.append((yield from self._table(more, top, high.mean, 1)))
        return tables

    def _table(self, about: Mapping[str, Any], top: Floats, mean: Floats, parts: int) -> Asking:
        assert self.times is not None
        asked = {**about, "ask": "risks", "top": top, "parts": parts}
        found = yield Question(asked, long=True)
        risks, largest = ByTime(**found["risks"]), Largest(**found["largest"])
        bound = self.spec.weight_exponent
        return table_of(self.times, risks, largest, self.parts, bound, top, mean, parts > 1)


def at_risk_of(kept: dict[str, Any], which: str, spec: Spec, class_weight: Floats) -> AtRisk:
    """What is known of the rows that are fitted, or held out."""
    found: AtRisk | None = kept.get(f"at risk: {which}")
    same = found is not None and np.array_equal(found.class_weight, class_weight)
    if found is None or not same or found.spec != spec:
        found = kept[f"at risk: {which}"] = AtRisk(spec, class_weight)
    return found


def told(asked: Mapping[str, Any], sets: RiskSets, margin: Floats) -> Answer:
    """What a chunk says to one of `ASKED`."""
    if asked["ask"] == "times":
        return {"times": vars(sets.times()), "parts": sets.parts}
    if asked["ask"] == "highest":
        return {"highest": vars(sets.highest(margin))}
    if "mean" in asked:
        margin = sets.near(margin, asked["mean"], asked["near"])
    top = asked["top"]
    largest = sets.largest(margin, top, asked["parts"])
    return {"risks": vars(sets.risks(margin, top)), "largest": vars(largest)}


def added(name: str, mine: Any, more: Any) -> Any:
    """What two chunks say under one name, as one."""
    if name in _KINDS:
        kind = _KINDS[name]
        return vars(kind(**mine) + kind(**more))
    if name == "parts":
        return max(mine, more)
    if name == "slots":
        return {slot: count + more[slot] for slot, count in mine.items()}
    return mine + more  # counts, and lists of what each chunk has


def together(one: Answer, other: Answer) -> dict[str, Any]:
    """Two answers as one."""
    return {name: added(name, mine, other[name]) for name, mine in one.items()}


def exposure_of(spec: Spec, columns: tuple[str, ...], found: Answer) -> Exposure:
    """How patients share in the curvature, who they are, and the fewest that make up a risk set, or
    that a risk is taken of."""
    patients = np.concatenate([unpacked(one) for one in found["persons"]])
    return Exposure(
        slots={**found["slots"], "of one risk": max(spec.cell, 1)},
        weights=ExactShares(**found["weights"]).shares,
        members=(Members(columns, patients),),
    )


class BySteps(AlsoInOnePlace):
    """Base of tasks that go step by step, in one place as well."""

    def together(self, one: Answer, other: Answer) -> Answer:
        """Sums of both, and what each chunk has side by side."""
        return together(one, other)


_KINDS: dict[str, Any] = {
    "times": ByTime,
    "highest": Highest,
    "risks": ByTime,
    "largest": Largest,
    "weights": ExactShares,
    "losses": ExactShares,
}
