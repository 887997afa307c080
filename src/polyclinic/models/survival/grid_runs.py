"""Runs of an agreed grid in a regression, from what a hospital's rows tell by interval.

Rows in one place and chunks are asked the same: how many left in each interval in each way, and how
many of them have each mark that must not be rare in a run. The runs follow from these counts and do
not depend on coefficients. The counts stay in the hospital.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.core.task import Answer, Question
from polyclinic.models.glm.support import LOOKED_AT
from polyclinic.models.survival.rows import key_of, rows_of
from polyclinic.models.survival.spec import CoxSpec
from polyclinic.models.survival.steps import (
    base_runs,
    interval_of,
    most_rows,
    rows_behind,
    united,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
PER_COEFFICIENT, FEWEST = 10, 20  # patients of a run
MOST_PAIRS = 2000  # of yes-or-no columns: above, a run asks for every column by itself only


@dataclass(frozen=True)
class Runs:
    """Intervals that are taken together.

    number  of the run of each interval, (intervals,); -1: of none
    ends    first and last interval of each run, (n_runs, 2); none where the site is left out
    late    whether events after the end of the grid are counted with the last of those in it
    out     the site is left out
    """

    number: Ints
    ends: Ints
    late: bool
    out: bool

    @staticmethod
    def of(first: Ints, last: Ints, rows: Ints, late: bool, out: bool) -> Runs:
        """From the ends of each interval's run, and the rows in each interval, (intervals,)."""
        number = np.full(len(rows), -1, np.int64)
        ends = np.unique(np.stack([first, last], axis=1)[(rows > 0) & (not out)], axis=0)
        for k, (a, b) in enumerate(ends.tolist()):
            number[a : b + 1] = k
        return Runs(number, ends, late, out)

    @property
    def widths(self) -> Ints:
        """Intervals of each run, (n_runs,)."""
        return np.asarray(self.ends[:, 1] - self.ends[:, 0] + 1)

    def spread(self, values: Floats) -> Floats:
        """Values by run (m, n_runs, ...) at each interval of theirs, (m, intervals, ...)."""
        found = np.zeros((len(values), len(self.number), *values.shape[2:]))
        inside = self.number >= 0
        found[:, inside] = values[:, self.number[inside]]
        return found


@dataclass(frozen=True)
class Here:
    """Rows of a site, or of a chunk of it, in its runs.

    rows   places of those that are used, (n,)
    event  which of them have the event within the grid, (n,)
    parts  places in `rows` of each run
    """

    rows: Ints
    event: Bools
    parts: list[Ints]


def runs_of(spec: CoxSpec) -> Generator[Question, Answer, Runs]:
    """Asks for what `told` tells."""
    found, intervals = (yield Question({"ask": "left"})), len(spec.edges) + 1
    # Events of all less those of the grid would be these few.
    late = 0 < int(found["late"]) < spec.least
    interval, status, count = np.concatenate(found["left"], axis=1)
    levels, way = np.unique(status, return_inverse=True)
    left = np.zeros((intervals, len(levels)), np.int64)
    np.add.at(left, (interval, way.reshape(-1)), count)
    rows, each = left.sum(axis=1), np.arange(intervals)
    if spec.least <= 1:  # one trust domain
        return Runs.of(each, each, rows, late, False)
    head, most = found["head"]["x"], int(found["most"])
    yes = [j for j in range(head.shape[1]) if len(np.unique(head[:, j])) <= 2]
    asked = Question({"ask": "marks", "late": late, "yes": np.array(yes, dtype=np.int64)})
    marks = (yield asked)["marks"]
    fewest = rows_behind(spec.least, most)
    size = rows_behind(max(spec.least, FEWEST, PER_COEFFICIENT * head.shape[1]), most)
    wanted = _wanted(len(yes), fewest)
    first, last, whole = united(*base_runs(left, fewest), rows, marks, size, wanted)
    return Runs.of(first, last, rows, late, not whole)


def told(spec: CoxSpec, partition: Partition, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What rows tell when they are asked for "left" or "marks"."""
    rows, (used, interval) = rows_of(spec, partition), _used(spec, partition)
    if asked["ask"] == "marks":
        event = happened(spec, partition, asked["late"])
        x, intervals = rows.x[used], len(spec.edges) + 1
        marks = _marks(event, [x[:, j] != 0 for j in asked["yes"].tolist()])
        counts = [np.bincount(interval[one], minlength=intervals) for one in marks]
        return {"marks": np.column_stack(counts).astype(np.int64)}
    status = np.nan_to_num(partition.columns[str(spec.design.event)][used]).astype(np.int64)
    status = np.where(interval == len(spec.edges), 0, status)
    ways, count = np.unique(np.stack([interval, status]), axis=1, return_counts=True)
    late, head = np.zeros(partition.n_rows, dtype=bool), used[:LOOKED_AT]
    late[used] = rows.event[used] & (interval == len(spec.edges))
    return {
        "left": [np.vstack([ways, count]).astype(np.int64)],
        "late": partition.patients(late),
        "most": most_rows(partition.key),
        "head": {"keys": partition.keys[head], "x": rows.x[head]},
    }


def first_rows(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """The first rows that are used of two chunks, whichever is the first."""
    keys = np.concatenate([one["keys"], two["keys"]])
    order = np.argsort(keys, kind="stable")[:LOOKED_AT]
    return {"keys": keys[order], "x": np.concatenate([one["x"], two["x"]])[order]}


def here(spec: CoxSpec, partition: Partition, runs: Runs) -> Here:
    """Where rows lie; made once, whatever the coefficients."""

    def make() -> Here:
        used, interval = _used(spec, partition)
        number = runs.number[interval]
        order = np.argsort(number, kind="stable")
        edges = np.searchsorted(number[order], np.arange(len(runs.ends) + 1))
        parts = [order[a:b] for a, b in pairwise(edges.tolist())]
        return Here(used, happened(spec, partition, runs.late), parts)

    made: Here = partition.cached(f"runs {key_of(spec)}", make)
    return made


def happened(spec: CoxSpec, partition: Partition, late: bool) -> Bools:
    """Which of the used rows have the event within the grid, or `late`, (n,)."""
    used, interval = _used(spec, partition)
    event = rows_of(spec, partition).event[used]
    return np.asarray(event if late else event & (interval < len(spec.edges)))


def _used(spec: CoxSpec, partition: Partition) -> tuple[Ints, Ints]:
    """Places of the rows that are used, and their intervals."""
    rows = rows_of(spec, partition)
    used = np.flatnonzero(rows.used)
    return used, interval_of(rows.time[used], np.asarray(spec.edges))


def _marks(event: Bools, yes: list[Bools]) -> Iterator[Bools]:
    """What must not be rare in a run."""
    for one in (event, *yes):
        yield from (one, ~one)
    if len(yes) * len(yes) <= MOST_PAIRS:
        for one, two in combinations(yes, 2):
            yield from (one & two, one & ~two, ~one & two, ~one & ~two)


def _wanted(columns: int, least: int) -> Ints:
    """Of how many rows each of `_marks` must be."""
    pairs = columns * (columns - 1) // 2 if columns * columns <= MOST_PAIRS else 0
    return np.array([least] * (2 + 2 * columns) + [(least + 1) // 2] * (4 * pairs))
