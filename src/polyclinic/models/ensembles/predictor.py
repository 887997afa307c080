"""A fitted ensemble as data that a site can score its own rows with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from polyclinic.core.design import Design
from polyclinic.core.partition import Partition
from polyclinic.models.ensembles.bases import Arrays, base_from
from polyclinic.models.predictor import Predictor, register_predictor

Floats = NDArray[np.float64]
KIND = "ensemble"


@dataclass(frozen=True)
class EnsemblePredictor:
    """The models of sites together.

    base     `Base.to_data` of the models
    models   their arrays, one per site
    weights  (n_models,), that add up to 1; of stacking the intercept before the coefficients
    rule     mean | votes | stacked
    classes  2, or 0 for a number
    """

    design: Design
    base: Mapping[str, Any]
    models: tuple[Arrays, ...]
    weights: Floats
    rule: str
    classes: int

    @property
    def explains(self) -> str:
        return "binary" if self.classes else "number"

    @cached_property
    def members(self) -> tuple[Predictor, ...]:
        """What predicts with each model."""
        base = base_from(self.base, self.design, self.classes)
        return tuple(base.predictor(arrays) for arrays in self.models)

    def each(self, partition: Partition) -> Floats:
        """What every model predicts, (n_rows, n_models)."""
        return np.column_stack([member.predict(partition) for member in self.members])

    def predict(self, partition: Partition) -> Floats:
        return self.together(self.each(partition))

    def together(self, each: Floats) -> Floats:
        """The ensemble's prediction from those of its models, (n_rows,)."""
        if self.rule == "stacked":
            eta = self.weights[0] + each @ self.weights[1:]
            return np.asarray(expit(eta) if self.classes else eta)
        votes = (each > 0.5).astype(np.float64) if self.rule == "votes" else each
        return np.asarray(votes @ self.weights)

    def outcome(self, partition: Partition) -> Floats:
        return partition.columns[self.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        return partition.columns[self.design.weight] if self.design.weight else None

    def to_data(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "design": self.design.to_data(),
            "base": dict(self.base),
            "models": [dict(arrays) for arrays in self.models],
            "weights": self.weights,
            "rule": self.rule,
            "classes": self.classes,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> EnsemblePredictor:
        return EnsemblePredictor(
            Design.from_data(data["design"]),
            data["base"],
            tuple(data["models"]),
            np.asarray(data["weights"], dtype=np.float64),
            data["rule"],
            int(data["classes"]),
        )


register_predictor(KIND, EnsemblePredictor.from_data)
