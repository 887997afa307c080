"""Which sites train in a round; the others add zeros, so that every sum is over the same sites.

Every site works it out by itself: from the seed, the round and the names of the sites. A sum to
which only one or two sites add something is judged by a gate as if they stood in it alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from polyclinic.core.sampling import uniform

if TYPE_CHECKING:
    from polyclinic.models.neural.spec import NeuralSpec


def trains(spec: NeuralSpec, site: str, round: int) -> bool:
    """Whether a site trains in a round; without names of sites every one does."""
    strategy, names = spec.strategy, sorted(spec.sites)
    if not strategy.by_turns or not names or round >= strategy.rounds:
        return True
    if strategy.name == "cyclic":
        cycle, place = divmod(round, len(names))
        if strategy.order == "shuffled":
            names = _drawn(names, spec.seed, cycle)
        return site == names[place]
    many = max(1, math.floor(strategy.clients * len(names) + 0.5))
    return site in _drawn(names, spec.seed, round)[:many]


def _drawn(names: list[str], seed: int, round: int) -> list[str]:
    """The names in an order that is drawn for the round."""
    key = np.zeros(1, dtype=np.int64)
    draws = {name: float(uniform(key, seed, round, f"turn {name}")[0]) for name in names}
    return sorted(names, key=lambda name: (draws[name], name))
