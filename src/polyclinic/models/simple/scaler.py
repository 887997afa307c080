"""Means and standard deviations of the terms of a design.

What leaves the site: counts, sums of the terms and of their squares (`moments.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.design import Design
from polyclinic.models.simple.moments import Counted, Moments, MomentsTask, OfMoments

Floats = NDArray[np.float64]
TASK = MomentsTask("scaler.moments")


@dataclass(frozen=True)
class ScalerSpec:
    """What is done to a term: its mean taken off, its standard deviation divided by."""

    design: Design
    with_mean: bool = True
    with_std: bool = True
    rows: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        return {
            "design": self.design.to_data(),
            "rows": dict(self.rows),
            "with_mean": self.with_mean,
            "with_std": self.with_std,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> ScalerSpec:
        made = Design.from_data(data["design"])
        return ScalerSpec(made, data["with_mean"], data["with_std"], dict(data["rows"]))

    def algorithm(self) -> Scaling:
        return Scaling(self)


@dataclass(frozen=True)
class Scaling(OfMoments):
    """The rounds of the moments; model: `ScalerFit`."""

    task: ClassVar[str] = TASK.name
    spec: ScalerSpec

    def model(self, state: State) -> ScalerFit:
        return ScalerFit(self.spec, self.moments(state))


@dataclass(frozen=True)
class ScalerFit(Counted):
    """Mean and variance of each term; the divisor is the number of rows."""

    spec: ScalerSpec
    moments: Moments
    converged: bool = True

    @property
    def mean(self) -> Floats:
        return np.asarray(self.moments.mean[0])

    @property
    def variance(self) -> Floats:
        return np.asarray(self.moments.variance[0])

    @property
    def scale(self) -> Floats:
        """Standard deviations; 1 of what is the same in all rows."""
        spread = np.sqrt(self.variance)
        return np.asarray(np.where(self.moments.constant, 1.0, spread))

    def transform(self, x: Floats) -> Floats:
        """Rows `x` (n_rows, n_terms), scaled."""
        x = x - self.mean if self.spec.with_mean else x
        return np.asarray(x / self.scale if self.spec.with_std else x)

    def inverse(self, x: Floats) -> Floats:
        """The rows of which `transform` gives `x`."""
        x = x * self.scale if self.spec.with_std else x
        return np.asarray(x + self.mean if self.spec.with_mean else x)

    def predictor(self) -> None:
        return None

    def warnings(self) -> list[str]:
        names = self.spec.design.names
        return [f"{names[j]} is the same in all rows" for j in np.flatnonzero(self._constant)]

    @property
    def _constant(self) -> NDArray[np.bool_]:
        return self.moments.constant

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Mean and standard deviation of each term."""
        spread = np.sqrt(self.variance)
        return {
            "terms": [
                {"term": name, "mean": float(mean), "sd": float(sd)}
                for name, mean, sd in zip(self.spec.design.names, self.mean, spread, strict=True)
            ]
        }

    def blocks(self) -> list[dict[str, Any]]:
        """The same as a table."""
        rows = [
            [line["term"], f"{line['mean']:.6g}", f"{line['sd']:.6g}"]
            for line in self.tables()["terms"]
        ]
        head = ["term", "mean", "standard deviation"]
        return [{"title": "Means and spreads", "kind": "table", "head": head, "rows": rows}]
