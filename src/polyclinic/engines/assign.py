"""Which worker holds which partition, at first and when some turn out to be slow."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from polyclinic.engines.speeds import Costs

Policy = Literal["least_load", "round_robin", "random"]
POLICIES: tuple[Policy, ...] = ("least_load", "round_robin", "random")
WORTH = 0.15  # share of a round that moving has to save
LEAST = 0.01  # seconds of a round that moving has to save: less is noise


def assign(
    sizes: Mapping[int, int],
    workers: Sequence[str],
    policy: Policy = "least_load",
    load: Mapping[str, int] | None = None,
    costs: Costs | None = None,
) -> dict[int, str]:
    """The worker of each partition.

    Parameters
    ----------
    sizes : rows of each partition that has no worker yet.
    workers : the workers that are there.
    policy : "least_load": the largest partition first, to whoever would be done first;
        "round_robin": one after the other; "random": by chance, the same for the same workers.
    load : rows that each worker holds already.
    costs : speed and memory of the workers; None: they are alike.
    """
    if policy == "round_robin":
        return {part: workers[i % len(workers)] for i, part in enumerate(sizes)}
    if policy == "random":
        draw = random.Random(len(sizes))
        return {part: draw.choice(list(workers)) for part in sizes}
    costs = costs or Costs()
    rows = {worker: (load or {}).get(worker, 0) for worker in workers}
    found = {}
    for part in sorted(sizes, key=lambda one: (-sizes[one], one)):
        best = min(workers, key=lambda worker: costs.seconds(worker, rows[worker] + sizes[part]))
        found[part], rows[best] = best, rows[best] + sizes[part]
    return found


def moved(
    sizes: Mapping[int, int],
    owner: Mapping[int, str],
    workers: Sequence[str],
    costs: Costs,
    rounds: int,
    held: Mapping[str, set[int]] | None = None,
) -> dict[int, str]:
    """Partitions that should change hands, and to whom; none where it would not pay.

    The slowest worker gives to whoever lets both be done soonest, as long as that helps. All of it
    is done if the rounds become shorter by `WORTH`, and what the new owners have to read and
    prepare first costs less than is saved in `rounds`. A worker keeps one partition, by which its
    speed goes on being measured.

    Parameters
    ----------
    sizes, owner : rows and worker of each partition.
    rounds : that the moves have to pay for themselves in.
    held : partitions that each worker has read already.
    """
    parts = {worker: [p for p in sorted(owner) if owner[p] == worker] for worker in workers}
    rows = {worker: sum(sizes[p] for p in parts[worker]) for worker in workers}
    before = max(costs.seconds(worker, rows[worker]) for worker in workers)
    found: dict[int, str] = {}
    while (step := _step(sizes, parts, rows, costs)) is not None:
        part, giver, taker = step
        parts[giver].remove(part)
        parts[taker].append(part)
        rows[giver], rows[taker] = rows[giver] - sizes[part], rows[taker] + sizes[part]
        found[part] = taker
    after = max(costs.seconds(worker, rows[worker]) for worker in workers)
    found = {part: taker for part, taker in found.items() if owner[part] != taker}
    saved = before - after
    if saved < max(WORTH * before, LEAST) or saved * rounds < _price(sizes, found, costs, held):
        return {}
    return found


def _step(
    sizes: Mapping[int, int],
    parts: Mapping[str, list[int]],
    rows: Mapping[str, int],
    costs: Costs,
) -> tuple[int, str, str] | None:
    """The partition that the slowest worker had best give, to whom; None: it keeps what it has."""
    seconds = {worker: costs.seconds(worker, rows[worker]) for worker in parts}
    giver = max(seconds, key=lambda worker: (seconds[worker], worker))
    best, least = None, seconds[giver]
    if len(parts[giver]) < 2:
        return None
    for part in parts[giver]:
        size = sizes[part]
        left = costs.seconds(giver, rows[giver] - size)
        for taker in parts:
            if taker != giver:
                both = max(left, costs.seconds(taker, rows[taker] + size))
                if both < least:
                    best, least = (part, giver, taker), both
    return best


def _price(
    sizes: Mapping[int, int],
    moves: Mapping[int, str],
    costs: Costs,
    held: Mapping[str, set[int]] | None,
) -> float:
    """Seconds by which the first round after the moves is longer: reading, and once more computing,
    as models keep what they prepare."""
    new: dict[str, int] = {}
    for part, taker in moves.items():
        if part not in (held or {}).get(taker, ()):
            new[taker] = new.get(taker, 0) + sizes[part]
    return max((costs.seconds(worker, n, n) for worker, n in new.items()), default=0.0)
