"""Counts, means, variances and histograms under differential privacy: one noisy round each.

Of every column a patient counts once: with m rows that hold a value, each has the weight 1/m. A
value is cut to the range of the codebook and scaled to z in [-1, 1]. What leaves a site, with
noise from the gate:

    moments     sum over patients of (1, z, z^2) per column
    histogram   sum over patients of the share of their values in each bin, per column

Of C columns one patient's part has L2 norm sqrt(3 C) at most for moments, sqrt(C) for a histogram,
and L1 norm 3 C and C: the plan's noise says which of them is declared, and a plan without noise is
refused. Every patient's weight is 1 whatever the number of rows, so n counts patients, not rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain, lookup
from polyclinic.models.descriptive import rows
from polyclinic.models.descriptive.column import Column
from polyclinic.models.descriptive.exposure import Counted, Known
from polyclinic.models.descriptive.histogram import grid
from polyclinic.models.distributions import normal_quantile
from polyclinic.models.private import BLOCK_CELLS, UNDECLARED, noise_variance
from polyclinic.privacy import accounting, noisy
from polyclinic.privacy.bounded import BoundedSum
from polyclinic.privacy.dp import DifferentialPrivacy

Floats = NDArray[np.float64]
LEAST = 3.0  # noise levels that a count must exceed before anything is divided by it
HALF_95 = float(normal_quantile(0.975))
LAPLACE_95 = math.log(20.0) / math.sqrt(2.0)


@dataclass(frozen=True)
class PrivateMomentsTask(Counted):
    """Bounded sums of (1, z, z^2). Plan values: columns (names), centre, unit (n_columns,)."""

    name: str = "descriptive.private_moments"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = len(plan.values["columns"])
        centre, unit = plan.values["centre"], plan.values["unit"]
        fits = centre.shape == unit.shape == (size,)
        if not (
            fits and np.isfinite(centre).all() and np.isfinite(unit).all() and (unit > 0).all()
        ):
            raise _bad("the scales of the plan do not fit its columns")
        return (_leaf(plan, "moments", (size, 3), "sum of powers", 3.0 * max(size, 1)),)

    def known(self, plan: Plan) -> Sequence[Known]:
        return tuple(Known((name,)) for name in plan.values["columns"])

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        (leaf,) = self.leaves(plan)

        def vectors(part: Partition) -> Floats:
            out = np.zeros((part.n_rows, *leaf.shape))
            for c, name in enumerate(plan.values["columns"]):
                x = rows.values(part, name)
                known = ~np.isnan(x)
                centre, unit = plan.values["centre"][c], plan.values["unit"][c]
                z = np.clip((x[known] - centre) / unit, -1.0, 1.0)
                weight = _weights(part, known)[known]
                out[known, c] = np.column_stack([weight, weight * z, weight * z * z])
            return out

        return _bounded(leaf, partition, vectors)


@dataclass(frozen=True)
class PrivateHistogramTask(Counted):
    """Bounded counts per bin. Plan values: edges, per column an ascending array (n_bins + 1,).

    A value outside belongs to the first or the last bin; a bin holds its lower edge.
    """

    name: str = "descriptive.private_histogram"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        edges = [array for _, array in sorted(plan.values["edges"].items())]
        if any(e.ndim != 1 or len(e) < 2 or not (np.diff(e) > 0).all() for e in edges):
            raise _bad("the edges of a histogram ascend")
        size = sum(len(e) - 1 for e in edges)
        # A patient counts once per column, over all its bins.
        return (_leaf(plan, "bins", (size,), "histogram", float(max(len(edges), 1))),)

    def known(self, plan: Plan) -> Sequence[Known]:
        return tuple(Known((name,)) for name in sorted(plan.values["edges"]))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        (leaf,) = self.leaves(plan)

        def vectors(part: Partition) -> Floats:
            out, first = np.zeros((part.n_rows, *leaf.shape)), 0
            for name, edges in sorted(plan.values["edges"].items()):
                x = rows.values(part, name)
                known = np.flatnonzero(~np.isnan(x))
                bins = np.searchsorted(edges[1:-1], x[known], side="right")
                out[known, first + bins] = _weights(part, ~np.isnan(x))[known]
                first += len(edges) - 1
            return out

        return _bounded(leaf, partition, vectors)


def _leaf(plan: Plan, name: str, shape: tuple[int, ...], kind: str, most: float) -> Leaf:
    """Of parts with L1 norm `most` and squares that add up to `most`, as the plan's noise needs it.

    Raises NOISE_REQUIRED.
    """
    norm = noisy.noise_required(plan).norm
    return Leaf(name, shape, kind, bound=most if norm == "l1" else math.sqrt(most), norm=norm)


def _bounded(
    leaf: Leaf, partition: Partition, vectors: Callable[[Partition], Floats]
) -> Contribution:
    """The bounded sum of all rows, some whole patients at a time."""
    bounded, total = BoundedSum(leaf.bound or 0.0, leaf.norm), np.zeros(leaf.shape)
    for part in partition.chunks(max(BLOCK_CELLS // max(leaf.size, 1), 64)):
        total += bounded.of(vectors(part), part.key).total
    return Contribution({leaf.name: total}, Evidence(partition.n_patients))


def _weights(part: Partition, known: rows.Mask) -> Floats:
    """1 over the number of the patient's rows that are `known`, (n_rows,)."""
    if part.key is None:
        return np.ones(part.n_rows)
    _, where = np.unique(part.key, return_inverse=True)
    count = np.bincount(where, weights=known.astype(np.float64))
    return np.asarray(1.0 / np.maximum(count, 1.0)[where])


