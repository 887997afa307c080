"""The rows of a partition as a survival plan asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.survival.kernel import Stratum, sort_rows

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


def spec_of(plan: Plan) -> Mapping[str, Any]:
    """What the plan fixes."""
    found: Mapping[str, Any] = plan.values["spec"]
    return found


def design_of(plan: Plan) -> Design:
    """The design of a plan, made once. Raises BAD_MESSAGE where time or event is a term, too."""

    def make() -> Design:
        design = Design.from_data(spec_of(plan)["design"])
        own = {design.response, design.event, *design.strata}
        read = {f.column for term in design.terms for f in term.factors if f.kind != "site"}
        if design.event is None or own & read or design.intercept:
            raise PolyclinicError(
                "the outcome of a survival model is among its terms", code="BAD_MESSAGE"
            )
        return design

    return plan.once("design", make)


def rows_of(plan: Plan, partition: Partition) -> Rows:
    """The rows that the plan is about; made once per plan's model."""
    made: Rows = partition.cached(f"survival {_key(plan)}", lambda: _build(plan, partition))
    return made


def strata_of(plan: Plan, partition: Partition) -> tuple[Stratum, ...]:
    """The same sorted, each stratum by itself; those without an event are left out."""

    def make() -> tuple[Stratum, ...]:
        rows = rows_of(plan, partition)
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
            spec_of(plan)["ties"] == "efron",
        )

    found: tuple[Stratum, ...] = partition.cached(f"strata {_key(plan)}", make)
    return found


def _key(plan: Plan) -> str:
    parts = [spec_of(plan), plan.values["rows"]]
    return plan.once("survival rows", lambda: codec.digest(parts))


def _build(plan: Plan, partition: Partition) -> Rows:
    design, spec, columns = design_of(plan), spec_of(plan), partition.columns
    x = design.matrix(columns, partition.site)
    if np.any(design.exponents):
        x = np.ldexp(x, -design.exponents)
    time, status = columns[design.response], columns[str(design.event)]
    weight = columns[design.weight] if design.weight else None
    chosen = plan.values["rows"]
    if "folds" in chosen:
        kept = partition.keys % chosen["folds"] != chosen["without"]
        weight = kept.astype(np.float64) if weight is None else weight * kept
    with np.errstate(invalid="ignore"):
        allowed = np.isfinite(time) & (time >= 0) & (status >= 0) & (status == np.floor(status))
    return Rows(
        x,
        time,
        allowed & (status == spec["cause"]),
        allowed,
        strata_numbers(columns, design.strata, spec["levels"]),
        weight,
        columns[design.offset] if design.offset else None,
    )


def strata_numbers(
    columns: Mapping[str, Floats], strata: tuple[str, ...], levels: list[int]
) -> Ints | None:
    """One number per combination of levels, the last column fastest."""
    if not strata:
        return None
    number = np.zeros(len(columns[strata[0]]), dtype=np.int64)
    for column, size in zip(strata, levels, strict=True):
        level = np.nan_to_num(columns[column], nan=0.0).astype(np.int64)
        number = number * size + np.clip(level, 0, size - 1)
    return number
