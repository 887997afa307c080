"""The kind of model that study files call "treatment-effect", and what its plans may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.effects.spec import ESTIMANDS, METHODS, Spec
from polyclinic.models.glm.spec import Spec as GLMSpec
from polyclinic.models.learner import Asked, Kind, check_options

SPARE = 10  # rounds of a fit that its solver does not count
MOST_CANDIDATES = 64
FARTHEST = 2.0**40  # of a coefficient in the sites' units
_MODEL = {"design", "family", "classes", "rows", "response_exponent"}
_DERIVATIVES = _MODEL | {"theta", "order", "shift", "class_weight"}
_KNOWN = {
    "treatment": lambda value: isinstance(value, str),
    "method": lambda value: value in METHODS,
    "estimand": lambda value: value in ESTIMANDS,
    "trim": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "effect_modifiers": lambda value: (
        value is None
        or (isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value))
    ),
    "folds": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "cross_fit": lambda value: isinstance(value, bool),
}
_RULE = (
    f"treatment names a column; method: {', '.join(METHODS)}; estimand: {', '.join(ESTIMANDS)}; "
    "trim is a number, folds a whole number, cross_fit true or false, effect_modifiers a list of "
    "columns"
)


def spec_of(asked: Asked) -> Spec:
    """The effect that is asked for.

    Raises
    ------
    InputError : UNKNOWN_OPTION, WRONG_VALUE, BAD_TREATMENT, BAD_FORMULA.
    """
    given = dict(asked.options)
    check_options(given, _KNOWN, _RULE)
    modifiers = tuple(given.pop("effect_modifiers", None) or ())
    treatment = str(given.pop("treatment", ""))
    known = {column.name: column for column in asked.columns}
    _check_columns(asked, treatment, known)
    return Spec(asked.design, treatment, asked.classes == 2, modifiers=modifiers, **given)


def _check_columns(asked: Asked, treatment: str, known: Mapping[str, Any]) -> None:
    if asked.classes > 2:
        raise InputError(
            f"{asked.design.response}: a treatment effect needs a number or a 0/1 outcome",
            code="WRONG_VALUE",
            rule="the effect is a difference of means or of risks",
            next="choose another outcome",
        )
    if treatment not in known or len(known[treatment].levels) not in (0, 2):
        raise InputError(
            f"{treatment or 'no column'} is no treatment",
            code="BAD_TREATMENT",
            rule="the treatment is a column of the formula with two levels",
            next='treatment = "drug", and in the formula: "outcome ~ drug + age + ..."',
        )


def rounds(spec: Spec) -> int:
    """How many different questions a run asks at most."""
    models = spec.nuisance()
    return sum(2 * glm.solver.max_rounds + SPARE for glm in models) + 2 * len(METHODS) + SPARE


def _moments(spec: Spec, plan: Plan) -> None:
    require(set(plan.values) in (_MODEL, _MODEL | {"shift"}), "other values")
    glm = _model(spec, plan.values)
    shift = plan.values.get("shift")
    require(shift is None or _array(shift, (len(glm.design.terms),)), "another shift")


def _derivatives(spec: Spec, plan: Plan) -> None:
    values = plan.values
    require(set(values) == _DERIVATIVES, "other values")
    glm, theta = _model(spec, values), values["theta"]
    require(type(values["order"]) is int and 0 <= values["order"] <= 2, "another order")
    require(_array(values["shift"], (len(glm.design.terms),)), "another shift")
    require(_array(theta, (len(theta), glm.size)), "other coefficients")
    require(1 <= len(theta) <= MOST_CANDIDATES, "too many candidates")
    require(_array(values["class_weight"], (0,)), "other weights")


def _model(spec: Spec, values: Mapping[str, Any]) -> GLMSpec:
    """Which of the models of treatment and outcome this is. Raises ValueError for another one."""
    fills = values["design"]["fills"]
    require(set(fills) == set(spec.design.fills), "other columns with gaps")
    require(all(type(v) in (int, float) and np.isfinite(v) for v in fills.values()), "other gaps")
    asked = {**values["design"], "fills": dict.fromkeys(fills, 0.0)}
    kind = (values["family"], values["classes"], values["response_exponent"])
    for glm in spec.nuisance():
        if (glm.family, glm.classes, glm.response_exponent) != kind:
            continue
        if codec.digest(values["rows"]) != codec.digest(dict(glm.rows)):
            continue
        wanted = {**glm.design.to_data(), "fills": dict.fromkeys(fills, 0.0)}
        if codec.digest(asked) == codec.digest(wanted):
            return glm
    raise ValueError("none of the models of treatment and outcome")


def _models(spec: Spec, state: Mapping[str, Any], folds: int, outcome: bool) -> None:
    """The coefficients of the models under which a step is asked."""
    size = len(spec.covariates) + 1
    require(_array(state["propensity"], (folds, size)), "another propensity")
    require(("outcome" in state) == outcome, "another model of the outcome")
    require(not outcome or _array(state["outcome"], (folds, 2, size)), "another outcome model")


def _overlap(spec: Spec, plan: Plan) -> None:
    state = plan.values["state"]
    require(set(state) == {"propensity"}, "another state")
    _models(spec, state, 1, False)


def _means(spec: Spec, plan: Plan, extra: frozenset[str] = frozenset()) -> None:
    state = plan.values["state"]
    require(state["method"] in spec.methods, "another method")
    outcome = state["method"] != "ipw"
    known = {"method", "propensity", *extra, *(("outcome",) if outcome else ())}
    require(set(state) == known, "another state")
    _models(spec, state, spec.folds if spec.cross_fit else 1, outcome)


def _influence(spec: Spec, plan: Plan) -> None:
    _means(spec, plan, frozenset(("mean", "by_propensity", "by_outcome")))
    state, size = plan.values["state"], len(spec.covariates) + 1
    require(_array(state["mean"], (2,)), "other means")
    for name in ("by_propensity", "by_outcome"):
        shapes = [(2, size), (0, size)]
        require(any(_array(state[name], shape) for shape in shapes), "other influences")


def _modify(spec: Spec, plan: Plan) -> None:
    state = plan.values["state"]
    require(bool(spec.modifiers), "nobody asked for effect modifiers")
    require(set(state) == {"propensity", "outcome", "effect"}, "another state")
    _models(spec, state, spec.folds, True)
    require(_array(state["effect"], (1, len(spec.modifying) + 1)), "another effect")


def require(holds: bool, what: str) -> None:
    """Raises ValueError."""
    if not holds:
        raise ValueError(what)


def _array(value: Any, shape: tuple[int, ...]) -> bool:
    """Numbers of this shape, none of them beyond what a model can have."""
    fits = isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind in "fiu"
    return bool(fits and np.all(np.abs(value) < FARTHEST))


KIND = Kind(
    name="treatment-effect",
    title="treatment effect",
    explains="nothing",
    spec=spec_of,
    from_data=Spec.from_data,
    rounds=rounds,
    tasks={
        "effects.overlap": _overlap,
        "effects.means": _means,
        "effects.influence": _influence,
        "effects.squares": _means,
        "effects.modify": _modify,
        "effects.modify_scores": _modify,
    },
    by_name=("effects.means", "effects.squares"),
    foreign={"glm.moments": _moments, "glm.derivatives": _derivatives},
)
