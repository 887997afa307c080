"""Histograms with agreed edges.

Edges come from the codebook's range, never from a hospital's rows. What leaves the site: per column
and group, the number of values, and the number of values per bin. Bins with too few patients in
them are hidden.
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

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HistogramTask(Counted):
    """Values per bin. Plan values: by; edges, per column an array (n_groups, n_edges), ascending.

    Bin 0 lies below the first edge, bin i is [edge i-1, edge i), the last begins at the last edge.
    """

    name: str = "descriptive.histogram"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        made = []
        for column, edges in sorted(plan.values["edges"].items()):
            groups, size = edges.shape
            for name, shape in (("n", (groups,)), ("bins", (groups, size + 1))):
                made.append(
                    Leaf(
                        f"{name}:{column}",
                        shape,
                        "histogram",
                        "int64",
                        support="cells",
                        small="hide",
                        closed=("groups", "last") if name == "bins" else ("groups",),
                    )
                )
        return tuple(made)

    def known(self, plan: Plan) -> Sequence[Known]:
        return tuple(Known((column,), f"n:{column}") for column in sorted(plan.values["edges"]))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        masks = rows.groups(partition, plan.values["by"])
        leaves, behind = {}, {}
        for column, edges in sorted(plan.values["edges"].items()):
            x = rows.values(partition, column)
            known = ~np.isnan(x)
            size = edges.shape[1] + 1
            counts = np.zeros((2, len(masks), size), np.int64)
            totals = np.zeros((2, len(masks)), np.int64)
            for g, mask in enumerate(masks):
                inside = mask & known
                bins = np.where(inside, np.searchsorted(edges[g], x, side="right"), -1)
                counts[0, g] = rows.count_rows(bins, size)
                counts[1, g] = rows.count_patients(partition, bins, size)
                totals[:, g] = np.count_nonzero(inside), partition.patients(inside)
            leaves[f"n:{column}"], behind[f"n:{column}"] = totals
            leaves[f"bins:{column}"], behind[f"bins:{column}"] = counts
        return Contribution(leaves, Evidence(partition.n_patients, behind))


@dataclass(frozen=True)
class Histogram:
    """One round. `bins` bins of equal width over each column's range, the last one closed.

    Whole-number columns get bins of equal whole width around the numbers, so no more bins than
    numbers. Model: ``{column: {"edges", "counts", "hidden", "below", "above", "n"}}``; `counts` are
    sums over the sites that showed the bin, `hidden` the number of sites that did not.
    """

    columns: tuple[Column, ...]
    bins: int = 20

    def init(self, seed: int) -> State:
        return {"done": not self.columns}

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        edges = {
            column.name: closed(column, grid(column, *column.range, self.bins))[None]
            for column in self.columns
        }
        return Plan("descriptive.histogram", {"by": None, "edges": edges}, "histograms")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        hidden = {
            name: total.hidden.get(name, np.zeros_like(array))
            for name, array in total.values.items()
        }
        return {"done": True, "values": dict(total.values), "hidden": hidden}

    def model(self, state: State) -> dict[str, Any]:
        if "values" not in state:
            return {}
        return {column.name: self._figures(state, column) for column in self.columns}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def _figures(self, state: State, column: Column) -> dict[str, Any]:
        counts = state["values"][f"bins:{column.name}"][0].tolist()
        hidden = state["hidden"][f"bins:{column.name}"][0].tolist()
        return {
            "edges": grid(column, *column.range, self.bins).tolist(),
            "counts": counts[1:-1],
            "hidden": hidden[1:-1],
            "below": None if hidden[0] else counts[0],
            "above": None if hidden[-1] else counts[-1],
            "n": int(state["values"][f"n:{column.name}"][0]),
        }


def grid(column: Column, lower: float, upper: float, parts: int) -> Floats:
    """Ascending edges of about `parts` bins; whole numbers lie in the middle of unit steps."""
    if not column.is_whole:
        return np.unique(np.linspace(lower, upper, parts + 1))
    first, last = np.ceil(lower) - 0.5, np.floor(upper) + 0.5
    step = max(1.0, np.ceil((last - first) / parts))
    return np.append(np.arange(first, last, step), last)


def closed(column: Column, edges: Floats) -> Floats:
    """The same edges with the last one just above its value, so that the last bin includes it."""
    if column.is_whole:
        return edges
    return np.append(edges[:-1], np.nextafter(edges[-1], np.inf))
