"""Where k-means starts: halves of halves of space, summed, and a sample drawn from their sums.

k-means++ takes rows as first centres, which rows here are not. Instead space is halved along its
principal axes, each time the part of largest variance at its mean (Su & Dy, "In search of
deterministic methods for initializing k-means", *Intelligent Data Analysis* 11, 2007), until there
are twice as many cells as clusters. Of the two halves only the means are known; what they leave of
the variance of the whole counts for both. Normal rows are drawn with each cell's mean and
variances, and k-means++ with restarts (Arthur & Vassilvitskii 2007) finds the centres of these.

What leaves the site: per cell the sums of `kmeans_tasks.py`. Of two halves one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.simple.kmeans_tasks import DEEPEST
from polyclinic.models.simple.moments import Moments
from polyclinic.models.simple.nearest import Scaled, added, closer, fast, nearest
from polyclinic.models.simple.rows import values

Floats = NDArray[np.float64]
CELLS = 2  # per cluster
SMALLEST = 40  # rows of a cell that is halved
DRAWN, AT_LEAST = 4000, 20  # rows of the sample, and of each cell of it
STEPS = 50


@dataclass(frozen=True)
class Cells:
    """Parts of space with what was summed over them, in coordinates along `axes`.

    weight (n_cells,), mean and variance (n_cells, n_terms)
    """

    axes: Floats
    weight: Floats
    mean: Floats
    variance: Floats

    def means(self) -> Floats:
        """The means of the cells, of the scaled terms."""
        return np.asarray(self.mean @ self.axes.T)

    def start(self, n_clusters: int, n_init: int, seed: int) -> Floats:
        """First centres of the scaled terms, (n_clusters, n_terms)."""
        draw = np.random.default_rng(seed)
        rows, weights = [], []
        for weight, mean, variance in zip(self.weight, self.mean, self.variance, strict=True):
            size = max(AT_LEAST, n_clusters, round(DRAWN * weight / self.weight.sum()))
            rows.append(mean + draw.normal(size=(size, len(mean))) * np.sqrt(variance))
            weights.append(np.full(size, weight / size))
        x, w = np.concatenate(rows), np.concatenate(weights)
        quick = fast(int(min(self.weight.sum(), 2.0**62)))
        starts = (_plus_plus(x, w, n_clusters, draw, quick) for _ in range(n_init))
        found = [_lloyd(x, w, start, quick) for start in starts]
        centres, _ = min(found, key=lambda one: one[1])
        return np.asarray(centres @ self.axes.T)


def _plus_plus(
    x: Floats, w: Floats, k: int, draw: np.random.Generator, quick: bool = False
) -> Floats:
    """Greedy k-means++: of a few rows drawn by squared distance, the one that helps most."""
    trials = 2 + int(np.log(k))
    centres = [x[draw.choice(len(x), p=w / w.sum())]]
    distance = np.square(x - centres[0]).sum(axis=1)
    while len(centres) < k:
        chance = w * distance
        total = chance.sum()
        chance = chance / total if total > 0 else w / w.sum()
        tried = x[draw.choice(len(x), trials, p=chance)]
        left = closer(x, tried, distance, quick)
        best = int((left @ w).argmin())
        centres.append(tried[best])
        distance = left[best]
    return np.stack(centres)


def _lloyd(x: Floats, w: Floats, centres: Floats, quick: bool = False) -> tuple[Floats, float]:
    """Centres where Lloyd's rounds end, and their inertia."""
    before, rows = None, Scaled.of(x)
    for _ in range(STEPS):
        label = nearest(rows, centres, quick)
        if before is not None and np.array_equal(label, before):
            break
        before = label
        found = added(rows, w, label, centres, quick)
        weight = found.weight[:, None]
        mean = found.x / np.where(weight > 0, weight, 1.0)
        centres = np.where(weight > 0, mean, centres)
    return centres, added(rows, w, nearest(rows, centres, quick), centres, quick).spread


