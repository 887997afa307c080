"""Logistic regression, exact, with standard errors, beside scikit-learn and a plain numpy Newton.

Each contender runs in a process of its own over the same made-up rows (50 columns, L2 penalty 1).
Printed per size: seconds of the fit (median of the repeats, minimum in brackets), how many times
longer than Polyclinic, the gap of the penalised objective to the best found, and memory beyond the
data at the peak. Polyclinic's fit includes its input check and exact standard errors.

    scripts/bench glm [--rows 1e5 1e6 4e6] [--repeats 3] [--only polyclinic ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS, L2 = 50, 1.0


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, COLUMNS))
    eta = x @ (rng.standard_normal(COLUMNS) * 0.2) - 0.5
    return x, (rng.uniform(size=rows) < 1.0 / (1.0 + np.exp(-eta))).astype(np.float64)


def polyclinic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import polyclinic as pc

    model = pc.LogisticRegression(l2=L2).fit(x, y)
    model.summary()
    return np.concatenate([model.intercept_, model.coef_[0]])


def sklearn(solver: str, tol: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def run(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=1 / L2, solver=solver, tol=tol, max_iter=1000).fit(x, y)
        return np.concatenate([model.intercept_, model.coef_[0]])

    return run


def numpy_newton(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    full = np.column_stack([np.ones(len(x)), x])
    theta, ridge = np.zeros(COLUMNS + 1), np.r_[0.0, np.full(COLUMNS, L2)]
    for _ in range(25):
        p = 1.0 / (1.0 + np.exp(-(full @ theta)))
        gradient = full.T @ (p - y) + ridge * theta
        hessian = full.T @ ((p * (1 - p))[:, None] * full) + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        theta -= step
        if gradient @ step < 1e-16:
            break
    return theta


CONTENDERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "polyclinic": polyclinic,
    "scikit-learn newton-cholesky": sklearn("newton-cholesky", 1e-4),
    "scikit-learn lbfgs": sklearn("lbfgs", 1e-5),
    "numpy Newton": numpy_newton,
}


def objective(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    eta = x @ theta[1:] + theta[0]
    return float(np.logaddexp(0, eta).sum() - y @ eta + 0.5 * L2 * theta[1:] @ theta[1:])


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


def peak_memory(reset: bool = False) -> int:
    """Peak resident memory of this process in kB; `reset` starts the peak anew (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def alone(name: str, rows: int, repeats: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.glm",
        "--one",
        name,
        "--rows",
        str(rows),
        "--repeats",
        str(repeats),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e6, 4e6])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, int(args.rows[0]), args.repeats)))
        return
    ours = {}
    for rows in (int(r) for r in args.rows):
        found = {name: alone(name, rows, args.repeats) for name in args.only}
        best = min(result["objective"] for result in found.values())
        base = statistics.median(found[args.only[0]]["seconds"])
        ours[rows] = base
        print(f"\n{rows:,} rows x {COLUMNS} columns, {rows * COLUMNS * 8 / 1e6:,.0f} MB")
        print(f"{'':30}{'seconds':>18}{'times':>8}{'gap':>10}{'memory':>10}")
        for name, result in found.items():
            median, least = statistics.median(result["seconds"]), min(result["seconds"])
            gap = (result["objective"] - best) / best
            print(
                f"{name:30}{median:>10.3f} ({least:.3f}){median / base:>7.1f}x{gap:>10.0e}"
                f"{result['mb']:>7.0f} MB"
            )
    sizes = sorted(ours)
    for small, large in pairwise(sizes):
        times = ours[large] / ours[small]
        print(f"\n{large / small:.0f} times the rows: {times:.1f} times the time")


if __name__ == "__main__":
    main()
