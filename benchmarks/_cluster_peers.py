"""Part `peers` of `scripts/bench cluster`: the same learners, rows and machine, two local workers.

Polyclinic stands there twice: over the arrays of one trust domain, as its peers compute, and as a
hospital, over the files, with the gate, the check of what sums show of patients, and the ledger,
which no peer has. "In memory" is that of the workers, for all contenders; a line of its own tells
what it takes where the process that asks gives its rows to the workers in each fit.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import _cluster_rows as rows
from benchmarks import _spark
from benchmarks._cluster_dask_ml import PEERS
from benchmarks._environment import apart

MODELS = ("logistic", "hinge", "tree", "k-means")
SPARK, DASK = "Spark MLlib local[2]", "dask-ml"
FEW = 150_000  # rows of a first fit, after which what is compiled is
OURS, HOSPITAL = "Polyclinic", "Polyclinic, files and gate"
GIVEN = "rows given with each fit"
# Rounds at most and tolerance with which the peers come near the best objective.
STOP = {"logistic": (200, 1e-9), "hinge": (300, 1e-7), "tree": (1, 0.0), "k-means": (100, 1e-4)}


def polyclinic(model: str) -> Any:
    import polyclinic as pc

    if model == "logistic":
        return pc.LogisticRegression(l2=rows.L2)
    if model == "hinge":
        return pc.LinearSVC(C=rows.L2, loss="hinge")
    if model == "k-means":
        return pc.KMeans(rows.CLUSTERS)
    return pc.DecisionTreeClassifier(max_depth=rows.DEPTH, max_bins=rows.BINS)


def found_by(model: str, fitted: Any, new: Any) -> Any:
    if model == "k-means":
        return fitted.cluster_centers_.tolist()
    if model == "tree":
        return fitted.predict_proba(new)[:, 1].tolist()
    return [*fitted.intercept_.tolist(), *fitted.coef_[0].tolist()]


def ours(model: str, about: dict[str, Any]) -> dict[str, Any]:
    """Over arrays: those that workers hold, or that are given with each fit, or with the read."""
    import polyclinic as pc

    files, few = Path(about["files"]), Path(about["few"])
    new, _ = rows.arrays(Path(about["new"]))
    with pc.cluster(workers=about["workers"]) as c:

        def fit(x: Any, y: Any) -> Any:
            given = (x,) if model == "k-means" else (x, y)
            return polyclinic(model).fit(*given, engine=c)

        fit(*rows.arrays(few))
        given, kept, reading = [], [], []
        x, y = rows.arrays(files)
        for seconds in (given, kept):
            if seconds is kept:
                x = c.hold(x)
                fit(x, y)  # from now on they are there
            for _ in range(about["repeats"]):
                start = time.perf_counter()
                fitted = fit(x, y)
                seconds.append(time.perf_counter() - start)
        c.let_go(x)
        del x
        for _ in range(about["repeats"]):
            start = time.perf_counter()
            fit(*rows.arrays(files))
            reading.append(time.perf_counter() - start)
    found = found_by(model, fitted, new)
    return {"cached": kept, "read": reading, "given": given, "found": found}


def hospital(model: str, about: dict[str, Any]) -> dict[str, Any]:
    """Over files: those of a scan that has been read, with new ledgers, or of a new scan."""
    import polyclinic as pc

    files, few = Path(about["files"]), Path(about["few"])
    formula = f"~ {rows.TERMS}" if model == "k-means" else f"y ~ {rows.TERMS}"
    new = rows.frame(Path(about["new"]))

    def scan(folder: Path) -> Any:
        return pc.scan(folder / "*.parquet", schema=folder.parent / "rows.toml")

    with pc.cluster(workers=about["workers"]) as c:

        def fit(data: Any) -> Any:
            start = time.perf_counter()
            fitted = polyclinic(model).fit(data, formula, engine=c)
            return time.perf_counter() - start, fitted

        fit(scan(few))
        reading, kept = [], []
        for _ in range(about["repeats"]):
            data = scan(files)
            reading.append(fit(data)[0])
        for _ in range(about["repeats"]):
            seconds, fitted = fit(pc.read({"hospital": data}, schema=files.parent / "rows.toml"))
            kept.append(seconds)
    return {"cached": kept, "read": reading, "found": found_by(model, fitted, new)}


def alone(name: str, model: str, about: dict[str, Any]) -> dict[str, Any]:
    """One contender in a process of its own; {"failed": why} where it does not get there."""
    iterations, tol = STOP[model]
    options = {**about, "model": model, "iterations": iterations, "tol": tol}
    python, module = sys.executable, "benchmarks.cluster"
    command = [python, "-m", module, "--one", name, json.dumps(options)]
    if name == SPARK:
        python, module = str(_spark._home), "benchmarks._cluster_spark"
    elif name == DASK:
        python, module = str(apart("dask-ml", PEERS)), "benchmarks._cluster_dask_ml"
    if name in (SPARK, DASK):
        command = [python, "-m", module, json.dumps(options)]
    local = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=local, timeout=900
        )
    except subprocess.TimeoutExpired:
        return {"failed": "not done after 900 s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["ended"])[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def contenders(model: str, only: list[str]) -> list[str]:
    names = [OURS, HOSPITAL, SPARK]
    if model in ("logistic", "k-means"):  # dask-ml has no others
        names.append(DASK)
    return [name for name in names if name in only]


def show(folder: Path, args: Any) -> None:
    """Every model by every contender."""
    files = rows.write(folder, args.rows)
    few, new = (
        rows.write(folder / "few", FEW, 10**9),
        rows.write(folder / "new", 50_000, 2 * 10**9),
    )
    about = {"files": str(files), "few": str(few), "new": str(new), "rows": args.rows}
    about |= {"repeats": args.repeats, "workers": 2}
    print(f"{args.rows:,} rows x {rows.COLUMNS}, two workers; seconds of a fit, median (least)")
    only = args.only
    if SPARK in only and (why := _spark.missing()):
        print(f"without Spark: {why}", file=sys.stderr)
        only = [name for name in only if name != SPARK]
    for model in args.models:
        found = {name: alone(name, model, about) for name in contenders(model, only)}
        table(model, found, rows.arrays(new) if model == "tree" else rows.arrays(files))


def table(model: str, found: dict[str, Any], data: Any) -> None:
    good = {name: one for name, one in found.items() if "failed" not in one}
    scores = {name: rows.OBJECTIVES[model](one["found"], *data) for name, one in good.items()}
    if not good:
        return
    first = next(iter(good.values()))
    best = min(scores.values())
    what = "loss" if model == "tree" else "gap"
    print(f"\n{model:30}{'in memory':>18}{'times':>7}{'with read':>18}{'times':>7}{what:>10}")
    for name, one in found.items():
        if "failed" in one:
            print(f"{name:30}  {one['failed']}")
            continue
        line = f"{name:30}"
        for way in ("cached", "read"):
            middle, base = statistics.median(one[way]), statistics.median(first[way])
            line += f"{middle:>10.3f} ({min(one[way]):.2f}){middle / base:>6.1f}x"
        score = f"{scores[name]:.5f}" if model == "tree" else f"{(scores[name] - best) / best:.0e}"
        print(f"{line}{score:>10}", flush=True)
        if given := one.get("given"):
            middle = statistics.median(given)
            print(f"  {GIVEN:28}{middle:>10.3f} ({min(given):.2f})", flush=True)


ONE = {OURS: ours, HOSPITAL: hospital}
