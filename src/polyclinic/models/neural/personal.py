"""What of a network stays at a site: kept in its own memory between rounds, and never sent.

Under "kept" stand the numbers of layers that are not shared; they are laid over the common network.
Under "own" stands a whole network: that of Ditto, or one that was trained on after the last round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.neural.architectures import torch
from polyclinic.models.neural.network import Network
from polyclinic.models.neural.strategy import Strategy

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Memory = Mapping[str, Any]


@dataclass(frozen=True)
class Personal:
    """Which weights (n_weights,) and buffers (n_buffers,) stay."""

    weights: Bools
    beside: Bools

    def over(self, weights: Floats, beside: Floats, memory: Memory) -> tuple[Floats, Floats]:
        """The common network with what a site kept; as it is before its first round."""
        kept = memory.get("kept")
        if kept is None:
            return weights, beside
        weights, beside = weights.astype(np.float32), beside.astype(np.float32)
        weights[self.weights], beside[self.beside] = kept["weights"], kept["beside"]
        return weights, beside

    def of(self, network: Network) -> dict[str, Floats]:
        """What is kept of a network."""
        return {
            "weights": network.weights()[self.weights],
            "beside": network.beside()[self.beside],
        }


def personal(strategy: Strategy, network: Network) -> Personal:
    """The layers of a network that stay at a site. Raises ValueError where a strategy has none, or
    leaves none to share."""
    if strategy.name not in ("fedbn", "fedper"):
        return Personal(_mask(network.parameters, set()), _mask(network.buffers, set()))
    if strategy.name == "fedbn":
        found = [m for m in network.module.modules() if isinstance(m, _batch_norm())]
        stay = _numbers(found)
    else:
        layers = [
            m for m in network.module.modules() if next(m.parameters(False), None) is not None
        ]
        stay = _numbers(layers[-strategy.layers :])
    masks = Personal(_mask(network.parameters, stay), _mask(network.buffers, stay))
    if masks.weights.all() or not stay:
        raise ValueError("no layer stays at a site, or all do")
    return masks


def own(masks: Personal, weights: Floats, beside: Floats, memory: Memory) -> tuple[Floats, Floats]:
    """The network with which a site predicts for its own patients."""
    whole = memory.get("own")
    if whole is not None:
        return whole["weights"], whole["beside"]
    return masks.over(weights, beside, memory)


def whole(network: Network) -> dict[str, Floats]:
    """All of a network as it is kept."""
    return {"weights": network.weights(), "beside": network.beside()}


def _batch_norm() -> Any:
    return torch().nn.modules.batchnorm._BatchNorm


def _numbers(modules: list[Any]) -> set[int]:
    found = [
        *(p for m in modules for p in m.parameters()),
        *(b for m in modules for b in m.buffers()),
    ]
    return {id(one) for one in found}


def _mask(tensors: list[Any], stay: set[int]) -> Bools:
    parts = [np.full(t.numel(), id(t) in stay) for t in tensors]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)
