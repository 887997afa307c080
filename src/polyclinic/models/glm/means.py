"""Means of columns over the values that are present: what stands in for missing ones.

What leaves the site: per column the number of values present and their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.design import exponent
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

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        values = [partition.columns[name] for name in plan.values["columns"]]
        sums = np.array([np.nansum(v) for v in values])
        present = np.array([np.count_nonzero(~np.isnan(v)) for v in values], dtype=np.int64)
        scaled = np.ldexp(sums, -plan.values["exponents"])
        return Contribution({"present": present, "sum": scaled}, Evidence(partition.n_patients))


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
