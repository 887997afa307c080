"""Fitted models as data that any installed site can predict with, looked up by kind.

Evaluation asks sites to score their own rows with a predictor; its data travels, never code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition


class Predictor(Protocol):
    """What a model needs to predict.

    design   the columns that are read, and the outcome
    explains "binary", "classes" or "number"
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
