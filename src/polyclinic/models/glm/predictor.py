"""A fitted GLM as data that a site can score its own rows with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.partition import Partition
from polyclinic.models.glm.family import FAMILIES, MULTINOMIAL
from polyclinic.models.predictor import register_predictor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GLMPredictor:
    """Expected outcome under raw coefficients `coef` (n_predictors, width), intercept first."""

    design: Design
    family: str
    coef: Floats

    @property
    def explains(self) -> str:
        """ "binary", "classes" or "number" """
        return {"binomial": "binary", MULTINOMIAL: "classes"}.get(self.family, "number")

    def linear(self, partition: Partition) -> Floats:
        """Linear predictor, (n_rows, n_predictors)."""
        x = self.design.matrix(partition.columns, partition.site)
        lead = int(self.design.intercept)
        eta = x @ self.coef[:, lead:].T
        if lead:
            eta = eta + self.coef[:, 0]
        if self.design.offset:
            eta = eta + partition.columns[self.design.offset][:, None]
        return np.asarray(eta, dtype=np.float64)

    def predict(self, partition: Partition) -> Floats:
        eta = self.linear(partition)
        if self.family != MULTINOMIAL:
            return FAMILIES[self.family].mean(eta[:, 0])
        return class_probabilities(eta)

    def outcome(self, partition: Partition) -> Floats:
        return partition.columns[self.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        return partition.columns[self.design.weight] if self.design.weight else None

    def to_data(self) -> dict[str, Any]:
        return {
            "kind": "glm",
            "design": self.design.to_data(),
            "family": self.family,
            "coef": self.coef,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> GLMPredictor:
        coef = np.atleast_2d(np.asarray(data["coef"], dtype=np.float64))
        return GLMPredictor(Design.from_data(data["design"]), data["family"], coef)


def class_probabilities(eta: Floats) -> Floats:
    """Softmax against class 0, whose linear predictor is 0: (n_rows, n_predictors + 1)."""
    full = np.hstack([np.zeros((len(eta), 1)), eta])
    e = np.exp(full - full.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


register_predictor("glm", GLMPredictor.from_data)
