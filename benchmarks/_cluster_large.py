"""Part `large` of `scripts/bench cluster`: files larger than the workers' memory.

A hospital's files (30 columns of numbers that hardly compress) are read by two local workers, each
of which is to stay below a limit. Printed are each worker's peak of resident memory (VmHWM of its
process, Linux), and that of the process that asks, seconds, and rows a second of a round; beside
what pyarrow's decoder alone takes for the same columns with as many processes. A quarter of what a
worker may take is given to the columns.
"""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
from dask.utils import parse_bytes

from benchmarks import _cluster_rows as rows

USED = 8  # columns of the models
TERMS = " + ".join(rows.NAMES[:USED])
OF_COLUMNS = 0.25  # of a worker's limit; the program itself, blocks and sums need the rest
WORKERS = 2
FITS = ("GLM", "boosting", "k-means")


def show(folder: Path, args: Any) -> None:
    """Make files, compute over them, say what it took, and take them away."""
    asked = int(args.gigabytes * 1e9)
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free
    if free < 1.5 * asked:
        raise SystemExit(f"{asked / 1e9:.1f} GB of files need 1.5 times as much; {free / 1e9:.0f}")
    n, limit = asked // rows.ROW_BYTES, int(parse_bytes(args.memory))
    start = time.perf_counter()
    files = rows.write(folder, n)
    size = sum(one.stat().st_size for one in files.iterdir())
    print(
        f"{n:,} rows, {size / 1e9:.2f} GB of Parquet ({time.perf_counter() - start:.0f} s)",
        flush=True,
    )
    try:
        decoder(files, n)
        for name in args.fits:
            show_one(name, files, n, limit)
    finally:
        shutil.rmtree(folder)


def decoder(files: Path, n: int) -> None:
    """pyarrow alone: all row groups of the columns that the models use."""
    parts = sorted(map(str, files.iterdir()))
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        list(pool.map(decoded, parts[:WORKERS]))
        start = time.perf_counter()
        found = sum(pool.map(decoded, parts))
        seconds = time.perf_counter() - start
    assert found == n
    print(
        f"{'pyarrow decoder':12} {seconds:8.1f} s a pass {n / seconds / 1e6:8.2f} M rows/s",
        flush=True,
    )


def decoded(path: str) -> int:
    from pyarrow import parquet

    found = 0
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            names = [*rows.NAMES[:USED], "y"]
            found += file.read_row_group(group, columns=names, use_threads=False).num_rows
    return found


def show_one(name: str, files: Path, n: int, limit: int) -> None:
    """One model on workers of its own, so that each peak is its own."""
    import polyclinic as pc

    formula = f"~ {TERMS}" if name == "k-means" else f"y ~ {TERMS}"
    with pc.cluster(workers=WORKERS, memory=int(OF_COLUMNS * limit)) as c:
        pids = list(c.worker_pids().values())
        data = pc.scan(files / "*.parquet", schema=files.parent / "rows.toml")
        started, failed = time.perf_counter(), ""
        try:
            model = learner(name).fit(data, formula, engine=c)
        except pc.PolyclinicError as error:
            failed = f"{error.code}: {error.what}"
        seconds = time.perf_counter() - started
        peaks = [peak(pid) for pid in pids]
    told = " and ".join(f"{one / 2**20:,.0f} MiB" for one in peaks)
    held = "holds" if max(peaks) <= limit else "DOES NOT HOLD"
    if failed:
        print(f"{name:12} {failed}; peak {told}: {held}", flush=True)
        return
    slow = sorted(done.seconds for done in model.rounds_)
    middle = slow[len(slow) // 2]
    print(
        f"{name:12} {seconds:8.1f} s, {len(slow)} rounds of {middle:.1f} s (median), "
        f"{n / middle / 1e6:.2f} M rows/s a round; peak {told}: {held}; "
        f"of the process that asks {peak(os.getpid()) / 2**20:,.0f} MiB by now",
        flush=True,
    )


def learner(name: str) -> Any:
    import polyclinic as pc

    if name == "GLM":
        return pc.LogisticRegression(l2=rows.L2)
    if name == "boosting":
        return pc.GradientBoostingClassifier(n_estimators=5, max_depth=4, max_bins=256)
    return pc.KMeans(4, max_iter=5)


def peak(pid: int) -> int:
    """Peak of resident memory of a process, in bytes (Linux)."""
    if not psutil.pid_exists(pid):
        raise RuntimeError(f"worker {pid} ended before it was looked at")
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
