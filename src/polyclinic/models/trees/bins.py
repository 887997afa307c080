"""Numbers and levels as numbers of bins.

Values are rounded to float32 first, as XGBoost does, so that an exported tree decides alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError
from polyclinic.models.trees.kernels import Bins, compiled
from polyclinic.models.trees.spec import Feature, Spec

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Edges = NDArray[np.float32]
MOST_SAMPLED, SAMPLED_A_BIN = 100_000, 1000
BLOCK = 4096  # rows whose values stay near while their columns are looked at one by one


def binned(columns: Mapping[str, Floats], spec: Spec) -> Bins:
    """Bins of all features, (n_rows, n_features); bin `spec.widest` holds missing values.

    A level that the codebook does not know counts as missing.
    """
    out = np.empty((_length(columns), len(spec.features)), _kind(spec))
    array, edges = columns.get("X"), _edges(spec)
    for start in range(0, len(out), BLOCK):
        rows = slice(start, start + BLOCK)
        for j, feature in enumerate(spec.features):
            x = array[rows, j] if array is not None else columns[feature.name][rows]
            place(x, feature, edges[j], spec.widest, out[rows, j])
    return out


def both_ways(
    columns: Mapping[str, Floats], spec: Spec, fast: bool | None = None
) -> tuple[Bins, Bins]:
    """`binned`, and the same by column, (n_features, n_rows); missing values are an error where the
    study keeps none.

    Raises
    ------
    PolyclinicError : BAD_DATA.
    """
    numbers = "X" in columns and not any(one.levels for one in spec.features)
    if numbers and (compiled() if fast is None else fast):
        from polyclinic.models.trees import loops

        n_rows, many = _length(columns), len(spec.features)
        bins, across = np.empty((n_rows, many), _kind(spec)), np.empty((many, n_rows), _kind(spec))
        gone, fine = np.zeros(many, dtype=np.int64), np.ones(many, dtype=np.int64)
        for j, edges in enumerate(_edges(spec)):
            while 16 * fine[j] <= len(edges):
                fine[j] *= 2
        padded = np.full((many, 16 * int(fine.max())), np.nan, dtype=np.float32)
        for j, edges in enumerate(_edges(spec)):
            padded[j, : len(edges)] = edges
        loops.place_rows(columns["X"], padded, fine, spec.widest, bins, across, gone)
    else:
        bins = binned(columns, spec)
        across = np.ascontiguousarray(bins.T)
        gone = np.count_nonzero(across == spec.widest, axis=1)
    if gone.any() and not spec.has_missing:
        raise PolyclinicError(
            f"column {spec.features[int(np.argmax(gone > 0))].name} has missing values",
            code="BAD_DATA",
            rule="missing values are kept only where the study says so",
        )
    return bins, across


def _length(columns: Mapping[str, Floats]) -> int:
    return len(next(iter(columns.values())))


def _kind(spec: Spec) -> Any:
    return np.uint8 if spec.widest < 256 else np.uint16


def _edges(spec: Spec) -> list[Edges]:
    return [np.asarray(feature.edges, dtype=np.float32) for feature in spec.features]


def place(
    x: Floats, feature: Feature, edges: Edges, missing: int, out: Any, fast: bool | None = None
) -> None:
    """Write the bin of each value to `out`; edges: those of the feature, float32."""
    gone = np.isnan(x)
    if feature.levels:
        level = np.where(gone, -1.0, x)
        gone = ~((level >= 0) & (level < feature.levels) & (level == np.floor(level)))
        out[:] = np.where(gone, 0.0, level)
    elif compiled() if fast is None else fast:
        from polyclinic.models.trees import loops

        loops.place(x, edges, out)
    else:
        with np.errstate(over="ignore"):
            out[:] = np.searchsorted(edges, x.astype(np.float32), side="right")
    out[gone] = missing


def uniform_edges(low: float, high: float, bins: int) -> tuple[float, ...]:
    """Edges of bins of equal width over an agreed range."""
    inner = np.linspace(low, high, bins + 1)[1:-1]
    return as_edges(inner)


def whole_edges(low: float, high: float, bins: int) -> tuple[float, ...]:
    """The same for whole numbers: edges lie in the middle between two of them."""
    first, last = np.ceil(low) - 0.5, np.floor(high) + 0.5
    step = max(1.0, np.ceil((last - first) / bins))
    return as_edges(np.arange(first, last, step)[1:])


def quantile_edges(x: NDArray[Any], bins: int, seed: int = 0) -> tuple[float, ...]:
    """Edges with as many rows of one trust domain between them: midpoints of neighbouring values.

    A column with few different values gets an edge between each two of them.
    """
    there = np.isfinite(x)
    x = x if there.all() else x[there]
    x = x[sampled(len(x), bins, seed)]
    with np.errstate(over="ignore"):
        x = np.sort(x.astype(np.float32))
    values = np.concatenate([x[:1], x[1:][x[1:] != x[:-1]]])
    if len(values) > bins:
        quantiles = x[np.floor(np.linspace(0, 1, bins + 1)[1:-1] * (len(x) - 1)).astype(np.int64)]
        at = np.minimum(np.searchsorted(values, quantiles), len(values) - 2)
    else:
        at = np.arange(len(values) - 1)
    with np.errstate(invalid="ignore"):  # between two that float32 does not hold is no edge
        return as_edges((values[at].astype(np.float64) + values[at + 1]) / 2)


def sampled(size: int, bins: int, seed: int = 0) -> Any:
    """Which of so many rows edges are found by: all, or a random SAMPLED_A_BIN of them for each
    bin, MOST_SAMPLED at most. Of 256 bins each then holds 5 % more or fewer rows than meant."""
    many = min(SAMPLED_A_BIN * bins, MOST_SAMPLED)
    return slice(None) if size <= many else _sample(size, many, seed)


@lru_cache(maxsize=1)  # the same for all columns without gaps
def _sample(size: int, many: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).choice(size, many, replace=False))


def as_edges(values: Floats) -> tuple[float, ...]:
    """Ascending, each once, as float32 holds them."""
    found = np.unique(np.asarray(values, dtype=np.float32))
    return tuple(float(v) for v in found[np.isfinite(found)])
