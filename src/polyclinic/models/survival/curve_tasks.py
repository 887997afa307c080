"""The site's half of survival curves and log-rank tests.

What leaves the site: per group, way to leave and interval of an agreed grid the number of patients,
taken together into steps of at least the minimum (`polyclinic.models.survival.steps`). Where a
group has fewer patients who left in one way than a step needs, nothing of any group but that the
site is left out: else groups would be compared over different sites, and all patients less the
other groups would be the few. For a log-rank test stratified by site: per group the observed less
the expected events, and their covariances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Members
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.support import patients
from polyclinic.models.learner import spec_in
from polyclinic.models.survival.curve_spec import MOST_STEPS, CurveSpec
from polyclinic.models.survival.exposure import (
    ALLOWED,
    NOT_ALLOWED,
    Asked,
    Own,
    exposure_of,
    judged,
    slots_of,
)
from polyclinic.models.survival.rows import check_design, outcome_of, strata_numbers
from polyclinic.models.survival.steps import base_runs, interval_of, rows_for, united

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def spec_of(plan: Plan) -> CurveSpec:
    """What the plan fixes. Raises BAD_MESSAGE."""
    spec: CurveSpec = spec_in(plan, CurveSpec.from_data)
    check_design(spec.design)
    groups, steps = len(spec.groups), len(spec.edges)
    read = {f.column for term in spec.design.terms for f in term.factors}
    fits = groups >= 1 and 1 <= spec.causes <= 100 and steps <= MOST_STEPS
    if not fits or not read <= {spec.by} or bool(spec.by) != (groups > 1):
        raise PolyclinicError("no such curves", code="BAD_MESSAGE")
    return spec


@dataclass(frozen=True)
class Left:
    """How the patients of a partition left.

    way       0 censored, else the cause, (n_rows,); -1: not asked about
    group     (n_rows,)
    first, last   ends of the row's run of intervals
    out       the site is left out, because too few of a group left in one way
    allowed   rows that have an outcome
    """

    way: Ints
    group: Ints
    first: Ints
    last: Ints
    out: bool
    allowed: Bools

    def sets(self) -> Iterator[tuple[tuple[int, int, int], int, Bools]]:
        """Of each step (group, way, last interval), its first interval and its rows."""
        inside = np.flatnonzero((self.way >= 0) & (not self.out))
        place = np.stack([self.group, self.way, self.last])[:, inside]
        steps, number = np.unique(place, axis=1, return_inverse=True)
        for k, step in enumerate(steps.T):
            rows = np.zeros(len(self.way), dtype=bool)
            rows[inside[number == k]] = True
            yield tuple(int(i) for i in step), int(self.first[rows][0]), rows  # type: ignore[misc]


def left(plan: Plan, partition: Partition) -> Left:
    """How the patients left; made once."""
    made: Left = partition.cached(f"left {plan.content_hash}", lambda: _left(plan, partition))
    return made


def _left(plan: Plan, partition: Partition) -> Left:
    spec, columns = spec_of(plan), partition.columns
    time, event, allowed = outcome_of(columns, spec.design, spec.cause)
    way = event.astype(np.int64)
    if spec.asked == "cumulative-incidence":
        status = np.nan_to_num(columns[str(spec.design.event)]).astype(np.int64)
        way = np.where(allowed & (status <= spec.causes), status, 0)
    group = np.zeros(len(time), dtype=np.int64)
    if spec.by:
        level = columns[spec.by]
        with np.errstate(invalid="ignore"):
            known = (level >= 0) & (level < len(spec.groups)) & (level == np.floor(level))
        group = np.where(known, np.nan_to_num(level), 0).astype(np.int64)
        allowed = allowed & known
    edges = np.asarray(spec.edges)
    interval = interval_of(np.where(allowed, time, 0.0), edges)
    if spec.on_grid:
        way = np.where(interval == len(edges), 0, way)  # seen longer than the grid goes
    way = np.where(allowed, way, -1)
    status = np.where(interval == len(edges), 0, np.nan_to_num(columns[str(spec.design.event)]))
    least = rows_for(spec.least, partition.key)
    first, last, out = _steps_of(spec, way, group, interval, status.astype(np.int64), least)
    return Left(way, group, first, last, out, allowed)


def _steps_of(
    spec: CurveSpec, way: Ints, group: Ints, interval: Ints, status: Ints, least: int
) -> tuple[Ints, Ints, bool]:
    """Ends of each row's step, (n_rows,) each, and whether the site is left out."""
    first, last = np.zeros_like(interval), np.zeros_like(interval)
    cells = [(g, w) for g in range(len(spec.groups)) for w in range(_ways(spec))]
    out = any(0 < np.sum((group == g) & (way == w)) < least for g, w in cells)
    rows = np.flatnonzero(way >= 0)
    if spec.on_grid and len(rows) and not out:
        count = len(spec.edges) + 1
        base = base_runs(interval[rows], count, status[rows], least)
        marks = np.column_stack([(group[rows] == g) & (way[rows] == w) for g, w in cells])
        wanted = np.full(len(cells), least)
        *ends, whole = united(*base, count, least, marks, wanted, apart=True)
        first[rows], last[rows] = ends
        out = not whole
    return first, last, out


def _ways(spec: CurveSpec) -> int:
    return 1 + (spec.causes if spec.asked == "cumulative-incidence" else 1)


