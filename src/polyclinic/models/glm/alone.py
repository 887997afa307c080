"""A site's own model, fitted on its own rows only: the baseline that a federation has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polyclinic.core.federation import Domain, Inline
from polyclinic.core.fit import fit
from polyclinic.core.partition import Partition
from polyclinic.models.glm.algorithm import glm
from polyclinic.models.glm.inference import GLMFit
from polyclinic.models.glm.predictor import GLMPredictor
from polyclinic.models.glm.spec import Spec


def predictor_of(result: GLMFit) -> GLMPredictor:
    """What a fit predicts with, in raw units."""
    spec = result.scale.spec
    coef = result.coef
    if spec.symmetric:
        coef = coef[1:] - coef[:1]
    return GLMPredictor(spec.design, spec.family, coef)


def fit_alone(
    data: Mapping[str, Any], partition: Partition, fold: int | None = None, folds: int = 0
) -> dict[str, Any]:
    """Predictor data of the model `data` (a `Spec` as data) fitted on the rows of `partition`.

    With `fold`, patients whose key is `fold` modulo `folds` are left out. Raises what a fit raises.
    """
    spec = Spec.from_data(data)
    if fold is not None:
        spec = replace(spec, rows={"folds": folds, "without": fold})
    result: GLMFit = fit(glm(spec), Domain(Inline(partition))).model[-1]
    return predictor_of(result).to_data()
