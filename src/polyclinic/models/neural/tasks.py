"""The site's half of neural networks.

What leaves the site in a round, each as a sum over its rows or times their number: by how much its
training moved every weight and buffer of the network (or the gradient); the sum of the rows'
weights; the sum of their losses; of the patients who are not trained on the sum of the losses and
their number. Before the first round counts and moments of the columns, as for a regression.

One site's change of a network can show what it was trained on. It is an update (`Exposure.updates`)
that leaves in a secure sum only, with noise, or where the site's policy allows it by itself. A site
whose turn it is not adds zeros and says that nobody is behind them, so a sum to which fewer than
three sites add something does not pass the gate. With FedNova the change of a mean local step
leaves, and the rows' weights times the local steps. With Scaffold the change of the site's control
leaves beside that of its weights. What a site keeps for itself never leaves: it is in its memory.
Under differential privacy nothing leaves but noisy changes, and one noisy count of patients:
`private`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Members, Shares, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.neural import device
from polyclinic.models.neural.batches import repeats
from polyclinic.models.neural.fixed import whole
from polyclinic.models.neural.inputs import Inputs
from polyclinic.models.neural.network import network_of, sizes
from polyclinic.models.neural.personal import own as kept_by
from polyclinic.models.neural.personal import personal
from polyclinic.models.neural.private import check_private, hospital_round, patients_round
from polyclinic.models.neural.rows import Ints, inputs, plain, question, spec_of, split, used
from polyclinic.models.neural.smaller import change_leaf, nothing_sent, sent
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.train import Question, classes_of, row_weights, train
from polyclinic.models.neural.turns import trains
from polyclinic.models.own_moments import MomentsTask
from polyclinic.privacy.noisy import noise_required

Memory = Mapping[str, Any]
WORK = 1024  # in units of which rows times steps leave, to stay below what is held


@dataclass(frozen=True)
class TrainTask(Unaided):
    """One round of training at a site."""

    name: str = "neural.train"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        spec = spec_of(plan)
        weights, beside = sizes(spec)
        if spec.privacy:
            return (_private_leaf(spec, weights),)
        found = (
            change_leaf(spec.strategy, weights, _places(plan)),
            Leaf("beside", (beside,), "update", "int64"),
            Leaf("weight", (), "count", "int64"),
            Leaf("loss", (), "loss", "int64"),
            Leaf("watched", (2,), "loss", "int64"),
        )
        if spec.strategy.name == "fednova":
            return (*found, Leaf("work", (), "count", "int64"))
        if spec.strategy.name != "scaffold":
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
        if spec.privacy:
            return _private(plan, partition), {}
        if not trains(spec, partition.site, asked.round):
            return self._nothing(plan, partition), memory
        rows, parts = inputs(plan, partition), split(plan, partition)
        leaves, kept = trained(spec, rows, *parts, asked, memory, partition.site)
        behind = Evidence(_patients(plan, partition))
        return Contribution(leaves, behind), kept

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
            return Exposure(weights=Shares.of(np.zeros(0)) if _weighs(plan) else None)
        weights = sizes(spec)[0] if round < spec.strategy.rounds else 0
        person = np.unique(partition.persons[used(plan, partition)])
        return Exposure(
            updates=weights,
            weights=self._weights(plan, partition),
            members=(Members(spec.design.columns, person),),
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


def trained(
    spec: NeuralSpec,
    rows: Inputs,
    own: Ints,
    watched: Ints,
    asked: Question,
    memory: Memory,
    site: str,
) -> tuple[dict[str, Any], Memory]:
    """One round of a site with the rows `own`: its leaves, and what it keeps. The loss of `watched`
    is that of the network before."""
    network, watching = network_of(spec, rows.device), np.zeros(2)
    if len(watched) and asked.round < spec.strategy.rounds:
        masks = personal(spec.strategy, network)
        network.load(*kept_by(masks, asked.weights, asked.beside, memory))
        weight = row_weights(spec, rows, asked.class_weight)[watched].astype(np.float64)
        watching[:] = network.losses(rows, watched) @ weight, weight.sum()
    answer = train(spec, network, rows, own, asked, memory, site)
    nova = spec.strategy.name == "fednova"
    per_step = answer.change / max(answer.steps, 1) if nova else answer.change
    places = asked.extra.get("places")
    if answer.weight:
        change, left = sent(spec.strategy, places, per_step * answer.weight, memory)
    else:  # nobody is behind it, nor behind what was left over
        change = nothing_sent(spec.strategy, len(answer.change), places)
        left = {name: kept for name, kept in memory.items() if name == "left_over"}
    leaves = {
        "change": change,
        "beside": whole(answer.beside * answer.weight),
        "weight": whole(answer.weight),
        "loss": whole(answer.loss),
        "watched": whole(watching),
    }
    if answer.control is not None and spec.strategy.name == "scaffold":
        held = row_weights(spec, rows, asked.class_weight)[own].sum()
        leaves["control"] = whole(answer.control * answer.weight)
        leaves["everyone"] = whole(held)
    if nova:
        leaves["work"] = whole(answer.weight * answer.steps / WORK)
    return leaves, {**answer.memory, **left}


def _weighs(plan: Plan) -> bool:
    """Whether rows do not all count alike in training."""
    spec = spec_of(plan)
    weighed = spec.design.weight is not None or len(question(plan).class_weight) > 0
    return weighed or spec.sampling == "balanced"


def _patients(plan: Plan, partition: Partition) -> int:
    """Patients behind the sum of fewest: those who are trained on, or those who are watched."""
    counts = []
    for rows in split(plan, partition):
        mask = np.zeros(partition.n_rows, dtype=bool)
        mask[rows] = True
        counts.append(partition.patients(mask))
    return min((n for n in counts if n), default=0)


@dataclass(frozen=True)
class CountTask(Unaided):
    """Patients who are trained on; with noise, or not at all."""

    name: str = "neural.count"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return (Leaf("patients", (), "count", bound=1.0),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        noise_required(plan)
        device.check(partition.device)
        patients = partition.patients(used(plan, partition))
        return Contribution({"patients": float(patients)}, Evidence(patients))

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """A count of these patients."""
        person = np.unique(partition.persons[used(plan, partition)])
        return Exposure(members=(Members(spec_of(plan).design.columns, person),))


def _places(plan: Plan) -> NDArray[np.int64] | None:
    """The entries of the change that are asked for; None: all."""
    found = plan.values["state"].get("extra", {}).get("places")
    return None if found is None else np.asarray(found)


def _private_leaf(spec: NeuralSpec, weights: int) -> Leaf:
    if spec.privacy["unit"] == "patient":
        return Leaf("change", (weights,), "update", "int64", noised=True)
    return Leaf("change", (weights,), "update", bound=2 * float(spec.privacy["clip"]))


def _private(plan: Plan, partition: Partition) -> Contribution:
    """A round under differential privacy; see `private`."""
    spec, asked, noise = spec_of(plan), question(plan), noise_required(plan)
    check_private(spec)
    rows, trained = inputs(plan, partition), split(plan, partition)[0]
    change: Any
    if spec.privacy["unit"] == "patient":
        found = patients_round(spec, rows, trained, partition.persons, asked, noise)
        change = whole(found)
    else:
        change = hospital_round(spec, rows, trained, asked)
    return Contribution({"change": change}, Evidence(partition.patients(used(plan, partition))))


@dataclass(frozen=True)
class _Moments(MomentsTask):
    def local(self, plan: Plan, partition: Partition) -> Contribution:
        device.check(partition.device)  # a site that cannot train says so before anything leaves
        return super().local(plan, partition)


tasks = [_Moments("neural.moments", plain), TrainTask(), CountTask()]
