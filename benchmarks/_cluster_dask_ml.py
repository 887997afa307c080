"""dask-ml on the files of `scripts/bench cluster`: `python -m benchmarks._cluster_dask_ml JSON`.

Runs in an environment of its own. Two worker processes of one thread each; rows are dask arrays in
as many parts as there are row groups, and where they are kept they are in the workers' memory
before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _cluster_rows as rows

PEERS = ["dask-ml>=2025.1", "distributed", "numpy", "pandas", "pyarrow"]


def learner(model: str, iterations: int, tol: float) -> Any:
    if model == "k-means":
        from dask_ml.cluster import KMeans

        return KMeans(rows.CLUSTERS, random_state=0, max_iter=iterations, tol=tol)
    from dask_ml.linear_model import LogisticRegression

    return LogisticRegression(C=1 / rows.L2, solver="lbfgs", max_iter=iterations, tol=tol)


def read(path: str, start: int, stop: int) -> np.ndarray:
    """Row groups `start` to `stop` of a file, the outcome last."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        table = file.read_row_groups(list(range(start, stop)), use_threads=False)
    return np.column_stack([table[name].to_numpy() for name in table.column_names])


def lazy(files: str) -> tuple[Any, Any]:
    import dask
    import dask.array as da
    from pyarrow import parquet

    parts = []
    for path in sorted(map(str, Path(files).glob("*.parquet"))):
        about = parquet.read_metadata(path)
        one = dask.delayed(read)(path, 0, about.num_row_groups)
        parts.append(da.from_delayed(one, (about.num_rows, rows.COLUMNS + 1), "float64"))
    whole = da.concatenate(parts)
    return whole[:, : rows.COLUMNS], whole[:, rows.COLUMNS]


def main(about: dict[str, Any]) -> dict[str, Any]:
    from dask.distributed import Client, LocalCluster, wait

    def fit(x: Any, y: Any) -> Any:
        made = learner(about["model"], about["iterations"], about["tol"])
        return made.fit(x) if about["model"] == "k-means" else made.fit(x, y)

    def kept(files: str) -> tuple[Any, Any]:
        x, y = (one.persist() for one in lazy(files))
        wait([x, y])
        return x, y

    with (
        LocalCluster(about["workers"], threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        fit(*kept(about["few"]))
        here, seconds, reading = kept(about["files"]), [], []
        for _ in range(about["repeats"]):
            start = time.perf_counter()
            fitted = fit(*here)
            seconds.append(time.perf_counter() - start)
        del here
        for _ in range(about["repeats"]):
            start = time.perf_counter()
            fit(*kept(about["files"]))
            reading.append(time.perf_counter() - start)
    if about["model"] == "k-means":
        found = np.asarray(fitted.cluster_centers_).tolist()
    else:
        found = [float(np.ravel(fitted.intercept_)[0]), *np.ravel(fitted.coef_).tolist()]
    return {"cached": seconds, "read": reading, "found": found}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
