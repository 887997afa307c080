"""The site's half of neural networks.

What leaves the site in a round, each as a sum over its rows or times their number: by how much its
training moved every weight and buffer of the network (or the gradient); the sum of the rows'
weights; the sum of their losses; of the patients who are not trained on the sum of the losses and
their number. Before the first round counts and moments of the columns, as for a regression.

One site's change of a network can show what it was trained on. It is an update (`Exposure.updates`)
that leaves in a secure sum only, with noise, or where the site's policy allows it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Members, Shares, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.tasks import MomentsTask as Plain
from polyclinic.models.neural.batches import repeats
from polyclinic.models.neural.fixed import whole
from polyclinic.models.neural.network import network_of, sizes
from polyclinic.models.neural.rows import inputs, numbers, plain, question, spec_of, split, used
from polyclinic.models.neural.train import classes_of, row_weights, train

_MOMENTS = Plain()
Memory = Mapping[str, Any]


@dataclass(frozen=True)
class MomentsTask:
    """Counts and moments, as for a generalised linear model of the same columns."""

    name: str = "neural.moments"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return _MOMENTS.leaves(plain(plan))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        return _MOMENTS.local(plain(plan), numbers(plan, partition))

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """As the gate judges them there."""
        return _MOMENTS.exposure(plain(plan), numbers(plan, partition), own)

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Names of the levels that the plan itself names."""
        return _MOMENTS.slots(plain(plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns; one candidate."""
        return _MOMENTS.candidates(plain(plan))


@dataclass(frozen=True)
class TrainTask(Unaided):
    """One round of training at a site."""

    name: str = "neural.train"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        weights, beside = sizes(spec_of(plan))
        return (
            Leaf("change", (weights,), "update", "int64"),
            Leaf("beside", (beside,), "update", "int64"),
            Leaf("weight", (), "count", "int64"),
            Leaf("loss", (), "loss", "int64"),
            Leaf("watched", (2,), "loss", "int64"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        """The contribution without a memory of earlier rounds."""
        return self.remember(plan, partition, {})[0]

    def remember(
        self, plan: Plan, partition: Partition, memory: Memory
    ) -> tuple[Contribution, Memory]:
        """The contribution, and what the site keeps for its next round."""
        spec, asked = spec_of(plan), question(plan)
        rows, network = inputs(plan, partition), network_of(spec)
        trained, watched = split(plan, partition)
        watching = np.zeros(2)
        if len(watched):
            network.load(asked.weights, asked.beside)
            weight = row_weights(spec, rows, asked.class_weight)[watched].astype(np.float64)
            watching[:] = network.losses(rows, watched) @ weight, weight.sum()
        answer = train(spec, network, rows, trained, asked, memory)
        leaves = {
            "change": whole(answer.change * answer.weight),
            "beside": whole(answer.beside * answer.weight),
            "weight": whole(answer.weight),
            "loss": whole(answer.loss),
            "watched": whole(watching),
        }
        patients = partition.patients(used(plan, partition))
        return Contribution(leaves, Evidence(patients)), answer.memory

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """An update, of these patients."""
        weights, _ = sizes(spec_of(plan))
        person = np.unique(partition.persons[used(plan, partition)])
        columns = spec_of(plan).design.columns
        return Exposure(
            updates=weights,
            weights=self._weights(plan, partition),
            members=(Members(columns, person),),
        )

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """No column; one candidate where rows do not all count alike."""
        return (), int(_weighs(plan))

    def _weights(self, plan: Plan, partition: Partition) -> Shares | None:
        """How much of the training is about each patient, where rows do not all count alike."""
        if not _weighs(plan):
            return None
        spec, asked = spec_of(plan), question(plan)
        rows, (trained, _) = inputs(plan, partition), split(plan, partition)
        parts = row_weights(spec, rows, asked.class_weight)[trained].astype(np.float64)
        classes = classes_of(spec, rows, trained)
        if classes is not None:
            parts = parts * repeats(classes)
        return Shares.of(np.abs(parts), partition.persons[trained])


def _weighs(plan: Plan) -> bool:
    """Whether rows do not all count alike in training."""
    spec = spec_of(plan)
    weighed = spec.design.weight is not None or len(question(plan).class_weight) > 0
    return weighed or spec.sampling == "balanced"


tasks = [MomentsTask(), TrainTask()]
