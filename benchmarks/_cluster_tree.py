"""Part `tree` of `scripts/bench cluster`: a round in which 32 tasks of Spark bring long sums, one
by one and added at the executors.

Bytes are those of the results that Spark's own records of its stages say came to the driver. The
executors are this machine's cores, so adding is spread over no more of them than at the driver, and
no network is saved: milliseconds show what Spark's second stage costs.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

SLOTS, ROUNDS, ROWS = 32, 6, 64
COLUMNS = (64, 360, 720)  # their covariances: 34 kB, 1 MB and 4 MB


def show(args: Any) -> None:
    """A line for each length."""
    import polyclinic as pc

    print(f"a round of {SLOTS} tasks, median of {ROUNDS} (least)")
    with pc.spark("local[4]", workers=SLOTS, policy="round_robin") as engine:
        trees = {"one by one": None, "added": replace(engine.machines.tree, together=0)}
        for columns in COLUMNS:
            workers, plan = captured(engine, columns)
            found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in trees}
            sums = set()
            for turn in range(ROUNDS + 2):
                for name, tree in trees.items():
                    engine.machines.tree = tree
                    work, name_of = partial(workers.sum, plan), f"{name} {columns} {turn}"
                    one, total = measured(engine.machines._context, name_of, work)
                    sums.add(b"".join(words.tobytes() for words in total.words.values()))
                    if turn > 1:  # all processes have read their rows
                        found[name].append(one)
            (words,) = sums
            print(f"{len(words) / 1e3:,.0f} kB")
            for name, ones in found.items():
                wall, cpu, size = zip(*ones, strict=True)
                print(
                    f"  {name:12}{1e3 * statistics.median(wall):6.0f} ({1e3 * min(wall):.0f}) ms,"
                    f" driver's processor {1e3 * statistics.median(cpu):4.0f} ms,"
                    f" {statistics.median(size) / 1e6:7.2f} MB come",
                    flush=True,
                )


def captured(engine: Any, columns: int) -> tuple[Any, Any]:
    """Workers of Spark, and the plan of the covariances of so many columns."""
    import polyclinic as pc
    from polyclinic.engines.spread import SpreadWorkers
    from polyclinic.engines.workers import ThreadWorkers

    asked: list[tuple[Any, Any]] = []
    plain = ThreadWorkers.sum

    def seen(workers: Any, plan: Any) -> Any:
        asked.append((workers, plan))
        return plain(workers, plan)

    x = np.random.default_rng(0).normal(size=(SLOTS * ROWS, columns))
    ThreadWorkers.sum = seen  # type: ignore[method-assign]
    try:
        pc.PCA(2).fit(x, engine=pc.Embedded(SLOTS))
    finally:
        ThreadWorkers.sum = plain  # type: ignore[method-assign]
    here, plan = asked[-1]
    return SpreadWorkers(engine.machines, here.rows, SLOTS), plan


def measured(context: Any, name: str, work: Any) -> tuple[tuple[float, float, int], Any]:
    """Seconds, those of the driver's processor, bytes that its jobs brought, and what it found."""
    context.setJobGroup(name, name)
    wall, cpu = time.perf_counter(), time.process_time()
    total = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    time.sleep(0.2)  # Spark's records are written beside its jobs
    tracker, store = context.statusTracker(), context._jsc.sc().statusStore()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(name)]
    stages = {stage for job in jobs for stage in job.stageIds}
    return (wall, cpu, sum(store.lastStageAttempt(one).resultSize() for one in stages)), total
