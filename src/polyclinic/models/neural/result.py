"""A trained network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.neural.inputs import Scaling
from polyclinic.models.neural.predictor import NeuralPredictor
from polyclinic.models.neural.spec import NeuralSpec

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class NeuralFit:
    """What was found.

    n, patients       rows, and patients behind them
    weights, beside   numbers of the network
    history           of each round the mean training loss, and the watched one, if any
    end               "rounds", or "stopped_early"
    after             where sites kept numbers of their own: the round from which they are; or ""
    events            where each site answers by itself, in their order: its name, the version that
                      it trained, and the code of its loss or ""
    """

    spec: NeuralSpec
    n: int
    patients: int
    scaling: Scaling
    weights: Floats
    beside: Floats
    history: tuple[Mapping[str, float], ...]
    end: str
    after: str = ""
    events: tuple[tuple[str, int, str], ...] = ()

    @property
    def rounds(self) -> int:
        return len(self.history)

    @property
    def converged(self) -> bool:
        """Whether it ended by itself; a number of rounds is no sign of an optimum."""
        return self.end == "stopped_early" or not self.spec.strategy.stop_after

    def predictor(self) -> NeuralPredictor:
        """What predicts with it."""
        return NeuralPredictor(self.spec, self.scaling, self.weights, self.beside, self.after)

    def warnings(self) -> list[str]:
        """What a reader of the result should know."""
        found = []
        if self.end == "rounds" and self.spec.strategy.stop_after:
            found.append(
                f"the validation loss was still falling within {self.spec.strategy.stop_after} "
                f"rounds of the last one; more rounds may give a better network"
            )
        if self.spec.strategy.name in ("fedbn", "fedper"):
            found.append(
                "layers of this network stay at the hospitals; for other patients than theirs it "
                "predicts with the first, untrained weights of these layers"
            )
        lost = sorted({site for site, _, code in self.events if code})
        if lost:
            found.append(f"{', '.join(lost)} did not answer at some time; training went on without")
        return found

    def blocks(self) -> list[dict[str, Any]]:
        """For the report: what it is, and the loss by round."""
        spec, strategy = self.spec, self.spec.strategy
        rows = [
            ["architecture", f"{spec.architecture}, version {spec.version}"],
            ["numbers trained", len(self.weights)],
            ["strategy", f"{strategy!r}, {len(self.history)} rounds"],
            ["loss", spec.loss],
        ]
        curves = []
        for name, label in (("loss", "training"), ("validation_loss", "validation")):
            found = [line.get(name) for line in self.history]
            if found and all(value is not None for value in found):
                curves.append({"name": label, "x": [*range(1, len(found) + 1)], "y": found})
        head = ["", ""]
        return [
            {"title": "Network", "kind": "table", "head": head, "rows": rows, "note": ""},
            {
                "title": "Loss by round",
                "kind": "curves",
                "x_label": "round",
                "y_label": "mean loss",
                "curves": curves,
                "step": False,
            },
        ]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The loss by round, and who answered when."""
        found: dict[str, list[dict[str, Any]]] = {}
        found["history"] = [{"round": i, **line} for i, line in enumerate(self.history, 1)]
        if self.events:
            found["arrivals"] = [
                {"site": site, "version": version, "lost": code}
                for site, version, code in self.events
            ]
        return found
