"""Neural networks as a kind of model: its options, and what its plans may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.plan import Plan
from polyclinic.models.learner import Asked, Kind, check_options, values
from polyclinic.models.neural.architectures import architecture_of, options_of, wrong
from polyclinic.models.neural.augment import augment_of
from polyclinic.models.neural.losses import LOSSES
from polyclinic.models.neural.network import network_of, sizes
from polyclinic.models.neural.personal import personal
from polyclinic.models.neural.private import UNITS, check_private, good_privacy, noise_for
from polyclinic.models.neural.smaller import asks_whole, check_places
from polyclinic.models.neural.spec import SAMPLINGS, SCALES, NeuralSpec
from polyclinic.models.neural.strategy import Strategy
from polyclinic.privacy.noisy import KEY

NOISE = {"unit": "patient", "clip": 1.0, "rate": 0.1}  # where nothing else is asked for
LARGEST = 2.0**40  # of a number that a plan holds


def _class_weight(v: Any) -> bool:
    given = isinstance(v, (list, tuple)) and all(isinstance(w, (int, float)) and w > 0 for w in v)
    return v is None or v == "balanced" or given


def _noise(v: Any) -> bool:
    """The unit, clip norm and rate of a fit under differential privacy."""
    if v is None:
        return True
    known = isinstance(v, Mapping) and set(v) <= set(NOISE)
    return known and good_privacy({**NOISE, **_floats(v), "epsilon": 1.0, "delta": 0.5})


def _floats(given: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(v) if type(v) is int else v for k, v in given.items()}


def with_privacy(
    spec: NeuralSpec, given: Mapping[str, Any] | None, epsilon: float, delta: float
) -> NeuralSpec:
    """The spec under differential privacy. Raises NO_PRIVATE_VERSION."""
    about = {**NOISE, **_floats(given or {}), "epsilon": float(epsilon), "delta": float(delta)}
    found = replace(spec, privacy=about)
    check_private(found)
    return found


_KNOWN: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda v: isinstance(v, str),
    "architecture_options": lambda v: v is None or isinstance(v, Mapping),
    "loss": LOSSES.__contains__,
    "loss_options": lambda v: v is None or isinstance(v, Mapping),
    "strategy": lambda v: v is None or isinstance(v, (Strategy, Mapping)),
    "scale": SCALES.__contains__,
    "sampling": SAMPLINGS.__contains__,
    "class_weight": _class_weight,
    "augment": lambda v: v is None or isinstance(v, Mapping),
    "validation": lambda v: isinstance(v, (int, float)) and 0 <= v <= 0.5,
    "noise": _noise,
}
_RULE = (
    f"loss is one of {', '.join(LOSSES)}; scale one of {', '.join(SCALES)}; sampling "
    f"one of {', '.join(SAMPLINGS)}; validation "
    'from 0 to 0.5; class_weight None, "balanced" or a weight above 0 per class; noise None, or '
    f"unit ({', '.join(UNITS)}), clip (above 0) and rate (above 0, at most 1)"
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
    strategy = _strategy(given.get("strategy"))
    weight = _weights(given, strategy, asked.classes)
    if strategy.stop_after and not given.get("validation"):
        raise wrong("stop_after without validation", "validation = 0.1 watches a tenth")
    if unknown := sorted(set(dict(strategy.site_steps)) - set(asked.sites)):
        raise wrong(f"site_steps of {', '.join(unknown)}", "names of sites that take part")
    spec = NeuralSpec(
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
        augment_of(given.get("augment")),
        asked.seed,
        tuple(asked.sites) if strategy.by_turns or strategy.buffered else (),
        {},
        dict(asked.rows),
        given.get("sampling", "shuffled"),
    )
    one.fits(spec)
    if strategy.name in ("fedbn", "fedper"):
        try:
            personal(strategy, network_of(spec))
        except ValueError as error:
            raise wrong(f"{strategy!r} with {one.name}", str(error)) from None
    if asked.privacy is None:
        return spec
    return with_privacy(spec, given.get("noise"), asked.privacy.epsilon, asked.privacy.delta)


def _prescribed(spec: NeuralSpec, plan: Plan) -> Mapping[str, Any]:
    """The noise of a step."""
    return noise_for(spec, plan.task == "neural.count") if spec.privacy else {}


def _later(spec: NeuralSpec) -> Plan:
    """A round of training."""
    weights, beside = (np.zeros(size, dtype=np.float32) for size in sizes(spec))
    return Plan("neural.train", values(spec, weights=weights, beside=beside), "round of training")


def _apart(spec: NeuralSpec) -> str:
    """What of a round is seen of each hospital by itself, whatever the way of summing."""
    moved = "by how much its own training moved the network"
    if not spec.strategy.buffered:
        return ""
    return f"{moved}, with noise" if spec.privacy else moved


def _asks(spec: NeuralSpec) -> tuple[str, ...]:
    """The steps of a fit."""
    return ("neural.count" if spec.privacy else "neural.moments", "neural.train")


def _strategy(given: Any) -> Strategy:
    if isinstance(given, Strategy):
        return given
    return Strategy.from_data(given) if given else Strategy()


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
    weights, beside = sizes(spec)
    beside_them = _beside_weights(spec, state.get("round"))
    names |= {"extra"} if beside_them else set()
    if set(state) != names:
        raise ValueError("a state of another form")
    check_noise(spec, plan, counts=False)
    if beside_them and set(state["extra"]) != {beside_them}:
        raise ValueError("something else beside the weights")
    if beside_them == "control":
        _numbers(state["extra"]["control"], weights)
    if beside_them == "places":
        check_places(spec.strategy, weights, state["extra"]["places"])
    _numbers(state["weights"], weights)
    _numbers(state["beside"], beside)
    end = spec.strategy.rounds + (spec.strategy.fine_tune > 0)
    if type(state["round"]) is not int or not 0 <= state["round"] < end:
        raise ValueError("another round")
    if not math.isclose(float(state["lr"]), spec.strategy.lr_at(state["round"]), rel_tol=1e-12):
        raise ValueError("another step size")
    _class_weights(spec, state["class_weight"])
    _scaling(spec, state["scaling"])
    after = state["after"]
    # The network that is trained on after the last round may be the first one; a site that answers
    # by itself may have been lost until now.
    free = state["round"] == spec.strategy.rounds or (spec.strategy.buffered and state["round"] > 0)
    fits = free or bool(after) == (state["round"] > 0)
    if not isinstance(after, str) or len(after) > 64 or not fits:
        raise ValueError("another round before")


def _beside_weights(spec: NeuralSpec, round: Any) -> str:
    """The name of what sites are sent beside the weights in a round; "": nothing."""
    if spec.privacy:
        return "patients"
    if spec.strategy.name == "scaffold":
        return "control"
    return "" if type(round) is int and asks_whole(spec.strategy, round) else "places"


def check_count(spec: NeuralSpec, plan: Plan) -> None:
    """Raises ValueError for a count of patients that no fit asks for."""
    if not spec.privacy or plan.values["state"] != {}:
        raise ValueError("a count that no fit asks for")
    check_noise(spec, plan, counts=True)


def check_noise(spec: NeuralSpec, plan: Plan, counts: bool) -> None:
    """Raises ValueError for other noise than the spec's budget takes."""
    wanted = noise_for(spec, counts) if spec.privacy else None
    if not good_privacy(spec.privacy) or plan.values.get(KEY) != wanted:
        raise ValueError("other noise")
    if wanted and not counts:
        _numbers(plan.values["state"]["extra"]["patients"])


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
    names = {"kind", "design", "spec", "scaling", "weights", "beside"}
    if not names <= set(data) <= names | ({"after"} if spec.strategy.personal else set()):
        raise ValueError("another model")
    if not isinstance(data.get("after", ""), str) or len(data.get("after", "")) > 64:
        raise ValueError("another round")
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
    return 2 + spec.strategy.rounds + (spec.strategy.fine_tune > 0)


kinds = [
    Kind(
        "neural",
        "neural network",
        "any",
        neural_spec,
        NeuralSpec.from_data,
        rounds,
        {
            "neural.moments": check_moments,
            "neural.count": check_count,
            "neural.train": check_train,
        },
        predictor=check_predictor,
        media=True,
        private=True,
        asks=_asks,
        noise=_prescribed,
        later=_later,
        apart=_apart,
        survival=True,
    )
]
