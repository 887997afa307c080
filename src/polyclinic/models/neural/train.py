"""What a site does with the common weights in one round: it trains, or takes a gradient.

A local step follows the gradient of the mean loss of a mini-batch, to which a strategy adds:
FedProx mu (w - w_start); Scaffold c - c_k, the common control less the site's own; Ditto, for the
site's own network v, pull (v - w_start).

References: Li et al. (2020), "Federated optimization in heterogeneous networks"; Karimireddy et al.
(2020), "SCAFFOLD", option II; Li et al. (2021), "Ditto"; Li, Jiang et al. (2021), "FedBN";
Arivazhagan et al. (2019), "Federated learning with personalization layers".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import Refused
from polyclinic.models.neural.augment import Augment
from polyclinic.models.neural.batches import batches
from polyclinic.models.neural.descent import Descent
from polyclinic.models.neural.inputs import Inputs
from polyclinic.models.neural.network import EVALUATED, Network, array, enough_memory
from polyclinic.models.neural.personal import own, personal, whole
from polyclinic.models.neural.spec import NeuralSpec

Floats = NDArray[np.float32]
Memory = Mapping[str, Any]  # arrays and numbers that a site keeps for its next round


@dataclass(frozen=True)
class Question:
    """What a round asks of a site.

    weights, beside  the common network
    round, lr        number of the round from 0, and the local step size
    class_weight     weight of each class, (classes,), or empty
    extra            what a strategy sends beside the weights, by name
    """

    weights: Floats
    beside: Floats
    round: int
    lr: float
    class_weight: NDArray[np.float64]
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came of it.

    change, beside  by how much weights and buffers moved
    loss            sum over the rows of their weighted losses, each when it was trained on
    weight          sum of the rows' weights
    steps           local steps
    memory          what the site keeps for its next round
    control         by how much the site's control moved (Scaffold)
    """

    change: NDArray[np.float64]
    beside: NDArray[np.float64]
    loss: float
    weight: float
    steps: int
    memory: Memory = field(default_factory=dict)
    control: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _Site:
    """A network with the rows that it is trained on; `weight` is of all rows of `inputs`."""

    spec: NeuralSpec
    network: Network
    inputs: Inputs
    rows: NDArray[np.int64]
    weight: Floats
    asked: Question
    name: str = ""

    def descend(
        self,
        chosen: Iterable[NDArray[np.int64]],
        adjust: Callable[[], None] | None = None,
        seconds: float | None = None,
    ) -> tuple[float, int]:
        """Local steps over mini-batches: the sum of losses over the rows, and how many steps.

        adjust   changes the gradients before each step
        seconds  after which no further step begins; None: no limit
        """
        end = math.inf if seconds is None else time.monotonic() + seconds
        optimizer = optimizer_of(self.spec, self.network.parameters, self.asked.lr)
        total, seen, steps = 0.0, 0.0, 0
        for rows in chosen:
            optimizer.zero_grad()
            _, losses = self.network.rows(self.inputs, rows)
            own = self.network.tensor(self.weight[rows])
            ((losses * own).sum() / own.sum().clamp_min(1e-12)).backward()
            if adjust is not None:
                adjust()
            optimizer.step()
            total += float((losses.detach() * own).sum())
            seen += float(own.sum())
            steps += 1
            if time.monotonic() >= end:
                break
        # A round may pass over rows twice.
        return total * float(self.weight[self.rows].sum()) / max(seen, 1e-12), steps

    def batches(self, steps: int | None = None) -> Iterable[NDArray[np.int64]]:
        """The mini-batches of the round."""
        steps = steps or dict(self.spec.strategy.site_steps).get(self.name)
        spec, rows = self.spec, self.rows
        classes = classes_of(spec, self.inputs, rows)
        return batches(spec.strategy, rows, self.asked.round, spec.seed, steps, classes)


