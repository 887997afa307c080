"""The rows of a partition as a survival plan asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.learner import spec_in
from polyclinic.models.survival.kernel import Stratum, sort_rows
from polyclinic.models.survival.spec import CoxSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Columns of the rows that are asked about.

    x         (n_rows, n_terms) in units of the design's powers of two
    event     rows that ended with the event of the plan
    allowed   rows with a duration of 0 or more and an event column that holds a level
    stratum   number of the row's combination of strata, (n_rows,), or None
    weight, offset   (n_rows,) or None; rows that are not asked about have weight 0
    """

    x: Floats
    time: Floats
    event: Bools
    allowed: Bools
    stratum: Ints | None
    weight: Floats | None
    offset: Floats | None

    @property
    def used(self) -> Bools:
        return self.allowed if self.weight is None else self.allowed & (self.weight != 0)


def spec_of(plan: Plan) -> CoxSpec:
    """What the plan fixes. Raises BAD_MESSAGE where time or event is a term, too."""
    spec: CoxSpec = spec_in(plan, CoxSpec.from_data)
    check_design(spec.design)
    return spec


def check_design(design: Design) -> None:
    """Raises BAD_MESSAGE for no outcome of a survival model, or one that is among the terms."""
    own = {design.response, design.event, *design.strata}
    read = {f.column for term in design.terms for f in term.factors if f.kind != "site"}
    if design.event is None or own & read or design.intercept:
        raise PolyclinicError(
            "the outcome of a survival model is among its terms", code="BAD_MESSAGE"
        )


def rows_of(spec: CoxSpec, partition: Partition) -> Rows:
    """The rows that a model is about; made once per model."""
    made: Rows = partition.cached(f"survival {key_of(spec)}", lambda: _build(spec, partition))
    return made


def strata_of(spec: CoxSpec, partition: Partition) -> tuple[Stratum, ...]:
    """The same sorted, each stratum by itself; those without an event are left out."""

    def make() -> tuple[Stratum, ...]:
        rows = rows_of(spec, partition)
        weight = np.ones(len(rows.time)) if rows.weight is None else rows.weight
        weight = np.where(rows.allowed, weight, 0.0)
        plain = rows.weight is None and bool(rows.allowed.all())
        return sort_rows(
            rows.x,
            rows.time,
            rows.event,
            rows.stratum,
            None if plain else weight,
            rows.offset,
            spec.ties == "efron",
        )

    found: tuple[Stratum, ...] = partition.cached(f"strata {key_of(spec)}", make)
    return found


def key_of(spec: CoxSpec) -> str:
    """A name for what is made of rows."""
    return codec.digest(spec.to_data())


def _build(spec: CoxSpec, partition: Partition) -> Rows:
    design, columns = spec.design, partition.columns
    x = design.matrix(columns, partition.site)
    if np.any(design.exponents):
        x = np.ldexp(x, -design.exponents)
    weight = columns[design.weight] if design.weight else None
    if "folds" in spec.rows:
        kept = partition.keys % spec.rows["folds"] != spec.rows["without"]
        weight = kept.astype(np.float64) if weight is None else weight * kept
    time, event, allowed = outcome_of(columns, design, spec.cause)
    return Rows(
        x,
        time,
        event,
        allowed,
        strata_numbers(columns, design.strata, spec.levels),
        weight,
        columns[design.offset] if design.offset else None,
    )


def outcome_of(
    columns: Mapping[str, Floats], design: Design, cause: int
) -> tuple[Floats, Bools, Bools]:
    """Durations, rows that ended with the event, and rows that have both, (n_rows,) each."""
    time, status = columns[design.response], columns[str(design.event)]
    with np.errstate(invalid="ignore"):
        allowed = np.isfinite(time) & (time >= 0) & (status >= 0) & (status == np.floor(status))
    return time, allowed & (status == cause), allowed


def strata_numbers(
    columns: Mapping[str, Floats], strata: tuple[str, ...], levels: Sequence[int]
) -> Ints | None:
    """One number per combination of levels, the last column fastest."""
    if not strata:
        return None
    number = np.zeros(len(columns[strata[0]]), dtype=np.int64)
    for column, size in zip(strata, levels, strict=True):
        level = np.nan_to_num(columns[column], nan=0.0).astype(np.int64)
        number = number * size + np.clip(level, 0, size - 1)
    return number
