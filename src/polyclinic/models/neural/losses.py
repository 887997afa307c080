"""Losses by name: of the logits or numbers of rows, per row, and what they predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from polyclinic.models.neural.architectures import torch

Floats = NDArray[np.float64]
Tensor = Any


@dataclass(frozen=True)
class Loss:
    """A loss.

    explains  "classes", "number", "survival" or "mask": what the outcome is
    rows      loss of each row of a batch, (n,): of outputs (n, outputs), target (n, ...) as float32
              and the options
    predict   from outputs (n, outputs) as float64 to what a predictor returns
    options   by name, the default and whether a value is allowed
    """

    explains: str
    rows: Callable[[Tensor, Tensor, Mapping[str, Any]], Tensor]
    predict: Callable[[Floats], Floats]
    options: Mapping[str, tuple[Any, Callable[[Any], bool]]] = field(default_factory=dict)


def _cross_entropy(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    nn = torch().nn.functional
    if outputs.shape[1] == 1:
        return nn.binary_cross_entropy_with_logits(outputs[:, 0], target, reduction="none")
    return nn.cross_entropy(outputs, target.long(), reduction="none")


def _squared(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    return 0.5 * (outputs[:, 0] - target) ** 2


def probabilities(outputs: Floats) -> Floats:
    """Of the event, (n,), from one logit; of each class, (n, classes), from several."""
    if outputs.shape[1] == 1:
        return np.asarray(expit(outputs[:, 0]))
    return np.asarray(softmax(outputs, axis=1))


def _number(outputs: Floats) -> Floats:
    return outputs[:, 0]


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss("classes", _cross_entropy, probabilities),
    "squared": Loss("number", _squared, _number),
}
