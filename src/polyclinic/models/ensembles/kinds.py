"""Ensembles as kinds of models: what their plans may hold beside what a study fixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from polyclinic.core import codec
from polyclinic.core.plan import Plan
from polyclinic.models.ensembles.bases import check_arrays
from polyclinic.models.ensembles.predictor import KIND
from polyclinic.models.ensembles.spec import MOST_MODELS, Spec, spec_of
from polyclinic.models.learner import Asked, Check, Kind

TITLES = {
    "select-best": "best of the hospitals' own models",
    "voting": "vote of the hospitals' own models",
    "weighted-average": "weighted average of the hospitals' own models",
    "stacking": "stacking of the hospitals' own models",
}
MOST_CANDIDATES = 64
STACKING = 130  # rounds of a regression by Newton's method, at most
COLLECTED = {
    "ensemble.base": "a model of this site's own patients: all of its coefficients",
    "ensemble.scores": "how well each hospital's model predicts at this site",
}
RULES = ("mean", "votes", "stacked")


def rounds(spec: Spec) -> int:
    """How many different questions a fit asks at most."""
    scored = MOST_MODELS if spec.scored else 0
    return 1 + scored + (STACKING if spec.how == "stacking" else 0) + bool(spec.threshold)


def _require(holds: bool, what: str = "another form") -> None:
    if not holds:
        raise ValueError(what)


def check_base(spec: Spec, plan: Plan) -> None:
    """Nothing but what the study fixes."""
    _require(plan.values["state"] == {})


def check_scores(spec: Spec, plan: Plan) -> None:
    """One model."""
    _require(set(plan.values["state"]) == {"model"})
    check_arrays(spec.model, plan.values["state"]["model"])


def check_moments(spec: Spec, plan: Plan) -> None:
    """The models, and the middle of their predictions."""
    state = plan.values["state"]
    _require(set(state) in ({"models"}, {"models", "shift"}))
    many = _models(spec, state["models"])
    if "shift" in state:
        _array(state["shift"], (many,))


def check_derivatives(spec: Spec, plan: Plan) -> None:
    """The models, and coefficients of the regression."""
    state = plan.values["state"]
    _require(set(state) == {"models", "theta", "order", "shift"})
    many = _models(spec, state["models"])
    theta, order = state["theta"], state["order"]
    _require(type(order) is int and 0 <= order <= 2)
    _array(state["shift"], (many,))
    _array(theta, (len(theta), many + 1))
    _require(1 <= len(theta) <= MOST_CANDIDATES, "too many candidates")


def _models(spec: Spec, models: Any) -> int:
    _require(isinstance(models, Mapping) and 1 <= len(models) <= MOST_MODELS)
    for arrays in models.values():
        check_arrays(spec.model, arrays)
    return len(models)


def _array(value: Any, shape: tuple[int, ...]) -> None:
    fits = isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind == "f"
    _require(fits and bool(np.all(np.isfinite(value))))


def check_cut(spec: Spec, plan: Plan) -> None:
    """The risks of the ensemble, for its threshold; its predictor is checked by the scope."""
    wanted = {
        "folds": 0,
        "outcome": "binary",
        "thresholds": [],
        "where": None,
        "classes": 2,
        "least": spec.least,
    }
    given = dict(plan.values)
    (data,) = given.pop("predictors")
    _require(type(given.pop("exponent")) is int)
    _require(bool(spec.threshold) and plan.combine == "sum" and given == wanted)
    _require(data["kind"] == KIND and same_design(spec, data), "another model")
    check_predictor(spec, data)


def same_design(spec: Spec, data: Mapping[str, Any]) -> bool:
    """Whether a predictor is of the study's columns; means that fill gaps are left open."""
    wanted, given = spec.design.to_data(), dict(data["design"])
    open_ = set(wanted.pop("fills")) == set(given.pop("fills"))
    return open_ and codec.digest(wanted) == codec.digest(given)


def check_predictor(spec: Spec, data: Mapping[str, Any]) -> None:
    """The models and weights of a predictor."""
    keys = {"kind", "design", "base", "models", "weights", "rule", "classes"}
    _require(set(data) == keys)
    _require(codec.digest(data["base"]) == codec.digest(dict(spec.base)), "another model")
    _require(data["rule"] in RULES and data["classes"] == spec.classes, "another model")
    _require((data["rule"] == "stacked") == (spec.how == "stacking"), "another model")
    many = len(data["models"])
    _require(1 <= many <= MOST_MODELS)
    for arrays in data["models"]:
        check_arrays(spec.model, arrays)
    _array(data["weights"], (many + int(data["rule"] == "stacked"),))


def _kind(how: str) -> Kind:
    tasks: dict[str, Check] = {"ensemble.base": check_base}
    if how in ("select-best", "weighted-average"):
        tasks["ensemble.scores"] = check_scores
    if how == "stacking":
        tasks |= {"ensemble.moments": check_moments, "ensemble.derivatives": check_derivatives}
    made: Callable[[Asked], Spec] = partial(spec_of, how)
    return Kind(
        how,
        TITLES[how],
        "any",
        made,
        Spec.from_data,
        rounds,
        tasks,
        foreign={"evaluation.scores": check_cut},
        predictor=check_predictor,
        predicts_as=KIND,
        collected={name: words for name, words in COLLECTED.items() if name in tasks},
        pooled=False,
        least="least",
    )


kinds = [_kind(how) for how in TITLES]