@dataclass(frozen=True)
class PrivateMoments:
    """Number of patients with a value, mean, variance and standard deviation of each column.

    Model: ``{column: {"n", "mean", "variance", "sd", "n_noise", "mean_noise"}}``; the last two are
    standard deviations of the noise, in the unit of what they are about. What the noise drowns is
    None. One round of all columns together spends all of `privacy`.
    """

    columns: tuple[Column, ...]
    privacy: DifferentialPrivacy

    def init(self, seed: int) -> State:
        return _first(self.columns, self.privacy)

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        ends = np.array([_range(column) for column in self.columns])
        values = {
            "columns": [column.name for column in self.columns],
            "centre": 0.5 * (ends[:, 0] + ends[:, 1]),
            "unit": np.maximum(0.5 * (ends[:, 1] - ends[:, 0]), np.finfo(float).tiny),
            noisy.KEY: {"multiplier": state["multiplier"]},
        }
        return Plan("descriptive.private_moments", values, "noisy means")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return _answered(state, plan, total)

    def model(self, state: State) -> dict[str, dict[str, Any]]:
        if "sums" not in state:
            return {}
        return {
            column.name: _figures(column, state["sums"][c], math.sqrt(state["variance"]))
            for c, column in enumerate(self.columns)
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


def _figures(column: Column, sums: Floats, sigma: float) -> dict[str, Any]:
    low, high = _range(column)
    n, unit = float(sums[0]), 0.5 * (high - low)
    found: dict[str, Any] = dict.fromkeys(("mean", "variance", "sd", "mean_noise"))
    found |= {"n": max(round(n), 0), "n_noise": sigma}
    if n <= max(LEAST * sigma, 1.0):
        return found
    z = min(max(float(sums[1]) / n, -1.0), 1.0)
    square = min(max(float(sums[2]) / n - z * z, 0.0), 1.0) * n / (n - 1.0)
    found["mean"] = 0.5 * (low + high) + unit * z
    found["mean_noise"] = unit * sigma * math.sqrt(1.0 + z * z) / n
    # A difference of noisy numbers: below its own noise it says nothing.
    if square > sigma * math.sqrt(1.0 + 4.0 * z * z + (2.0 * z * z - square) ** 2) / n:
        found["variance"], found["sd"] = unit * unit * square, unit * math.sqrt(square)
    return found


@dataclass(frozen=True)
class PrivateHistogram:
    """Patients per bin of equal width over each column's range; levels have a bin each.

    The noise is Laplace's or Gaussian, whichever is less: Laplace's for a few columns.

    Model: ``{column: {"edges", "counts", "lower", "upper", "n"}}``; `counts` are 0 or more and
    rounded, `lower` and `upper` hold the true count of a bin with 95 % each. A patient with several
    values counts in each one's bin by its share. One round of all columns spends all of `privacy`.
    """

    columns: tuple[Column, ...]
    bins: int
    privacy: DifferentialPrivacy

    def init(self, seed: int) -> State:
        state, each = _first(self.columns, self.privacy), len(self.columns)
        if state["done"]:
            return state
        if math.sqrt(2.0) * each / self.privacy.epsilon > state["multiplier"] * math.sqrt(each):
            return {**state, "mechanism": "gaussian"}
        return {**state, "mechanism": "laplace", "multiplier": _laplace(self.privacy)}

    def plan(self, state: State) -> Plan | None:
        if state["done"]:
            return None
        values = {
            "edges": {column.name: _edges(column, self.bins) for column in self.columns},
            noisy.KEY: {"multiplier": state["multiplier"], "mechanism": state["mechanism"]},
        }
        return Plan("descriptive.private_histogram", values, "noisy histograms")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return _answered(state, plan, total)

    def model(self, state: State) -> dict[str, dict[str, Any]]:
        if "sums" not in state:
            return {}
        found, first, half = {}, 0, _half(state)
        for column in sorted(self.columns, key=lambda column: column.name):
            edges = _edges(column, self.bins)
            counts = state["sums"][first : first + len(edges) - 1]
            first += len(counts)
            found[column.name] = {
                "edges": edges.tolist(),
                "counts": np.rint(np.maximum(counts, 0.0)).astype(int).tolist(),
                "lower": np.maximum(counts - half, 0.0).tolist(),
                "upper": np.maximum(counts + half, 0.0).tolist(),
                "n": max(round(float(counts.sum())), 0),
            }
        return {column.name: found[column.name] for column in self.columns}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}


