"""The coordinator's half of a strategy: from the mean change of the sites to the next weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.neural.strategy import SERVER, Strategy

Floats = NDArray[np.float32]


def start(strategy: Strategy, size: int) -> dict[str, Any]:
    """What the coordinator remembers beside the weights, before the first round."""
    return {}


def step(
    strategy: Strategy, memory: dict[str, Any], weights: Floats, change: NDArray[np.float64]
) -> tuple[Floats, dict[str, Any]]:
    """Weights and memory after a round, from the mean change of the sites, (n_weights,)."""
    if SERVER[strategy.name] == "average":
        moved = weights.astype(np.float64) + strategy.server_lr * change
        return moved.astype(np.float32), memory
    raise ValueError(f"no server step for {strategy.name}")
