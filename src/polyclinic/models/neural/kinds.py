"""Neural networks as a kind of model: its options, and what its plans may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.plan import Plan
from polyclinic.models.learner import Asked, Kind, check_options
from polyclinic.models.neural.architectures import architecture_of, options_of, wrong
from polyclinic.models.neural.losses import LOSSES
from polyclinic.models.neural.network import sizes
from polyclinic.models.neural.spec import SAMPLINGS, SCALES, NeuralSpec
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
    "sampling": SAMPLINGS.__contains__,
    "class_weight": _class_weight,
    "validation": lambda v: isinstance(v, (int, float)) and 0 <= v <= 0.5,
}
_RULE = (
    f"loss is one of {', '.join(LOSSES)}; scale one of {', '.join(SCALES)}; sampling "
    f"one of {', '.join(SAMPLINGS)}; validation "
    'from 0 to 0.5; class_weight None, "balanced" or a weight above 0 per class'
)


def neural_spec(asked: Asked) -> NeuralSpec:
    """Raises UNKNOWN_OPTION, WRONG_VALUE, UNKNOWN_ARCHITECTURE."""
    check_options(asked.options, _KNOWN, _RULE)
    given = asked.options
    loss = given.get("loss", "cross_entropy")
    _check_loss(loss, asked)
    one = architecture_of(given.get("architecture", "mlp"))
    options = options_of(one, given.get("architecture_options") or {})
    shapes = {column.name: column.shape for column in asked.columns if column.shape}
    for name, shape in shapes.items():
        kind = "series" if len(shape) == 2 else "image"
        if kind not in one.reads:
            reads = ", ".join(one.reads) or "tables only"
            raise wrong(f"{one.name} with the {kind} {name}", f"{one.name} reads {reads}")
    if not {column.name for column in asked.columns} - {asked.design.event}:
        raise wrong("a network without any input", "at least one column")
    if LOSSES[loss].explains not in one.finds:
        raise wrong(f"{one.name} with loss = {loss!r}", f"{one.name} finds {', '.join(one.finds)}")
    strategy = given.get("strategy") or Strategy()
    strategy = strategy if isinstance(strategy, Strategy) else Strategy.from_data(strategy)
    weight = _weights(given, strategy, asked.classes)
    if strategy.stop_after and not given.get("validation"):
        raise wrong("stop_after without validation", "validation = 0.1 watches a tenth")
    found = NeuralSpec(
        replace(asked.design, intercept=False),
        one.name,
        one.version,
        options,
        loss,
        _loss_options(loss, given.get("loss_options") or {}),
        asked.classes,
        shapes,
        asked.output,
        strategy,
        given.get("scale", "pooled"),
        weight,
        float(given.get("validation", 0.0)),
        asked.seed,
        dict(asked.rows),
        given.get("sampling", "shuffled"),
    )
    one.fits(found)
    return found


def _check_loss(loss: str, asked: Asked) -> None:
    """Raises WRONG_VALUE for a loss of another kind of outcome."""
    outcome = "classes" if asked.classes else "mask" if asked.output else "number"
    outcome = "survival" if asked.design.event else outcome
    if LOSSES[loss].explains != outcome:
        fitting = [name for name, one in LOSSES.items() if one.explains == outcome]
        raise wrong(
            f"loss = {loss!r} of an outcome that is of the form {outcome!r}",
            f"losses for it: {', '.join(fitting)}",
        )
    if asked.design.strata:
        raise wrong("strata of a network", "its baseline is that of a mini-batch")
    if asked.classes > 2 and (asked.options.get("loss_options") or {}).get("alpha") is not None:
        raise wrong(
            f"alpha with {asked.classes} classes", "alpha is for two; class_weight for more"
        )


def _weights(
    given: Mapping[str, Any], strategy: Strategy, classes: int
) -> tuple[float, ...] | str | None:
    """The weights of classes. Raises WRONG_VALUE, also for balanced batches that do not fit."""
    weight, balanced = given.get("class_weight"), given.get("sampling") == "balanced"
    if not classes and (weight is not None or balanced):
        raise wrong("class weights or balanced batches without classes", "the outcome has classes")
    if balanced and (strategy.gradients or weight is not None):
        raise wrong(
            f"balanced batches with {'FedSGD' if strategy.gradients else 'class_weight'}",
            'either batches are balanced, or class_weight = "balanced" weighs the rows',
        )
    if isinstance(weight, (list, tuple)):
        if len(weight) != classes:
            raise wrong(f"{len(weight)} class weights", f"one for each of {classes} classes")
        return tuple(float(w) for w in weight)
    return weight


def _loss_options(loss: str, given: Mapping[str, Any]) -> dict[str, Any]:
    known = LOSSES[loss].options
    check_options(given, {name: good for name, (_, good) in known.items()}, f"options of {loss}")
    return {name: given.get(name, default) for name, (default, _) in known.items()}


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
        survival=True,
    )
]