def _first(columns: Sequence[Column], privacy: DifferentialPrivacy) -> State:
    for column in columns:
        _range(column)
    if not columns:
        return {"done": True}
    z = accounting.calibrate(privacy.epsilon, privacy.delta, 1)
    return {"done": False, "multiplier": float(z)}


def _laplace(privacy: DifferentialPrivacy) -> float:
    """The least multiplier that the accountant finds within epsilon; 1 / epsilon but for its
    rounding."""
    z = 1.0 / privacy.epsilon
    while accounting.epsilon([noisy.Noise("laplace", z).event], privacy.delta) > privacy.epsilon:
        z *= 1.0 + 1e-4
    return z


def _half(state: State) -> float:
    """Half of a 95 % interval; a sum of Laplace noises lies no wider than one of them."""
    levels = LAPLACE_95 if state["mechanism"] == "laplace" else HALF_95
    return levels * math.sqrt(state["variance"])


def _answered(state: State, plan: Plan, total: Total) -> State:
    (leaf,) = lookup(plan.task, plan.version).leaves(plan)
    variance = noise_variance(total, leaf, plan)
    return {**state, "done": True, "sums": total[leaf.name], "variance": variance}


def _edges(column: Column, bins: int) -> Floats:
    low, high = _range(column)
    if column.has_levels:
        return np.arange(len(column.levels) + 1, dtype=np.float64) - 0.5
    return grid(column, low, high, bins)


def _range(column: Column) -> tuple[float, float]:
    """The agreed range. Raises NO_RANGE for a column without one."""
    if column.has_levels:
        return 0.0, float(len(column.levels) - 1)
    low, high = column.range
    if not (-UNDECLARED < low < high < UNDECLARED):
        raise InputError(
            f"{column.name} has no range in the codebook",
            code="NO_RANGE",
            rule="noise is measured against the range that a column may have, never its values",
            next=f"give {column.name} a range in the codebook",
        )
    return low, high


def _bad(what: str) -> PolyclinicError:
    return PolyclinicError(
        what, code="BAD_MESSAGE", rule="a plan says how far a patient's part can reach"
    )
