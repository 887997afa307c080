"""Stochastic descent on two workers of which one is slow: loss over seconds, waiting or not.

Worker processes on this machine; the last one gets a quarter of its time from the first pass on, as
in `scripts/bench balance`. Logistic regression over made-up visits in Parquet files, rows of one
trust domain, by mini-batches. Printed for every way of waiting: loss above Newton's optimum, per
1000 rows, at the newest coefficients after so many seconds; seconds of all rounds from then on;
loss at the end, of averaged coefficients; how late gradients were at most and on average, in
rounds; and partitions that changed hands and that were computed twice.

    scripts/bench staleness [--rows 1e6] [--rounds 80] [--batch 0.25] [--staleness 4] [--share 0.25]
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import polyclinic as pc
from benchmarks.balance import COLUMNS, slowed, write
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.fit import Run, fit
from polyclinic.models.glm import Solver, Spec, glm
from polyclinic.models.glm.scale import Scale

MARKS = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds
FIXED = {"policy": "round_robin", "speculate": False}
HEAD = ("sgd", "partitions", *(f"{mark:g} s" for mark in MARKS), "all rounds", "end", "age")
HEAD += ("moved", "copied")


class Watch:
    """A store that keeps nothing but when which coefficients were there."""

    def __init__(self, first: int, begin: threading.Event) -> None:
        self.first, self.begin, self.rounds = first, begin, 0
        self.seen: list[tuple[float, Any]] = []

    def load(self) -> None:
        return None

    def save(self, value: Mapping[str, Any]) -> None:
        theta = value["state"]["inner"].get("theta")
        self.rounds += theta is not None
        if self.rounds == self.first:
            self.begin.set()
        if self.rounds >= self.first and theta is not None:
            self.seen.append((time.perf_counter(), theta))


def spec_of(solver: Solver) -> Spec:
    terms = tuple(Term(name, (Factor("value", name),), 16.0) for name in COLUMNS)
    return Spec(Design(terms, "y", response_bound=1.0), "binomial", 2, solver=solver)


def fitted(folder: Path, solver: Solver, engine: pc.Embedded, watch: Any = None) -> Run:
    scan = pc.scan(folder / "*.parquet", schema=folder / "visits.toml")
    domain = engine.domain(scan._selected("hospital", None))
    return fit(glm(spec_of(solver)), domain, store=watch)


class Loss:
    """Of all rows above the optimum, per 1000 rows."""

    def __init__(self, folder: Path) -> None:
        frame = pd.concat([pd.read_parquet(one) for one in sorted(folder.glob("*.parquet"))])
        self.x, self.y = frame[COLUMNS].to_numpy(), frame["y"].to_numpy()
        best = fitted(folder, Solver(), pc.Embedded())
        self.best = 0.0
        self.best = self(best, best.model[1].theta)

    def __call__(self, run: Run, theta: Any) -> float:
        coef = Scale(run.model[2].scale.spec, run.model[0]).transform() @ theta
        eta = coef[0] + self.x @ coef[1:]
        return 1000 * float(np.mean(np.logaddexp(0.0, eta) - self.y * eta)) - self.best


def one(folder: Path, loss: Loss, asked: Any, late: int | None, more: Mapping[str, Any]) -> str:
    batches, begin = round(1 / asked.batch), threading.Event()
    solver = Solver("sgd", asked.rounds, batch=asked.batch, staleness=late)
    watch = Watch(batches, begin)
    with pc.cluster(workers=2, **more) as cluster:
        pids = cluster.worker_pids()
        with slowed(pids[max(pids)], asked.share, begin):
            run = fitted(folder, solver, cluster, watch)
        activity = cluster.activity
    start, end = watch.seen[0][0], watch.seen[-1][0]
    cells = ["synchronous" if late is None else f"staleness {late}", "stay" if more else "move"]
    for mark in MARKS:
        newest = [theta for when, theta in watch.seen if when <= start + mark][-1]
        cells.append(f"{loss(run, newest):.3f}" if start + mark <= end else "")
    ages = [(stop - first, age) for _, first, stop, age in run.model[2].events]
    mean = sum(n * age for n, age in ages) / max(sum(n for n, _ in ages), 1)
    cells += [f"{end - start:.1f} s", f"{loss(run, run.model[1].theta):.4f}"]
    cells += [f"{max((age for _, age in ages), default=0)}, {mean:.1f}"]
    return f"| {' | '.join([*cells, str(activity.moved), str(activity.copied)])} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench staleness")
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--batch", type=float, default=0.25)
    parser.add_argument("--staleness", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.25)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, int(asked.rows))
        loss = Loss(folder)
        print("| " + " | ".join(HEAD) + " |")
        print("|" + len(HEAD) * "---|")
        for more in (FIXED, {}):
            for late in (None, asked.staleness):
                print(one(folder, loss, asked, late, more), flush=True)


if __name__ == "__main__":
    main()
