"""The options of trees: which values each may have, in words that an error can say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.models.learner import check_options
from polyclinic.models.trees.spec import MOST_BINS, MOST_FOCUS

MOST_DEPTH = 16


@dataclass(frozen=True)
class Option:
    """What an option may be.

    good   whether a value is allowed
    rule   the same in words; next: what to do otherwise
    """

    good: Callable[[Any], bool]
    rule: str
    next: str = ""


Options = Mapping[str, Option]


def check(given: Mapping[str, Any], known: Options, title: str) -> None:
    """Check the options of a kind of trees.

    Raises
    ------
    InputError : UNKNOWN_OPTION, WRONG_VALUE; it says which values an option may have.
    """
    check_options(given, {name: lambda v: True for name in known}, "")
    for name, value in given.items():
        if not known[name].good(value):
            raise InputError(
                f"{name} = {value!r} of a {title}",
                code="WRONG_VALUE",
                rule=f"{name} is {known[name].rule}",
                next=known[name].next or f"give another {name}, or leave it out",
            )


def _whole(least: int, most: int, rule: str = "", next: str = "") -> Option:
    def good(v: Any) -> bool:
        return isinstance(v, int) and not isinstance(v, bool) and least <= v <= most

    return Option(good, rule or f"a whole number from {least} to {most}", next)


def _number(least: float, most: float = math.inf, *, above: bool = False) -> Option:
    def good(v: Any) -> bool:
        number = isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
        return number and (least < v if above else least <= v) and v <= most

    rule = f"a number above {least:g}" if above else f"a number of {least:g} or more"
    return Option(good, rule + ("" if most == math.inf else f", {most:g} at most"))


def _or_none(one: Option, what: str) -> Option:
    return Option(lambda v: v is None or one.good(v), f"{one.rule}, or None: {what}", one.next)


def _flag() -> Option:
    return Option(lambda v: isinstance(v, bool), "true or false")


def _one_of(*allowed: str) -> Option:
    return Option(lambda v: v in allowed, "one of " + ", ".join(map(repr, allowed)))


def _weights(v: Any) -> bool:
    given = isinstance(v, (list, tuple)) and len(v) > 1 and all(map(_number(0).good, v))
    return v is None or v == "balanced" or given


def _edges(v: Any) -> bool:
    return v is None or (isinstance(v, Mapping) and all(isinstance(name, str) for name in v))


def _constraints(v: Any) -> bool:
    return v is None or (isinstance(v, Mapping) and all(s in (-1, 0, 1) for s in v.values()))


def _features(v: Any) -> bool:
    share = isinstance(v, float) and 0 < v <= 1
    return v is None or v in ("sqrt", "log2") or share or _whole(1, 10**6).good(v)


COMMON: Options = {
    "max_depth": _whole(
        0,
        MOST_DEPTH,
        f"a whole number of levels from 0 (no split) to {MOST_DEPTH}: a tree's depth is agreed, so "
        "there are none without a limit",
        "give a depth, such as max_depth = 6, or leave it out",
    ),
    "min_samples_leaf": _whole(1, 10**6),
    "max_bins": _or_none(_whole(2, MOST_BINS), "256 of arrays, 32 over hospitals"),
    "min_cell": _or_none(_whole(1, 10**6), "what the policies ask for"),
    "gamma": _number(0),
    "bins": _one_of("ranges", "quantiles"),
    "edges": Option(_edges, "bins of numbers by name, {age = [40, 50, 60]}, or None"),
    "gaps": Option(lambda v: isinstance(v, (list, tuple)), "a list of columns"),
}
CLASSES: Options = {
    "class_weight": Option(_weights, 'one weight of 0 or more per class, "balanced", or None'),
}
FOREST: Options = {
    "n_estimators": _whole(1, 10_000),
    "max_features": Option(
        _features, '"sqrt", "log2", a number of columns, a share of them such as 0.5, or None: all'
    ),
    "bootstrap": _flag(),
}
BOOSTING: Options = {
    "n_estimators": _whole(0, 10_000),
    "learning_rate": _number(0, above=True),
    "min_child_weight": _number(0),
    "reg_lambda": _number(0),
    "reg_alpha": _number(0),
    "subsample": _number(0, 1, above=True),
    "colsample_bytree": _number(0, 1, above=True),
    "monotone_constraints": Option(_constraints, "-1, 0 or 1 by column, or None"),
    "early_stopping_rounds": _or_none(_whole(1, 10**6), "no early stop"),
    "validation_fraction": _number(0, 0.9, above=True),
}
LOSS: Options = {
    "loss": _one_of("auto", "squared", "logistic", "softmax", "poisson", "focal"),
    "focal_gamma": _number(0, MOST_FOCUS),
}
SURVIVAL: Options = {"cause": _whole(1, 100)}
