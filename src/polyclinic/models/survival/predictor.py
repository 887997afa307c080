"""A fitted Cox regression as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.partition import Partition

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CoxPredictor:
    """Relative risk exp(x coef) under raw coefficients (n_terms,).

    times, hazard  cumulative baseline hazard at the edges of a grid, (K,); empty without one
    """

    design: Design
    coef: Floats
    times: Floats = field(default_factory=lambda: np.zeros(0))
    hazard: Floats = field(default_factory=lambda: np.zeros(0))
    explains: str = "survival"

    def linear(self, partition: Partition) -> Floats:
        """Log of the relative risk, (n_rows,)."""
        eta = self.design.matrix(partition.columns, partition.site) @ self.coef
        if self.design.offset and self.design.offset in partition.columns:
            eta = eta + partition.columns[self.design.offset]
        return np.asarray(eta, dtype=np.float64)

    def predict(self, partition: Partition) -> Floats:
        """Relative risk, (n_rows,)."""
        return np.asarray(np.exp(self.linear(partition)))

    def survival(self, partition: Partition) -> Floats:
        """Probability of no event until each edge, (n_rows, K)."""
        return np.asarray(np.exp(-self.predict(partition)[:, None] * self.hazard))

    def outcome(self, partition: Partition) -> Floats:
        """Durations, (n_rows,)."""
        return partition.columns[self.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        return partition.columns[self.design.weight] if self.design.weight else None

    def to_data(self) -> dict[str, Any]:
        return {
            "kind": "cox",
            "design": self.design.to_data(),
            "coef": self.coef,
            "times": self.times,
            "hazard": self.hazard,
        }