def train(
    spec: NeuralSpec,
    network: Network,
    inputs: Inputs,
    rows: NDArray[np.int64],
    asked: Question,
    memory: Memory,
    name: str = "",
) -> Answer:
    """One round at the site `name` over `rows`. Raises Refused: LOSS_EXPLODED, OUT_OF_MEMORY."""
    weight = row_weights(spec, inputs, asked.class_weight)
    if not len(rows) or asked.round >= spec.strategy.rounds:
        nothing = np.zeros(len(asked.weights))
        answer = Answer(nothing, np.zeros(len(asked.beside)), 0.0, 0.0, 0, memory, nothing)
        if not len(rows):
            return answer
    if spec.augment:
        inputs = replace(inputs, augment=Augment(spec.augment, spec.seed, asked.round))
    site = _Site(spec, network, inputs, rows, weight, asked, name)
    with network.training(_seed(spec, asked.round)), enough_memory():
        if asked.round >= spec.strategy.rounds:
            return replace(answer, memory=_tuned(site, memory))
        network.load(asked.weights, asked.beside)
        if spec.strategy.gradients:
            return replace(_gradient(spec, network, inputs, rows, weight), memory=memory)
        return _trained(site, memory)


def row_weights(
    spec: NeuralSpec, inputs: Inputs, class_weight: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Weight of each row: its own times its class's, (n_rows,)."""
    if not len(class_weight) or inputs.target is None:
        return inputs.weight
    return inputs.weight * class_weight.astype(np.float32)[inputs.target.astype(np.int64)]


def _trained(site: _Site, memory: Memory) -> Answer:
    asked, network, strategy = site.asked, site.network, site.spec.strategy
    masks = personal(strategy, network)
    weights, beside = masks.over(asked.weights, asked.beside, memory)
    network.load(weights, beside)
    loss, steps = site.descend(site.batches(), _adjustment(site, memory), strategy.local_seconds)
    change = np.subtract(network.weights(), weights, dtype=np.float64)
    moved = np.subtract(network.beside(), beside, dtype=np.float64)
    control: NDArray[np.float64] | None = None
    if strategy.name == "scaffold":
        before, common = _control(asked, memory), asked.extra["control"].astype(np.float64)
        after = (before - common - change / (steps * asked.lr)).astype(np.float32)
        control, memory = after.astype(np.float64) - before, {**memory, "control": after}
    if masks.weights.any():
        memory = {**memory, "kept": masks.of(network)}
        change[masks.weights], moved[masks.beside] = 0.0, 0.0
    if strategy.name == "ditto":
        memory = {**memory, "own": _drawn(site, memory)}
    held = float(site.weight[site.rows].sum())
    return _sound(Answer(change, moved, loss, held, steps, memory, control))


def _adjustment(site: _Site, memory: Memory) -> Callable[[], None] | None:
    """What a strategy adds to the gradients of a local step."""
    strategy, network, asked = site.spec.strategy, site.network, site.asked
    if strategy.name == "fedprox":
        return _pull(network, strategy.mu)
    if strategy.name == "scaffold":
        shift = asked.extra["control"] - _control(asked, memory).astype(np.float32)
        parts = _shaped(network, shift)

        def adjust() -> None:
            for parameter, part in zip(network.parameters, parts, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(part)

        return adjust
    return None


def _pull(network: Network, weight: float, to: Floats | None = None) -> Callable[[], None]:
    """Adds the gradient of weight / 2 |w - to|^2; None: to what the weights are now."""
    anchor = _shaped(network, network.weights() if to is None else to)

    def adjust() -> None:
        for parameter, start in zip(network.parameters, anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=weight)

    return adjust


def _drawn(site: _Site, memory: Memory) -> dict[str, Floats]:
    """The site's own network after a round, drawn to the common one (Ditto)."""
    asked, network = site.asked, site.network
    network.load(*own(personal(site.spec.strategy, network), asked.weights, asked.beside, memory))
    site.descend(site.batches(), _pull(network, site.spec.strategy.pull, asked.weights))
    return _finite(whole(network))


def _tuned(site: _Site, memory: Memory) -> Memory:
    """Memory with the site's own network, trained on from the last common one."""
    asked, network, strategy = site.asked, site.network, site.spec.strategy
    network.load(*own(personal(strategy, network), asked.weights, asked.beside, memory))
    adjust = _pull(network, strategy.pull, asked.weights) if strategy.name == "ditto" else None
    site.descend(site.batches(strategy.fine_tune), adjust)
    return {**memory, "own": _finite(whole(network))}


def _control(asked: Question, memory: Memory) -> NDArray[np.float64]:
    """The site's control; 0 before its first round."""
    return np.asarray(memory.get("control", np.zeros(len(asked.weights))), dtype=np.float64)


def _shaped(network: Network, flat: Floats) -> list[Any]:
    """A vector as long as the weights, cut into tensors of the parameters' shapes."""
    parts = network.tensor(np.array(flat, dtype=np.float32))
    sizes = [p.numel() for p in network.parameters]
    return [
        part.reshape(p.shape)
        for part, p in zip(parts.split(sizes), network.parameters, strict=True)
    ]


def classes_of(
    spec: NeuralSpec, inputs: Inputs, rows: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Class of each of `rows` where batches are balanced by it."""
    if spec.sampling != "balanced" or inputs.target is None:
        return None
    return inputs.target[rows].astype(np.int64)


def _gradient(
    spec: NeuralSpec,
    network: Network,
    inputs: Inputs,
    rows: NDArray[np.int64],
    weight: NDArray[np.float32],
) -> Answer:
    """The change of a gradient step of size 1 of the mean loss over all rows."""
    # Rows whose losses depend on each other stay together.
    usual = max(len(rows), 1) if network.loss.together else EVALUATED
    size = spec.strategy.batch_size or usual
    before = network.beside().astype(np.float64)
    network.module.zero_grad(set_to_none=True)
    whole, total = float(weight[rows].sum()), 0.0
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        _, losses = network.rows(inputs, chosen)
        part = (losses * network.tensor(weight[chosen])).sum()
        (part / max(whole, 1e-12)).backward()
        total += float(part.detach())
    parts = [np.zeros(p.numel()) if p.grad is None else array(p.grad).ravel()
             for p in network.parameters]  # fmt: skip
    change = -np.concatenate(parts) if parts else np.zeros(0)
    return _sound(Answer(change, network.beside() - before, total, whole, 1))


def optimizer_of(spec: NeuralSpec, parameters: Sequence[Any], lr: float) -> Descent:
    """The optimizer of the local steps."""
    strategy = spec.strategy
    return Descent(
        parameters,
        lr,
        strategy.momentum,
        strategy.weight_decay,
        strategy.optimizer == "adam",
    )


def _sound(answer: Answer) -> Answer:
    """Raises Refused where training has run away: nothing of it leaves."""
    arrays = [answer.change, answer.beside, np.array([answer.loss])]
    if answer.control is not None:
        arrays.append(answer.control)
    if not all(np.isfinite(one).all() for one in arrays):
        raise ran_away()
    return answer


def _finite(kept: dict[str, Floats]) -> dict[str, Floats]:
    """Raises Refused where a site's own network has run away."""
    if not all(np.isfinite(one).all() for one in kept.values()):
        raise ran_away()
    return kept


def ran_away() -> Refused:
    """The error of numbers that are not finite any more."""
    return Refused(
        "training ran away here: a loss or a weight is not a finite number",
        code="LOSS_EXPLODED",
        rule="only finite numbers leave a site",
        next="lower the learning rate, or scale the columns",
    )


def _seed(spec: NeuralSpec, round: int) -> int:
    """Of dropout and the like."""
    return (spec.seed * 1_000_003 + round + 1) % 2**62
