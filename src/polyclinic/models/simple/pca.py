"""Principal components: orthogonal directions of largest variance.

With m the pooled mean and D the pooled standard deviations (or ones),

    C = sum over rows of w z z' / (W - 1),   z = (x - m) / D,   C = V diag(lambda) V'

in two passes: the mean first, then the products about it. The component signs are such that the
entry of largest magnitude is positive. Reference: Jolliffe, *Principal Component Analysis* (2002).

What leaves the site: counts, sums of the terms and of their squares, then the sums of products of
every two terms about the pooled means; as for a linear model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.contribution import Contribution, Evidence, Total
from polyclinic.core.design import Design, exponent
from polyclinic.core.errors import InputError
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.exposure import Asked
from polyclinic.models.simple.moments import (
    LARGEST,
    Moments,
    MomentsAlgorithm,
    MomentsTask,
    is_array,
)
from polyclinic.models.simple.rows import Exposed, Table, design, values

Floats = NDArray[np.float64]
MOMENTS = MomentsTask("pca.moments")
NONE = 2.0**-46  # of the largest variance: what rounding leaves of a component that is not there


@dataclass(frozen=True)
class ProductsTask(Exposed):
    """Sums of products of deviations. Plan state: centre (n_terms,), exponent (n_terms,)."""

    name: str = "pca.products"
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
        z = np.ldexp(rows.x - state["centre"], -state["exponent"])
        products = z.T @ (z * rows.weight[:, None])
        leaves = {
            "n": len(rows.y),
            "counts": np.zeros(0, dtype=np.int64),
            "x": rows.weight @ z,
            "products": products[np.triu_indices(z.shape[1])],
        }
        return Contribution(leaves, Evidence(rows.patients))

    def _asked(self, plan: Plan) -> Asked:
        weighted = bool(design(plan).weight)
        return replace(super()._asked(plan), curved=weighted)


def check_products(plan: Plan) -> None:
    """Raises ValueError where centre and scale are not a finite number per term."""
    state, shape = plan.values["state"], (len(design(plan).terms),)
    fits = set(state) == {"centre", "exponent"} and is_array(state["centre"], shape, "f")
    if not fits or np.any(np.abs(state["centre"]) > LARGEST):
        raise ValueError("the centre is a finite number per term")
    if not is_array(state["exponent"], shape, "i") or np.any(np.abs(state["exponent"]) > 1000):
        raise ValueError("the scale is a power of two per term")


@dataclass(frozen=True)
class PCASpec:
    """What is computed.

    n_components  how many; below 1 the share of variance that they explain; None: all
    whiten        scores have variance 1
    standardize   every term is divided by its standard deviation first
    """

    design: Design
    n_components: float | int | None = None
    whiten: bool = False
    standardize: bool = False
    rows: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        return {
            "design": self.design.to_data(),
            "rows": dict(self.rows),
            "n_components": self.n_components,
            "whiten": self.whiten,
            "standardize": self.standardize,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> PCASpec:
        return PCASpec(
            Design.from_data(data["design"]),
            data["n_components"],
            data["whiten"],
            data["standardize"],
            dict(data["rows"]),
        )

    def algorithm(self) -> Stages:
        def moments(results: Sequence[Any]) -> Algorithm:
            return MomentsAlgorithm(MOMENTS.name, self.to_data())

        def products(results: Sequence[Any]) -> Algorithm:
            return Products(self, results[0])

        return Stages((moments, products))


@dataclass(frozen=True)
class Products:
    """One round about the means; model: `PCAFit`."""

    spec: PCASpec
    moments: Moments

    def init(self, seed: int) -> State:
        return {"sums": None}

    def plan(self, state: State) -> Plan | None:
        if state["sums"] is not None:
            return None
        spread = np.sqrt(self.moments.variance[0])
        exponents = np.array([exponent(value) for value in spread], dtype=np.int64)
        asked = values(self.spec.to_data(), centre=self.moments.mean[0], exponent=exponents)
        return Plan("pca.products", asked, "products of terms")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        return {"sums": dict(total.values), "exponent": plan.values["state"]["exponent"]}

    def progress(self, state: State) -> Mapping[str, float]:
        return {}

    def model(self, state: State) -> PCAFit:
        p, weight = len(self.spec.design.terms), float(self.moments.weight[0])
        upper = np.zeros((p, p))
        upper[np.triu_indices(p)] = state["sums"]["products"]
        products = upper + np.triu(upper, 1).T
        x = state["sums"]["x"]
        products -= np.outer(x, x) / weight
        exponents = state["exponent"]
        spread = np.sqrt(self.moments.variance[0])
        fixed = spread == 0
        products[fixed] = products[:, fixed] = 0.0
        covariance = np.ldexp(products, exponents[:, None] + exponents) / max(weight - 1.0, 1e-300)
        sample = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        return _fit(self.spec, self.moments, covariance, sample)


def _fit(spec: PCASpec, moments: Moments, covariance: Floats, sd: Floats) -> PCAFit:
    """Eigenvectors in descending order of variance, with their signs fixed."""
    if moments.weight[0] <= 1:
        raise InputError(
            "one row has no variance",
            code="NO_ROWS",
            rule="principal components need two rows or more",
            next="widen the cohort",
        )
    # As scikit-learn's StandardScaler, whose divisor is the number of rows.
    spread = np.sqrt(moments.variance[0])
    scale = np.where(spread > 0, spread, 1.0) if spec.standardize else np.ones(len(sd))
    # Scaled by powers of two alone, so that tiny units do not drown beside large ones.
    size = max(float(np.max(sd / scale, initial=0.0)), 1e-300)
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale) / size / size)
    values = np.maximum(values[::-1], 0.0) * size * size
    vectors = vectors[:, ::-1].T
    top = vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)]
    vectors = vectors * np.where(top < 0, -1.0, 1.0)[:, None]
    limit = min(len(values), moments.n)
    values, vectors = values[:limit], vectors[:limit]
    return PCAFit(spec, moments, scale, values, vectors, _wanted(spec.n_components, values))


def _wanted(asked: float | int | None, values: Floats) -> int:
    """The number of components. Raises InputError for more than there are."""
    if asked is None:
        return len(values)
    if isinstance(asked, float) and asked < 1:
        share = np.cumsum(values) / max(values.sum(), 1e-300)
        return min(int(np.searchsorted(share, asked, side="right")) + 1, len(values))
    if asked > len(values):
        raise InputError(
            f"n_components = {asked}, of {len(values)}",
            code="WRONG_VALUE",
            rule="there are no more components than terms, and than rows",
            next="ask for fewer",
        )
    return int(asked)


@dataclass(frozen=True)
class PCAFit:
    """All components; the first `kept` are asked for.

    scale     what the terms are divided by, (n_terms,)
    variance  of the scores, descending, (min(n_terms, n_rows),)
    vectors   (n_components, n_terms), orthonormal
    """

    spec: PCASpec
    moments: Moments
    scale: Floats
    variance: Floats
    vectors: Floats
    kept: int
    converged: bool = True

    @property
    def rounds(self) -> int:
        return 3

    @property
    def n(self) -> int:
        return self.moments.n

    @property
    def patients(self) -> int:
        return self.moments.patients

    @property
    def mean(self) -> Floats:
        return np.asarray(self.moments.mean[0])

    @property
    def ratio(self) -> Floats:
        """Share of the variance of each component."""
        total = float(self.variance.sum())
        return np.asarray(self.variance / total if total > 0 else np.zeros_like(self.variance))

    @property
    def noise_variance(self) -> float:
        """Mean variance of the components that were not asked for."""
        rest = self.variance[self.kept :]
        return float(rest.mean()) if len(rest) else 0.0

    def transform(self, x: Floats) -> Floats:
        """Scores of rows `x` (n_rows, n_terms), (n_rows, kept)."""
        scores = ((x - self.mean) / self.scale) @ self.vectors[: self.kept].T
        return np.asarray(scores / self._spread if self.spec.whiten else scores)

    def inverse(self, scores: Floats) -> Floats:
        """Rows of `scores`, as near as the components come."""
        scores = scores * self._spread if self.spec.whiten else scores
        return np.asarray(scores @ self.vectors[: self.kept] * self.scale + self.mean)

    @property
    def _spread(self) -> Floats:
        spread = np.sqrt(self.variance[: self.kept])
        least = np.sqrt(NONE * self.variance.max(initial=0.0))
        return np.maximum(spread, max(float(least), np.finfo(np.float64).tiny))

    def predictor(self) -> None:
        return None

    def warnings(self) -> list[str]:
        names = self.spec.design.names
        found = [f"{names[j]} is the same in all rows" for j in np.flatnonzero(self._fixed)]
        share = self.moments.variance[0] / max(float(self.moments.variance[0].sum()), 1e-300)
        most = int(share.argmax()) if len(share) else 0
        if not self.spec.standardize and len(share) > 2 and share[most] > 0.9:
            found.append(
                f"{names[most]} has {share[most]:.0%} of all variance, by its unit: "
                "standardize = true gives all terms the same"
            )
        return found

    @property
    def _fixed(self) -> NDArray[np.bool_]:
        return self.moments.constant

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Variances of all components, and the loadings of those that are kept."""
        variance = [
            {"component": i + 1, "variance": float(v), "ratio": float(r)}
            for i, (v, r) in enumerate(zip(self.variance, self.ratio, strict=True))
        ]
        loadings = [
            {"term": name, **{f"PC{i + 1}": float(self.vectors[i, j]) for i in range(self.kept)}}
            for j, name in enumerate(self.spec.design.names)
        ]
        return {"variance": variance, "loadings": loadings}

    def blocks(self) -> list[dict[str, Any]]:
        """Bars of the explained variance, and the loadings."""
        shown = min(self.kept, 10)
        bars = [{"name": f"PC{i + 1}", "value": float(self.ratio[i])} for i in range(self.kept)]
        rows = [
            [name, *(f"{self.vectors[i, j]:.3f}" for i in range(shown))]
            for j, name in enumerate(self.spec.design.names)
        ]
        return [
            {"title": "Share of the variance", "kind": "bars", "bars": bars},
            {
                "title": "Loadings",
                "kind": "table",
                "head": ["term", *(f"PC{i + 1}" for i in range(shown))],
                "rows": rows,
                "note": "of terms divided by their standard deviation"
                if self.spec.standardize
                else "",
            },
        ]
