"""Linear support vector machine, squared hinge, beside scikit-learn's LinearSVC and SGDClassifier.

Each contender runs in a process of its own over the same made-up rows (50 columns, C = 1). Printed:
seconds of the fit (median of the repeats, minimum in brackets), how many times longer than
Polyclinic, the gap of the objective to the best found, and memory beyond the data at the peak.
The intercept is penalised as liblinear does. Polyclinic's fit includes its input check
and the curve of the probabilities, which the others do not have.

    scripts/bench svm [--rows 5e5] [--repeats 3] [--only polyclinic ...]
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

from benchmarks.glm import COLUMNS, data, peak_memory

C = 1.0
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]


def polyclinic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import polyclinic as pc

    model = pc.LinearSVC(C=C, intercept_scaling=1.0).fit(x, y)
    return np.concatenate([model.intercept_, model.coef_[0]])


def linear_svc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=C, dual=False).fit(x, y)
    return np.concatenate([model.intercept_, model.coef_[0]])


def sgd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="squared_hinge", alpha=1 / (C * len(x)), random_state=0).fit(x, y)
    return np.concatenate([model.intercept_, model.coef_[0]])


CONTENDERS: dict[str, Fit] = {
    "polyclinic": polyclinic,
    "scikit-learn LinearSVC": linear_svc,
    "scikit-learn SGDClassifier": sgd,
}


def objective(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    missed = np.maximum(1.0 - (2.0 * y - 1.0) * (x @ theta[1:] + theta[0]), 0.0)
    return float(0.5 * theta @ theta + C * (missed @ missed))


def measure(name: str, rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of each fit, objective and peak memory beyond the data, in this process."""
    x, y = data(rows)
    CONTENDERS[name](x[:2000], y[:2000])  # imports and first-call costs
    before = peak_memory(reset=True)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        theta = CONTENDERS[name](x, y)
        seconds.append(time.perf_counter() - start)
    more = (peak_memory() - before) / 1e3
    return {"seconds": seconds, "objective": objective(theta, x, y), "mb": more}


def alone(name: str, rows: int, repeats: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    options = ["--one", name, "--rows", str(rows), "--repeats", str(repeats)]
    command = [sys.executable, "-m", "benchmarks.svm", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[5e5])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, int(args.rows[0]), args.repeats)))
        return
    for rows in (int(r) for r in args.rows):
        found = {name: alone(name, rows, args.repeats) for name in args.only}
        best = min(result["objective"] for result in found.values())
        base = statistics.median(found[args.only[0]]["seconds"])
        print(f"\n{rows:,} rows x {COLUMNS} columns, {rows * COLUMNS * 8 / 1e6:,.0f} MB")
        print(f"{'':30}{'seconds':>18}{'times':>8}{'gap':>10}{'memory':>10}")
        for name, result in found.items():
            median, least = statistics.median(result["seconds"]), min(result["seconds"])
            gap = (result["objective"] - best) / best
            print(
                f"{name:30}{median:>10.3f} ({least:.3f}){median / base:>7.1f}x{gap:>10.0e}"
                f"{result['mb']:>7.0f} MB"
            )


if __name__ == "__main__":
    main()
