"""Part `growth` of `scripts/bench cluster`: seconds by rows and workers, and a model of many.

Measured: a fit of logistic regression over arrays in the memory of one and two local workers. The
model of a round with W workers, from costs that are measured here on one machine:

    round(W) = fixed + rows / W * row + W * (message + add)
    round(W) = fixed + rows / W * row + W * message + L * (F * (message + add) + fixed)

In the first one all answers come to the asker. In the second one the asker sends W messages and is
told that sums are there; F at a time are fetched and added by a worker, level by level.

    fixed    one round with next to nothing to compute, less its messages
    row      seconds of one row at one worker
    message  seconds of the asker's processor for a message and its answer
    add      seconds to read and add an answer
    L        levels, log_F W rounded up

What more than two workers take is simulated by this model: the network between machines, workers
that are slower than others, and losses are not in it.
"""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _cluster_rows as rows

SIZES = (250_000, 500_000, 1_000_000, 2_000_000)
MODELLED = (4, 16, 64, 256, 1024)
FAN_IN = 16
A_ROUND = 1_000_000  # rows of the round that is measured


def show(folder: Path, args: Any) -> None:
    """Two tables."""
    files = rows.write(folder, max(SIZES))
    x, y = rows.arrays(files)
    found = {workers: measured(workers, x, y, args.repeats) for workers in (1, 2)}
    print("logistic regression in memory, seconds of a fit and of its rounds (medians)")
    print(f"{'rows':>10}{'1 worker':>12}{'rounds':>8}{'2 workers':>12}{'rounds':>8}")
    for n in SIZES:
        parts = [f"{a:>12.3f}{b:>8.3f}" for a, b in (found[1]["fits"][n], found[2]["fits"][n])]
        print(f"{n:>10,}{''.join(parts)}", flush=True)
    one, two = (1e3 * found[workers]["full"] for workers in (1, 2))
    print(f"a round over all of {A_ROUND:,} rows: {one:.1f} ms with one worker, {two:.1f} with two")
    modelled(found[1]["row"], found[2])


def measured(workers: int, x: np.ndarray, y: np.ndarray, repeats: int) -> dict[str, Any]:
    """Seconds of fits by rows, and the costs of the model."""
    import polyclinic as pc
    from benchmarks._cluster_overhead import Captured

    fits = {}
    with pc.cluster(workers=workers) as c:
        pc.LogisticRegression(l2=rows.L2).fit(x[:5000], y[:5000], engine=c)
        for n in SIZES:
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                model = pc.LogisticRegression(l2=rows.L2).fit(x[:n], y[:n], engine=c)
                took = time.perf_counter() - start
                seconds.append((took, sum(one.seconds for one in model.rounds_)))
            fits[n] = tuple(statistics.median(each) for each in zip(*seconds, strict=True))
        small, large = Captured(c, x[:2000], y[:2000]), Captured(c, x[:A_ROUND], y[:A_ROUND])
        tiny, full = small.seconds(200), large.seconds(20)
        row = (full - tiny) * workers / A_ROUND
        return {"fits": fits, "row": row, "tiny": tiny, "full": full, **small.costs()}


def modelled(row: float, costs: dict[str, float]) -> None:
    """Seconds of a round by workers, without and with a tree."""
    per = costs["message"] + costs["add"]
    fixed = max(costs["tiny"] - costs["asked"] * per, 0.0)
    print(
        "\ncosts: "
        + ", ".join(f"{name} {1e6 * costs[name]:,.0f} us" for name in ("message", "add"))
    )
    print(f"fixed {1e3 * fixed:.2f} ms, row {1e9 * row:.0f} ns; in groups of {FAN_IN}")
    print(f"{'workers':>8}{'1e6 rows':>14}{'groups':>10}{'1e8 rows':>14}{'groups':>10}  ms a round")
    for workers in MODELLED:
        line = f"{workers:>8}"
        for n in (1e6, 1e8):
            flat = fixed + n / workers * row + workers * per
            levels = math.ceil(math.log(workers, FAN_IN))
            tree = fixed + n / workers * row + workers * costs["message"]
            tree += levels * (min(FAN_IN, workers) * per + fixed)
            line += f"{1e3 * flat:>14.1f}{1e3 * tree:>10.1f}"
        print(line)
