"""Covariance and correlation of pairs of columns, from the rows where both are known.

With K the 0/1 matrix of known values and Z the centred, scaled values (0 where unknown), four
matrix products hold all that pairwise-complete estimates need:

    N = K'K,   S = Z'K,   P = Z'Z,   Q = (Z*Z)'K
    cov_ij = (P_ij - S_ij S_ji / N_ij) / (N_ij - 1),   var_i|j = (Q_ij - S_ij^2 / N_ij) / (N_ij - 1)

Chan, Golub & LeVeque (1983), as in moments.py, which supplies centre and scale.

What leaves the site: N, S, P and Q. Entries with too few patients behind them are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Stages, State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.design import exponent
from polyclinic.core.exposure import Exposure, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.descriptive import rows
from polyclinic.models.descriptive.column import Column, names
from polyclinic.models.descriptive.exposure import Counted, Known, Own
from polyclinic.models.descriptive.moments import FARTHEST, Moments, beyond

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ProductsTask(Counted):
    """Products over rows where both columns are known. Plan values: columns, centre, exponent."""

    name: str = "descriptive.products"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        shape = (len(plan.values["columns"]),) * 2
        sums = [
            Leaf(name, shape, "sum of products", support="cells", small="hide")
            for name in ("sum", "product", "square")
        ]
        return (Leaf("n", shape, "count", "int64", support="cells", small="hide"), *sums)

    def known(self, plan: Plan) -> Sequence[Known]:
        names = plan.values["columns"]
        pairs = combinations_with_replacement(range(len(names)), 2)
        return tuple(Known((names[i], names[j]), "n", i * len(names) + j) for i, j in pairs)

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Also how patients share in the products, as in the moments."""
        found = super().exposure(plan, partition, own)
        known, z = _scaled(plan, partition)
        square = z * z
        lines = [
            Shares.of(np.maximum(square[:, [i]], square) * (known[:, [i]] & known), partition.key)
            for i in range(z.shape[1])
        ]  # and so no less than the products
        far = np.asarray(np.any(np.abs(z) >= FARTHEST, axis=0))
        shares = beyond(_stacked(lines), far[:, None] | far)
        return replace(found, cells=dict.fromkeys(("n", "sum", "product", "square"), shares))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        known, z = _scaled(plan, partition)
        both = known.astype(np.float64)
        n = np.rint(both.T @ both).astype(np.int64)
        leaves = {"n": n, "sum": z.T @ both, "product": z.T @ z, "square": (z * z).T @ both}
        behind = n if partition.key is None else _patients(partition, known)
        return Contribution(leaves, Evidence(partition.n_patients, dict.fromkeys(leaves, behind)))


def _stacked(lines: Sequence[Shares]) -> Shares:
    parts = zip(*((s.total, s.squares, s.first, s.second) for s in lines), strict=True)
    return Shares(*(np.stack(part) for part in parts))


def _scaled(plan: Plan, partition: Partition) -> tuple[NDArray[np.bool_], Floats]:
    """Where each column is known, and its scaled deviations, 0 where it is not."""
    asked = plan.values
    raw = np.column_stack([rows.values(partition, name) for name in asked["columns"]])
    known = ~np.isnan(raw)
    z = np.ldexp(raw - asked["centre"], -asked["exponent"])
    return known, np.where(known, np.clip(z, -FARTHEST, FARTHEST), 0.0)


@dataclass(frozen=True)
class Products:
    """One round of products around the moments' means; model: the matrices of `Correlation`."""

    columns: tuple[Column, ...]
    moments: Mapping[str, Mapping[str, Any]]

    def init(self, seed: int) -> State:
        return {"done": not self.columns}

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        found = [self.moments[name] for name in names(self.columns)]
        centre = np.array([one["mean"] or 0.0 for one in found])
        scale = [one["sd"] or column.bound for one, column in zip(found, self.columns, strict=True)]
        exponents = np.array([exponent(value) for value in scale], dtype=np.int64)
        values = {"columns": names(self.columns), "centre": centre, "exponent": exponents}
        return Plan("descriptive.products", values, "correlations")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return {
            "done": True,
            "sums": dict(total.values),
            "exponent": plan.values["exponent"],
            "hidden": total.hidden.get("n", np.zeros_like(total["n"])),
        }

    def model(self, state: State) -> dict[str, Any]:
        size = len(self.columns)
        empty: dict[str, Any] = {"n": np.zeros((size, size), np.int64)}
        sums = state.get(
            "sums", empty | dict.fromkeys(("sum", "product", "square"), np.zeros((size, size)))
        )
        n, total = sums["n"], sums["sum"]
        with np.errstate(divide="ignore", invalid="ignore"):
            some = np.where(n > 1, n, np.nan)
            scaled = (sums["product"] - total * total.T / some) / (some - 1)
            variance = (sums["square"] - total**2 / some) / (some - 1)
            constant = variance <= 2.0**-90
            spread = np.sqrt(np.where(constant, np.nan, variance))
            correlation = np.clip(scaled / (spread * spread.T), -1.0, 1.0)
        powers = state.get("exponent", np.zeros(size, np.int64))
        covariance = np.ldexp(scaled, powers[:, None] + powers[None, :])
        np.fill_diagonal(correlation, np.where(np.isnan(np.diag(correlation)), np.nan, 1.0))
        return {
            "columns": names(self.columns),
            "n": n,
            "covariance": covariance,
            "correlation": correlation,
            "hidden_sites": state.get("hidden", np.zeros_like(n)),
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class Correlation:
    """Covariance and Pearson correlation of all pairs of `columns`, pairwise complete.

    Model: ``{"columns", "n", "covariance", "correlation", "hidden_sites"}``, matrices of shape
    (n_columns, n_columns). An entry is NaN with fewer than two rows, a correlation also beside a
    constant column. It is about the sites that were not hidden; `hidden_sites` counts the others.
    """

    columns: tuple[Column, ...]

    def init(self, seed: int) -> State:
        return self._stages().init(seed)

    def plan(self, state: State) -> Plan | None:
        return self._stages().plan(state)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return self._stages().update(state, plan, total)

    def model(self, state: State) -> dict[str, Any]:
        results = self._stages().model(state)
        found: dict[str, Any] = results[1]
        return found

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def _stages(self) -> Stages:
        return Stages(
            (
                lambda _: Moments(self.columns),
                lambda results: Products(self.columns, results[0]["all"]),
            )
        )


def _patients(partition: Partition, known: NDArray[np.bool_]) -> Ints:
    """Patients with a row in which both columns are known, (n_columns, n_columns)."""
    size = known.shape[1]
    behind = np.zeros((size, size), np.int64)
    for i in range(size):
        for j in range(i + 1):
            behind[i, j] = behind[j, i] = partition.patients(known[:, i] & known[:, j])
    return behind
