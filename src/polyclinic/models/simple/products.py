"""Covariances of the terms of a design, in two passes: the moments first, then products about them.

What leaves the site: the sums of products of every two terms about the pooled means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.design import exponent
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.simple.moments import LARGEST, Moments, is_array
from polyclinic.models.simple.nearest import BLOCK_ROWS
from polyclinic.models.simple.rows import Exposed, Table, design, values

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ProductsTask(Exposed):
    """Sums of products of deviations. Plan state: centre (n_terms,), exponent (n_terms,)."""

    name: str
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        p = len(design(plan).terms)
        return (
            Leaf("n", (), "count", "int64", unit="rows"),
            Leaf("counts", (0,), "count", "int64", unit="rows"),
            Leaf("x", (p,), "sum"),
            Leaf("products", (p * (p + 1) // 2,), "sum of products"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows, state = Table.of(plan, partition), plan.values["state"]
        p, unit = rows.x.shape[1], np.ldexp(1.0, -state["exponent"])
        x, products = np.zeros(p), np.zeros((p, p))
        for start in range(0, len(rows.y), BLOCK_ROWS):
            at = slice(start, start + BLOCK_ROWS)
            z = rows.x[at] - state["centre"]
            z *= unit
            x += rows.weight[at] @ z
            products += z.T @ (z * rows.weight[at, None])
        leaves: dict[str, Any] = {
            "n": len(rows.y),
            "counts": np.zeros(0, dtype=np.int64),
            "x": x,
            "products": products[np.triu_indices(p)],
        }
        return Contribution(leaves, Evidence(rows.patients))


def check_products(plan: Plan) -> None:
    """Raises ValueError where centre and scale are not a finite number per term."""
    state, shape = plan.values["state"], (len(design(plan).terms),)
    fits = set(state) == {"centre", "exponent"} and is_array(state["centre"], shape, "f")
    if not fits or np.any(np.abs(state["centre"]) > LARGEST):
        raise ValueError("the centre is a finite number per term")
    if not is_array(state["exponent"], shape, "i") or np.any(np.abs(state["exponent"]) > 1000):
        raise ValueError("the scale is a power of two per term")


@dataclass(frozen=True)
class ProductsAlgorithm:
    """One round about the means; model: the sums of products about them, (n_terms, n_terms).

    Parameters
    ----------
    task : name of the task.
    spec : data of the learner's spec, with "design" and "rows".
    moments : of the same rows.
    """

    task: str
    spec: Mapping[str, Any]
    moments: Moments

    def init(self, seed: int) -> State:
        return {"sums": None}

    def plan(self, state: State) -> Plan | None:
        if state["sums"] is not None:
            return None
        spread = np.sqrt(self.moments.variance[0])
        exponents = np.array([exponent(value) for value in spread], dtype=np.int64)
        asked = values(self.spec, centre=self.moments.mean[0], exponent=exponents)
        return Plan(self.task, asked, "products of terms")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return {"sums": dict(total.values), "exponent": plan.values["state"]["exponent"]}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> Any:
        return self.scatter(state)

    def scatter(self, state: State) -> Floats:
        """Zeros for a term that is the same in all rows."""
        p, x = len(self.moments.mean[0]), state["sums"]["x"]
        upper = np.zeros((p, p))
        upper[np.triu_indices(p)] = state["sums"]["products"]
        found = upper + np.triu(upper, 1).T - np.outer(x, x) / float(self.moments.weight[0])
        fixed = self.moments.variance[0] == 0
        found[fixed] = found[:, fixed] = 0.0
        return np.asarray(np.ldexp(found, state["exponent"][:, None] + state["exponent"]))
