"""The coordinator's half of a strategy: from the sums of the sites to the next weights.

With the mean change d of the sites' weights and the step size s of the round

- average     w + s d. McMahan et al. (2017)
- gradient    the same, where d is the mean negative gradient
- scaffold    the same; the common control moves by the mean change of the sites' controls.
              Karimireddy et al. (2020)
- adam, yogi, adagrad   m = b1 m + (1 - b1) d, w + s m / (sqrt(v) + tau), where v becomes
              b2 v + (1 - b2) d^2, or v - (1 - b2) d^2 sign(v - d^2), or v + d^2; both start at 0
              and are not corrected for it. Reddi et al. (2021). With `bias_correction` adam after
              t rounds takes m / (1 - b1^t) and v / (1 - b2^t). Kingma & Ba (2015)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.neural.strategy import Strategy

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]
Memory = dict[str, Any]


def start(strategy: Strategy, size: int) -> Memory:
    """What the coordinator remembers beside the weights, before the first round."""
    names = {"scaffold": ("control",), "average": (), "gradient": ()}
    rule = strategy.rule
    return {name: np.zeros(size) for name in names.get(rule, ("mean", "square"))}


def extra(strategy: Strategy, memory: Mapping[str, Any]) -> dict[str, Weights]:
    """What sites are sent beside the weights."""
    if strategy.rule == "scaffold":
        return {"control": memory["control"].astype(np.float32)}
    return {}


def step(
    strategy: Strategy,
    round: int,
    memory: Memory,
    weights: Weights,
    change: Floats,
    control: Floats | None = None,
) -> tuple[Weights, Memory]:
    """Weights and memory after a round.

    change   mean of the sites' changes by their rows' weights, (n_weights,)
    control  of "scaffold" the mean over all sites of the changes of their controls, (n_weights,)
    """
    size, rule = strategy.server_lr_at(round), strategy.rule
    if control is not None:
        memory = {"control": memory["control"] + control}
    elif rule in ("adam", "yogi", "adagrad"):
        mean = strategy.beta1 * memory["mean"] + (1.0 - strategy.beta1) * change
        square = _square(rule, strategy.beta2, memory["square"], change * change)
        memory = {"mean": mean, "square": square}
        if strategy.bias_correction:
            mean = mean / (1.0 - strategy.beta1 ** (round + 1))
            square = square / (1.0 - strategy.beta2 ** (round + 1))
        change = mean / (np.sqrt(square) + strategy.tau)
    return (weights.astype(np.float64) + size * change).astype(np.float32), memory


def _square(rule: str, beta2: float, before: Floats, now: Floats) -> Floats:
    if rule == "adam":
        return beta2 * before + (1.0 - beta2) * now
    if rule == "yogi":
        return before - (1.0 - beta2) * now * np.sign(before - now)
    return before + now
