"""The site's half of screening: tables of single columns beside the outcome.

What leaves the site: what the statistics of `models.descriptive` ask for, by class of the outcome
or by level of a column: numbers of rows, sums of a column and of its square, products with the
outcome, rows per level and per bin. Entries with too few patients behind them are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polyclinic.core.contribution import Contribution
from polyclinic.core.exposure import Exposure, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.descriptive.together import TogetherTask
from polyclinic.models.simple.moments import LARGEST, is_array
from polyclinic.models.simple.rows import Own

THIRDS = "(outcome in thirds)"  # no column has a name that begins like this


@dataclass(frozen=True)
class TablesTask(Unaided):
    """The tables that the plan's state names. Plan state: parts, as in `TogetherTask`; cuts."""

    name: str = "screening.tables"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return TogetherTask().leaves(_together(plan))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        return TogetherTask().local(_together(plan), _cut(plan, partition))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Those of the tables."""
        return TogetherTask().exposure(_together(plan), _cut(plan, partition), own)


def _together(plan: Plan) -> Plan:
    """The plan of the tables alone."""

    def made() -> Plan:
        parts = plan.values["state"]["parts"]
        return Plan("descriptive.together", {"parts": parts}, combine=plan.combine)

    return plan.once("tables", made)


def _cut(plan: Plan, partition: Partition) -> Partition:
    """With the outcome's third as a column, where the plan says where it is cut."""
    cuts, outcome = plan.values["state"]["cuts"], plan.values["spec"]["design"]["response"]
    if not len(cuts):
        return partition
    y = partition.columns[outcome]
    third = np.where(np.isnan(y), np.nan, np.searchsorted(cuts, y, side="right"))
    return replace(partition, columns={**partition.columns, THIRDS: third}, cache={})


def check_tables(wanted: Mapping[str, Any], plan: Plan) -> None:
    """Compare the tables that a plan asks for with those that a study covers.

    wanted  by part: its task, and its values; an array there stands for any finite one like it

    Raises
    ------
    ValueError : with what is different.
    """
    state = plan.values["state"]
    if plan.values["rows"] or set(state) != {"parts", "cuts"} or not state["parts"]:
        raise ValueError("tables of other rows, or of none")
    cuts = state["cuts"]
    if not any(is_array(cuts, (n,), "f") for n in (0, 2)) or np.any(np.diff(cuts) < 0):
        raise ValueError("the outcome is cut in thirds")
    for name, ask in state["parts"].items():
        task, values = wanted[name]
        if set(ask) != {"task", "version", "values"} or ask["task"] != task or ask["version"] != 1:
            raise ValueError("another table")
        _compare(values, ask["values"])


def _compare(wanted: Any, given: Any) -> None:
    if isinstance(wanted, np.ndarray):
        if not is_array(given, wanted.shape, wanted.dtype.kind):
            raise ValueError("other numbers")
        if np.any(np.abs(given) > (LARGEST if given.dtype.kind == "f" else 1000)):
            raise ValueError("numbers too large")
    elif isinstance(wanted, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(wanted):
            raise ValueError("other fields")
        for name, value in wanted.items():
            _compare(value, given[name])
    elif isinstance(wanted, type):
        if type(given) is not wanted:
            raise ValueError("another kind of value")
    elif wanted != given:
        raise ValueError("other columns")


task = TablesTask()
