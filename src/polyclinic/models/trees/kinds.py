"""The kinds of trees that a study may ask for, and their options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.descriptive.quantiles import MAX_ROUNDS
from polyclinic.models.learner import Asked, Check, Column, Explains, Kind
from polyclinic.models.survival.kinds import check_survival, levels_of
from polyclinic.models.trees.bins import as_edges, uniform_edges
from polyclinic.models.trees.edges import check_search, closed, searching
from polyclinic.models.trees.options import BOOSTING, CLASSES, COMMON, FOREST, LOSS, SURVIVAL, check
from polyclinic.models.trees.predictor import TreesPredictor
from polyclinic.models.trees.private import rounds_of
from polyclinic.models.trees.private_kinds import with_noise
from polyclinic.models.trees.private_tasks import check_private
from polyclinic.models.trees.rows import check_state, spec_of
from polyclinic.models.trees.spec import LARGEST_BOUND, Feature, Spec
from polyclinic.models.trees.stack import checked

DOMAIN_BINS, SITE_BINS = 256, 32  # of numbers, where nobody says another


def tree_spec(asked: Asked) -> Spec:
    """One tree: squared loss from the mean, which for classes is the Gini index."""
    check(asked.options, {**COMMON, **CLASSES}, "decision tree")
    spec = Spec(**_common(asked, 20), depth=asked.options.get("max_depth", 4))
    return with_noise(spec, asked)


def forest_spec(asked: Asked) -> Spec:
    """A forest of such trees."""
    check(asked.options, {**COMMON, **CLASSES, **FOREST}, "random forest")
    given, many = asked.options, len(asked.columns)
    usual = "sqrt" if asked.classes else 1.0
    columns = _node_columns(given.get("max_features", usual), many)
    spec = Spec(
        **_common(asked, 5),
        forest=True,
        trees=given.get("n_estimators", 100),
        depth=given.get("max_depth", 8),
        bootstrap=given.get("bootstrap", True),
        node_columns=0 if columns >= many else columns,
    )
    return with_noise(spec, asked)


def boosting_spec(asked: Asked) -> Spec:
    """Gradient boosting of classes or of a number."""
    check(asked.options, {**COMMON, **CLASSES, **BOOSTING, **LOSS}, "gradient boosting")
    given = asked.options
    loss = given.get("loss", "auto")
    by_outcome = {0: "squared", 2: "logistic"}.get(asked.classes, "softmax")
    loss = by_outcome if loss == "auto" else loss
    fits = {"squared": 0, "poisson": 0, "logistic": 2, "focal": 2}.get(loss, max(asked.classes, 3))
    if fits != asked.classes:
        raise _wrong(f"loss = {loss!r} of {asked.classes or 'no'} classes", "the loss fits")
    if loss == "poisson" and asked.design.response_bound >= LARGEST_BOUND:
        raise InputError(
            f"{asked.design.response} has no range in the codebook",
            code="WRONG_VALUE",
            rule="curvatures are whole numbers of a size that follows from the largest count",
            next="declare the range of the outcome in the codebook",
        )
    focus = float(given.get("focal_gamma", 2.0)) if loss == "focal" else 0.0
    spec = Spec(**{**_boosted(asked), "loss": loss, "focus": focus})
    return with_noise(spec, asked, start=True)


def survival_spec(asked: Asked) -> Spec:
    """Gradient boosting of survival. Raises BAD_FORMULA for another outcome."""
    check_survival(asked, "survival boosting")
    check(asked.options, {**COMMON, **BOOSTING, **SURVIVAL}, "survival boosting")
    levels = levels_of(asked)
    own = {asked.design.event, *asked.design.strata}
    asked = replace(
        asked, classes=0, columns=tuple(one for one in asked.columns if one.name not in own)
    )
    cause = asked.options.get("cause", 1)
    return Spec(**_boosted(asked), loss="cox", cause=cause, levels=levels)


def _boosted(asked: Asked) -> dict[str, Any]:
    given = asked.options
    stops = given.get("early_stopping_rounds")
    signs = given.get("monotone_constraints") or {}
    names = [column.name for column in asked.columns]
    if unknown := sorted(set(signs) - set(names)):
        raise _wrong(f"monotone_constraints of {', '.join(unknown)}", "columns of the formula")
    if any(signs.get(c.name) and c.kind == "category" for c in asked.columns):
        raise _wrong("monotone_constraints of a category", "only numbers and binary columns")
    return {
        **_common(asked, 1),
        "trees": given.get("n_estimators", 100),
        "depth": given.get("max_depth", 6),
        "rate": float(given.get("learning_rate", 0.1)),
        "hessian": float(given.get("min_child_weight", 1.0)),
        "l2": float(given.get("reg_lambda", 1.0)),
        "l1": float(given.get("reg_alpha", 0.0)),
        "rows_share": float(given.get("subsample", 1.0)),
        "columns_share": float(given.get("colsample_bytree", 1.0)),
        "monotone": tuple(int(signs.get(name, 0)) for name in names) if any(signs.values()) else (),
        "validation": float(given.get("validation_fraction", 0.2)) if stops else 0.0,
        "patience": stops or 1,
    }


def _common(asked: Asked, leaf: int) -> dict[str, Any]:
    given, alone = asked.options, asked.design.is_array
    if asked.classes == 1:
        raise InputError(
            "the outcome has one class",
            code="ONE_CLASS",
            rule="a classifier needs two classes or more",
            next="use rows with both outcomes",
        )
    if asked.design.offset:
        raise _wrong(f"offset({asked.design.offset}) of trees", "trees have no offset")
    weight = given.get("class_weight")
    if isinstance(weight, (list, tuple)):
        if len(weight) != asked.classes:
            raise _wrong(f"{len(weight)} weights of {asked.classes} classes", "one per class")
        weight = tuple(map(float, weight))
    if weight is not None and not asked.classes:
        raise _wrong("class_weight of a number", "only outcomes with classes")
    cell = 0 if alone else int(given.get("min_cell") or asked.least)
    return {
        "design": asked.design,
        "features": features_of(asked),
        "classes": asked.classes,
        "leaf": max(int(given.get("min_samples_leaf", leaf)), cell),
        "gamma": float(given.get("gamma", 0.0)),
        "class_weight": weight,
        "seed": asked.seed,
        "cell": cell,
        "rows": asked.rows,
    }


def features_of(asked: Asked) -> tuple[Feature, ...]:
    """The columns with their bins.

    Raises
    ------
    InputError : WRONG_VALUE for edges of another column, or for a number without a range.
    """
    given: Mapping[str, Any] = asked.options.get("edges") or {}
    if unknown := sorted(set(given) - {column.name for column in asked.columns}):
        raise _wrong(f"edges of {', '.join(unknown)}", "columns of the formula")
    alone = asked.design.is_array
    bins = asked.options.get("max_bins") or (DOMAIN_BINS if alone else SITE_BINS)
    gaps = asked.options.get("gaps", ())
    return tuple(
        _feature(
            column,
            given.get(column.name),
            bins,
            column.name in gaps or not alone,
            asked.options.get("bins") == "quantiles",
        )
        for column in asked.columns
    )


def _feature(column: Column, edges: Any, bins: int, missing: bool, search: bool) -> Feature:
    if column.kind != "number":
        return Feature(column.name, (), len(column.levels), missing, tuple(column.levels))
    if edges is not None:
        return Feature(column.name, as_edges(np.asarray(edges, dtype=np.float64)), 0, missing)
    if column.low == -column.high and column.high >= LARGEST_BOUND:
        raise InputError(
            f"{column.name} has no range in the codebook",
            code="WRONG_VALUE",
            rule="bins are agreed: they come from the range of a column, never from patients",
            next=f"declare the range in the codebook, or give edges = {{{column.name} = [...]}}",
        )
    if search:
        low, high = float(column.low), float(column.high)
        return Feature(column.name, (), 0, missing, (), bins, low, high)
    return Feature(column.name, uniform_edges(column.low, column.high, bins), 0, missing)


def _node_columns(asked: Any, many: int) -> int:
    if asked is None:
        return many
    if asked == "sqrt":
        return max(1, math.isqrt(many))
    if asked == "log2":
        return max(1, int(math.log2(many)))
    return max(1, int(asked * many)) if isinstance(asked, float) else min(int(asked), many)


def _rounds(spec: Spec) -> int:
    """Start, levels, losses, pairs: at most."""
    if spec.private:
        return rounds_of(spec)
    search = MAX_ROUNDS if searching(spec) else 0
    trees = spec.trees
    return search + 2 + trees * max(spec.depth, 1) + (trees + 1 if spec.validation else 0)


def _asks(spec: Spec) -> tuple[str, ...]:
    """The steps of a fit."""
    if spec.private:
        return ("trees.private_level", "trees.private_leaves")
    search = ("descriptive.histogram",) if searching(spec) else ()
    if spec.loss == "cox":
        return (*search, "trees.events", "trees.cells", "trees.held", "trees.concordance")
    return (*search, "trees.start", "trees.cells", "trees.loss")


def _check_start(spec: Spec, plan: Plan) -> None:
    if plan.values["state"]:
        raise ValueError("there is nothing yet")


def _check_state(spec: Spec, plan: Plan) -> None:
    check_state(spec_of(plan), plan)


def _check_predictor(spec: Spec, data: Mapping[str, Any]) -> None:
    if set(data) != {"kind", "design", "spec", "base", "trees"}:
        raise ValueError("other fields")
    wanted = spec.to_data()
    for name in ("design", "rows"):
        del wanted[name]
    from polyclinic.core import codec

    if codec.digest(closed(data["spec"])) != codec.digest(wanted):
        raise ValueError("of another model")
    spec = TreesPredictor.from_data(data).spec
    base = data["base"]
    if not isinstance(base, np.ndarray) or base.shape != (spec.lanes,):
        raise ValueError("not one start per outcome")
    if not np.all(np.abs(base) <= 2.0**40):
        raise ValueError("the start is not finite")
    checked(data["trees"], spec, spec.trees * spec.at_once)


def _wrong(what: str, rule: str) -> InputError:
    return InputError(what, code="WRONG_VALUE", rule=rule, next="correct it")


def _kind(name: str, title: str, spec: Callable[[Asked], Spec], explains: Explains = "any") -> Kind:
    survival = explains == "survival"
    start, loss = ("trees.events", "trees.held") if survival else ("trees.start", "trees.loss")
    noisy: dict[str, Check] = {
        "trees.private_level": check_private,
        "trees.private_leaves": check_private,
    }
    more: dict[str, Check] = {"trees.concordance": _check_state} if survival else noisy
    return Kind(
        name,
        title,
        explains,
        spec,
        Spec.from_data,
        _rounds,
        {
            start: _check_start,
            "trees.cells": _check_state,
            loss: _check_state,
            **more,
        },
        foreign={"descriptive.histogram": check_search},
        predictor=_check_predictor,
        predicts_as="trees",
        gaps=True,
        private=not survival,
        asks=_asks,
        closed=closed,
        pooled=False,  # hospitals may join bins
        least="cell",
    )


KINDS = (
    _kind("tree", "decision tree", tree_spec),
    _kind("forest", "random forest", forest_spec),
    _kind("boosting", "gradient boosting", boosting_spec),
    _kind("survival-boosting", "gradient boosting of survival", survival_spec, "survival"),
)
