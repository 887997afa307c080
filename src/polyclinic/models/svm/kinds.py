"""Support vector machines as kinds of models: their options, and what their plans may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np

from polyclinic.core.plan import Plan
from polyclinic.models.learner import Asked, Kind, check_options
from polyclinic.models.svm import platt
from polyclinic.models.svm.features import MOST, Features
from polyclinic.models.svm.newton import SHARPEST, STEPS
from polyclinic.models.svm.spec import CLASSIFIES, REGRESSES, SVMSpec

LARGEST = 2.0**40  # of a coefficient, in the sites' units
MAP = {"centre", "spread"}


def _positive(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and 0 < float(value) < inf


def _whole(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) > 0


def _class_weight(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_positive(one) for one in value)
    return value is None or value == "balanced"


_SHARED: dict[str, Callable[[Any], bool]] = {
    "C": _positive,
    "fit_intercept": lambda value: isinstance(value, bool),
    "intercept_scaling": lambda value: value is None or _positive(value),
    "tol": lambda value: _positive(value) and value < 1,
    "max_iter": _whole,
}
_CLASSES: dict[str, Callable[[Any], bool]] = {
    **_SHARED,
    "loss": CLASSIFIES.__contains__,
    "class_weight": _class_weight,
    "probability": lambda value: isinstance(value, bool),
}
_NUMBER: dict[str, Callable[[Any], bool]] = {
    **_SHARED,
    "loss": REGRESSES.__contains__,
    "epsilon": lambda value: value == 0 or _positive(value),
}
_KERNEL: dict[str, Callable[[Any], bool]] = {
    **_CLASSES,
    "kernel": lambda value: value == "rbf",
    "gamma": lambda value: value == "scale" or _positive(value),
    "n_components": lambda value: _whole(value) and value <= MOST,
}
_RULE = (
    "C, intercept_scaling and gamma are above 0; epsilon is 0 or more; tol is above 0 and below 1; "
    'class_weight is "balanced" or a weight above 0 per class; a kernel is "rbf"; losses of '
    f"classes: {', '.join(CLASSIFIES)}; of a number: {', '.join(REGRESSES)}"
)


def _made(asked: Asked, known: Mapping[str, Callable[[Any], bool]], **defaults: Any) -> SVMSpec:
    check_options(asked.options, known, _RULE)
    given = {**defaults, **asked.options}
    weight = given.get("class_weight")
    if isinstance(weight, (list, tuple)):
        rule = f"{_RULE}, of which there are {asked.classes}"
        right = {"class_weight": lambda value: len(value) == asked.classes}
        check_options({"class_weight": weight}, right, rule)
        weight = tuple(float(one) for one in weight)
    intercept = asked.design.intercept and given.get("fit_intercept", True)
    scaling = given.get("intercept_scaling")
    return SVMSpec(
        replace(asked.design, intercept=intercept),
        given["loss"],
        asked.classes,
        float(given.get("C", 1.0)),
        float(given.get("epsilon", 0.0)),
        None if scaling is None else float(scaling),
        weight,
        None,
        float(given.get("tol", 1e-9)),
        int(given.get("max_iter", 300)),
        curve=bool(given.get("probability", True)),
        rows=dict(asked.rows),
    )


def linear_svc(asked: Asked) -> SVMSpec:
    """Raises UNKNOWN_OPTION, WRONG_VALUE."""
    return _made(asked, _CLASSES, loss="squared_hinge")


def linear_svr(asked: Asked) -> SVMSpec:
    """Raises UNKNOWN_OPTION, WRONG_VALUE."""
    return _made(asked, _NUMBER, loss="squared_epsilon_insensitive")


def svc(asked: Asked) -> SVMSpec:
    """Raises UNKNOWN_OPTION, WRONG_VALUE."""
    spec = _made(asked, _KERNEL, loss="hinge")
    gamma = asked.options.get("gamma", "scale")
    width = 0.0 if gamma == "scale" else float(gamma)
    components = int(asked.options.get("n_components", 100))
    return replace(spec, features=Features(width, components, asked.seed))


def rounds(spec: SVMSpec) -> int:
    """Different questions of a fit at most: moments, machines, probabilities."""
    return 2 + spec.max_rounds + (platt.MOST_ROUNDS if spec.classifies and spec.curve else 0)


def _numbers(value: Any, *shape: int, least: float | None = None, largest: float = LARGEST) -> None:
    """Raise ValueError unless `value` is an array of this shape, of bounded numbers."""
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError("numbers of another shape")
    if not np.all((array >= (-largest if least is None else least)) & (array <= largest)):
        raise ValueError("numbers out of bounds")


def _only(state: Mapping[str, Any], *names: str, also: set[str] | None = None) -> None:
    if not set(names) <= set(state) <= set(names) | (also or set()):
        raise ValueError("a state of another form")


def _columns(spec: SVMSpec, state: Mapping[str, Any]) -> None:
    """What is done to the columns first."""
    terms = len(spec.design.terms)
    _numbers(state["shift"], 0 if spec.features else terms)
    if spec.features is not None:
        _numbers(state["centre"], terms, least=-(LARGEST**2))
        _numbers(state["spread"], terms, least=1e-300)


def check_moments(spec: SVMSpec, plan: Plan) -> None:
    """Raises ValueError for a state that no fit has."""
    state = plan.values["state"]
    _only(state, also={"shift"})
    if "shift" in state:
        _numbers(state["shift"], len(spec.design.terms))


def check_machines(spec: SVMSpec, plan: Plan) -> None:
    """Raises ValueError for a state that no fit has."""
    state = plan.values["state"]
    names = ("theta", "machine", "sharpness", "past", "past_sharpness", "order", "class_weight")
    also = {"sample"} | (MAP if spec.features else set())
    _only(state, *names, "shift", *(MAP if spec.features else ()), also=also)
    m = len(state["machine"])
    if not 0 < m <= len(spec.machines) * len(STEPS):
        raise ValueError("too many candidates")
    if not set(np.asarray(state["machine"]).tolist()) <= set(spec.machines):
        raise ValueError("another class")
    if state["order"] not in (0, 1, 2):
        raise ValueError("another derivative")
    _numbers(state["theta"], m, spec.width)
    _numbers(state["sharpness"], m, least=0.0 if spec.squared else 1e-300, largest=2 * SHARPEST)
    largest = 0.0 if spec.squared else 2 * SHARPEST
    _numbers(state["past"], m, spec.width, largest=largest * LARGEST)
    _numbers(state["past_sharpness"], m, least=0.0, largest=largest)
    _columns(spec, state)
    _weights(spec, state["class_weight"])
    if "sample" in state:
        _sample(state["sample"])


def _weights(spec: SVMSpec, weight: Any) -> None:
    wanted = spec.class_weight
    _numbers(weight, 0 if wanted is None else spec.classes, least=1e-12)
    if isinstance(wanted, tuple) and tuple(np.asarray(weight).tolist()) != wanted:
        raise ValueError("other weights")


def _sample(sample: Mapping[str, Any]) -> None:
    _only(sample, "sample", "seed", "round", "part")
    if not 0 < float(sample["sample"]) <= 0.2 or sample["round"] != 0 or sample["part"] != 0:
        raise ValueError("another sample")


def check_platt(spec: SVMSpec, plan: Plan) -> None:
    """Raises ValueError for a state that no fit has."""
    state = plan.values["state"]
    extra = MAP if spec.features else set()
    _only(state, "coef", "theta", "machine", "target", "shift", *extra, also={"sample"})
    k, m = len(spec.machines), len(state["machine"])
    if not spec.classifies or not 0 < m <= k * len(platt.STEPS):
        raise ValueError("too many candidates")
    if not set(np.asarray(state["machine"]).tolist()) <= set(range(k)):
        raise ValueError("another class")
    _numbers(state["coef"], k, spec.width)
    _numbers(state["theta"], m, 2)
    _numbers(state["target"], k, 2, least=0.0)
    if np.any(np.asarray(state["target"]) > 1.0):
        raise ValueError("no probability")
    _columns(spec, state)
    if "sample" in state:
        _sample(state["sample"])


def check_predictor(spec: SVMSpec, data: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers that no fit has."""
    wanted = None if spec.features is None else dict(vars(spec.features))
    if data["classes"] != spec.classes or data["features"] != wanted:
        raise ValueError("another model")
    _only(data, "kind", "design", "coef", "platt", "classes", "features", "centre", "spread")
    k, terms = len(spec.machines), len(spec.design.terms) if spec.features else 0
    for name, shape in (("coef", (k, spec.width)), ("centre", (terms,)), ("spread", (terms,))):
        array = np.asarray(data[name], dtype=np.float64)
        if array.shape != shape or not np.all(np.isfinite(array)):
            raise ValueError("numbers of another shape")
    shape = (k, 2) if spec.classifies else (0, 2)
    _numbers(data["platt"], *shape)
    if not isfinite(float(np.sum(data["spread"]))) or np.any(np.asarray(data["spread"]) <= 0):
        raise ValueError("no spread")


def _kind(name: str, title: str, explains: Any, spec: Callable[[Asked], SVMSpec]) -> Kind:
    tasks = {
        "svm.moments": check_moments,
        "svm.machines": check_machines,
        "svm.platt": check_platt,
    }
    return Kind(
        name,
        title,
        explains,
        spec,
        SVMSpec.from_data,
        rounds,
        tasks,
        predictor=check_predictor,
        predicts_as="svm",
        pooled=False,
    )


kinds = [
    _kind("linear-svc", "linear support vector machine", "classes", linear_svc),
    _kind("linear-svr", "linear support vector regression", "number", linear_svr),
    _kind("svc", "support vector machine with an RBF kernel", "classes", svc),
]
