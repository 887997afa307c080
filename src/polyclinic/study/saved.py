"""Fitted models on disk: canonical bytes, no pickle, no row of a patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.checkpoint import seal, unseal, write_atomic
from polyclinic.core.codec import CodecError
from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort
from polyclinic.engines.embedded import Embedded
from polyclinic.models.glm import GLMFit, Spec, glm
from polyclinic.models.glm.private import PrivateGLM, PrivateGLMFit
from polyclinic.study.estimator import Regression
from polyclinic.study.formula import FormulaData, gone
from polyclinic.study.regression import (
    GammaRegression,
    LinearRegression,
    LogisticRegression,
    PoissonRegression,
)

KINDS: dict[str, type[Regression]] = {
    "logistic": LogisticRegression,
    "linear": LinearRegression,
    "poisson": PoissonRegression,
    "gamma": GammaRegression,
}


def save(model: Regression, path: str | Path) -> None:
    """Write a fitted model; `load` gives it back. Raises CANNOT_WRITE."""
    write_atomic(Path(path), seal(to_data(model)))


def load(path: str | Path) -> Regression:
    """Read a model that `save` wrote (or a run folder).

    Raises
    ------
    InputError : NO_FILE, or MODEL_DAMAGED when the file is not as it was written.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.pcm"
    if not path.is_file():
        raise InputError(
            f"there is no model at {path}",
            code="NO_FILE",
            rule="a model is a file that save() wrote, or a run folder",
            next="check the path",
        )
    try:
        content = unseal(path.read_bytes())
    except CodecError:
        raise InputError(
            f"{path}: the model is not as it was written",
            code="MODEL_DAMAGED",
            rule="a model is read only when its SHA-256 fits",
            next="copy it again, or fit again",
        ) from None
    return from_data(content)


def to_data(model: Regression) -> dict[str, Any]:
    """A fitted model as plain data."""
    kind = next(name for name, made in KINDS.items() if type(model) is made)
    data, classes = model._data, getattr(model, "classes_", None)
    names = getattr(model, "feature_names_in_", None)
    return {
        "kind": kind,
        "spec": model.result_.scale.spec.to_data(),
        "state": model.state_,
        "noise": _noise(model.result_),
        "params": {k: v for k, v in model.get_params().items() if k != "class_weight"},
        "classes": None if classes is None else classes.tolist(),
        "features": None if names is None else [str(name) for name in names],
        "n_features": getattr(model, "n_features_in_", None),
        "formula": None
        if data is None
        else {
            "text": data.formula,
            "codebook": data.codebook.to_dict(),
            "cohort": data.cohort.to_data(),
            "fills": dict(data.fills),
            "present": dict(data.present),
            "sites": list(data.federation.sites),
        },
    }


def _noise(result: GLMFit) -> dict[str, Any] | None:
    """What says how a fit with noise follows from its state; None: it is exact."""
    return result.algorithm.to_data() if isinstance(result, PrivateGLMFit) else None


def _algorithm(spec: Spec, content: dict[str, Any]) -> Algorithm:
    noise = content.get("noise")
    return glm(spec) if noise is None else PrivateGLM.from_data(spec, noise)


def from_data(content: dict[str, Any]) -> Regression:
    """The model that `to_data` described."""
    spec = Spec.from_data(content["spec"])
    model = KINDS[content["kind"]](**content["params"])
    if content["classes"] is not None:
        model.classes_ = np.array(content["classes"])
    if content["features"] is not None:
        model.feature_names_in_ = np.array(content["features"], dtype=object)
    if content["n_features"] is not None:
        model.n_features_in_ = content["n_features"]
    model.state_ = content["state"]
    model.result_ = _algorithm(spec, content).model(content["state"])[-1]
    if isinstance(model.result_, PrivateGLMFit):
        model._privacy = model.result_.privacy
    model.rounds_, model.n_iter_ = (), model.result_.rounds
    model._arrays, model._data, model._engine = None, None, Embedded()
    model._evaluated = None
    about = content["formula"]
    if about is not None:
        model._data = FormulaData(
            about["text"],
            spec.design,
            Codebook.from_dict(about["codebook"]),
            Cohort.from_data(about["cohort"]),
            gone(about["sites"]),
            about["fills"],
            about["present"],
        )
    model._set_coef()
    return model
