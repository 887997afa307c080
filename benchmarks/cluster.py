"""A hospital's cluster beside dask-ml and Spark MLlib, its rounds, its memory and its growth.

peers      logistic regression, linear SVM (hinge), one tree and k-means over the same Parquet
           files, two local workers each, to the same objective; in memory, and with the read
overhead   milliseconds of a round with next to nothing to compute, beside Dask's own ways
large      files larger than the workers' memory: peak memory of each worker and rows a second,
           beside pyarrow's decoder on the same files
growth     seconds by rows and workers, and a model of up to 1024 workers from what is measured
tree       32 tasks of Spark whose sums come one by one, or are added at the executors

scripts/bench cluster [--part peers overhead large growth tree] [--rows 1e6] [--repeats 3]
                      [--models logistic ...] [--only Polyclinic ...] [--gigabytes 8]
                      [--fits GLM boosting k-means] [--memory "1 GiB"]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks import (
    _cluster_growth,
    _cluster_large,
    _cluster_overhead,
    _cluster_peers,
    _cluster_tree,
)
from benchmarks._cluster_peers import DASK, HOSPITAL, MODELS, ONE, OURS, SPARK

PARTS = ("peers", "overhead", "large", "growth", "tree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [OURS, HOSPITAL, SPARK, DASK]
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--rows", type=lambda given: int(float(given)), default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--only", nargs="+", default=every, choices=every)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    fits = _cluster_large.FITS
    parser.add_argument("--fits", nargs="+", default=list(fits), choices=fits, help="in part large")
    parser.add_argument("--memory", default="1 GiB", help="of a worker, in part large")
    parser.add_argument("--folder", type=Path, help="where files are made, and removed after")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, about = args.one[0], json.loads(args.one[1])
        print(json.dumps(ONE[name](about["model"], about)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what was made is still removed
    with tempfile.TemporaryDirectory(prefix="polyclinic-bench-", dir=args.folder) as name:
        folder = Path(name)
        for part in args.part:
            print(f"\n== {part}", flush=True)
            if part == "peers":
                _cluster_peers.show(folder / part, args)
            elif part == "overhead":
                _cluster_overhead.show(args)
            elif part == "large":
                _cluster_large.show(folder / part, args)
            elif part == "growth":
                _cluster_growth.show(folder / part, args)
            else:
                _cluster_tree.show(args)


if __name__ == "__main__":
    main()
