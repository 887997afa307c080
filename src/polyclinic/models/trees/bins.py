"""Numbers and levels as numbers of bins.

Values are rounded to float32 first, as XGBoost does, so that an exported tree decides alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError
from polyclinic.models.trees.kernels import Bins
from polyclinic.models.trees.spec import Feature, Spec

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
MOST_SAMPLED = 200_000


def binned(columns: Mapping[str, Floats], spec: Spec, strict: bool = False) -> Bins:
    """Bins of all features, (n_rows, n_features); bin `spec.widest` holds missing values.

    A level that the codebook does not know counts as missing. `strict`: missing values are an error
    where the study keeps none.

    Raises
    ------
    PolyclinicError : BAD_DATA.
    """
    n_rows = len(next(iter(columns.values())))
    out = np.empty((n_rows, len(spec.features)), np.uint8 if spec.widest < 256 else np.uint16)
    array = columns.get("X")
    for j, feature in enumerate(spec.features):
        x = array[:, j] if array is not None else columns[feature.name]
        found = place(x, feature, spec.widest)
        if strict and not spec.has_missing and np.any(found == spec.widest):
            raise PolyclinicError(
                f"column {feature.name} has missing values",
                code="BAD_DATA",
                rule="missing values are kept only where the study says so",
            )
        out[:, j] = found
    return out


def place(x: Floats, feature: Feature, missing: int) -> NDArray[np.int64]:
    """The bin of each value."""
    gone = np.isnan(x)
    if feature.levels:
        level = np.where(gone, -1.0, x)
        gone = ~((level >= 0) & (level < feature.levels) & (level == np.floor(level)))
        found = np.where(gone, 0.0, level).astype(np.int64)
    else:
        edges = np.asarray(feature.edges, dtype=np.float32)
        with np.errstate(over="ignore"):
            found = np.searchsorted(edges, x.astype(np.float32), side="right").astype(np.int64)
    found[gone] = missing
    return found


def uniform_edges(low: float, high: float, bins: int) -> tuple[float, ...]:
    """Edges of bins of equal width over an agreed range."""
    inner = np.linspace(low, high, bins + 1)[1:-1]
    return as_edges(inner)


def whole_edges(low: float, high: float, bins: int) -> tuple[float, ...]:
    """The same for whole numbers: edges lie in the middle between two of them."""
    first, last = np.ceil(low) - 0.5, np.floor(high) + 0.5
    step = max(1.0, np.ceil((last - first) / bins))
    return as_edges(np.arange(first, last, step)[1:])


def quantile_edges(x: Floats, bins: int, seed: int = 0) -> tuple[float, ...]:
    """Edges with as many rows of one trust domain between them: midpoints of neighbouring values.

    A column with few different values gets an edge between each two of them.
    """
    x = x[np.isfinite(x)]
    if len(x) > MOST_SAMPLED:
        x = np.random.default_rng(seed).choice(x, MOST_SAMPLED, replace=False)
    values = np.unique(x.astype(np.float32))
    if len(values) > bins:
        at = np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1], method="lower")
        at = np.minimum(np.searchsorted(values, at.astype(np.float32)), len(values) - 2)
        return as_edges((values[at].astype(np.float64) + values[at + 1]) / 2)
    return as_edges((values[:-1].astype(np.float64) + values[1:]) / 2)


def as_edges(values: Floats) -> tuple[float, ...]:
    """Ascending, each once, as float32 holds them."""
    found = np.unique(np.asarray(values, dtype=np.float32))
    return tuple(float(v) for v in found[np.isfinite(found)])
