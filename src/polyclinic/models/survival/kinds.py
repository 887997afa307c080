"""Survival models as kinds that a study file can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.glm.spec import Solver
from polyclinic.models.learner import Asked, Check, Kind, check_options
from polyclinic.models.survival.curve_spec import MOST_STEPS, CurveSpec
from polyclinic.models.survival.spec import DIAGNOSTICS, TIES, CoxSpec

MOST_CANDIDATES = 32
HELD_OUT = ("survival.held_out", "survival.held_out_own")
Test = Callable[[Any], bool]


def _whole(low: int, high: int) -> Test:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _number(low: float, high: float) -> Test:
    return lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high


def _edges(value: Any) -> bool:
    if value is None:
        return True
    numbers = isinstance(value, (list, tuple)) and 0 < len(value) <= MOST_STEPS
    return numbers and all(_number(-1e300, 1e300)(edge) for edge in value)


_GRID: dict[str, Test] = {
    "grid": _edges,
    "time_bins": _whole(0, MOST_STEPS),
    "least": lambda v: v is None or _whole(1, 10_000)(v),
    "cause": _whole(1, 100),
}
_COX: dict[str, Test] = {
    **_GRID,
    "ties": lambda v: v in TIES,
    "stratify": lambda v: isinstance(v, bool),
    "l2": _number(0, 1e300),
    "l1": _number(0, 1e300),
    "robust": lambda v: v is False or v in ("", "row", "site"),
    "diagnostics": lambda v: isinstance(v, bool),
    "max_rounds": _whole(1, 1000),
    "tolerance": _number(0, 1),
}
_CURVE: dict[str, Test] = {
    **_GRID,
    "confidence": lambda v: _number(0, 1)(v) and 0 < v < 1,
    "horizon": lambda v: v is None or _number(0, 1e300)(v),
}
_RANK: dict[str, Test] = {**_GRID, "stratify": lambda v: isinstance(v, bool)}
_RULES = {
    "cox": "ties is efron or breslow; l1, l2 are 0 or more; robust is false, row or site; grid is "
    "a list of times; time_bins, least, cause, max_rounds are whole numbers; stratify, "
    "diagnostics are true or false",
    "curve": "grid is a list of times; time_bins, least, cause are whole numbers; confidence lies "
    "between 0 and 1; horizon is a time",
    "rank": "grid is a list of times; time_bins, least, cause are whole numbers; stratify is true "
    "or false",
}


def edges_of(asked: Asked, bins: int) -> tuple[float, ...]:
    """The agreed edges: those that are given, or `time_bins` equal steps to the range's end."""
    given = asked.options.get("grid")
    if given is not None:
        return tuple(float(edge) for edge in given)
    bins = int(asked.options.get("time_bins", bins))
    return tuple(np.linspace(0.0, asked.design.response_bound, bins + 1)[1:].tolist())


def check_survival(asked: Asked, kind: str) -> None:
    """Raises BAD_FORMULA for an outcome that is no duration."""
    if asked.design.event is None:
        raise InputError(
            f"a {kind} needs a duration and how it ended",
            code="BAD_FORMULA",
            rule="the outcome of a survival model is Surv(duration, event)",
            next='write "Surv(days, died) ~ ..."',
        )


def levels_of(asked: Asked) -> tuple[int, ...]:
    """How many levels each of the strata has."""
    known = {column.name: len(column.levels) for column in asked.columns}
    return tuple(known.get(name, 1) for name in asked.design.strata)


def cox_spec(asked: Asked) -> CoxSpec:
    """From what is asked for. Raises BAD_FORMULA, UNKNOWN_OPTION, WRONG_VALUE, GRID_NEEDED."""
    check_survival(asked, "Cox regression")
    given = asked.options
    check_options(given, _COX, _RULES["cox"])
    by_site = bool(given.get("stratify", True))
    rounds, tolerance = given.get("max_rounds", 25), given.get("tolerance", 1e-10)
    return CoxSpec(
        asked.design,
        dict(asked.rows),
        given.get("cause", 1),
        levels_of(asked),
        given.get("ties", "efron"),
        by_site,
        edges_of(asked, 0),
        given.get("least") or asked.least,
        float(given.get("l2", 0.0)),
        float(given.get("l1", 0.0)),
        given.get("robust", "") or "",
        DIAGNOSTICS if given.get("diagnostics", True) else (),
        Solver(max_rounds=rounds, tolerance=float(tolerance), warm_rows=0),
    )


