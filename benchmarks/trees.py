"""Gradient boosting and one deep tree, beside XGBoost, LightGBM, scikit-learn and Spark.

Each contender runs in a process of its own over the same made-up rows (30 columns, 256 bins) with
two threads, and bins its columns within the time that is printed. Printed per model: seconds
(median of the repeats, minimum in brackets) and CPU seconds, how many times as long as XGBoost's
histograms, and the log loss on other rows; of Polyclinic and XGBoost also the seconds after the
bins, of the trees alone.

Spark's rows are in its memory and counted before the clock starts. It has another criterion: its
tree splits by Gini impurity and holds shares of classes, its boosting fits trees to gradients by
variance, where the others take Newton steps. It boosts ten trees only.

    scripts/bench trees [--rows 5e5] [--trees 100] [--repeats 3] [--threads 2]
                        [--models "one tree" ...] [--only polyclinic ...]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _spark

COLUMNS, BINS = 30, 256
MODELS: dict[str, dict[str, Any]] = {
    "boosting": {"depth": 6, "rate": 0.1},
    "ten trees": {"trees": 10, "depth": 6, "rate": 0.1},
    "one tree": {"trees": 1, "depth": 8, "rate": 1.0},
}
SPARK = {"Spark GBTClassifier": "ten trees", "Spark DecisionTreeClassifier": "one tree"}
Predict = Callable[[np.ndarray], np.ndarray]
AFTER: list[float] = []  # seconds of each fit after its bins were there


def data(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, COLUMNS))
    eta = x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * np.sin(3 * x[:, 3]) - 0.5
    return x, (rng.uniform(size=rows) < 1.0 / (1.0 + np.exp(-eta))).astype(np.float64)


def polyclinic(
    x: np.ndarray, y: np.ndarray, trees: int, depth: int, rate: float, threads: int
) -> Predict:
    import polyclinic as pc

    rounds = []  # when each ended; the first one bins
    model = pc.GradientBoostingClassifier(
        n_estimators=trees, max_depth=depth, learning_rate=rate, max_bins=BINS
    ).fit(
        x,
        y,
        engine=pc.Embedded(threads=threads),
        callbacks=[lambda done: rounds.append(time.perf_counter())],
    )
    AFTER.append(time.perf_counter() - rounds[0])
    return lambda new: model.predict_proba(new)[:, 1]


def xgboost(
    x: np.ndarray, y: np.ndarray, trees: int, depth: int, rate: float, threads: int
) -> Predict:
    import xgboost as xgb

    options = {"objective": "binary:logistic", "tree_method": "hist", "nthread": threads}
    options |= {"max_depth": depth, "eta": rate, "max_bin": BINS}
    bins = xgb.QuantileDMatrix(x, y, max_bin=BINS, nthread=threads)
    start = time.perf_counter()
    model = xgb.train(options, bins, trees)
    AFTER.append(time.perf_counter() - start)
    return lambda new: model.predict(xgb.DMatrix(new))


def lightgbm(
    x: np.ndarray, y: np.ndarray, trees: int, depth: int, rate: float, threads: int
) -> Predict:
    import lightgbm as lgb

    options = {"objective": "binary", "num_threads": threads, "verbosity": -1, "max_bin": BINS - 1}
    options |= {"max_depth": depth, "num_leaves": 2**depth, "learning_rate": rate, "lambda_l2": 1.0}
    options |= {"min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 1.0}
    model = lgb.train(options, lgb.Dataset(x, y), trees)
    return lambda new: np.asarray(model.predict(new))


def sklearn(
    x: np.ndarray, y: np.ndarray, trees: int, depth: int, rate: float, threads: int
) -> Predict:
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


def asked(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """A model's parameters."""
    return {"trees": args.trees, "threads": args.threads, **MODELS[model]}


def measure(name: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each fit and the loss on other rows, in this process."""
    x, y = data(args.rows)
    new, label = data(50_000, seed=1)
    about = asked(model, args)
    CONTENDERS[name](x[:2000], y[:2000], **about)  # imports, compilation, first-call costs
    seconds, cpu = [], []
    for _ in range(args.repeats):
        start, used = time.perf_counter(), time.process_time()
        predict = CONTENDERS[name](x, y, **about)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    p = np.clip(predict(new), 1e-7, 1 - 1e-7)
    loss = -float(np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)))
    return {"seconds": seconds, "cpu": cpu, "loss": loss, "after": AFTER[-args.repeats :]}


def alone(name: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    if name in SPARK:
        about = {**asked(model, args), "model": model, "bins": BINS}
        return _spark.measured(**about, rows=args.rows, repeats=args.repeats)
    command = [sys.executable, "-m", "benchmarks.trees", "--one", name, model]
    for option in ("rows", "trees", "repeats", "threads"):
        command += [f"--{option}", str(getattr(args, option))]
    limits = {} if args.threads > 1 else {"OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **limits}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(model: str, args: argparse.Namespace, names: list[str]) -> None:
    about = asked(model, args)
    print(f"\n{model}: {about['trees']} of depth {about['depth']}")
    found = {name: alone(name, model, args) for name in names}
    base = statistics.median(found.get("xgboost", found[names[0]])["seconds"])
    print(f"{'':30}{'seconds':>18}{'CPU':>9}{'times':>8}{'loss':>9}{'after bins':>12}")
    for name, result in found.items():
        median, least = statistics.median(result["seconds"]), min(result["seconds"])
        times = f"{min(result['cpu']):>9.3f}{median / base:>7.2f}x"
        after = f"{statistics.median(result['after']):>12.3f}" if result.get("after") else ""
        print(f"{name:30}{median:>10.3f} ({least:.3f}){times}{result['loss']:>9.5f}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [*CONTENDERS, *SPARK]
    parser.add_argument("--rows", type=lambda given: int(float(given)), default=500_000)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--only", nargs="+", default=every, choices=every)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args)))
        return
    print(f"{args.rows:,} rows x {COLUMNS} columns, {BINS} bins, {args.threads} threads")
    for model in args.models:
        own = [name for name in args.only if SPARK.get(name, model) == model]
        if names := _spark.without_spark(own):
            show(model, args, names)


if __name__ == "__main__":
    main()
