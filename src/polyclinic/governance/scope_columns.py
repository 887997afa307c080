"""The columns that a plan reads, wherever in its data they stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from polyclinic.core.design import Design
from polyclinic.data.expression import parse

_WORD = re.compile(r"\w+")
# Keys of plans, and the keys whose texts are no columns. Any other word may be one.
_KEYS = frozenset(
    [
        "by",
        "centre",
        "centred",
        "class_weight",
        "classes",
        "coef",
        "columns",
        "cohort",
        "design",
        "edges",
        "exponent",
        "exponents",
        "family",
        "folds",
        "kind",
        "least",
        "levels",
        "name",
        "noise",
        "order",
        "outcome",
        "part",
        "parts",
        "powers",
        "predictors",
        "response_exponent",
        "round",
        "rows",
        "sample",
        "seed",
        "shift",
        "sites",
        "spec",
        "task",
        "theta",
        "thresholds",
        "unit",
        "values",
        "version",
        "where",
        "without",
        "multiplier",
        "mechanism",
        "a",
        "b",
    ]
)
_BY_COLUMN = frozenset(("edges", "fills"))  # what these hold has columns as its keys
_DESIGNS = tuple(set(Design((), event=event).to_data()) for event in (None, "event"))
_TEXTS = frozenset(("family", "kind", "outcome", "task", "class_weight", "mechanism"))


class Outside(Exception):
    """A plan that a study does not cover; the text is for the hospital's own people."""


def require(condition: bool, note: str) -> None:
    """Raise Outside with `note` unless the condition holds."""
    if not condition:
        raise Outside(note)


def columns_read(values: Any, known: set[str]) -> set[str]:
    """Those of the `known` columns that the data of a plan name."""
    return {word for word in _words(values) if word in known}


def columns_of_cohort(cohort: Mapping[str, Any] | None) -> set[str]:
    """The columns that choose the patients."""
    if cohort is None:
        return set()
    require(set(cohort) == {"where", "columns", "missing"}, "a cohort of another form")
    found = {*cohort["columns"], *cohort["missing"]} - {"default"}
    if cohort["where"] is not None:
        found |= set(parse(cohort["where"]).columns)
    return found


def _words(value: Any, key: str = "") -> set[str]:
    if isinstance(value, str):
        return set() if key in _TEXTS else {value, *_WORD.findall(value)}
    if isinstance(value, Mapping):
        if set(value) in _DESIGNS:
            return set(Design.from_data(value).columns)
        names = [name for name in value if key in _BY_COLUMN or name not in _KEYS]
        found = {word for name in names for word in (name, *_WORD.findall(name))}
        return found.union(*(_words(inner, name) for name, inner in value.items()))
    if isinstance(value, (list, tuple)):
        return set().union(*(_words(inner, key) for inner in value))
    return set()