@dataclass(frozen=True)
class CellsAlgorithm:
    """Halves all cells that are worth it, round by round; model: `Cells`.

    Parameters
    ----------
    task : name of a `CellsTask`.
    spec : data of the learner's spec.
    moments, scatter : of all rows, the second about the means.
    scale : divisors of the terms.
    """

    task: str
    spec: Mapping[str, Any]
    moments: Moments
    scatter: Floats
    scale: Floats

    def init(self, seed: int) -> State:
        variance, axes = np.linalg.eigh(self.scatter / np.outer(self.scale, self.scale))
        p = len(variance)
        return {
            "axes": np.ascontiguousarray(axes[:, ::-1]),
            "split": {
                "node": np.zeros(0, dtype=np.int64),
                "axis": np.zeros(0, dtype=np.int64),
                "at": np.zeros(0),
            },
            "node": np.ones(1, dtype=np.int64),
            "n": np.array([self.moments.n], dtype=np.int64),
            "weight": self.moments.weight[:1],
            "x": np.zeros((1, p)),
            "variance": np.maximum(variance[None, ::-1], 0.0) / self.moments.weight[0],
            "stuck": np.zeros(0, dtype=np.int64),
        }

    def plan(self, state: State) -> Plan | None:
        split = _halved(state, CELLS * int(self.spec["n_clusters"]))
        if split is None:
            return None
        ask = 2 * np.setdiff1d(split["node"], state["split"]["node"])
        asked = values(
            self.spec,
            centre=self.moments.mean[0],
            scale=self.scale,
            axes=state["axes"],
            split=split,
            ask=ask,
        )
        return Plan(self.task, asked, f"cells, {len(ask)} halved")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        """A cell with an empty half stays whole."""
        asked, split = plan.values["state"]["ask"].tolist(), plan.values["state"]["split"]
        stuck, cells = state["stuck"].tolist(), []
        for i, node in enumerate(state["node"].tolist()):
            whole = {name: state[name][i] for name in _KEPT}
            found = None
            if 2 * node in asked:
                at = asked.index(2 * node)
                x = total["x"][at] @ state["axes"]
                found = _halves(whole, {"n": total["n"][at], "weight": total["weight"][at], "x": x})
                stuck += [] if found else [node]
            cells += found or [whole]
        inside = ~np.isin(split["node"], stuck)
        return {
            "axes": state["axes"],
            "split": {name: values[inside] for name, values in split.items()},
            **{name: np.array([cell[name] for cell in cells]) for name in _KEPT},
            "stuck": np.array(stuck, dtype=np.int64),
        }

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> Cells:
        weight = np.maximum(state["weight"], 0.0)
        return Cells(state["axes"], weight, _mean(state), state["variance"])


_KEPT = ("node", "n", "weight", "x", "variance")


def _halves(whole: Mapping[str, Any], low: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Both halves of a cell, from the sums of the lower one; None where one is empty."""
    if not 0 < int(low["n"]) < int(whole["n"]) or not 0 < low["weight"] < whole["weight"]:
        return None
    high = {name: whole[name] - low[name] for name in low}
    apart = low["x"] / low["weight"] - high["x"] / high["weight"]
    share = low["weight"] / whole["weight"]
    variance = np.maximum(whole["variance"] - share * (1.0 - share) * apart**2, 0.0)
    node = 2 * int(whole["node"])
    return [
        {**low, "node": node, "variance": variance},
        {**high, "node": node + 1, "variance": variance},
    ]


def _mean(state: State) -> Floats:
    return np.asarray(state["x"] / np.maximum(state["weight"], 1e-300)[:, None])


def _halved(state: State, wanted: int) -> dict[str, Any] | None:
    """The splits with one more level; None where there are cells enough."""
    nodes = state["node"]
    able = (state["n"] >= SMALLEST) & (nodes < 2**DEEPEST) & ~np.isin(nodes, state["stuck"])
    mean, variance = _mean(state), state["variance"]
    able &= variance.max(axis=1, initial=0.0) > 0
    if len(nodes) >= wanted or not able.any():
        return None
    axis = variance.argmax(axis=1)
    new = {
        "node": nodes[able],
        "axis": axis[able].astype(np.int64),
        "at": mean[np.arange(len(nodes)), axis][able],
    }
    both = {name: np.concatenate([state["split"][name], new[name]]) for name in new}
    order = np.argsort(both["node"], kind="stable")
    return {name: values[order] for name, values in both.items()}
