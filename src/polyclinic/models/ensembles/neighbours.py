"""Models of scikit-learn that consist of the rows that they were trained on.

They never leave a hospital; over arrays in one trust domain the rows are where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.partition import Partition
from polyclinic.models.learner import check_options

Floats = NDArray[np.float64]


def _neighbours(settings: Mapping[str, Any], x: Floats, y: Floats, w: Floats) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    k = min(settings["n_neighbors"], len(y))
    return KNeighborsClassifier(k, weights=settings["weights"]).fit(x, y)


def _machine(settings: Mapping[str, Any], x: Floats, y: Floats, w: Floats) -> Any:
    from sklearn.svm import SVC

    return SVC(C=settings["C"], gamma=settings["gamma"]).fit(x, y, sample_weight=w)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < np.inf


WEIGHTED = ("kernel-svm",)  # bases in which a row of weight 2 is two rows
Options = dict[str, tuple[Any, Callable[[Any], bool]]]
MADE: dict[str, tuple[Callable[..., Any], Options]] = {
    "knn": (
        _neighbours,
        {
            "n_neighbors": (5, _is_whole),
            "weights": ("uniform", lambda v: v in ("uniform", "distance")),
        },
    ),
    "kernel-svm": (
        _machine,
        {
            "C": (1.0, _is_positive),
            "gamma": ("scale", lambda v: v in ("scale", "auto") or _is_positive(v)),
        },
    ),
}
RULES = {
    "knn": 'n_neighbors is 1 or more, weights "uniform" or "distance"',
    "kernel-svm": 'C is above 0, gamma above 0, "scale" or "auto"',
}


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a base. Raises UNKNOWN_OPTION, WRONG_VALUE."""
    known = MADE[name][1]
    check_options(options, {option: check for option, (_, check) in known.items()}, RULES[name])
    return {option: options.get(option, default) for option, (default, _) in known.items()}


@dataclass(frozen=True)
class RowsPredictor:
    """The model is fitted again from its rows, which is what it is made of.

    A kernel machine's decision value f counts as the risk 1 / (1 + exp(-2 f)): its sign decides,
    and the margins -1 and 1 are risks of 12 % and 88 %.
    """

    design: Design
    name: str
    settings: Mapping[str, Any]
    x: Floats
    y: Floats
    w: Floats

    explains = "binary"

    @cached_property
    def _model(self) -> Any:
        return MADE[self.name][0](self.settings, self.x, self.y, self.w)

    def predict(self, partition: Partition) -> Floats:
        x = self.design.matrix(partition.columns, partition.site)
        if self.name == "knn":
            return np.asarray(self._model.predict_proba(x)[:, 1], dtype=np.float64)
        decision = np.clip(self._model.decision_function(x), -350.0, 350.0)
        return np.asarray(1.0 / (1.0 + np.exp(-2.0 * decision)))

    def outcome(self, partition: Partition) -> Floats:
        return partition.columns[self.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        return partition.columns[self.design.weight] if self.design.weight else None

    def to_data(self) -> dict[str, Any]:
        """None: rows are no predictor that travels."""
        raise NotImplementedError
