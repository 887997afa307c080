"""Which sites train in a round; the others add zeros, so that every sum is over the same sites.

Every site works it out by itself: from the seed, the round and the names of the sites. A sum to
which only one or two sites add something is judged by a gate as if they stood in it alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from polyclinic.core.sampling import uniform_of

if TYPE_CHECKING:
    from polyclinic.models.neural.spec import NeuralSpec


def trains(spec: NeuralSpec, site: str, round: int) -> bool:
    """Whether a site trains in a round; without names of sites every one does."""
    chosen = turn(spec, round)
    return chosen is None or site in chosen


def turn(spec: NeuralSpec, round: int) -> list[str] | None:
    """The sites that train in a round; None: every one."""
    many = turns(spec, round)
    if many is None:
        return None
    strategy, names = spec.strategy, sorted(spec.sites)
    if strategy.name == "cyclic":
        cycle, place = divmod(round, len(names))
        if strategy.order == "shuffled":
            names = _drawn(names, spec.seed, cycle)
        return [names[place]]
    return _drawn(names, spec.seed, round)[:many]


def turns(spec: NeuralSpec, round: int) -> int | None:
    """How many sites train in a round, without drawing them; None: every one."""
    strategy, many = spec.strategy, len(spec.sites)
    if not strategy.by_turns or not many or round >= strategy.rounds:
        return None
    if strategy.name == "cyclic":
        return 1
    return max(1, math.floor(strategy.clients * many + 0.5))


def _drawn(names: list[str], seed: int, round: int) -> list[str]:
    """The names, which are sorted, in an order that is drawn for the round."""
    draws = uniform_of((f"turn {name}" for name in names), seed, round)
    return [names[i] for i in np.argsort(draws, kind="stable")]
