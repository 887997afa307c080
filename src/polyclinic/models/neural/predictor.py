"""A trained network as data that a site can score its own rows with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.partition import Partition
from polyclinic.models.neural.inputs import INSIDE, Scaling, inputs_of
from polyclinic.models.neural.losses import LOSSES
from polyclinic.models.neural.network import EVALUATED, network_of
from polyclinic.models.neural.personal import own, personal
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.predictor import register_predictor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NeuralPredictor:
    """A network with its numbers, and what is done to the table's columns first.

    after  the round from which a site's own numbers are, where it kept some; "": none did
    own_numbers  how many of its numbers are the site's own
    """

    spec: NeuralSpec
    scaling: Scaling
    weights: NDArray[np.float32]
    beside: NDArray[np.float32]
    after: str = ""
    own_numbers: int = 0
    by_terms: ClassVar[bool] = False  # no sum over terms

    def outputs(self, partition: Partition) -> Floats:
        """Logits or numbers, (n_rows, outputs)."""
        rows = inputs_of(self.spec, self.scaling, partition, outcome=False)
        network = network_of(self.spec, partition.device)
        return network.load(self.weights, self.beside).outputs(rows)

    def predict(self, partition: Partition) -> Floats:
        return LOSSES[self.spec.loss].predict(self.outputs(partition))

    def kept_by(self, memory: Mapping[str, Any]) -> NeuralPredictor:
        """The same with the numbers that a site kept of its own."""
        network = network_of(self.spec)
        masks = personal(self.spec.strategy, network)
        weights, beside = own(masks, self.weights, self.beside, memory)
        many = len(weights) if "own" in memory else int(masks.weights.sum())
        return replace(self, weights=weights, beside=beside, own_numbers=many)

    @property
    def design(self) -> Design:
        return self.spec.design

    @property
    def explains(self) -> str:
        """What the outcome is."""
        if self.spec.explains != "classes":
            return self.spec.explains
        return "binary" if self.spec.classes == 2 else "classes"

    @property
    def cause(self) -> int:
        """Of durations, the way in which they end that is explained."""
        return int(self.spec.loss_options["cause"])

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of a mask."""
        return self.spec.output

    def overlaps(self, partition: Partition) -> Floats:
        """Of masks, see `polyclinic.models.predictor.Segments`."""
        rows = inputs_of(self.spec, self.scaling, partition)
        network = network_of(self.spec, partition.device).load(self.weights, self.beside)
        found = np.zeros((len(rows), self.output[0], 4))
        for at in np.array_split(np.arange(len(rows)), max(len(rows) // EVALUATED, 1)):
            inside = LOSSES[self.spec.loss].predict(network.outputs(rows, at)) > INSIDE
            true = rows.targets(at).numpy() > INSIDE
            cells = (inside & true, inside & ~true, ~inside & true, ~inside & ~true)
            for k, cell in enumerate(cells):
                found[at, :, k] = cell.reshape(len(at), self.output[0], -1).sum(axis=2)
        return found

    def outcome(self, partition: Partition) -> Floats:
        return partition.columns[self.spec.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        name = self.spec.design.weight
        return partition.columns[name] if name else None

    def to_data(self) -> dict[str, Any]:
        spec = self.spec.to_data()
        design, _ = spec.pop("design"), spec.pop("rows")
        return {
            "kind": "neural",
            "design": design,
            "spec": spec,
            "scaling": self.scaling.to_data(),
            "weights": self.weights,
            "beside": self.beside,
            **({"after": self.after} if self.after else {}),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> NeuralPredictor:
        spec = NeuralSpec.from_data({**data["spec"], "design": data["design"], "rows": {}})
        scaling = Scaling(**{k: np.asarray(v) for k, v in data["scaling"].items()})
        weights, beside = (np.asarray(data[k], np.float32) for k in ("weights", "beside"))
        return NeuralPredictor(spec, scaling, weights, beside, str(data.get("after", "")))


register_predictor("neural", NeuralPredictor.from_data)
