"""A fitted Cox regression as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.partition import Partition
from polyclinic.models.predictor import register_predictor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CoxPredictor:
    """Relative risk exp(x coef) under raw coefficients (n_terms,)."""

    design: Design
    coef: Floats

    def linear(self, partition: Partition) -> Floats:
        """Log of the relative risk, (n_rows,)."""
        eta = self.design.matrix(partition.columns, partition.site) @ self.coef
        if self.design.offset and self.design.offset in partition.columns:
            eta = eta + partition.columns[self.design.offset]
        return np.asarray(eta, dtype=np.float64)

    def predict(self, partition: Partition) -> Floats:
        """Relative risk, (n_rows,)."""
        return np.asarray(np.exp(self.linear(partition)))

    def outcome(self, partition: Partition) -> Floats:
        """Durations, (n_rows,)."""
        return partition.columns[self.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        return partition.columns[self.design.weight] if self.design.weight else None

    def to_data(self) -> dict[str, Any]:
        return {"kind": "cox", "design": self.design.to_data(), "coef": self.coef}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> CoxPredictor:
        coef = np.asarray(data["coef"], dtype=np.float64).ravel()
        return CoxPredictor(Design.from_data(data["design"]), coef)


register_predictor("cox", CoxPredictor.from_data)
