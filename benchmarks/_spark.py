"""Spark MLlib as a peer: its fits run in `.venv-bench-spark`, on this machine.

This module runs there: `python -m benchmarks._spark OPTIONS`, OPTIONS as JSON. The rows are written
as Parquet, read by Spark, kept in its memory and counted before the clock starts, and Spark has
fitted a few rows before. What is found goes back as one line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PEERS = ["pyspark>=4.0", "numpy", "pyarrow"]
JAVA = 17  # the oldest that Spark 4 runs on
MEMORY = "8g"
GROUP = 65_536  # rows of a file
_home: Path | None = None


def missing() -> str:
    """Why Spark cannot run here; empty where it can. Makes its environment on first use."""
    global _home
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None:
        return f"there is no Java; it needs Java {JAVA} or newer"
    about = subprocess.run([java, "-version"], check=False, capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', about)
    if version is None or int(version[1]) < JAVA:
        return f"its Java is {version[1] if version else 'broken'}; it needs {JAVA} or newer"
    from benchmarks._environment import apart

    try:
        _home = apart("spark", PEERS)
    except subprocess.CalledProcessError:
        return "it could not be installed"
    return ""


def without_spark(names: list[str]) -> list[str]:
    """These contenders, less Spark's where it cannot run, which is said in a line."""
    spark = [name for name in names if name.startswith("Spark")]
    if spark and (why := missing()):
        print(f"without {', '.join(spark)}: {why}", file=sys.stderr)
        return [name for name in names if name not in spark]
    return names


def measured(**options: Any) -> dict[str, Any]:
    """What `main` prints, from Spark's own environment; call `missing` first."""
    command = [str(_home), "-m", "benchmarks._spark", json.dumps(options)]
    local = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=local)
    if done.returncode:
        raise RuntimeError(f"Spark ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _session(folder: str, threads: int) -> Any:
    from pyspark.sql import SparkSession

    options = {
        "spark.driver.memory": MEMORY,
        "spark.driver.host": "localhost",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": folder,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.shuffle.partitions": str(threads),
    }
    builder = SparkSession.builder.master(f"local[{threads}]")
    for name, value in options.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def _frame(spark: Any, rows: tuple[np.ndarray, np.ndarray], folder: Path) -> Any:
    """The rows as Spark reads them from Parquet, kept in memory."""
    import pyarrow as pa
    from pyarrow import parquet
    from pyspark.ml.feature import VectorAssembler

    x, y = rows
    folder.mkdir()
    names = [f"x{j}" for j in range(x.shape[1])]
    for start in range(0, len(x), GROUP):
        part = slice(start, start + GROUP)
        table = pa.table([*x[part].T, y[part]], [*names, "label"])
        parquet.write_table(table, folder / f"{start:09}.parquet")
    assembler = VectorAssembler(inputCols=names, outputCol="features")
    read = assembler.transform(spark.read.parquet(str(folder))).select("features", "label")
    frame = read.repartition(spark.sparkContext.defaultParallelism).cache()
    if frame.count() != len(x):
        raise RuntimeError("rows were lost on their way into Spark")
    return frame


def _estimator(about: dict[str, Any]) -> Any:
    from pyspark.ml import classification as ml

    if about["model"] == "svm":
        # Spark minimises the mean of the losses and this times |w|^2 / 2.
        weight = 1.0 / (about["C"] * about["rows"])
        return ml.LinearSVC(
            regParam=weight, standardization=False, maxIter=about["rounds"], tol=about["tol"]
        )
    shared = {"maxDepth": about["depth"], "maxBins": about["bins"], "seed": 0}
    shared |= {"maxMemoryInMB": 1024, "cacheNodeIds": True}
    if about["model"] == "one tree":
        return ml.DecisionTreeClassifier(**shared)
    return ml.GBTClassifier(maxIter=about["trees"], stepSize=about["rate"], **shared)


def _chances(model: Any, frame: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probability of class 1, and the class, of every row."""
    from pyspark.ml.functions import vector_to_array

    chosen = vector_to_array("probability")[1].alias("p")
    found = np.array(model.transform(frame).select(chosen, "label").collect())
    return found[:, 0], found[:, 1]


def _cpu(spark: Any) -> float:
    """CPU seconds of Spark's own process up to now (Linux)."""
    fields = Path(f"/proc/{spark.sparkContext._gateway.proc.pid}/stat").read_text()
    used = fields.rpartition(")")[2].split()
    return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def _rows(about: dict[str, Any], rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    if about["model"] == "svm":
        from benchmarks.glm import data

        return data(rows)
    from benchmarks.trees import data as of_trees

    return of_trees(rows, seed)


def main(about: dict[str, Any]) -> dict[str, Any]:
    """Seconds and CPU seconds of each fit; coefficients of a machine, or the loss of trees."""
    with tempfile.TemporaryDirectory() as name:
        spark, folder = _session(name, about["threads"]), Path(name)
        frame = _frame(spark, _rows(about, about["rows"]), folder / "rows")
        few = _frame(spark, _rows(about, 2000), folder / "few")
        estimator = _estimator(about)
        estimator.fit(few)
        seconds, cpu = [], []
        for _ in range(about["repeats"]):
            start, used = time.perf_counter(), _cpu(spark)
            model = estimator.fit(frame)
            seconds.append(time.perf_counter() - start)
            cpu.append(_cpu(spark) - used)
        result: dict[str, Any] = {"seconds": seconds, "cpu": cpu}
        if about["model"] == "svm":
            result["theta"] = [model.intercept, *model.coefficients.toArray().tolist()]
            result["rounds"] = model.summary().totalIterations
        else:
            p, label = _chances(model, _frame(spark, _rows(about, 50_000, 1), folder / "new"))
            p = np.clip(p, 1e-7, 1 - 1e-7)
            result["loss"] = -float(np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)))
        spark.stop()
    return result


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
