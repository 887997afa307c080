"""The site's half of survival curves.

What leaves the site: per group, way to leave and interval of an agreed grid the number of patients,
taken together into steps of at least the minimum (`polyclinic.models.survival.steps`). Where a
group has fewer patients who left in one way than a step needs, nothing of any group but that the
site is left out: else groups would be compared over different sites, and all patients less the
other groups would be the few.

Steps hang on all rows of a hospital. So the site asks its chunks how many rows left when, in which
way and from which group, finds the steps, and hands them down: chunks then tell how many of their
patients are in each, and who they are, for the gate. All of it is whole numbers, and stays there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Members, packed, unpacked
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Answer, Grain, Question, Steps
from polyclinic.models.also_in_one_place import AlsoInOnePlace
from polyclinic.models.glm.support import patients
from polyclinic.models.survival.curve_rows import Left, left, spec_of, ways_of
from polyclinic.models.survival.curve_spec import CurveSpec
from polyclinic.models.survival.exposure import ALLOWED, NOT_ALLOWED
from polyclinic.models.survival.log_rank import LogRankTask
from polyclinic.models.survival.steps import base_runs, most_rows, rows_behind, united

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """Rows by level of the event column, group, way to leave and interval.

    place (4, n), none twice; rows (n,). A commutative monoid under `+`.
    """

    place: Ints
    rows: Ints

    @staticmethod
    def of(found: Left) -> Cells:
        """Of a chunk."""
        inside = found.inside
        status, number = np.unique(found.status[inside], return_inverse=True)
        parts = (number, found.group[inside], found.way[inside], found.interval[inside])
        sizes = [int(part.max(initial=0)) + 1 for part in parts]
        flat, rows = np.unique(np.ravel_multi_index(parts, sizes), return_counts=True)
        place = np.array(np.unravel_index(flat, sizes), np.int64)
        place[0] = status[place[0]]
        return Cells(place, rows.astype(np.int64))

    def __add__(self, other: Cells) -> Cells:
        every = np.concatenate([self.place, other.place], axis=1)
        place, number = np.unique(every, axis=1, return_inverse=True)
        rows = np.zeros(place.shape[1], np.int64)
        np.add.at(rows, number.reshape(-1), np.concatenate([self.rows, other.rows]))
        return Cells(place, rows)

    def by(self, numbers: Ints, size: int, intervals: int) -> Ints:
        """Rows by interval and what `numbers` (n,) says of each place, (intervals, size)."""
        found = np.zeros((intervals, size), np.int64)
        np.add.at(found, (self.place[3], numbers), self.rows)
        return found


@dataclass(frozen=True)
class Runs:
    """First and last interval of the run of each interval, (intervals,), and whether the site is
    left out, because too few of a group left in one way."""

    first: Ints
    last: Ints
    out: bool

    @staticmethod
    def of(spec: CurveSpec, cells: Cells, least: int) -> Runs:
        """Of all rows of a site; `least` of them stand for enough patients."""
        intervals, size = len(spec.edges) + 1, len(spec.groups) * ways_of(spec)
        first, last = np.zeros((2, intervals), np.int64)
        status, group, way, _ = cells.place
        marks = cells.by(group * ways_of(spec) + way, size, intervals)
        every = marks.sum(axis=0)
        out = bool(np.any((every > 0) & (every < least)))
        if spec.on_grid and len(cells.rows) and not out:
            levels, number = np.unique(status, return_inverse=True)
            base = base_runs(cells.by(number, len(levels), intervals), least)
            wanted, rows = np.full(size, least), marks.sum(axis=1)
            first, last, whole = united(*base, rows, marks, least, wanted, apart=True)
            out = not whole
        return Runs(first, last, out)

    def steps(self, cells: Cells) -> Ints:
        """Group, way and last interval of each step that holds rows, (3, n), ascending."""
        _, group, way, interval = cells.place[:, : 0 if self.out else None]
        return np.unique(np.stack([group, way, self.last[interval]]), axis=1)


@dataclass(frozen=True)
class StepsTask(AlsoInOnePlace):
    """Patients per group, way to leave and interval, at the ends and the beginnings of runs."""

    name: str = "survival.steps"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        shape = _shape(spec_of(plan))
        return (
            Leaf("late", shape, "patients who left", "int64", support="cells"),
            Leaf("early", shape, "patients who left", "int64", support="cells"),
            Leaf("left_out", (), "flag", "int64"),
            Leaf("not_allowed", (), "count", "int64", unit="rows"),
        )

    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps:
        """The runs of all rows, then who is in them."""
        spec = spec_of(plan)
        told = yield Question({"ask": "cells"})
        cells = Cells(**told["cells"])
        runs = Runs.of(spec, cells, rows_behind(spec.least, int(told["most"])))
        steps = runs.steps(cells)
        told = yield Question({"ask": "steps", "runs": vars(runs), "steps": steps}, long=True)
        counts, behind = np.zeros((2, 2, *_shape(spec)), np.int64)
        group, way, last = steps
        for k, interval in enumerate((last, runs.first[last])):
            counts[k, group, way, interval] = told["rows"]
            behind[k, group, way, interval] = told["behind"]
        values = {
            "late": counts[0],
            "early": counts[1],
            "left_out": int(runs.out),
            "not_allowed": told["not_allowed"],
        }
        evidence = Evidence(told["patients"], {"late": behind[0], "early": behind[1]})
        return Contribution(values, evidence), _exposure(spec, told)

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """The answer of one chunk."""
        found, asked = left(plan, partition), question.values
        if asked["ask"] == "cells":
            return {"cells": vars(Cells.of(found)), "most": most_rows(partition.key)}
        rows = _rows_of_steps(found, asked["steps"], Runs(**asked["runs"]))
        who = [partition.persons, *(partition.persons[one] for one in rows)]
        return {
            "rows": np.array([len(one) for one in rows], np.int64),
            "behind": np.array([_patients(one, partition.key) for one in rows], np.int64),
            "who": [[packed(np.unique(one))] for one in who],
            "slots": {
                NOT_ALLOWED: patients(~found.allowed, partition.key),
                ALLOWED: patients(found.allowed, partition.key),
            },
            "patients": partition.n_patients,
            "not_allowed": int(np.count_nonzero(~found.allowed)),
        }

    def together(self, one: Answer, other: Answer) -> Answer:
        """Sums of both, and who is in either."""
        return {name: _added(name, mine, other[name]) for name, mine in one.items()}

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Whether rows have an outcome."""
        return (ALLOWED, NOT_ALLOWED)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """None."""
        return (), 0


