"""Grown trees with what was counted on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Trees and their start.

    base         margin without a tree, (n_lanes,)
    gain, cover  per node: what its split gained, and the second derivatives behind it
    losses       mean loss of the held-out rows before the first round and after each
    """

    spec: Spec
    base: Floats
    trees: Stack
    gain: Floats
    cover: Floats
    n: int
    patients: int
    losses: list[float]

    @staticmethod
    def none(spec: Spec) -> Fit:
        empty = np.zeros(0)
        return Fit(spec, np.zeros(spec.lanes), Stack.none(spec.width), empty, empty, 0, 0, [])

    def importances(self) -> dict[str, Any]:
        """Per feature: sum of gains, number of splits, sum of covers, (n_features,) each."""
        split = self.trees.left >= 0
        feature, many = self.trees.feature[split], len(self.spec.features)
        return {
            "gain": np.bincount(feature, self.gain[split], many),
            "weight": np.bincount(feature, minlength=many).astype(np.float64),
            "cover": np.bincount(feature, self.cover[split], many),
        }
