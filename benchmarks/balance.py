"""A cluster of which one worker becomes slow: seconds per round, by who gets what and who helps.

Worker processes on this machine, of which the last gets a quarter of its time from round 4 on: it
is stopped and continued from outside (SIGSTOP, SIGCONT), as if another program had its core. Rounds
of gradient descent for a logistic regression over made-up visits in Parquet files. Printed: the
median of rounds 2 and 3, seconds of rounds 4 to 6, the median of rounds 7 to 10 and of those after,
all from round 4 on, partitions that moved and that were computed twice, and whether the state at
the end has the bytes of one process.

    scripts/bench balance [--rows 1e6] [--workers 2] [--rounds 20] [--share 0.25]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

import polyclinic as pc
from polyclinic.core import codec
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.fit import Round, fit
from polyclinic.models.glm import Solver, Spec, glm

COLUMNS = [f"x{i}" for i in range(20)]
PERIOD = 0.04  # seconds of a turn of the slow worker
BEFORE = 3  # rounds
HEAD = ("policy", "copies", "before", "4", "5", "6", "7 to 10", "later", "all")
HEAD += ("moved", "copied", "bytes")
POLICIES = ("least_load", "random", "round_robin")


def write(folder: Path, rows: int, files: int = 4) -> None:
    rng = np.random.default_rng(0)
    columns = [f'{name} = {{ type = "number" }}' for name in COLUMNS]
    columns.append('y = { type = "binary", levels = { 0 = "no", 1 = "yes" } }')
    book = ["format = 1", 'name = "visits"', "[columns]", *columns]
    (folder / "visits.toml").write_text("\n".join(book))
    for number in range(files):
        frame = pd.DataFrame(rng.standard_normal((rows // files, len(COLUMNS))), columns=COLUMNS)
        eta = frame.to_numpy() @ np.linspace(-0.3, 0.3, len(COLUMNS)) - 0.5
        frame["y"] = (rng.uniform(size=len(frame)) < 1 / (1 + np.exp(-eta))).astype(int)
        frame.to_parquet(folder / f"{number}.parquet", row_group_size=100_000, index=False)


@contextmanager
def slowed(pid: int, share: float, begin: threading.Event) -> Iterator[None]:
    """A process that runs, once it has begun, for a share of its time only."""
    over = threading.Event()

    def turns() -> None:
        begin.wait()
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(PERIOD * (1 - share))
            os.kill(pid, signal.SIGCONT)
            time.sleep(PERIOD * share)

    turning = threading.Thread(target=turns)
    turning.start()
    try:
        yield
    finally:
        over.set()
        begin.set()
        turning.join()


def fitted(
    folder: Path, rounds: int, engine: pc.Embedded, begin: threading.Event
) -> tuple[bytes, list[float]]:
    """Bytes of the state at the end, and seconds of each round; rows of one trust domain."""
    scan = pc.scan(folder / "*.parquet", schema=folder / "visits.toml")
    terms = tuple(Term(name, (Factor("value", name),), 16.0) for name in COLUMNS)
    solver = Solver("gd", max_rounds=rounds, tolerance=1e-300)
    algorithm = glm(Spec(Design(terms, "y", response_bound=1.0), "binomial", 2, solver=solver))
    took: list[float] = []

    def look(one: Round) -> None:
        took.append(one.seconds)
        if one.number == BEFORE:
            begin.set()

    domain = engine.domain(scan._selected("hospital", None))
    done = fit(algorithm, domain, callbacks=[look])
    return codec.encode(done.state), took


def one(folder: Path, asked: argparse.Namespace, policy: str, speculate: bool, share: float) -> str:
    more = {"policy": policy, "speculate": speculate}
    with pc.cluster(workers=asked.workers, **more) as cluster:
        pids = cluster.worker_pids()
        begin = threading.Event()
        with slowed(pids[max(pids)], share, begin):
            state, took = fitted(folder, asked.rounds, cluster, begin)
        activity = cluster.machines.activity
    same = "the same" if state == asked.expected else "OTHER BYTES"
    before, first, then, later = took[1:3], took[3:6], took[6:10], took[10:]
    seconds = [statistics.median(before), *first, statistics.median(then)]
    parts = [f"{some:.2f}" for some in (*seconds, statistics.median(later))]
    parts += [f"{sum(took[3:]):.1f}", str(activity.moved), str(activity.copied), same]
    if asked.each:
        print(policy, speculate, " ".join(f"{s:.2f}" for s in took), flush=True)
    return f"| {policy} | {'yes' if speculate else 'no'} | {' | '.join(parts)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench balance")
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--only", nargs="*", default=POLICIES, choices=POLICIES)
    parser.add_argument("--each", action="store_true", help="every round's seconds, too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, int(asked.rows))
        asked.expected, _ = fitted(folder, asked.rounds, pc.Embedded(threads=1), threading.Event())
        print("| " + " | ".join(HEAD) + " |")
        print("|" + len(HEAD) * "---|")
        for policy in asked.only:
            for speculate in (False, True):
                print(one(folder, asked, policy, speculate, asked.share), flush=True)


if __name__ == "__main__":
    main()
