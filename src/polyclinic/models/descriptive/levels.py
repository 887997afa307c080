"""How many rows and patients there are, and how many rows hold each level of a column.

What leaves the site: per group, the number of rows and of patients; per column and group, the
number of rows with a value, without one, and with each level. Entries with too few patients are
hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.descriptive import rows
from polyclinic.models.descriptive.column import Column
from polyclinic.models.descriptive.exposure import Counted, Known


@dataclass(frozen=True)
class LevelsTask(Counted):
    """Counts. Plan values: by, columns (name and number of levels)."""

    name: str = "descriptive.levels"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        groups = rows.n_groups(plan.values["by"])
        shapes: dict[str, tuple[int, ...]] = {"rows": (groups,), "patients": (groups,)}
        for column in plan.values["columns"]:
            shapes[f"known:{column['name']}"] = (groups, 2)  # without a value, with one
            shapes[f"levels:{column['name']}"] = (groups, column["levels"])
        return tuple(
            Leaf(
                name,
                shape,
                "count",
                "int64",
                support="cells",
                small="hide",
                closed=("groups", "last") if len(shape) > 1 else ("groups",),
            )
            for name, shape in shapes.items()
        )

    def known(self, plan: Plan) -> Sequence[Known]:
        names = [column["name"] for column in plan.values["columns"]]
        return (Known((), "rows"), *(Known((name,), f"known:{name}", 1, 2) for name in names))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        masks = rows.groups(partition, plan.values["by"])
        leaves: dict[str, Any] = {}
        behind: dict[str, Any] = {}
        patients = np.array([partition.patients(mask) for mask in masks], dtype=np.int64)
        leaves["rows"] = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
        leaves["patients"] = behind["rows"] = behind["patients"] = patients
        for column in plan.values["columns"]:
            index = rows.levels(partition, column)
            for name, cells, size in (
                ("known", (index >= 0).astype(np.int64), 2),
                ("levels", index, column["levels"]),
            ):
                inside = [np.where(mask, cells, -1) for mask in masks]
                leaf = f"{name}:{column['name']}"
                leaves[leaf] = np.stack([rows.count_rows(cell, size) for cell in inside])
                behind[leaf] = np.stack(
                    [rows.count_patients(partition, cell, size) for cell in inside]
                )
        return Contribution(leaves, Evidence(partition.n_patients, behind))


@dataclass(frozen=True)
class Levels:
    """One round. Model: ``{"all": group, "by": {level: group}}``, a group being
    ``{"rows", "patients", "columns": {name: {"n", "missing", "hidden_sites", "levels"}}}`` and a
    level ``{"n", "at_least", "hidden_sites", "percent"}``.

    A count is None where a site hid it; `at_least` adds the sites that did not. `percent` is of the
    rows with a value.
    """

    columns: tuple[Column, ...]
    by: Column | None = None

    def init(self, seed: int) -> State:
        return {"done": False}

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        values = {
            "by": self.by.coded() if self.by else None,
            "columns": [column.coded() for column in self.columns],
        }
        return Plan("descriptive.levels", values, "levels")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        hidden = {
            name: total.hidden.get(name, np.zeros_like(array))
            for name, array in total.values.items()
        }
        return {"done": True, "values": dict(total.values), "hidden": hidden}

    def model(self, state: State) -> dict[str, Any]:
        groups = [self._group(state, g) for g in range(1 + (len(self.by.levels) if self.by else 0))]
        levels = self.by.levels if self.by else ()
        return {"all": groups[0], "by": dict(zip(levels, groups[1:], strict=True))}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def _group(self, state: State, g: int) -> dict[str, Any]:
        return {
            "rows": _count(state, "rows", g),
            "patients": _count(state, "patients", g),
            "columns": {column.name: self._column(state, column, g) for column in self.columns},
        }

    def _column(self, state: State, column: Column, g: int) -> dict[str, Any]:
        known, leaf = f"known:{column.name}", f"levels:{column.name}"
        n = _count(state, known, g, 1)
        levels = {}
        for i, name in enumerate(column.levels):
            count = _count(state, leaf, g, i)
            levels[name] = {
                "n": count,
                "at_least": int(state["values"][leaf][g, i]),
                "hidden_sites": int(state["hidden"][leaf][g, i]),
                "percent": 100.0 * count / n if count is not None and n else None,
            }
        return {
            "n": n,
            "missing": _count(state, known, g, 0),
            "hidden_sites": int(state["hidden"][known][g, 1]),
            "levels": levels,
        }


def _count(state: State, leaf: str, *place: int) -> int | None:
    """The count, or None where a site hid it."""
    return None if state["hidden"][leaf][place] else int(state["values"][leaf][place])