def _curve_spec(asked_for: str, options: Mapping[str, Test], rule: str, asked: Asked) -> CurveSpec:
    check_survival(asked, asked_for)
    given, design = asked.options, asked.design
    check_options(given, options, _RULES[rule])
    levels = {column.name: column.levels for column in asked.columns}
    groups = {f.column for term in design.terms for f in term.factors}
    if len(groups) > 1 or any(not levels.get(name) for name in groups):
        raise InputError(
            "curves are by the levels of one column",
            code="BAD_FORMULA",
            rule='curves read "Surv(duration, event) ~ group", or "~ 1" for all patients',
            next="name one binary or category column",
        )
    if design.weight or design.offset:
        raise InputError(
            "curves count patients",
            code="BAD_FORMULA",
            rule="weights() and offset() have no place in a curve or a log-rank test",
            next="leave them out, or use a Cox regression",
        )
    by = next(iter(groups), "")
    horizon = given.get("horizon")
    return CurveSpec(
        asked_for,
        design,
        dict(asked.rows),
        given.get("cause", 1),
        max(len(levels.get(str(design.event), ())) - 1, 1),
        by,
        levels[by] if by else ("all",),
        levels_of(asked),
        edges_of(asked, 40) if asked_for != "log-rank" or not given.get("stratify", True) else (),
        given.get("least") or asked.least,
        0.0 if horizon is None else float(horizon),
        float(given.get("confidence", 0.95)),
        bool(given.get("stratify", True)),
    )


def kaplan_meier_spec(asked: Asked) -> CurveSpec:
    """From what is asked for."""
    return _curve_spec("kaplan-meier", _CURVE, "curve", asked)


def incidence_spec(asked: Asked) -> CurveSpec:
    """From what is asked for."""
    return _curve_spec("cumulative-incidence", _CURVE, "curve", asked)


def log_rank_spec(asked: Asked) -> CurveSpec:
    """From what is asked for."""
    return _curve_spec("log-rank", _RANK, "rank", asked)


def _empty(spec: Any, plan: Plan) -> None:
    if plan.values["state"]:
        raise ValueError("there is nothing but the study's own settings")


def _theta(spec: CoxSpec, theta: Any) -> None:
    if theta.ndim != 2 or theta.shape[1] != spec.size or len(theta) > MOST_CANDIDATES:
        raise ValueError("coefficients that do not fit")
    if not np.all(np.isfinite(theta)):
        raise ValueError("coefficients that are not finite")


def _coefficients(spec: CoxSpec, plan: Plan) -> None:
    state = plan.values["state"]
    _theta(spec, state["theta"])
    if set(state) - {"theta", "order", "by"} or state.get("order", 0) not in (0, 1, 2):
        raise ValueError("more than coefficients")
    if state.get("by", spec.robust) not in ("", "row", "site"):
        raise ValueError("unknown clusters")


def _folds(spec: CoxSpec, plan: Plan) -> None:
    state = plan.values["state"]
    folds = state["folds"]
    _theta(spec, state["theta"])
    if set(state) != {"theta", "folds"} or type(folds) is not int:
        raise ValueError("more than coefficients and folds")
    if len(state["theta"]) != max(folds, 1):
        raise ValueError("coefficients that do not fit the folds")


_COX_TASKS: dict[str, Check] = {
    **dict.fromkeys(HELD_OUT, _folds),
    "survival.counts": _empty,
    **dict.fromkeys(
        (
            "survival.derivatives",
            "survival.scores",
            "survival.concordance",
            "survival.schoenfeld",
            "survival.risk_sets",
        ),
        _coefficients,
    ),
}
_CURVE_TASKS: dict[str, Check] = {"survival.steps": _empty, "survival.log_rank": _empty}


def _curve_kind(name: str, title: str, spec: Callable[[Asked], CurveSpec]) -> Kind:
    return Kind(
        name,
        title,
        "survival",
        spec,
        CurveSpec.from_data,
        lambda spec: 1,
        _CURVE_TASKS,
        least="least",
    )


kinds = [
    Kind(
        "cox",
        "Cox regression",
        "survival",
        cox_spec,
        CoxSpec.from_data,
        lambda spec: 2 * spec.solver.max_rounds + 10,
        _COX_TASKS,
        least="least",
        held_out=HELD_OUT,
    ),
    _curve_kind("kaplan-meier", "Kaplan-Meier curve", kaplan_meier_spec),
    _curve_kind("cumulative-incidence", "cumulative incidence curve", incidence_spec),
    _curve_kind("log-rank", "log-rank test", log_rank_spec),
]
