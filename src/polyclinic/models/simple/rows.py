"""The rows of a partition as these plans ask for them, and how patients share in their sums.

A plan holds ``{"spec", "rows", "state"}``: what the study fixes, which rows, and what only a run
knows. Terms, gaps, products, levels and leverages are those of a linear model's moments over the
same design, so the hospital judges them by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.exposure import Exposure
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.glm.exposure import OUTCOME, WEIGHT, Asked, exposure, slots
from polyclinic.models.glm.family import MULTINOMIAL
from polyclinic.models.glm.rows import design_of, rows_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Own = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Table:
    """The rows that a plan is about; those without weight are left out.

    x         (n_rows, n_terms)
    y         (n_rows,): outcome, class index, or zeros where the plan has no outcome
    weight    (n_rows,)
    patients  how many stand behind the rows
    used      which rows of the partition they are, (partition.n_rows,)
    key       ordinal of each row's patient, (n_rows,); None: one row each
    """

    x: Floats
    y: Floats
    weight: Floats
    patients: int
    used: Bools
    key: Ints | None

    @staticmethod
    def of(plan: Plan, partition: Partition) -> Table:
        """All of a partition's rows as arrays; views where nothing is left out."""
        rows, patients = rows_of(view(plan), partition)
        n_rows = len(rows.y)
        weight = np.ones(n_rows) if rows.weight is None else rows.weight
        used = weight != 0
        if used.all():
            return Table(rows.x, rows.y, weight, patients, used, partition.key)
        key = None if partition.key is None else partition.key[used]
        behind = partition.patients(used)
        return Table(rows.x[used], rows.y[used], weight[used], behind, used, key)


def view(plan: Plan) -> Plan:
    """The plan of a linear model's moments over the same rows."""

    def made() -> Plan:
        spec = plan.values["spec"]
        classes = int(spec.get("classes", 0))
        values = {
            "design": spec["design"],
            "family": MULTINOMIAL if classes else "gaussian",
            "classes": classes,
            "rows": plan.values["rows"],
        }
        return Plan("glm.moments", values)

    return plan.once("view", made)


def design(plan: Plan) -> Design:
    """The design of a plan, made once."""
    return design_of(view(plan))


def values(spec: Mapping[str, Any], **state: Any) -> dict[str, Any]:
    """A plan's values: the spec's data, its rows apart, and what only the run knows."""
    fixed = {name: value for name, value in spec.items() if name != "rows"}
    return {"spec": fixed, "rows": dict(spec["rows"]), "state": state}


class Exposed:
    """A task of this family: its sums are judged as a linear model's moments are."""

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Of the rows of one partition."""
        return exposure(view(plan), partition, own, self._asked(plan))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Names of the levels that the plan itself names."""
        return slots(view(plan), self._asked(plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns that are judged, in order."""
        return (*design(plan).names, OUTCOME, WEIGHT), 1

    def _asked(self, plan: Plan) -> Asked:
        return Asked(None, 2, False, False, curved=bool(design(plan).weight))
