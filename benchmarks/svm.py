"""Linear support vector machines beside scikit-learn's LinearSVC and SGDClassifier, and Spark's.

Each contender runs in a process of its own over the same made-up rows (50 columns, C = 1). Printed
per loss: seconds of the fit (median of the repeats, minimum in brackets) and its CPU seconds, how
many times the seconds are Polyclinic's, the gap of the objective to the best found, and memory
beyond the data at the peak. Polyclinic's fit includes its input check and the curve of the
probabilities, which no other contender has; "without" are its seconds less those of the curve.

Squared hinge: the intercept is penalised as liblinear does. Hinge: it is free. Spark's LinearSVC
has the hinge only, by OWL-QN, a first-order method; its standardisation, which changes the penalty,
is off. It stops where its objective changes by less than a millionth, or after 100 rounds (its own
defaults); it has two threads, and its rows are in its memory and counted before the clock starts.

    scripts/bench svm [--rows 5e5] [--repeats 3] [--losses squared_hinge] [--only polyclinic ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _spark
from benchmarks.glm import COLUMNS, data, peak_memory

C = 1.0
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]
WITHOUT: list[float] = []  # seconds of Polyclinic's fits less those of the curve


def polyclinic(**options: Any) -> Fit:
    def run(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        import polyclinic as pc

        start = time.perf_counter()
        model = pc.LinearSVC(C=C, **options).fit(x, y)
        seconds = time.perf_counter() - start
        curve = sum(done.seconds for done in model.rounds_ if done.task == "svm.platt")
        WITHOUT.append(seconds - curve)
        return np.concatenate([model.intercept_, model.coef_[0]])

    return run


def linear_svc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=C, dual=False).fit(x, y)
    return np.concatenate([model.intercept_, model.coef_[0]])


def sgd(loss: str) -> Fit:
    def run(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        from sklearn.linear_model import SGDClassifier

        model = SGDClassifier(loss=loss, alpha=1 / (C * len(x)), random_state=0).fit(x, y)
        return np.concatenate([model.intercept_, model.coef_[0]])

    return run


SPARK = "Spark LinearSVC"
CONTENDERS: dict[str, dict[str, Fit | None]] = {
    "squared_hinge": {
        "polyclinic": polyclinic(intercept_scaling=1.0),
        "scikit-learn LinearSVC": linear_svc,
        "scikit-learn SGDClassifier": sgd("squared_hinge"),
    },
    "hinge": {
        "polyclinic": polyclinic(loss="hinge"),
        "scikit-learn SGDClassifier": sgd("hinge"),
        SPARK: None,
    },
}


def objective(loss: str, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    missed = np.maximum(1.0 - (2.0 * y - 1.0) * (x @ theta[1:] + theta[0]), 0.0)
    if loss == "hinge":
        return float(0.5 * theta[1:] @ theta[1:] + C * missed.sum())
    return float(0.5 * theta @ theta + C * (missed @ missed))


def measure(loss: str, name: str, rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of each fit, objective and peak memory beyond the data, in this process."""
    x, y = data(rows)
    if name == SPARK:
        about = {"model": "svm", "rows": rows, "C": C, "repeats": repeats, "threads": 2}
        found = _spark.measured(**about, rounds=100, tol=1e-6)
        return {**found, "objective": objective(loss, np.array(found["theta"]), x, y), "mb": None}
    fit = CONTENDERS[loss][name]
    if fit is None:
        raise ValueError(name)
    fit(x[:2000], y[:2000])  # imports and first-call costs
    before = peak_memory(reset=True)
    seconds, cpu = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        theta = fit(x, y)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    more = (peak_memory() - before) / 1e3
    return {
        "seconds": seconds,
        "cpu": cpu,
        "without": WITHOUT[-repeats:],
        "objective": objective(loss, theta, x, y),
        "mb": more,
    }


def alone(loss: str, name: str, rows: int, repeats: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    if name == SPARK:
        return measure(loss, name, rows, repeats)
    options = ["--one", loss, name, "--rows", str(rows), "--repeats", str(repeats)]
    command = [sys.executable, "-m", "benchmarks.svm", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(loss: str, rows: int, repeats: int, names: list[str]) -> None:
    found = {name: alone(loss, name, rows, repeats) for name in names}
    best = min(result["objective"] for result in found.values())
    base = statistics.median(found[names[0]]["seconds"])
    print(f"\n{loss}: {rows:,} rows x {COLUMNS} columns, {rows * COLUMNS * 8 / 1e6:,.0f} MB")
    print(f"{'':30}{'seconds':>18}{'CPU':>9}{'times':>8}{'gap':>10}{'memory':>10}")
    for name, result in found.items():
        median, least = statistics.median(result["seconds"]), min(result["seconds"])
        gap = (result["objective"] - best) / best
        memory = "-" if result["mb"] is None else f"{result['mb']:.0f} MB"
        print(
            f"{name:30}{median:>10.3f} ({least:.3f}){min(result['cpu']):>9.3f}"
            f"{median / base:>7.1f}x{gap:>10.0e}{memory:>10}"
        )
        if without := result.get("without"):
            print(f"{'  without':30}{statistics.median(without):>10.3f} ({min(without):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = list(dict.fromkeys(name for names in CONTENDERS.values() for name in names))
    parser.add_argument("--rows", type=float, nargs="+", default=[5e5])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--losses", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--only", nargs="+", default=every, choices=every)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, int(args.rows[0]), args.repeats)))
        return
    for loss in args.losses:
        names = _spark.without_spark([name for name in CONTENDERS[loss] if name in args.only])
        for rows in (int(r) for r in args.rows) if names else ():
            show(loss, rows, args.repeats, names)


if __name__ == "__main__":
    main()