@dataclass(frozen=True)
class StepsTask:
    """Patients per group, way to leave and interval, at the ends and the beginnings of runs."""

    name: str = "survival.steps"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        spec = spec_of(plan)
        shape = (len(spec.groups), _ways(spec), len(spec.edges) + 1)
        return (
            Leaf("late", shape, "patients who left", "int64", support="cells"),
            Leaf("early", shape, "patients who left", "int64", support="cells"),
            Leaf("left_out", (), "flag", "int64"),
            Leaf("not_allowed", (), "count", "int64", unit="rows"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        spec, found = spec_of(plan), left(plan, partition)
        shape = (len(spec.groups), _ways(spec), len(spec.edges) + 1)
        counts, behind = np.zeros((2, *shape), np.int64), np.zeros((2, *shape), np.int64)
        for (g, w, last), first, rows in found.sets():
            for k, interval in enumerate((last, first)):
                counts[k, g, w, interval] += np.count_nonzero(rows)
                behind[k, g, w, interval] += patients(rows, partition.key)
        values = {
            "late": counts[0],
            "early": counts[1],
            "left_out": int(found.out),
            "not_allowed": int(np.count_nonzero(~found.allowed)),
        }
        cells = {"late": behind[0], "early": behind[1]}
        return Contribution(values, Evidence(partition.n_patients, cells))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """The patients of each step: other steps that differ by a few would show these."""
        spec, found = spec_of(plan), left(plan, partition)
        columns = spec.design.columns
        steps = tuple(
            Members(columns, np.unique(partition.persons[rows])) for _, _, rows in found.sets()
        )
        return Exposure(
            slots={
                NOT_ALLOWED: patients(~found.allowed, partition.key),
                ALLOWED: patients(found.allowed, partition.key),
            },
            levels=len(spec.groups) if spec.by else 0,
            members=(Members(columns, np.unique(partition.persons)), *steps),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Whether rows have an outcome."""
        return (ALLOWED, NOT_ALLOWED)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """None."""
        return (), 0


@dataclass(frozen=True)
class LogRankTask:
    """Observed less expected events per group but the first, and their covariances.

    It is the score of a Cox regression on the groups at no effect, and is judged as that is.
    """

    name: str = "survival.log_rank"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = len(spec_of(plan).groups) - 1
        return (
            Leaf("difference", (size,), "observed less expected events"),
            Leaf("variance", (size * (size + 1) // 2,), "covariances"),
            Leaf("events", (), "count", "int64"),
            Leaf("patients", (), "count", "int64", unit="patients"),
            Leaf("not_allowed", (), "count", "int64", unit="rows"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        spec, found = spec_of(plan), left(plan, partition)
        time = partition.columns[spec.design.response]
        stratum = strata_numbers(partition.columns, spec.design.strata, spec.levels)
        size = len(spec.groups)
        difference, variance = np.zeros(size), np.zeros((size, size))
        for rows in _by(stratum, found.way >= 0):
            one = log_rank(time[rows], found.way[rows] > 0, found.group[rows], size)
            difference += one[0]
            variance += one[1]
        inside = partition.patients(found.way >= 0)
        packed = variance[1:, 1:][np.triu_indices(size - 1)]
        values: dict[str, Any] = {
            "difference": difference[1:],
            "variance": packed,
            "events": int(np.count_nonzero(found.way > 0)),
            "patients": inside,
            "not_allowed": int(np.count_nonzero(~found.allowed)),
        }
        return Contribution(values, Evidence(inside))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """That of the Cox regression; and who is in no group is in none of the sums."""
        spec, found = spec_of(plan), left(plan, partition)
        cox = exposure_of(spec.cox, partition, own, self._asked(spec))
        inside = Members(spec.cox.design.columns, np.unique(partition.persons[found.allowed]))
        return replace(
            cox,
            slots={
                **cox.slots,
                NOT_ALLOWED: patients(~found.allowed, partition.key),
                ALLOWED: patients(found.allowed, partition.key),
            },
            members=(inside,),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Levels, events and strata."""
        spec = spec_of(plan)
        return slots_of(spec.cox, self._asked(spec))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """The groups."""
        spec = spec_of(plan)
        return judged(spec.cox.design, self._asked(spec)), 1

    def _asked(self, spec: CurveSpec) -> Asked:
        return Asked(np.zeros((1, len(spec.groups) - 1)), 2)


def _by(stratum: Ints | None, used: Bools) -> list[Ints]:
    if stratum is None:
        return [np.flatnonzero(used)]
    return [np.flatnonzero(used & (stratum == k)) for k in np.unique(stratum[used])]


def log_rank(time: Floats, event: Bools, group: Ints, size: int) -> tuple[Floats, Floats]:
    """Observed less expected events per group, (size,), and their covariance matrix.

    Expected: at each event time the events, by the groups' parts of those at risk.
    """
    times, at, deaths = np.unique(time[event], return_inverse=True, return_counts=True)
    happened = np.zeros((len(times), size))
    np.add.at(happened, (at, group[event]), 1.0)
    risk = np.empty((len(times), size))
    for g in range(size):
        ordered = np.sort(time[group == g])
        risk[:, g] = len(ordered) - np.searchsorted(ordered, times, side="left")
    return score_of(happened, risk, deaths.astype(np.float64))


def score_of(happened: Floats, risk: Floats, deaths: Floats) -> tuple[Floats, Floats]:
    """The same from counts per event time and group, (n_times, size)."""
    every = risk.sum(axis=1)
    part = risk / np.where(every > 0, every, 1.0)[:, None]
    difference = (happened - deaths[:, None] * part).sum(axis=0)
    scale = np.where(every > 1, deaths * (every - deaths) / np.maximum(every - 1, 1e-9), 0.0)
    variance = np.diag(scale @ part) - part.T @ (part * scale[:, None])
    return difference, variance


tasks: list[Any] = [StepsTask(), LogRankTask()]
