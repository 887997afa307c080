"""Grown trees as data that a site can score its own rows with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.models.predictor import register_predictor
from polyclinic.models.trees import losses
from polyclinic.models.trees.bins import binned
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TreesPredictor:
    """Expected outcome: base + the values of the leaves of all trees, through the link; of
    survival the relative hazard."""

    spec: Spec
    base: Floats
    trees: Stack
    by_terms: ClassVar[bool] = False  # steps are of no single term

    def margin(self, columns: Mapping[str, Floats]) -> Floats:
        """Before the link, (n_rows, n_lanes)."""
        bins = binned(columns, self.spec)
        found = np.repeat(self.base[None], len(bins), axis=0)
        for at in range(self.trees.trees):
            tree = self.trees.tree(at)
            lane = slice(None)
            if self.spec.width == 1:
                lane = slice(at % self.spec.lanes, at % self.spec.lanes + 1)
            found[:, lane] += tree.value[tree.leaves(bins, self.spec)]
        return found

    def predict(self, partition: Partition) -> Floats:
        return self.expected(partition.columns)

    def expected(self, columns: Mapping[str, Floats]) -> Floats:
        """Mean, or probability of class 1, (n_rows,); of several classes (n_rows, n_classes)."""
        found = losses.mean(self.margin(columns), self.spec.loss)
        if self.spec.classes and self.spec.loss == "squared":
            found = np.clip(found, 0.0, 1.0)
        return found[:, 0] if self.spec.lanes == 1 else found

    @property
    def design(self) -> Design:
        return self.spec.design

    @property
    def explains(self) -> str:
        """What the outcome is."""
        classes = self.spec.classes
        if self.spec.survival:
            return "survival"
        return "number" if not classes else "binary" if classes == 2 else "classes"

    def outcome(self, partition: Partition) -> Floats:
        return partition.columns[self.spec.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        name = self.spec.design.weight
        return partition.columns[name] if name else None

    def to_data(self) -> dict[str, Any]:
        spec = self.spec.to_data()
        design, _ = spec.pop("design"), spec.pop("rows")
        trees = self.trees.to_data()
        return {"kind": "trees", "design": design, "spec": spec, "base": self.base, "trees": trees}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> TreesPredictor:
        spec = Spec.from_data({**data["spec"], "design": data["design"]})
        return TreesPredictor(spec, np.asarray(data["base"]), Stack.from_data(data["trees"]))


def scored(data: Mapping[str, Any]) -> TreesPredictor:
    """What a site scores its rows with. Raises BAD_MESSAGE: durations are no outcome of these."""
    found = TreesPredictor.from_data(data)
    if found.spec.survival:
        raise PolyclinicError(
            "survival models are not evaluated by their predictions", code="BAD_MESSAGE"
        )
    return found


register_predictor("trees", scored)
