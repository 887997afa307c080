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
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm, Stages, State
from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.models.simple.moments import Moments, MomentsAlgorithm, MomentsTask
from polyclinic.models.simple.products import ProductsAlgorithm, ProductsTask
from polyclinic.models.simple.scale import NONE as UNSCALED
from polyclinic.models.simple.scale import Scale

Floats = NDArray[np.float64]
MOMENTS, PRODUCTS = MomentsTask("pca.moments"), ProductsTask("pca.products")
NONE = 2.0**-46  # of the largest variance: what rounding leaves of a component that is not there


@dataclass(frozen=True)
class PCASpec:
    """What is computed.

    n_components  how many; below 1 the share of variance that they explain; None: all that have any
    whiten        scores have variance 1
    scale         what every term is divided by first
    """

    design: Design
    n_components: float | int | None = None
    whiten: bool = False
    scale: Scale = UNSCALED
    rows: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        return {
            "design": self.design.to_data(),
            "rows": dict(self.rows),
            "n_components": self.n_components,
            "whiten": self.whiten,
            "scale": self.scale.to_data(),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> PCASpec:
        return PCASpec(
            Design.from_data(data["design"]),
            data["n_components"],
            data["whiten"],
            Scale.from_data(data["scale"]),
            dict(data["rows"]),
        )

    def algorithm(self) -> Stages:
        def moments(results: Sequence[Any]) -> Algorithm:
            return MomentsAlgorithm(MOMENTS.name, self.to_data())

        def components(results: Sequence[Any]) -> Algorithm:
            return Components(PRODUCTS.name, self.to_data(), results[0], self)

        return Stages((moments, components))


@dataclass(frozen=True)
class Components(ProductsAlgorithm):
    """The round of the products; model: `PCAFit`."""

    asked: PCASpec

    def model(self, state: State) -> PCAFit:
        return _fit(self.asked, self.moments, self.scatter(state))


def _fit(spec: PCASpec, moments: Moments, scatter: Floats) -> PCAFit:
    """Eigenvectors in descending order of variance, with their signs fixed."""
    weight = float(moments.weight[0])
    if weight <= 1:
        raise InputError(
            "one sample has no variance",
            code="NO_ROWS",
            rule="principal components need two rows or more",
            next="widen the cohort",
        )
    scale = spec.scale.of(moments)
    scaled = scatter / np.outer(scale, scale) / (weight - 1.0)
    # Scaled by one number, so that tiny units do not underflow.
    size = max(float(np.diag(scaled).max(initial=0.0)), 1e-300)
    values, vectors = np.linalg.eigh(scaled / size)
    values = np.maximum(values[::-1], 0.0) * size
    vectors = vectors[:, ::-1].T
    top = vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)]
    vectors = vectors * np.where(top < 0, -1.0, 1.0)[:, None]
    limit = min(len(values), moments.n)
    values, vectors = values[:limit], vectors[:limit]
    return PCAFit(spec, moments, scale, values, vectors, _wanted(spec.n_components, values))


def _wanted(asked: float | int | None, values: Floats) -> int:
    """The number of components. Raises InputError for more than there are."""
    if asked is None:
        return max(1, int(np.count_nonzero(values > NONE * values.max(initial=0.0))))
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
        return self.moments.rounds + 1

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
        found = [
            f"{names[j]} is the same in all rows" for j in np.flatnonzero(self.moments.constant)
        ]
        return [*found, *self.spec.scale.warnings(names, self.moments)]

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
                "note": self.spec.scale.note,
            },
        ]
