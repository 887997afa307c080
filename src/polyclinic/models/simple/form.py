"""A hospital's own naive Bayes as arrays, for ensembles: what leaves, and who stands behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.models.predictor import Form, register_form
from polyclinic.models.simple.bayes import GaussianNBPredictor, GaussianNBSpec

Arrays = Mapping[str, NDArray[np.float64]]
_NAMES = ("priors", "mean", "variance")


def shapes(spec: GaussianNBSpec) -> dict[str, tuple[int, ...]]:
    """Priors, means and variances by class."""
    table = (spec.classes, len(spec.design.terms))
    return {"priors": (spec.classes,), "mean": table, "variance": table}


def to_arrays(spec: GaussianNBSpec, data: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The arrays of a predictor's data."""
    return {name: np.asarray(data[name], dtype=np.float64) for name in _NAMES}


def from_arrays(spec: GaussianNBSpec, arrays: Arrays) -> dict[str, Any]:
    """A predictor's data. Raises ValueError for arrays that are no predictor."""
    priors, mean, variance = (np.asarray(arrays[name]) for name in _NAMES)
    if np.any(priors < 0) or np.any(variance < 0):
        raise ValueError("priors and variances are 0 or more")
    return GaussianNBPredictor(spec.design, priors, mean, variance).to_data()


def behind(data: Mapping[str, Any], rows: Partition) -> dict[str, int]:
    """Patients of each class with each value of a term that has few values."""
    predictor = GaussianNBPredictor.from_data(data)
    x = predictor.design.matrix(rows.columns, rows.site)
    y, found = predictor.outcome(rows), {}
    for j, name in enumerate(predictor.design.names):
        values = np.unique(x[:, j])
        for value in values if len(values) == 2 else ():
            for k in range(len(predictor.priors)):
                inside = (x[:, j] == value) & (y == k)
                found[f"{name} = {value:g}, outcome = {k}"] = rows.patients(inside)
    return found


register_form(
    "gaussian-nb",
    Form(
        shapes,
        to_arrays,
        from_arrays,
        lambda spec: 2 * spec.classes * len(spec.design.terms),
        behind,
    ),
)
