"""Gradient boosting and one deep tree, beside XGBoost, LightGBM and scikit-learn.

Each contender runs in a process of its own over the same made-up rows (30 columns, 256 bins) with
two threads, and bins its columns within the time that is printed. Printed per model: seconds
(median of the repeats, minimum in brackets), how many times as long as XGBoost's histograms, and
the log loss on other rows.

    scripts/bench trees [--rows 5e5] [--trees 100] [--repeats 3] [--only polyclinic ...]
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

COLUMNS, BINS, THREADS = 30, 256, 2
MODELS = {"boosting": {"depth": 6, "rate": 0.1}, "one tree": {"depth": 8, "rate": 1.0}}
Predict = Callable[[np.ndarray], np.ndarray]


def data(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, COLUMNS))
    eta = x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * np.sin(3 * x[:, 3]) - 0.5
    return x, (rng.uniform(size=rows) < 1.0 / (1.0 + np.exp(-eta))).astype(np.float64)


def polyclinic(x: np.ndarray, y: np.ndarray, trees: int, depth: int, rate: float) -> Predict:
    import polyclinic as pc

    model = pc.GradientBoostingClassifier(
        n_estimators=trees, max_depth=depth, learning_rate=rate, max_bins=BINS
    ).fit(x, y, engine=pc.Embedded(threads=THREADS))
    return lambda new: model.predict_proba(new)[:, 1]


def xgboost(x: np.ndarray, y: np.ndarray, trees: int, depth: int, rate: float) -> Predict:
    import xgboost as xgb

    options = {"objective": "binary:logistic", "tree_method": "hist", "nthread": THREADS}
    options |= {"max_depth": depth, "eta": rate, "max_bin": BINS}
    model = xgb.train(options, xgb.QuantileDMatrix(x, y, max_bin=BINS, nthread=THREADS), trees)
    return lambda new: model.predict(xgb.DMatrix(new))


def lightgbm(x: np.ndarray, y: np.ndarray, trees: int, depth: int, rate: float) -> Predict:
    import lightgbm as lgb

    options = {"objective": "binary", "num_threads": THREADS, "verbosity": -1, "max_bin": BINS - 1}
    options |= {"max_depth": depth, "num_leaves": 2**depth, "learning_rate": rate, "lambda_l2": 1.0}
    options |= {"min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 1.0}
    model = lgb.train(options, lgb.Dataset(x, y), trees)
    return lambda new: np.asarray(model.predict(new))


def sklearn(x: np.ndarray, y: np.ndarray, trees: int, depth: int, rate: float) -> Predict:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=trees, max_depth=depth, max_leaf_nodes=2**depth, learning_rate=rate, max_bins=255,
        l2_regularization=1.0, min_samples_leaf=1, early_stopping=False,
    ).fit(x, y)  # fmt: skip
    return lambda new: model.predict_proba(new)[:, 1]


CONTENDERS: dict[str, Callable[..., Predict]] = {
    "polyclinic": polyclinic,
    "xgboost": xgboost,
    "lightgbm": lightgbm,
    "scikit-learn": sklearn,
}


def measure(name: str, model: str, rows: int, trees: int, repeats: int) -> dict[str, Any]:
    """Seconds of each fit and the loss on other rows, in this process."""
    x, y = data(rows)
    new, label = data(50_000, seed=1)
    about = {"trees": trees if model == "boosting" else 1, **MODELS[model]}
    CONTENDERS[name](x[:2000], y[:2000], **about)  # imports, compilation, first-call costs
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        predict = CONTENDERS[name](x, y, **about)
        seconds.append(time.perf_counter() - start)
    p = np.clip(predict(new), 1e-7, 1 - 1e-7)
    loss = -float(np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)))
    return {"seconds": seconds, "loss": loss}


def alone(name: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.trees", "--one", name, model]
    command += ["--rows", str(args.rows), "--trees", str(args.trees)]
    command += ["--repeats", str(args.repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=5e5)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, int(args.rows), args.trees, args.repeats)))
        return
    print(f"{int(args.rows):,} rows x {COLUMNS} columns, {BINS} bins, {THREADS} threads")
    for model, about in MODELS.items():
        many = args.trees if model == "boosting" else 1
        print(f"\n{model}: {many} of depth {about['depth']}")
        found = {name: alone(name, model, args) for name in args.only}
        base = statistics.median(found.get("xgboost", found[args.only[0]])["seconds"])
        print(f"{'':14}{'seconds':>18}{'times':>8}{'loss':>9}")
        for name, result in found.items():
            median, least = statistics.median(result["seconds"]), min(result["seconds"])
            times = f"{median / base:>7.2f}x"
            print(f"{name:14}{median:>10.3f} ({least:.3f}){times}{result['loss']:>9.5f}")


if __name__ == "__main__":
    main()
