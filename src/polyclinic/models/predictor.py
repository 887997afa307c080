"""Fitted models as data that any installed site can predict with, looked up by kind.

Evaluation asks sites to score their own rows with a predictor; its data travels, never code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition


class Predictor(Protocol):
    """What a model needs to predict.

    design   the columns that are read, and the outcome
    explains "binary", "classes" or "number"
    by_terms where there is one and it is false: no sum over terms, which are then not judged
    predict  expected outcome per row: (n_rows,) probability of the event or mean of a number, or
             (n_rows, n_classes) class probabilities
    outcome  the observed outcome per row, (n_rows,): 0/1, a number, or the class index
    weight   sample weight per row, (n_rows,), or None
    """

    @property
    def design(self) -> Design: ...
    @property
    def explains(self) -> str: ...
    def predict(self, partition: Partition) -> NDArray[np.float64]: ...
    def outcome(self, partition: Partition) -> NDArray[np.float64]: ...
    def weight(self, partition: Partition) -> NDArray[np.float64] | None: ...
    def to_data(self) -> dict[str, Any]:
        """Plain data with the key "kind"."""
        ...


@runtime_checkable
class Personal(Protocol):
    """A predictor of which sites keep a part for themselves, which never leaves them.

    after        `bare_hash` of the plan of the round at which it was kept; "": none was
    own_numbers  how many numbers of it are the site's own
    kept_by      the same with what a site kept
    """

    @property
    def after(self) -> str: ...
    @property
    def own_numbers(self) -> int: ...
    def kept_by(self, memory: Mapping[str, Any]) -> Predictor: ...


@runtime_checkable
class Segments(Protocol):
    """A predictor of masks.

    output    shape of a mask, (channels, ...)
    overlaps  pixels of each row inside both masks, in the found one only, in the true one only, and
              in none, (n_rows, channels, 4)
    """

    @property
    def explains(self) -> str: ...
    @property
    def output(self) -> tuple[int, ...]: ...
    def overlaps(self, partition: Partition) -> NDArray[np.float64]: ...


_kinds: dict[str, Callable[[Mapping[str, Any]], Predictor]] = {}


def register_predictor(kind: str, make: Callable[[Mapping[str, Any]], Predictor]) -> None:
    """Install a kind of predictor."""
    _kinds[kind] = make


def predictor_from(data: Mapping[str, Any]) -> Predictor:
    """The predictor that `data` describes. Raises UNKNOWN_TASK for a kind that is not installed."""
    make = _kinds.get(str(data.get("kind")))
    if make is None:
        raise PolyclinicError(
            f"no predictor of kind {data.get('kind')!r} is installed here", code="UNKNOWN_TASK"
        )
    return make(data)


@dataclass(frozen=True)
class Form:
    """How the numbers of a predictor travel as arrays of a shape that its spec fixes.

    shapes        of the arrays by name, from the spec
    to_arrays     from the spec and the predictor's data. Raises ValueError where they do not fit in
    from_arrays   the inverse. Raises ValueError for arrays that are no predictor
    coefficients  unknowns that the arrays could be solved for, from the spec
    behind        from the predictor's data and rows: patients by name of a part that is about some
                  of them only, as a leaf of a tree is
    """

    shapes: Callable[[Any], Mapping[str, tuple[int, ...]]]
    to_arrays: Callable[[Any, Mapping[str, Any]], Mapping[str, NDArray[np.float64]]]
    from_arrays: Callable[[Any, Mapping[str, NDArray[np.float64]]], dict[str, Any]]
    coefficients: Callable[[Any], int]
    behind: Callable[[Mapping[str, Any], Partition], Mapping[str, int]] = lambda data, rows: {}


_forms: dict[str, Form] = {}


def register_form(kind: str, form: Form) -> None:
    """Install the form of a kind of predictor."""
    _forms[kind] = form


def form_of(kind: str) -> Form | None:
    """The form of a kind of predictor; None where a site's own model cannot leave it."""
    return _forms.get(kind)
