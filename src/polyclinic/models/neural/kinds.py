"""Neural networks as a kind of model: its options, and what its plans may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.learner import Asked, Kind, check_options
from polyclinic.models.neural.architectures import architecture_of, options_of
from polyclinic.models.neural.augment import augment_of
from polyclinic.models.neural.losses import LOSSES
from polyclinic.models.neural.network import sizes
from polyclinic.models.neural.spec import SCALES, NeuralSpec
from polyclinic.models.neural.strategy import Strategy

LARGEST = 2.0**40  # of a number that a plan holds


def _class_weight(v: Any) -> bool:
    given = isinstance(v, (list, tuple)) and all(isinstance(w, (int, float)) and w > 0 for w in v)
    return v is None or v == "balanced" or given


_KNOWN: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda v: isinstance(v, str),
    "architecture_options": lambda v: v is None or isinstance(v, Mapping),
    "loss": LOSSES.__contains__,
    "loss_options": lambda v: v is None or isinstance(v, Mapping),
    "strategy": lambda v: v is None or isinstance(v, (Strategy, Mapping)),
    "scale": SCALES.__contains__,
    "class_weight": _class_weight,
    "augment": lambda v: v is None or isinstance(v, Mapping),
    "validation": lambda v: isinstance(v, (int, float)) and 0 <= v <= 0.5,
}
_RULE = (
    f"loss is one of {', '.join(LOSSES)}; scale one of {', '.join(SCALES)}; validation "
    'from 0 to 0.5; class_weight None, "balanced" or a weight above 0 per class'
)


def neural_spec(asked: Asked) -> NeuralSpec:
    """Raises UNKNOWN_OPTION, WRONG_VALUE, UNKNOWN_ARCHITECTURE."""
    check_options(asked.options, _KNOWN, _RULE)
    given = asked.options
    loss = given.get("loss", "cross_entropy")
    if (LOSSES[loss].explains == "classes") != bool(asked.classes):
        raise _wrong(f"loss = {loss!r} of {asked.classes or 'no'} classes", "the loss fits")
    one = architecture_of(given.get("architecture", "mlp"))
    options = options_of(one, given.get("architecture_options") or {})
    shapes = {column.name: column.shape for column in asked.columns if column.shape}
    for name, shape in shapes.items():
        kind = "series" if len(shape) == 2 else "image"
        if kind not in one.reads:
            reads = ", ".join(one.reads) or "tables only"
            raise _wrong(f"{one.name} with the {kind} {name}", f"{one.name} reads {reads}")
    if not asked.columns:
        raise _wrong("a network without any input", "at least one column")
    strategy = given.get("strategy") or Strategy()
    strategy = strategy if isinstance(strategy, Strategy) else Strategy.from_data(strategy)
    weight = given.get("class_weight")
    if isinstance(weight, (list, tuple)):
        if len(weight) != asked.classes:
            raise _wrong(f"{len(weight)} class weights", f"one for each of {asked.classes} classes")
        weight = tuple(float(w) for w in weight)
    if strategy.stop_after and not given.get("validation"):
        raise _wrong("stop_after without validation", "validation = 0.1 watches a tenth")
    return NeuralSpec(
        replace(asked.design, intercept=False),
        one.name,
        one.version,
        options,
        loss,
        _loss_options(loss, given.get("loss_options") or {}),
        asked.classes,
        shapes,
        (),
        strategy,
        given.get("scale", "pooled"),
        weight,
        float(given.get("validation", 0.0)),
        augment_of(given.get("augment")),
        asked.seed,
        dict(asked.rows),
    )


def _loss_options(loss: str, given: Mapping[str, Any]) -> dict[str, Any]:
    known = LOSSES[loss].options
    check_options(given, {name: good for name, (_, good) in known.items()}, f"options of {loss}")
    return {name: given.get(name, default) for name, (default, _) in known.items()}


def _wrong(what: str, rule: str) -> InputError:
    return InputError(what, code="WRONG_VALUE", rule=rule, next="correct the value")


def _numbers(value: Any, *shape: int, largest: float = LARGEST) -> None:
    """Raise ValueError unless `value` is an array of this shape, of bounded numbers."""
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape or not np.all(np.abs(array) <= largest):
        raise ValueError("numbers of another shape, or out of bounds")


def check_moments(spec: NeuralSpec, plan: Plan) -> None:
    """Raises ValueError for a state that no fit has."""
    state = plan.values["state"]
    if not set(state) <= {"shift"}:
        raise ValueError("a state of another form")
    if "shift" in state:
        _numbers(state["shift"], len(spec.design.terms))


def check_train(spec: NeuralSpec, plan: Plan) -> None:
    """Raises ValueError for a state that no fit has."""
    state = plan.values["state"]
    names = {"round", "weights", "beside", "lr", "class_weight", "scaling", "after"}
    if set(state) != names:
        raise ValueError("a state of another form")
    weights, beside = sizes(spec)
    _numbers(state["weights"], weights)
    _numbers(state["beside"], beside)
    if type(state["round"]) is not int or not 0 <= state["round"] < spec.strategy.rounds:
        raise ValueError("another round")
    if not math.isclose(float(state["lr"]), spec.strategy.lr_at(state["round"]), rel_tol=1e-12):
        raise ValueError("another step size")
    _class_weights(spec, state["class_weight"])
    _scaling(spec, state["scaling"])
    after = state["after"]
    if not isinstance(after, str) or len(after) > 64 or bool(after) != (state["round"] > 0):
        raise ValueError("another round before")


def _class_weights(spec: NeuralSpec, weight: Any) -> None:
    wanted = spec.class_weight
    _numbers(weight, 0 if wanted is None else spec.classes)
    if isinstance(wanted, tuple) and tuple(np.asarray(weight).tolist()) != wanted:
        raise ValueError("other weights")


def _scaling(spec: NeuralSpec, scaling: Any) -> None:
    if set(scaling) != {"centre", "spread"}:
        raise ValueError("a scaling of another form")
    _numbers(scaling["centre"], spec.table)
    _numbers(scaling["spread"], spec.table)
    if np.any(np.asarray(scaling["spread"]) <= 0):
        raise ValueError("no spread")


def check_predictor(spec: NeuralSpec, data: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers that no fit has."""
    if set(data) != {"kind", "design", "spec", "scaling", "weights", "beside"}:
        raise ValueError("another model")
    wanted = spec.to_data()
    del wanted["design"], wanted["rows"]
    if codec.digest(data["spec"]) != codec.digest(wanted):
        raise ValueError("another model")
    weights, beside = sizes(spec)
    _numbers(data["weights"], weights)
    _numbers(data["beside"], beside)
    _scaling(spec, data["scaling"])


def rounds(spec: NeuralSpec) -> int:
    """Different questions of a fit at most."""
    return 2 + spec.strategy.rounds


kinds = [
    Kind(
        "neural",
        "neural network",
        "any",
        neural_spec,
        NeuralSpec.from_data,
        rounds,
        {"neural.moments": check_moments, "neural.train": check_train},
        predictor=check_predictor,
        media=True,
    )
]
