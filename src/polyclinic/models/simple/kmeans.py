"""k-means by Lloyd's rounds: every unit to its nearest centre, every centre to the mean of its own.

    inertia = sum over rows of w |z - c|^2,   z = (x - pooled mean) / scale

where c is the centre nearest to the row or, over hospitals, to the mean of the small group of
patients that it belongs to (`units.py`). With `batch` a round looks at a part of the units, drawn
by hash(seed, round, patient), and a centre moves by its part of all that it has seen.
References: Lloyd, *IEEE Trans. Inf. Theory* 28 (1982); Sculley, "Web-scale k-means clustering", WWW
2010; Calinski & Harabasz, *Communications in Statistics* 3 (1974).

What leaves the site: counts, sums and products of all rows, sums of cells of space from which the
first centres are found (`seeds.py`), and of the clusters of each round (`kmeans_tasks.py`,
`kmeans_grouped.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Total
from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.simple import kmeans_grouped
from polyclinic.models.simple import kmeans_tasks as site
from polyclinic.models.simple.moments import Moments, MomentsAlgorithm, MomentsTask
from polyclinic.models.simple.nearest import Scaled, nearest
from polyclinic.models.simple.products import ProductsAlgorithm, ProductsTask
from polyclinic.models.simple.rows import values
from polyclinic.models.simple.scale import NONE, Scale
from polyclinic.models.simple.seeds import Cells, CellsAlgorithm

Floats = NDArray[np.float64]
MOMENTS, PRODUCTS = MomentsTask("kmeans.moments"), ProductsTask("kmeans.products")
STILL = 3  # batches in a row that hardly move a centre
SAME = 1e-24  # of the variance: a centre that moved less has stayed


@dataclass(frozen=True)
class KMeansSpec:
    """What is looked for.

    n_clusters  how many
    n_init      starts that are tried on the cells' sample; the best goes over the hospitals
    max_iter    rounds at most
    tol         a move of all centres, squared, beside the mean variance of a term, that ends it
    seed        of the sample and the batches
    batch       part of the units that a round looks at; 0: all
    group       patients of a hospital that stay together at least; 1: each row for itself
    scale       what every term is divided by first
    init        first centres in the terms' own units, (n_clusters, n_terms); empty: found
    """

    design: Design
    n_clusters: int
    n_init: int = 10
    max_iter: int = 100
    tol: float = 1e-4
    seed: int = 0
    batch: float = 0.0
    group: int = 5
    scale: Scale = NONE
    init: tuple[tuple[float, ...], ...] = ()
    rows: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        return {
            "design": self.design.to_data(),
            "rows": dict(self.rows),
            "n_clusters": self.n_clusters,
            "n_init": self.n_init,
            "max_iter": self.max_iter,
            "tol": float(self.tol),
            "seed": self.seed,
            "batch": float(self.batch),
            "group": self.group,
            "scale": self.scale.to_data(),
            "init": [list(centre) for centre in self.init],
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> KMeansSpec:
        made = {
            **data,
            "design": Design.from_data(data["design"]),
            "scale": Scale.from_data(data["scale"]),
            "init": tuple(tuple(centre) for centre in data["init"]),
            "rows": dict(data["rows"]),
        }
        return KMeansSpec(**made)

    def algorithm(self) -> Stages:
        data, grouped = self.to_data(), self.group > 1

        def moments(results: Sequence[Any]) -> Algorithm:
            return MomentsAlgorithm(MOMENTS.name, data)

        def products(results: Sequence[Any]) -> Algorithm:
            return ProductsAlgorithm(PRODUCTS.name, data, results[0])

        def cells(results: Sequence[Any]) -> Algorithm:
            _check(self, results[0])
            task = kmeans_grouped.cells if grouped else site.cells
            scale = self.scale.of(results[0])
            return CellsAlgorithm(task.name, data, results[0], results[1], scale)

        def lloyd(results: Sequence[Any]) -> Algorithm:
            _check(self, results[0])
            task = kmeans_grouped.clusters if grouped else site.clusters
            return Lloyd(task.name, self, results[0], None if self.init else results[2])

        return Stages((moments, lloyd) if self.init else (moments, products, cells, lloyd))


def _check(spec: KMeansSpec, moments: Moments) -> None:
    if moments.n < spec.n_clusters:
        raise InputError(
            f"{spec.n_clusters} clusters of {moments.n} rows",
            code="WRONG_VALUE",
            rule="n_clusters is no more than there are rows",
            next="ask for fewer clusters",
        )


@dataclass(frozen=True)
class Lloyd:
    """The rounds; model: `KMeansFit`."""

    task: str
    spec: KMeansSpec
    moments: Moments
    cells: Cells | None

    @property
    def scale(self) -> Floats:
        return self.spec.scale.of(self.moments)

    @property
    def _variance(self) -> float:
        return float(np.mean(self.moments.variance[0] / self.scale**2))

    def init(self, seed: int) -> State:
        k = self.spec.n_clusters
        if self.cells is None:
            start = (np.array(self.spec.init) - self.moments.mean[0]) / self.scale
        else:
            start = self.cells.start(k, self.spec.n_init, self.spec.seed)
        return {
            "centres": start,
            "round": 0,
            "still": 0,
            "seen": np.zeros(k),
            "moved": 0.0,
            "phase": "rounds",
            "sums": None,
        }

    def plan(self, state: State) -> Plan | None:
        if state["phase"] == "done":
            return None
        last = state["phase"] == "last"
        number = state["round"] if self.spec.batch and not last else -1
        asked = values(
            self.spec.to_data(),
            centre=self.moments.mean[0],
            scale=self.scale,
            centres=state["centres"],
            round=number,
        )
        return Plan(self.task, asked, "sizes of the clusters" if last else "clusters")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        found = dict(total.values)
        if state["phase"] == "last":
            return {**state, "phase": "done", "sums": found}
        move = self._batched if self.spec.batch else self._moved
        return move(state, found)

    def _moved(self, state: State, found: Mapping[str, Any]) -> State:
        """Every centre at the mean of its own; one that has none at a place that needs it most."""
        weight = found["weight"][:, None]
        mean = found["x"] / np.where(weight > 0, weight, 1.0)
        centres = np.where(weight > 0, mean, state["centres"])
        empty = np.flatnonzero(found["weight"] <= 0)
        if len(empty) and self.cells is not None and state["round"] < self.spec.n_clusters:
            centres = _placed(centres, empty, self.cells)
        new = self._advanced(state, centres)
        if new["moved"] <= SAME * self._variance:  # what was summed is what there is
            return {**new, "centres": state["centres"], "phase": "done", "sums": dict(found)}
        over = new["moved"] <= self.spec.tol * self._variance
        over = over or new["round"] >= self.spec.max_iter
        return {**new, "phase": "last" if over else "rounds"}

    def _batched(self, state: State, found: Mapping[str, Any]) -> State:
        """Every centre nearer to the mean of its own in the batch, by their part of all seen."""
        seen = state["seen"] + found["weight"]
        far = found["x"] - found["weight"][:, None] * state["centres"]
        centres = state["centres"] + far / np.where(seen > 0, seen, 1.0)[:, None]
        new = self._advanced(state, centres)
        still = state["still"] + 1 if new["moved"] <= self.spec.tol * self._variance else 0
        over = still >= STILL or new["round"] >= self.spec.max_iter
        return {**new, "seen": seen, "still": still, "phase": "last" if over else "rounds"}

    def _advanced(self, state: State, centres: Floats) -> State:
        moved = float(np.square(centres - state["centres"]).sum())
        return {**state, "centres": centres, "round": state["round"] + 1, "moved": moved}

    def progress(self, state: State) -> Mapping[str, float]:
        return {"moved": state["moved"]}

    def model(self, state: State) -> KMeansFit:
        converged = state["moved"] <= self.spec.tol * self._variance or state["still"] >= STILL
        sums = state["sums"]
        return KMeansFit(
            self.spec,
            self.moments,
            self.scale,
            state["centres"],
            sums["n"],
            sums["weight"],
            sums["x"],
            float(sums["inertia"]),
            state["round"],
            bool(converged),
        )


def _placed(centres: Floats, empty: Any, cells: Cells) -> Floats:
    """The empty ones at the means of the cells that are farthest from all others, by weight."""
    centres, means = centres.copy(), cells.means()
    rows = Scaled.of(means)
    others = np.delete(np.arange(len(centres)), empty)
    for k in empty:
        near = centres[others][nearest(rows, centres[others])] if len(others) else 0.0 * means
        need = cells.weight * np.square(means - near).sum(axis=1)
        centres[k] = means[int(need.argmax())]
        others = np.append(others, k)
    return centres


@dataclass(frozen=True)
class KMeansFit:
    """Clusters, numbered as their centres.

    scale         divisors of the terms, (n_terms,)
    scaled        centres of the scaled terms, (n_clusters, n_terms)
    sizes         rows of each cluster; `weight` their weights, `sums` of their scaled terms
    inertia       as above
    """

    spec: KMeansSpec
    moments: Moments
    scale: Floats
    scaled: Floats
    sizes: NDArray[np.int64]
    weight: Floats
    sums: Floats
    inertia: float
    rounds: int
    converged: bool

    @property
    def n(self) -> int:
        return self.moments.n

    @property
    def patients(self) -> int:
        return self.moments.patients

    @property
    def centres(self) -> Floats:
        """In the terms' own units, (n_clusters, n_terms)."""
        return np.asarray(self.scaled * self.scale + self.moments.mean[0])

    @property
    def calinski_harabasz(self) -> float | None:
        """(between / (k - 1)) / (within / (n - k)) of the clusters in use; None of one alone."""
        used = self.weight > 0
        k, n = int(used.sum()), float(self.weight.sum())
        if k < 2 or n <= k:
            return None
        weight, mean = self.weight[used], self.sums[used] / self.weight[used, None]
        within = self.inertia
        within -= (weight * np.square(mean - self.scaled[used]).sum(axis=1)).sum()
        between = (weight * np.square(mean - weight @ mean / n).sum(axis=1)).sum()
        return float(between / (k - 1) / (within / (n - k))) if within > 0 else None

    @property
    def explained(self) -> float:
        """Share of the sum of squares about the mean that the clusters take away."""
        total = float((self.moments.variance[0] / self.scale**2).sum() * self.moments.weight[0])
        return 1.0 - self.inertia / total if total > 0 else 0.0

    def label(self, x: Floats) -> NDArray[np.int64]:
        """Number of the nearest centre of rows `x` (n_rows, n_terms)."""
        return nearest(Scaled(x, self.moments.mean[0], self.scale), self.scaled)

    def distances(self, x: Floats) -> Floats:
        """To every centre, of the scaled terms, (n_rows, n_clusters)."""
        z = self._scaled(x)
        return np.stack([np.sqrt(np.square(z - c).sum(axis=1)) for c in self.scaled], axis=1)

    def _scaled(self, x: Floats) -> Floats:
        return np.asarray((x - self.moments.mean[0]) / self.scale)

    def predictor(self) -> None:
        return None

    def warnings(self) -> list[str]:
        names = self.spec.design.names
        found = [
            f"{names[j]} is the same in all rows" for j in np.flatnonzero(self.moments.constant)
        ]
        empty = np.flatnonzero(self.sizes == 0).tolist()
        if empty:
            found.append(
                f"no row is in cluster {', '.join(map(str, empty))}: there are fewer different "
                "groups of patients than n_clusters"
            )
        if not self.converged:
            found.append(f"the centres still moved after {self.rounds} rounds: raise max_iter")
        return [*found, *self.spec.scale.warnings(names, self.moments)]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Per cluster its size and its centre in the terms' own units."""
        lines = []
        for k, centre in enumerate(self.centres.tolist()):
            line = {"cluster": k, "rows": int(self.sizes[k])}
            lines.append(line | dict(zip(self.spec.design.names, centre, strict=True)))
        return {"clusters": lines}

    def blocks(self) -> list[dict[str, Any]]:
        """The clusters, and how well they part the rows."""
        total = max(int(self.sizes.sum()), 1)
        head = ["", *(f"cluster {k}" for k in range(len(self.sizes)))]
        sizes = ["rows", *(f"{n:,} ({n / total:.0%})" for n in self.sizes.tolist())]
        rows = [
            [name, *(f"{value:.4g}" for value in self.centres[:, j])]
            for j, name in enumerate(self.spec.design.names)
        ]
        index = self.calinski_harabasz
        said = f"The clusters take away {self.explained:.0%} of the sum of squares"
        said += f"; Calinski-Harabasz index {index:,.1f}." if index is not None else "."
        note = "Centres, in the units of the columns."
        if self.spec.group > 1:
            note += f" While they were found, at least {self.spec.group} patients of a hospital "
            note += "stayed together."
        table = {"title": "Clusters", "kind": "table", "head": head, "rows": [sizes, *rows]}
        return [{**table, "note": note}, {"kind": "text", "text": said}]
