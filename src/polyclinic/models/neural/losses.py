"""Losses by name: of the logits or numbers of rows, per row, and what they predict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from polyclinic.models.neural.architectures import torch

Floats = NDArray[np.float64]
Tensor = Any
Explains = Literal["classes", "number", "survival", "mask"]
LARGEST_RATE = 40.0  # log of a rate; above, exp leaves single precision
SMOOTH = 1e-5  # of dice, so that an empty mask found empty costs nothing


@dataclass(frozen=True)
class Loss:
    """A loss.

    explains  "classes", "number", "survival" or "mask": what the outcome is
    rows      loss of each row of a batch, (n,): of outputs (n, outputs), target (n, ...) as float32
              and the options
    predict   from outputs (n, outputs) as float64 to what a predictor returns
    options   by name, the default and whether a value is allowed
    together  whether a row's loss depends on the other rows of its batch
    """

    explains: Explains
    rows: Callable[[Tensor, Tensor, Mapping[str, Any]], Tensor]
    predict: Callable[[Floats], Floats]
    options: Mapping[str, tuple[Any, Callable[[Any], bool]]] = field(default_factory=dict)
    together: bool = False


def _cross_entropy(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    nn = torch().nn.functional
    if outputs.shape[1] == 1:
        return nn.binary_cross_entropy_with_logits(outputs[:, 0], target, reduction="none")
    return nn.cross_entropy(outputs, target.long(), reduction="none")


def _focal(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    """(1 - p)^gamma times the cross-entropy, p the probability of the row's own class; with two
    classes times alpha in events and 1 - alpha in the others. Lin et al. (2017)."""
    loss = _cross_entropy(outputs, target, options)
    weight = (-(-loss).expm1()).clamp_min(1e-12) ** options["gamma"]  # 1 - p, as loss = -log p
    if options["alpha"] is not None:
        alpha = options["alpha"]
        weight = weight * (alpha * target + (1 - alpha) * (1 - target))
    return weight * loss


def _squared(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    return 0.5 * (outputs[:, 0] - target) ** 2


def _poisson(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    """exp(f) - y f, without the constant log y!."""
    rate = outputs[:, 0]
    return rate.clamp_max(LARGEST_RATE).exp() - target * rate


def _cox(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Of an event log sum exp(f_j) - f over the rows j of the batch that are still at risk at its
    time, ties by Breslow; 0 of a censored row. Target: duration and event, (n, 2)."""
    library = torch()
    risk, time, event = outputs[:, 0], target[:, 0], target[:, 1]
    order = library.argsort(time, descending=True)
    summed = library.logcumsumexp(risk[order], dim=0)
    # Rows of one time are at risk together: the sum up to the last of them.
    last = library.searchsorted(-time[order], -time, right=True) - 1
    return event * (summed[last] - risk)


def _dice(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    """1 - 2 |p y| / (|p| + |y|), mean over the mask's channels. Milletari et al. (2016)."""
    p, y = outputs.sigmoid().flatten(2), target.flatten(2)
    both, each = (p * y).sum(2), p.sum(2) + y.sum(2)
    return (1 - (2 * both + SMOOTH) / (each + SMOOTH)).mean(1)


def _dice_cross_entropy(outputs: Tensor, target: Tensor, options: Mapping[str, Any]) -> Tensor:
    each = torch().nn.functional.binary_cross_entropy_with_logits(outputs, target, reduction="none")
    return _dice(outputs, target, options) + each.flatten(1).mean(1)


def probabilities(outputs: Floats) -> Floats:
    """Of the event, (n,), from one logit; of each class, (n, classes), from several."""
    if outputs.shape[1] == 1:
        return np.asarray(expit(outputs[:, 0]))
    return np.asarray(softmax(outputs, axis=1))


def _number(outputs: Floats) -> Floats:
    return outputs[:, 0]


def _rate(outputs: Floats) -> Floats:
    return np.asarray(np.exp(np.minimum(outputs[:, 0], LARGEST_RATE)))


def _mask(outputs: Floats) -> Floats:
    return np.asarray(expit(outputs))


def _real(least: float, most: float) -> Callable[[Any], bool]:
    def good(v: Any) -> bool:
        number = isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
        return number and least <= v <= most

    return good


def _alpha(v: Any) -> bool:
    return v is None or (_real(0, 1)(v) and 0 < v < 1)


def _cause(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 1000


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss("classes", _cross_entropy, probabilities),
    "focal": Loss(
        "classes",
        _focal,
        probabilities,
        {"gamma": (2.0, _real(0, 10)), "alpha": (None, _alpha)},
    ),
    "squared": Loss("number", _squared, _number),
    "poisson": Loss("number", _poisson, _rate),
    "cox": Loss("survival", _cox, _number, {"cause": (1, _cause)}, together=True),
    "dice": Loss("mask", _dice, _mask),
    "dice_cross_entropy": Loss("mask", _dice_cross_entropy, _mask),
}
