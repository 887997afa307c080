"""A hospital's own machine as arrays, for ensembles: what of it leaves, and who stands behind it.

Coefficients are a weighted sum of the rows within the margin; how many patients carry that sum is
counted, so that a machine that rests on a few stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.models.predictor import Form, register_form
from polyclinic.models.svm.predictor import SVMPredictor
from polyclinic.models.svm.spec import SVMSpec

Arrays = Mapping[str, NDArray[np.float64]]
_NAMES = ("coef", "platt", "centre", "spread")
ON_THE_MARGIN = 1e-6


def shapes(spec: SVMSpec) -> dict[str, tuple[int, ...]]:
    """Coefficients, curve of the probabilities, and scales of the columns of random features."""
    machines, columns = len(spec.machines), len(spec.design.terms) if spec.features else 0
    found = {"coef": (machines, spec.width), "platt": (machines if spec.classes else 0, 2)}
    return {**found, "centre": (columns,), "spread": (columns,)}


def to_arrays(spec: SVMSpec, data: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The arrays of a predictor's data. Raises ValueError where they do not fit."""
    found = {name: np.asarray(data[name], dtype=np.float64) for name in _NAMES}
    if {name: array.shape for name, array in found.items()} != shapes(spec):
        raise ValueError("a machine of another shape")
    return found


def from_arrays(spec: SVMSpec, arrays: Arrays) -> dict[str, Any]:
    """A predictor's data."""
    parts = (np.asarray(arrays[name]) for name in _NAMES)
    coef, platt, centre, spread = parts
    predictor = SVMPredictor(spec.design, coef, platt, spec.classes, spec.features, centre, spread)
    return predictor.to_data()


def behind(data: Mapping[str, Any], rows: Partition) -> dict[str, int]:
    """How many patients carry the coefficients, as if all had the same part in them."""
    predictor = SVMPredictor.from_data(data)
    f = predictor.decision(predictor.design.matrix(rows.columns, rows.site))
    y = predictor.outcome(rows)
    if predictor.classes:
        codes = [1] if f.shape[1] == 1 else range(f.shape[1])
        missed = 1.0 - np.column_stack([np.where(y == k, 1.0, -1.0) for k in codes]) * f
    else:
        missed = np.abs(y[:, None] - f)
    found = {}
    for k, part in enumerate(np.maximum(missed + ON_THE_MARGIN, 0.0).T):
        keys = rows.keys[part > 0]
        parts = np.bincount(np.unique(keys, return_inverse=True)[1], weights=part[part > 0])
        squares = float(parts @ parts)
        found[f"margin {k}"] = int(parts.sum() ** 2 / squares) if squares > 0 else 0
    return found


register_form(
    "svm",
    Form(shapes, to_arrays, from_arrays, lambda spec: spec.width * len(spec.machines), behind),
)
