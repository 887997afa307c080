"""Cross-tables of two category columns, with the chi-square test of independence.

    X2 = sum over cells of (|O - E| - c)^2 / E,   E = row total * column total / n

with c = min(0.5, |O - E|) in a 2 x 2 table when `correction` is on (Yates), else 0. Pearson,
*Philosophical Magazine* 50 (1900).

What leaves the site: the number of rows per cell. Cells with too few patients are hidden, and there
is no test of a table with a hidden cell: it would be a test of another table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.descriptive import rows
from polyclinic.models.descriptive.column import Column
from polyclinic.models.descriptive.exposure import Counted, Known
from polyclinic.models.distributions import chi2_tail

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CrossTableTask(Counted):
    """Rows per pair of levels. Plan values: a, b (name and number of levels)."""

    name: str = "descriptive.cross_table"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        shape = (plan.values["a"]["levels"], plan.values["b"]["levels"])
        return (
            Leaf(
                "table",
                shape,
                "cross-table",
                "int64",
                support="cells",
                small="hide",
                closed=("first", "last"),
            ),
        )

    def known(self, plan: Plan) -> Sequence[Known]:
        return (Known((plan.values["a"]["name"], plan.values["b"]["name"])),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        a, b = (rows.levels(partition, plan.values[side]) for side in "ab")
        shape = (plan.values["a"]["levels"], plan.values["b"]["levels"])
        cell = np.where((a < 0) | (b < 0), -1, a * shape[1] + b)
        size = shape[0] * shape[1]
        table = rows.count_rows(cell, size).reshape(shape)
        behind = rows.count_patients(partition, cell, size).reshape(shape)
        return Contribution({"table": table}, Evidence(partition.n_patients, {"table": behind}))


@dataclass(frozen=True)
class CrossTable:
    """One round; rows where either column is missing are left out.

    Model: ``{"a", "b", "overall": Table, "sites": {site: Table}}`` with Table = ``{"levels": [of a,
    of b], "counts", "at_least", "hidden", "n", "test"}``; lists of lists, a by b. `counts` is None
    where a site hid the cell, `at_least` adds the sites that did not, `n` adds up `at_least`.
    `test`: ``{"chi2", "df", "p", "smallest_expected", "note"}``; numbers are None with the reason
    in `note`.

    Parameters
    ----------
    by_site : also a table per site (collected: a site must allow it).
    correction : Yates's continuity correction in a 2 x 2 table.
    """

    a: Column
    b: Column
    by_site: bool = False
    correction: bool = True

    def init(self, seed: int) -> State:
        return {"done": False}

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        return Plan(
            "descriptive.cross_table",
            {"a": self.a.coded(), "b": self.b.coded()},
            f"cross-table {self.a.name} by {self.b.name}",
            combine="collect" if self.by_site else "sum",
        )

    def update(self, state: State, plan: Plan, total: Total) -> State:
        answers = total.by_site if self.by_site else {"": total}
        tables = [one["table"] for one in answers.values()]
        hidden = [one.hidden.get("table", np.zeros_like(one["table"])) for one in answers.values()]
        return {"done": True, "names": list(answers), "tables": tables, "hidden": hidden}

    def model(self, state: State) -> dict[str, Any]:
        tables, hidden = state["tables"], state["hidden"]
        sites = zip(state["names"], tables, hidden, strict=True)
        return {
            "a": self.a.name,
            "b": self.b.name,
            "overall": self._table(sum(tables[1:], tables[0]), sum(hidden[1:], hidden[0])),
            "sites": {name: self._table(*one) for name, *one in sites} if self.by_site else {},
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def _table(self, table: Ints, hidden: Ints) -> dict[str, Any]:
        counts = [
            [None if flag else int(n) for n, flag in zip(*row, strict=True)]
            for row in zip(table, hidden, strict=True)
        ]
        return {
            "levels": [list(self.a.levels), list(self.b.levels)],
            "counts": counts,
            "at_least": table.tolist(),
            "hidden": hidden.tolist(),
            "n": int(table.sum()),
            "test": _no_test("a cell is hidden") if hidden.any() else self.test(table),
        }

    def test(self, table: Ints) -> dict[str, Any]:
        """Chi-square test of a full table; levels that nobody holds are left out."""
        full = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(np.float64)
        if min(full.shape) < 2:
            return _no_test("a column has fewer than two levels in use")
        df = (full.shape[0] - 1) * (full.shape[1] - 1)
        expected = np.outer(full.sum(axis=1), full.sum(axis=0)) / full.sum()
        difference = np.abs(full - expected)
        if self.correction and df == 1:
            difference -= np.minimum(0.5, difference)
        statistic = float(np.sum(difference**2 / expected))
        return {
            "chi2": statistic,
            "df": df,
            "p": float(chi2_tail(statistic, df)),
            "smallest_expected": float(expected.min()),
            "note": "",
        }


def _no_test(why: str) -> dict[str, Any]:
    return {"chi2": None, "df": None, "p": None, "smallest_expected": None, "note": why}
