"""Grown trees with what was counted on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.survival.concordance import Pairs, concordance_of
from polyclinic.models.trees.predictor import TreesPredictor
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack
from polyclinic.privacy.dp import DifferentialPrivacy

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Trees and their start.

    base         margin without a tree, (n_lanes,)
    gain, cover  per node: what its split gained, and the second derivatives behind it
    losses       mean loss of the held-out rows before the first round and after each
    events, pairs  of survival: events that were fitted, and pairs of patients by risk
    """

    spec: Spec
    base: Floats
    trees: Stack
    gain: Floats
    cover: Floats
    n: int
    patients: int
    rounds: int
    losses: list[float]
    events: int = 0
    pairs: Mapping[str, Any] | None = None

    @staticmethod
    def none(spec: Spec) -> Fit:
        empty = np.zeros(0)
        return Fit(spec, np.zeros(spec.lanes), Stack.none(spec.width), empty, empty, 0, 0, 0, [])

    @property
    def privacy(self) -> DifferentialPrivacy | None:
        """What all rounds together guarantee; None: the sums are exact."""
        private = self.spec.private
        return None if private is None else DifferentialPrivacy(private.epsilon, private.delta)

    @property
    def converged(self) -> bool:
        """Growing ends by its own rules."""
        return True

    def predictor(self) -> TreesPredictor:
        """What predicts with the trees."""
        return TreesPredictor(self.spec, self.base, self.trees)

    @property
    def concordance(self) -> dict[str, float] | None:
        """Harrell's C over pairs of one site and stratum: of patients that were held out, or else
        of those that were fitted; None of other outcomes."""
        return None if self.pairs is None else concordance_of(Pairs.of(self.pairs))

    def importances(self) -> dict[str, Floats]:
        """Per feature: sum of gains, number of splits, sum of covers, (n_features,) each."""
        split = self.trees.left >= 0
        feature, many = self.trees.feature[split], len(self.spec.features)
        return {
            "gain": np.bincount(feature, self.gain[split], many).astype(np.float64),
            "weight": np.bincount(feature, minlength=many).astype(np.float64),
            "cover": np.bincount(feature, self.cover[split], many).astype(np.float64),
        }

    def warnings(self) -> list[str]:
        """What a reader should know."""
        if self.n and not np.any(self.trees.left >= 0):
            return ["no tree has a split: everybody is predicted alike"]
        return []

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Importances of the columns, the largest gain first."""
        found = self.importances()
        order = np.argsort(-found["gain"], kind="stable")
        names = [f.name for f in self.spec.features]
        lines = [
            {"column": names[j], **{kind: float(each[j]) for kind, each in found.items()}}
            for j in order
        ]
        return {"importances": lines}

    def _ranking(self, found: Mapping[str, float]) -> str:
        who = "held out" if self.spec.validation else "that the trees were fitted to"
        return (
            f"{self.events} events among {self.patients} patients; one baseline per site. Of two "
            f"patients of one site, {who}, the one with the higher risk had the event first in "
            f"{100 * found['c']:.1f} % (standard error {100 * found['se']:.1f})."
        )

    def blocks(self) -> list[dict[str, Any]]:
        """Importances, the losses of the held-out rows, and of a single tree the tree."""
        from polyclinic.models.trees.words import to_svg, to_text

        bars = [
            {"name": line["column"], "value": line["gain"]}
            for line in self.tables()["importances"]
            if line["gain"] > 0
        ]
        found: list[dict[str, Any]] = []
        if self.concordance:
            found.append({"kind": "text", "text": self._ranking(self.concordance)})
        if bars:
            note = "Sum of what the splits on a column gained."
            found.append({"kind": "bars", "title": "Importance", "bars": bars, "note": note})
        if self.losses:
            rounds = [float(k) for k in range(len(self.losses))]
            curve = {"name": "held-out patients", "x": rounds, "y": self.losses}
            found.append({
                "kind": "curves", "title": "Loss of held-out patients", "x_label": "round",
                "y_label": "mean loss", "curves": [curve],
            })  # fmt: skip
        if self.trees.trees == 1:
            text = to_text(self)
            found.append({"kind": "svg", "title": "Tree", "svg": to_svg(self), "alt": text})
            lines = {"kind": "lines", "title": "The tree in words", "lines": text.split("\n")}
            found.append(lines)
        return found
