"""A fitted machine as data that a site can score its own rows with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from polyclinic.core.design import Design
from polyclinic.core.partition import Partition
from polyclinic.models.predictor import register_predictor
from polyclinic.models.svm.features import Features

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SVMPredictor:
    """Machines with raw coefficients.

    coef      (n_machines, width), intercept first
    platt     (n_machines, 2): slope and intercept of the probabilities; empty for a number
    classes   of the outcome; 0: a number
    features  random features, with centre and spread of the columns (n_terms,); else None and empty
    """

    design: Design
    coef: Floats
    platt: Floats
    classes: int
    features: Features | None
    centre: Floats
    spread: Floats

    def decision(self, x: Floats) -> Floats:
        """Decision values of a model matrix, (n_rows, n_machines)."""
        lead = int(self.design.intercept)
        if self.features is not None:
            x = self.features.map(x, self.centre, self.spread)
        f = x @ self.coef[:, lead:].T
        return np.asarray(f + self.coef[:, 0] if lead else f)

    def of(self, x: Floats) -> Floats:
        """Number, probability of the event, or probabilities of the classes."""
        f = self.decision(x)
        if not self.classes:
            return f[:, 0]
        p = expit(f * self.platt[:, 0] + self.platt[:, 1])
        if self.classes == 2:
            return np.asarray(p[:, 0])
        total = p.sum(axis=1, keepdims=True)
        even = np.full_like(p, 1.0 / self.classes)
        return np.asarray(np.divide(p, total, out=even, where=total > 0))

    @property
    def explains(self) -> str:
        return {0: "number", 2: "binary"}.get(self.classes, "classes")

    def predict(self, partition: Partition) -> Floats:
        return self.of(self.design.matrix(partition.columns, partition.site))

    def outcome(self, partition: Partition) -> Floats:
        return partition.columns[self.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        return partition.columns[self.design.weight] if self.design.weight else None

    def to_data(self) -> dict[str, Any]:
        return {
            "kind": "svm",
            "design": self.design.to_data(),
            "coef": self.coef,
            "platt": self.platt,
            "classes": self.classes,
            "features": None if self.features is None else dict(vars(self.features)),
            "centre": self.centre,
            "spread": self.spread,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> SVMPredictor:
        features = data["features"]
        return SVMPredictor(
            Design.from_data(data["design"]),
            np.atleast_2d(np.asarray(data["coef"], dtype=np.float64)),
            np.asarray(data["platt"], dtype=np.float64).reshape(-1, 2),
            int(data["classes"]),
            None if features is None else Features(**features),
            np.asarray(data["centre"], dtype=np.float64),
            np.asarray(data["spread"], dtype=np.float64),
        )


register_predictor("svm", SVMPredictor.from_data)
