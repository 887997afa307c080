"""Means of columns over the values that are present: what stands in for missing ones.

What leaves the site: per column the number of values present and their sum, where enough patients
have one and no patient or two make up nearly all of the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.design import exponent
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain


@dataclass(frozen=True)
class PresentTask:
    """Number and sum of the present values of each column, in units of 2**exponent."""

    name: str = "glm.present"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        p = len(plan.values["columns"])
        return (Leaf("present", (p,), "count", "int64", unit="rows"), Leaf("sum", (p,), "sum"))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Those who have each column."""
        return tuple(_known(name) for name in plan.values["columns"])

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """The columns."""
        return tuple(dict.fromkeys(plan.values["columns"])), 1

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """The patients who have each column, and how they share in its sum."""
        key, slots, members = partition.key, {}, []
        columns: dict[str, Shares] = {}
        for name in plan.values["columns"]:
            present = ~np.isnan(partition.columns[name])
            parts = np.abs(np.where(present, partition.columns[name], 0.0))
            slots[_known(name)] = partition.patients(present)
            columns[name] = Shares.of(parts, key)
            members.append(Members((name,), np.unique(partition.persons[present])))
        everyone = Shares.of(np.ones(partition.n_rows), key)
        return Exposure(slots=slots, columns=columns, weights=everyone, members=tuple(members))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        values = [partition.columns[name] for name in plan.values["columns"]]
        sums = np.array([np.nansum(v) for v in values])
        present = np.array([np.count_nonzero(~np.isnan(v)) for v in values], dtype=np.int64)
        scaled = np.ldexp(sums, -plan.values["exponents"])
        return Contribution({"present": present, "sum": scaled}, Evidence(partition.n_patients))


def _known(column: str) -> str:
    return f"{column}: known"


@dataclass(frozen=True)
class ColumnMeans:
    """One round; its result is (mean, number of values) per column, mean None without a value."""

    columns: tuple[str, ...]
    bounds: Mapping[str, float]

    @property
    def _exponents(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([exponent(self.bounds[c]) for c in self.columns], dtype=np.int64)

    def init(self, seed: int) -> State:
        return {"present": None, "sum": None}

    def plan(self, state: State) -> Plan | None:
        if state["sum"] is not None:
            return None
        return Plan(
            "glm.present",
            {"columns": list(self.columns), "exponents": self._exponents},
            "means of columns with missing values",
        )

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return dict(total.values)

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> dict[str, tuple[float | None, int]]:
        sums = np.ldexp(state["sum"], self._exponents)
        return {
            name: (float(s / k) if k else None, int(k))
            for name, s, k in zip(self.columns, sums, state["present"], strict=True)
        }
