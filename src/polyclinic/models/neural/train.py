"""What a site does with the common weights in one round: it trains, or takes a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import Refused
from polyclinic.models.neural.architectures import torch
from polyclinic.models.neural.batches import batches
from polyclinic.models.neural.inputs import Inputs
from polyclinic.models.neural.network import EVALUATED, Network, enough_memory, seeded
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
    """

    change: NDArray[np.float64]
    beside: NDArray[np.float64]
    loss: float
    weight: float
    steps: int
    memory: Memory = field(default_factory=dict)


def train(
    spec: NeuralSpec,
    network: Network,
    inputs: Inputs,
    rows: NDArray[np.int64],
    asked: Question,
    memory: Memory,
) -> Answer:
    """One round at a site over `rows`. Raises Refused: LOSS_EXPLODED, OUT_OF_MEMORY."""
    network.load(asked.weights, asked.beside)
    weight = row_weights(spec, inputs, asked.class_weight)
    with seeded(_seed(spec, asked.round)), enough_memory():
        network.module.train()
        if spec.strategy.gradients:
            return _gradient(spec, network, inputs, rows, weight)
        return _trained(spec, network, inputs, rows, asked, weight)


def row_weights(
    spec: NeuralSpec, inputs: Inputs, class_weight: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Weight of each row: its own times its class's, (n_rows,)."""
    if not len(class_weight) or inputs.target is None:
        return inputs.weight
    return inputs.weight * class_weight.astype(np.float32)[inputs.target.astype(np.int64)]


def classes_of(
    spec: NeuralSpec, inputs: Inputs, rows: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Class of each of `rows` where batches are balanced by it."""
    if spec.sampling != "balanced" or inputs.target is None:
        return None
    return inputs.target[rows].astype(np.int64)


def _trained(
    spec: NeuralSpec,
    network: Network,
    inputs: Inputs,
    rows: NDArray[np.int64],
    asked: Question,
    weight: NDArray[np.float32],
) -> Answer:
    library, strategy = torch(), spec.strategy
    optimizer = _optimizer(spec, network, asked.lr)
    total, seen, steps = 0.0, 0.0, 0
    for chosen in batches(strategy, rows, asked.round, spec.seed, classes_of(spec, inputs, rows)):
        optimizer.zero_grad(set_to_none=True)
        _, losses = network.rows(inputs, chosen)
        own = library.from_numpy(weight[chosen])
        loss = (losses * own).sum() / own.sum().clamp_min(1e-12)
        loss.backward()
        optimizer.step()
        total += float((losses.detach() * own).sum())
        seen += float(own.sum())
        steps += 1
    share = float(weight[rows].sum()) / max(seen, 1e-12)  # a round may pass over rows twice
    change = network.weights().astype(np.float64) - asked.weights
    beside = network.beside().astype(np.float64) - asked.beside
    return _sound(Answer(change, beside, total * share, float(weight[rows].sum()), steps))


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
    library, size = torch(), spec.strategy.batch_size or usual
    before = network.beside().astype(np.float64)
    network.module.zero_grad(set_to_none=True)
    whole, total = float(weight[rows].sum()), 0.0
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        _, losses = network.rows(inputs, chosen)
        part = (losses * library.from_numpy(weight[chosen])).sum()
        (part / max(whole, 1e-12)).backward()
        total += float(part.detach())
    parts = [np.zeros(p.numel()) if p.grad is None else p.grad.double().numpy().ravel()
             for p in network.parameters]  # fmt: skip
    change = -np.concatenate(parts) if parts else np.zeros(0)
    return _sound(Answer(change, network.beside() - before, total, whole, 1))


def _optimizer(spec: NeuralSpec, network: Network, lr: float) -> Any:
    library, strategy = torch(), spec.strategy
    if strategy.optimizer == "adam":
        return library.optim.Adam(network.parameters, lr=lr, weight_decay=strategy.weight_decay)
    return library.optim.SGD(
        network.parameters, lr=lr, momentum=strategy.momentum, weight_decay=strategy.weight_decay
    )


def _sound(answer: Answer) -> Answer:
    """Raises Refused where training has run away: nothing of it leaves."""
    arrays = (answer.change, answer.beside, np.array([answer.loss]))
    if all(np.isfinite(one).all() for one in arrays):
        return answer
    raise Refused(
        "training ran away here: a loss or a weight is not a finite number",
        code="LOSS_EXPLODED",
        rule="only finite numbers leave a site",
        next="lower the learning rate, or scale the columns",
    )


def _seed(spec: NeuralSpec, round: int) -> int:
    """Of dropout and the like."""
    return (spec.seed * 1_000_003 + round + 1) % 2**62
