"""The site's half of neural networks.

What leaves the site in a round, each as a sum over its rows or times their number: by how much its
training moved every weight and buffer of the network (or the gradient); the sum of the rows'
weights; the sum of their losses; of the patients who are not trained on the sum of the losses and
their number. Before the first round counts and moments of the columns, as for a regression.

One site's change of a network can show what it was trained on. It is an update (`Exposure.updates`)
that leaves in a secure sum only, with noise, or where the site's policy allows it by itself. A site
whose turn it is not adds zeros and says that nobody is behind them, so a sum to which fewer than
three sites add something does not pass the gate. With Scaffold the change of the site's control
leaves beside that of its weights. What a site keeps for itself never leaves: it is in its memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Members, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.tasks import MomentsTask as Plain
from polyclinic.models.neural.fixed import whole
from polyclinic.models.neural.network import network_of, sizes
from polyclinic.models.neural.personal import own, personal
from polyclinic.models.neural.rows import inputs, plain, question, spec_of, split, used
from polyclinic.models.neural.train import row_weights, train
from polyclinic.models.neural.turns import trains

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
        return _MOMENTS.local(plain(plan), partition)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """As the gate judges them there."""
        return _MOMENTS.exposure(plain(plan), partition, own)

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
        found = (
            Leaf("change", (weights,), "update", "int64"),
            Leaf("beside", (beside,), "update", "int64"),
            Leaf("weight", (), "count", "int64"),
            Leaf("loss", (), "loss", "int64"),
            Leaf("watched", (2,), "loss", "int64"),
        )
        if spec_of(plan).strategy.name != "scaffold":
            return found
        control = Leaf("control", (weights,), "update", "int64")
        return (*found, control, Leaf("everyone", (), "count", "int64"))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        """The contribution without a memory of earlier rounds."""
        return self.remember(plan, partition, {})[0]

    def remember(
        self, plan: Plan, partition: Partition, memory: Memory
    ) -> tuple[Contribution, Memory]:
        """The contribution, and what the site keeps for its next round."""
        spec, asked = spec_of(plan), question(plan)
        if not trains(spec, partition.site, asked.round):
            return self._nothing(plan, partition), memory
        rows, network = inputs(plan, partition), network_of(spec)
        trained, watched = split(plan, partition)
        watching = np.zeros(2)
        if len(watched) and asked.round < spec.strategy.rounds:
            masks = personal(spec.strategy, network)
            network.load(*own(masks, asked.weights, asked.beside, memory))
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
        if answer.control is not None and spec.strategy.name == "scaffold":
            held = row_weights(spec, rows, asked.class_weight)[trained].sum()
            leaves["control"] = whole(answer.control * answer.weight)
            leaves["everyone"] = whole(held)
        return Contribution(leaves, Evidence(_patients(plan, partition))), answer.memory

    def _nothing(self, plan: Plan, partition: Partition) -> Contribution:
        """Zeros, but for the weight of rows where that is summed over all sites."""
        leaves = {leaf.name: np.zeros(leaf.shape, np.int64) for leaf in self.leaves(plan)}
        if "everyone" in leaves:
            trained, _ = split(plan, partition)
            rows, given = inputs(plan, partition), question(plan).class_weight
            leaves["everyone"] = whole(row_weights(spec_of(plan), rows, given)[trained].sum())
        return Contribution(leaves, Evidence(0))

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """An update, of these patients."""
        spec, round = spec_of(plan), question(plan).round
        if not trains(spec, partition.site, round):
            return Exposure()
        weights = sizes(spec)[0] if round < spec.strategy.rounds else 0
        person = np.unique(partition.persons[used(plan, partition)])
        columns = spec.design.columns
        return Exposure(updates=weights, members=(Members(columns, person),))


def _patients(plan: Plan, partition: Partition) -> int:
    """Patients behind the sum of fewest: those who are trained on, or those who are watched."""
    counts = []
    for rows in split(plan, partition):
        mask = np.zeros(partition.n_rows, dtype=bool)
        mask[rows] = True
        counts.append(partition.patients(mask))
    return min((n for n in counts if n), default=0)


tasks = [MomentsTask(), TrainTask()]