def _shape(spec: CurveSpec) -> tuple[int, int, int]:
    return len(spec.groups), ways_of(spec), len(spec.edges) + 1


def _rows_of_steps(found: Left, steps: Ints, runs: Runs) -> list[Ints]:
    """Places of a chunk's rows in each step, ascending."""
    if not steps.shape[1]:
        return []
    inside = np.flatnonzero(found.inside)
    parts = (found.group[inside], found.way[inside], runs.last[found.interval[inside]])
    sizes = (steps.max(axis=1) + 1).tolist()
    number = np.searchsorted(
        np.ravel_multi_index(tuple(steps), sizes), np.ravel_multi_index(parts, sizes)
    )
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=steps.shape[1]))
    return np.split(inside[order], ends[:-1])


def _patients(rows: Ints, key: Ints | None) -> int:
    """Behind some rows, in order."""
    if key is None or not len(rows):
        return len(rows)
    return int(np.count_nonzero(np.diff(key[rows]))) + 1


def _exposure(spec: CurveSpec, told: Mapping[str, Any]) -> Exposure:
    """The patients of each step: other steps that differ by a few would show these."""
    columns = spec.design.columns
    found = (np.concatenate([unpacked(one) for one in some]) for some in told["who"])
    who = [np.sort(some, kind="stable") for some in found]  # none is in two chunks
    return Exposure(
        slots=told["slots"],
        levels=len(spec.groups) if spec.by else 0,
        members=tuple(Members(columns, some) for some in who),
    )


def _added(name: str, mine: Any, more: Any) -> Any:
    """What two chunks say under one name, as one."""
    if name == "cells":
        return vars(Cells(**mine) + Cells(**more))
    if name == "most":
        return max(mine, more)
    if name == "slots":
        return {slot: count + more[slot] for slot, count in mine.items()}
    if name == "who":
        return [one + two for one, two in zip(mine, more, strict=True)]
    return mine + more


tasks: list[Any] = [StepsTask(), LogRankTask()]
