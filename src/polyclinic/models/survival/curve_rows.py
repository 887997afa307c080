"""How the patients of a partition left, as a plan of curves or of a log-rank test asks for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.learner import spec_in
from polyclinic.models.survival.curve_spec import MOST_STEPS, CurveSpec
from polyclinic.models.survival.rows import check_design, outcome_of
from polyclinic.models.survival.steps import interval_of

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


def ways_of(spec: CurveSpec) -> int:
    """Ways to leave: censored, and by each cause."""
    return 1 + (spec.causes if spec.asked == "cumulative-incidence" else 1)


@dataclass(frozen=True)
class Left:
    """How the patients of a partition left, (n_rows,) each.

    way       0 censored, else the cause; -1: not asked about
    interval  of the grid
    status    level of the event column; 0 of those who were seen longer than the grid goes
    allowed   rows that have an outcome
    """

    way: Ints
    group: Ints
    interval: Ints
    status: Ints
    allowed: Bools

    @property
    def inside(self) -> Bools:
        """Rows that are asked about."""
        return self.way >= 0


def left(plan: Plan, partition: Partition) -> Left:
    """How the patients left; made once."""
    made: Left = partition.cached(f"left {plan.content_hash}", lambda: _left(plan, partition))
    return made


def _left(plan: Plan, partition: Partition) -> Left:
    spec, columns = spec_of(plan), partition.columns
    time, event, allowed = outcome_of(columns, spec.design, spec.cause)
    level = np.nan_to_num(columns[str(spec.design.event)])
    way = event.astype(np.int64)
    if spec.asked == "cumulative-incidence":
        cause = level.astype(np.int64)
        way = np.where(allowed & (cause <= spec.causes), cause, 0)
    group = np.zeros(len(time), dtype=np.int64)
    if spec.by:
        by = columns[spec.by]
        with np.errstate(invalid="ignore"):
            known = (by >= 0) & (by < len(spec.groups)) & (by == np.floor(by))
        group = np.where(known, np.nan_to_num(by), 0).astype(np.int64)
        allowed = allowed & known
    edges = np.asarray(spec.edges)
    interval = interval_of(np.where(allowed, time, 0.0), edges)
    longer = interval == len(edges)
    if spec.on_grid:
        way = np.where(longer, 0, way)  # seen longer than the grid goes
    status = np.where(longer, 0, level).astype(np.int64)
    return Left(np.where(allowed, way, -1), group, interval, status, allowed)
