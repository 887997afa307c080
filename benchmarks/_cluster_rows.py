"""The rows that `scripts/bench cluster` is about: made up, in Parquet files, and what is found in
them. Needs numpy and pyarrow only, as peers run in environments of their own.

Eight clouds of 30 columns with a variance of one; the outcome follows a line and a product of two
columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

COLUMNS, CLUSTERS, DEPTH, BINS = 30, 8, 6, 256
L2 = 1.0  # of 1/2 |coef|^2 beside the sum of the losses; C of a support vector machine
NAMES = [f"x{j}" for j in range(COLUMNS)]
TERMS = " + ".join(NAMES)
A_FILE, GROUP = 262_144, 65_536  # rows of a file, and of a row group
ROW_BYTES = 8 * COLUMNS + 1


def part(start: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows from `start` on, (rows, COLUMNS), and their outcomes; the same whenever asked."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng([1, start])
    centres, line = fixed.normal(size=(CLUSTERS, COLUMNS)), fixed.normal(size=COLUMNS) * 0.2
    x = centres[rng.integers(0, CLUSTERS, rows)] + rng.standard_normal((rows, COLUMNS))
    eta = x @ line + 0.5 * x[:, 1] * x[:, 2] - 0.5
    return x, (rng.uniform(size=rows) < 1.0 / (1.0 + np.exp(-eta))).astype(np.float64)


def write(folder: Path, rows: int, first: int = 0) -> Path:
    """Files of `rows` rows and their codebook; gives the folder of the files."""
    files = folder / "rows"
    files.mkdir(parents=True)
    for start in range(first, first + rows, A_FILE):
        x, y = part(start, min(A_FILE, first + rows - start))
        table = pa.table([*x.T, y.astype(np.int8)], [*NAMES, "y"])
        path = files / f"{start:010}.parquet"  # numbers by chance: nothing would make them shorter
        parquet.write_table(
            table, path, row_group_size=GROUP, use_dictionary=False, compression="none"
        )
    numbers = "".join(f'{name} = {{ type = "number", range = [-99, 99] }}\n' for name in NAMES)
    outcome = 'y = { type = "binary", levels = { 0 = "no", 1 = "yes" } }\n'
    head = 'format = 1\nname = "made up"\n[columns]\n'
    (folder / "rows.toml").write_text(head + numbers + outcome)
    return files


def arrays(files: Path, threads: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The files in memory: (n, COLUMNS) and the outcomes (n,)."""
    parts = sorted(files.glob("*.parquet"))
    x = np.empty((sum(parquet.read_metadata(one).num_rows for one in parts), COLUMNS))
    y, at = np.empty(len(x)), 0
    for one in parts:
        table = parquet.read_table(one, use_threads=threads)
        here = slice(at, at := at + table.num_rows)
        for j, name in enumerate(NAMES):
            x[here, j] = table[name].to_numpy()
        y[here] = table["y"].to_numpy()
    return x, y


def logistic(theta: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Sum of the losses and the penalty, of intercept and coefficients."""
    theta = np.asarray(theta)
    eta = x @ theta[1:] + theta[0]
    return float(np.logaddexp(0, eta).sum() - y @ eta + 0.5 * L2 * theta[1:] @ theta[1:])


def hinge(theta: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Half the squares of the coefficients and C times the sum of the hinges."""
    theta = np.asarray(theta)
    missed = np.maximum(1.0 - (2.0 * y - 1.0) * (x @ theta[1:] + theta[0]), 0.0)
    return float(0.5 * theta[1:] @ theta[1:] + L2 * missed.sum())


def inertia(centres: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Squared distances from the nearest centre, summed."""
    centres = np.asarray(centres)
    squares, total = (centres * centres).sum(axis=1), 0.0
    for start in range(0, len(x), GROUP):
        block = x[start : start + GROUP]
        least = (squares - 2.0 * block @ centres.T).min(axis=1)
        total += float((least + np.einsum("ij,ij->i", block, block)).sum())
    return total


def log_loss(p: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Mean loss of probabilities."""
    p = np.clip(np.asarray(p), 1e-7, 1 - 1e-7)
    return -float(np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


OBJECTIVES = {"logistic": logistic, "hinge": hinge, "k-means": inertia, "tree": log_loss}


def frame(files: Path) -> Any:
    """The files as a pandas frame, for predictions by name."""
    import pandas as pd

    x, y = arrays(files)
    return pd.DataFrame(x, columns=NAMES).assign(y=y)
