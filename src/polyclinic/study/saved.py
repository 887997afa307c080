"""Fitted models on disk: canonical bytes, no pickle, no row of a patient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.algorithm import Algorithm
from polyclinic.core.checkpoint import seal, unseal, write_atomic
from polyclinic.core.codec import CodecError
from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.data.codebook import Codebook
from polyclinic.data.cohort import Cohort
from polyclinic.engines.embedded import Embedded
from polyclinic.models.glm import GLMFit, Spec, glm
from polyclinic.models.glm.private import PrivateGLM, PrivateGLMFit
from polyclinic.models.learner import kind_of, last
from polyclinic.models.neural.strategy import Strategy
from polyclinic.study.estimator import Regression
from polyclinic.study.formula import FormulaData, gone
from polyclinic.study.learner import Learner
from polyclinic.study.learners import estimator_called
from polyclinic.study.regression import (
    GammaRegression,
    LinearRegression,
    LogisticRegression,
    PoissonRegression,
)

Fitted = Regression | Learner
KINDS: dict[str, type[Regression]] = {
    "logistic": LogisticRegression,
    "linear": LinearRegression,
    "poisson": PoissonRegression,
    "gamma": GammaRegression,
}


def save(model: Fitted, path: str | Path) -> None:
    """Write a fitted model; `load` gives it back. Raises CANNOT_WRITE."""
    write_atomic(Path(path), seal(to_data(model)))


def load(path: str | Path) -> Any:
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


def to_data(model: Fitted) -> dict[str, Any]:
    """A fitted model as plain data."""
    params = {k: _plain(v) for k, v in model.get_params(deep=False).items() if _is_plain(_plain(v))}
    if isinstance(model, Learner):
        own: dict[str, Any] = {"learner": type(model).__name__, "spec": model.spec_.to_data()}
    else:
        own = {
            "kind": next(name for name, made in KINDS.items() if type(model) is made),
            "spec": model.result_.scale.spec.to_data(),
            "noise": _noise(model.result_),
        }
        params.pop("class_weight", None)
    return {**own, "state": model.state_, "params": params, **_around(model)}


def _plain(value: Any) -> Any:
    return value.to_data() if isinstance(value, Strategy) else value


def _is_plain(value: Any) -> bool:
    try:
        codec.encode(value)
    except CodecError:
        return False
    return True


def _around(model: Fitted) -> dict[str, Any]:
    """What is beside the fit itself: names, classes, the formula and its codebook."""
    data, classes = model._data, getattr(model, "classes_", None)
    names = getattr(model, "feature_names_in_", None)
    return {
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


def from_data(content: dict[str, Any]) -> Fitted:
    """The model that `to_data` described."""
    if "learner" in content:
        return _learner(content)
    spec = Spec.from_data(content["spec"])
    model = KINDS[content["kind"]](**content["params"])
    _put_around(model, content, spec.design)
    model.state_ = content["state"]
    model.result_ = _algorithm(spec, content).model(content["state"])[-1]
    if isinstance(model.result_, PrivateGLMFit):
        model._privacy = model.result_.privacy
    model.rounds_, model.n_iter_ = (), model.result_.rounds
    model._set_coef()
    return model


def _learner(content: dict[str, Any]) -> Learner:
    model = estimator_called(content["learner"])
    params = dict(content["params"])
    if isinstance(params.get("strategy"), Mapping):
        params["strategy"] = Strategy.from_data(params["strategy"])
    model.set_params(**params)
    spec = kind_of(model._kind).from_data(content["spec"])
    _put_around(model, content, spec.design)
    model.classes_or_none_ = getattr(model, "classes_", None)
    model.spec_, model.state_ = spec, content["state"]
    model.result_ = last(spec.algorithm().model(content["state"]))
    model._privacy = getattr(model.result_, "privacy", None)
    model.rounds_, model.n_iter_ = (), model.result_.rounds
    model._restore()
    return model


def _put_around(model: Fitted, content: dict[str, Any], design: Design) -> None:
    """What `_around` kept."""
    if content["classes"] is not None:
        model.classes_ = np.array(content["classes"])
    if content["features"] is not None:
        model.feature_names_in_ = np.array(content["features"], dtype=object)
    if content["n_features"] is not None:
        model.n_features_in_ = content["n_features"]
    model._arrays, model._data, model._engine = None, None, Embedded()
    model._evaluated = None
    about = content["formula"]
    if about is not None:
        model._data = FormulaData(
            about["text"],
            design,
            Codebook.from_dict(about["codebook"]),
            Cohort.from_data(about["cohort"]),
            gone(about["sites"]),
            about["fills"],
            about["present"],
        )
