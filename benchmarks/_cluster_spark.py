"""Spark MLlib on the files of `scripts/bench cluster`: `python -m benchmarks._cluster_spark JSON`.

Runs in Spark's own environment; see `_spark.py`. Where rows are kept in memory they are counted
before the clock starts, with the vectors that Spark's learners take.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

from benchmarks import _cluster_rows as rows
from benchmarks._spark import _chances, _session


def learner(model: str, n: int, iterations: int, tol: float) -> Any:
    from pyspark.ml import classification as ml
    from pyspark.ml.clustering import KMeans

    weight = rows.L2 / n  # Spark minimises the mean of the losses
    stop = {"maxIter": iterations, "tol": tol}
    if model == "logistic":
        return ml.LogisticRegression(regParam=weight, standardization=False, **stop)
    if model == "hinge":
        return ml.LinearSVC(regParam=weight, standardization=False, **stop)
    if model == "k-means":
        return KMeans(k=rows.CLUSTERS, seed=0, **stop)
    sizes = {"maxDepth": rows.DEPTH, "maxBins": rows.BINS, "maxMemoryInMB": 1024}
    return ml.DecisionTreeClassifier(cacheNodeIds=True, seed=0, **sizes)


def frame(spark: Any, files: str, keep: bool) -> Any:
    from pyspark.ml.feature import VectorAssembler
    from pyspark.sql.functions import col

    read = spark.read.parquet(files)
    named = read.withColumn("label", col("y").cast("double"))
    whole = VectorAssembler(inputCols=rows.NAMES, outputCol="features").transform(named)
    found = whole.select("features", "label")
    if keep:
        found = found.repartition(spark.sparkContext.defaultParallelism).cache()
        found.count()
    return found


def found_by(model: str, fitted: Any, spark: Any, new: str) -> Any:
    if model == "k-means":
        return [centre.tolist() for centre in fitted.clusterCenters()]
    if model == "tree":
        return _chances(fitted, frame(spark, new, False).coalesce(1))[0].tolist()
    return [fitted.intercept, *fitted.coefficients.toArray().tolist()]


def main(about: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        spark = _session(folder, about["workers"])
        make = learner(about["model"], about["rows"], about["iterations"], about["tol"])
        make.fit(frame(spark, about["few"], True))  # classes are loaded
        kept, seconds, reading = frame(spark, about["files"], True), [], []
        for _ in range(about["repeats"]):
            start = time.perf_counter()
            fitted = make.fit(kept)
            seconds.append(time.perf_counter() - start)
        kept.unpersist(True)
        for _ in range(about["repeats"]):
            start = time.perf_counter()
            again = frame(spark, about["files"], True)
            make.fit(again)
            reading.append(time.perf_counter() - start)
            again.unpersist(True)
        result = {"cached": seconds, "read": reading}
        result["found"] = found_by(about["model"], fitted, spark, about["new"])
        spark.stop()
    return result


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
