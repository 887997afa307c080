"""What of a change of the network leaves in a round, where fewer bytes are sent than it has.

What is not sent is added to the change of a later round (error feedback: Seide et al. 2014;
Stich, Cordonnier & Jaggi 2018), and stays at the site until then.

- float16, int8  all entries, rounded
- topk           the share `keep` of the entries, the largest ones of each site, as float16
- topk_shared    in every round number 0, `whole_every`, 2 `whole_every`... all entries; in those
                 between the share `keep` of them, the same at all sites: those that moved most in
                 the sum of the last whole round. Exact whole numbers

With "topk" a site says which of its entries are largest, so its sum is seen alone, as a rounded one
is. With "topk_shared" it stands in the plan which are sent, whatever the rows of one site; so sites
may add them up in a secure sum, and a plan that named others would ask for a part of a whole round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.compress import rounded
from polyclinic.core.leaf import Leaf
from polyclinic.models.neural.fixed import number, whole

if TYPE_CHECKING:
    from polyclinic.models.neural.strategy import Strategy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Memory = Mapping[str, Any]


def change_leaf(strategy: Strategy, weights: int, places: Ints | None) -> Leaf:
    """The declared change of a network of so many weights; of `places` in it, where it has some."""
    kind: Any = strategy.compress
    if kind == "topk":
        many = _many(strategy, weights)
        return Leaf("change", (weights,), "update", packed="float16", filled=many)
    if kind in ("float16", "int8"):
        return Leaf("change", (weights,), "update", packed=kind)
    return Leaf("change", (weights if places is None else len(places),), "update", "int64")


def sent(
    strategy: Strategy, places: Ints | None, change: Floats, memory: Memory
) -> tuple[Any, Memory]:
    """The change as it leaves, and what of it is kept for a later round."""
    kind = strategy.compress
    if not kind:
        return whole(change), {}
    steps = whole(change + memory.get("left_over", 0.0))
    due = number(steps)
    if kind == "topk_shared":
        if places is None:
            return steps, {"left_over": 0.0}
        due[places] = 0.0
        return steps[places], {"left_over": due}
    leaves = _with_largest(due, _many(strategy, len(due))) if kind == "topk" else due
    found = rounded(leaves, "float16" if kind == "topk" else kind)
    return found, {"left_over": due - found}


def nothing_sent(strategy: Strategy, weights: int, places: Ints | None) -> NDArray[Any]:
    """The change of a site that adds nothing."""
    leaf = change_leaf(strategy, weights, places)
    return np.zeros(leaf.shape, np.int64 if leaf.ring == "int64" else np.float64)


def received(total: Any, weights: int, places: Ints | None) -> Floats:
    """The summed change of all weights, of the one that left the sites."""
    found = number(total)
    if places is None:
        return found
    spread = np.zeros(weights)
    spread[places] = found
    return spread


def asks_whole(strategy: Strategy, round: int) -> bool:
    """Whether all entries of the change are asked for in a round."""
    shared = strategy.compress == "topk_shared"
    return not shared or round >= strategy.rounds or round % strategy.whole_every == 0


def places_after(strategy: Strategy, change: Floats) -> Ints:
    """The entries that moved most in a whole round, in order; none where nobody asks for them."""
    if strategy.compress != "topk_shared":
        return np.zeros(0, dtype=np.int64)
    return np.sort(_largest(change, _many(strategy, len(change))))


def check_places(strategy: Strategy, weights: int, places: Any) -> None:
    """Raises ValueError for entries that no fit asks for."""
    found = np.asarray(places)
    if found.dtype != np.int64 or found.shape != (_many(strategy, weights),):
        raise ValueError("another number of entries")
    if len(found) and (found[0] < 0 or found[-1] >= weights or np.any(np.diff(found) <= 0)):
        raise ValueError("entries that the network does not have, or not in order")


def _many(strategy: Strategy, weights: int) -> int:
    return min(weights, math.ceil(strategy.keep * weights))


def _with_largest(values: Floats, many: int) -> Floats:
    """`values` with 0 in place of all but the `many` largest."""
    found, places = np.zeros(values.shape), _largest(values, many)
    found[places] = values[places]
    return found


def _largest(values: Floats, many: int) -> Ints:
    """Where the `many` largest entries are; of equal ones the first."""
    return np.argsort(-np.abs(values), kind="stable")[:many]
