"""Which worker holds which partition."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal

Policy = Literal["least_load", "round_robin", "random"]
POLICIES: tuple[Policy, ...] = ("least_load", "round_robin", "random")


def assign(
    sizes: Mapping[int, int],
    workers: Sequence[str],
    policy: Policy = "least_load",
    load: Mapping[str, int] | None = None,
    speed: Mapping[str, float] | None = None,
) -> dict[int, str]:
    """The worker of each partition.

    Parameters
    ----------
    sizes : rows of each partition that has no worker yet.
    workers : the workers that are there.
    policy : "least_load": the largest partition first, to whoever would be done first;
        "round_robin": one after the other; "random": by chance, the same for the same workers.
    load : rows that each worker holds already.
    speed : rows per second that each worker was measured to do; who was not is taken as average.
    """
    if policy == "round_robin":
        return {part: workers[i % len(workers)] for i, part in enumerate(sizes)}
    if policy == "random":
        draw = random.Random(len(sizes))
        return {part: draw.choice(list(workers)) for part in sizes}
    known = [rate for rate in (speed or {}).values() if rate > 0]
    average = sum(known) / len(known) if known else 1.0
    rate = {worker: (speed or {}).get(worker) or average for worker in workers}
    rows = {worker: (load or {}).get(worker, 0) for worker in workers}
    found = {}
    for part in sorted(sizes, key=lambda one: (-sizes[one], one)):
        best = min(workers, key=lambda worker: (rows[worker] + sizes[part]) / rate[worker])
        found[part], rows[best] = best, rows[best] + sizes[part]
    return found
