"""What trees are asked to be: one record, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.design import Design, exponent
from polyclinic.core.errors import InputError

LOSSES = ("squared", "logistic", "softmax", "poisson", "focal", "cox")
MOST_LEVELS = 62  # of a category: a set of them is the bits of one whole number
MOST_BINS = 1024
LARGEST_BOUND = 2.0**20  # what stands for a range where the codebook gives none
MOST_FOCUS = 10.0
COX_BOUND = 64.0  # of derivatives of the Cox loss: those beyond count as this
EDGE_PLACES = 1 << 14  # of a range, at which an edge that is found may lie
POISSON_DAMPING = 0.7  # as in XGBoost: the curvature is exp(0.7) times as large, steps at most so


@dataclass(frozen=True)
class Feature:
    """One column that trees may split on, with its agreed bins.

    edges    ascending float32 numbers; bin b holds edges[b-1] <= x < edges[b]. Of a number
    levels   of a category, whose values are 0 to levels - 1; 0: a number
    missing  whether values may be missing: they have a bin of their own
    names    of the levels
    quantiles  bins with as many rows each that are to be found; 0: edges are agreed beforehand
    low, high  range in which they are searched
    """

    nbytes = 0  # caches need not look into it: it is the plan's, and small beside rows

    name: str
    edges: tuple[float, ...] = ()
    levels: int = 0
    missing: bool = False
    names: tuple[str, ...] = ()
    quantiles: int = 0
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.levels <= MOST_LEVELS:
            raise _wrong(f"{self.name} has {self.levels} levels", f"at most {MOST_LEVELS} levels")
        if not np.all(np.diff(self.edges) > 0):
            raise _wrong(f"the edges of {self.name} do not ascend", "edges ascend")
        if len(self.edges) >= MOST_BINS:
            raise _wrong(f"{self.name} has too many edges", f"at most {MOST_BINS - 1} edges")
        if self.quantiles and self.edges:
            on_grid = np.isin(np.asarray(self.edges, np.float32), places(self).astype(np.float32))
            if len(self.edges) >= self.quantiles or not on_grid.all():
                raise _wrong(f"edges of {self.name}", "found edges lie on the grid of the range")

    @cached_property
    def bins(self) -> int:
        """Without the one of missing values."""
        return self.levels or len(self.edges) + 1


@dataclass(frozen=True)
class Private:
    """Noise that trees grow with.

    epsilon, delta  of the whole fit
    centre, unit    the outcome y is (y - centre) / unit, cut to [-1, 1], while trees grow
    start           whether trees correct a start that takes a round of its own
    """

    epsilon: float
    delta: float
    centre: float = 0.0
    unit: float = 1.0
    start: bool = False


@dataclass(frozen=True)
class Spec:
    """Trees to grow.

    design         outcome and weight; the terms only name the columns
    features       the columns with their bins
    loss           squared | logistic | softmax | poisson | focal | cox
    focus          of the focal loss: its gamma
    cause, levels  of the Cox loss: the event column's level that is the event, and the number of
                   levels of each of the design's strata
    classes        outcome classes; 0: a number. Squared loss of classes: one indicator per class
    trees          number of rounds of boosting, or of trees of a forest
    forest         True: trees side by side, averaged; False: each corrects the ones before
    depth          levels of splits
    rate           what a tree's values are multiplied by
    leaf           patients in a leaf, at least
    hessian        sum of second derivatives in a leaf, at least
    l2, l1         penalties on the values of leaves
    gamma          what a split must gain
    rows_share     share of the patients that each tree sees; by hash of the patient's key
    bootstrap      patients are drawn with replacement: Poisson(1) times each, by hash of the key
    columns_share  share of the columns that each tree sees
    node_columns   columns that each node may split on; 0: all of its tree
    monotone       per feature: 1 the prediction may not fall with it, -1 not rise, 0 free
    validation     share of the patients that tell when to stop; 0: none
    patience       rounds without a better validation loss after which growing stops
    class_weight   weight per class, "balanced", or None
    seed           of all hashes
    cell           patients in every number that leaves a hospital; 0: rows in one trust domain
    private        noise in place of cells; None: exact sums
    """

    design: Design
    features: tuple[Feature, ...]
    loss: str = "squared"
    focus: float = 0.0
    cause: int = 1
    levels: tuple[int, ...] = ()
    classes: int = 0
    trees: int = 1
    forest: bool = False
    depth: int = 3
    rate: float = 1.0
    leaf: int = 1
    hessian: float = 0.0
    l2: float = 0.0
    l1: float = 0.0
    gamma: float = 0.0
    rows_share: float = 1.0
    bootstrap: bool = False
    columns_share: float = 1.0
    node_columns: int = 0
    monotone: tuple[int, ...] = ()
    validation: float = 0.0
    patience: int = 10
    class_weight: tuple[float, ...] | str | None = None
    seed: int = 0
    cell: int = 0
    private: Private | None = None
    rows: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise _wrong(f"loss = {self.loss!r}", f"losses: {', '.join(LOSSES)}")
        if not self.features:
            raise _wrong("no column to split on", "at least one column")
        if self.monotone and (len(self.monotone) != len(self.features) or self.lanes > 1):
            raise _wrong("monotone constraints do not fit", "one per column, and one outcome")
        if not 0 <= self.focus <= MOST_FOCUS:
            raise _wrong(f"focus = {self.focus!r}", f"a number from 0 to {MOST_FOCUS:.0f}")
        self._check_survival()

    def _check_survival(self) -> None:
        design = self.design
        if self.survival != (design.event is not None):
            raise _wrong(f"loss = {self.loss!r} of this outcome", "Surv(duration, event): cox")
        if not self.survival:
            return
        if self.forest or self.bootstrap or self.classes or self.class_weight is not None:
            raise _wrong("a Cox loss of classes or of a forest", "boosting of durations")
        own = {design.response, design.event, *design.strata}
        read = {f.column for term in design.terms for f in term.factors}
        read |= set() if design.is_array else {one.name for one in self.features}
        if own & read:
            raise _wrong("the outcome is among the columns", "columns known before the outcome")
        if len(self.levels) != len(design.strata):
            raise _wrong("strata without their levels", "a number of levels per column of strata")

    @cached_property
    def survival(self) -> bool:
        """Whether the outcome is a duration and how it ended."""
        return self.loss == "cox"

    @cached_property
    def strata(self) -> int:
        """Combinations of levels of the strata; 1 where there are none."""
        return int(np.prod(self.levels, dtype=np.int64))

    @cached_property
    def weight_exponent(self) -> int:
        """Power of two that no row's weight exceeds."""
        return exponent(self.design.weight_bound)

    @cached_property
    def lanes(self) -> int:
        """Numbers that are predicted before the link: one, or one per class."""
        if self.loss == "softmax":
            return self.classes
        return self.classes if self.loss == "squared" and self.classes > 2 else 1

    @cached_property
    def width(self) -> int:
        """Numbers in a leaf: several only for squared loss of several classes."""
        return 1 if self.loss == "softmax" else self.lanes

    @cached_property
    def at_once(self) -> int:
        """Trees that are grown side by side in boosting: one per class of the softmax."""
        return self.lanes // self.width

    @cached_property
    def columns(self) -> int:
        """Columns in a histogram of one node."""
        return self.node_columns or self.tree_columns

    @cached_property
    def tree_columns(self) -> int:
        return max(1, round(self.columns_share * len(self.features)))

    @cached_property
    def bins(self) -> int:
        """Bins of a line of a histogram; the last is that of missing values where there are any."""
        return self.widest + int(self.has_missing)

    @cached_property
    def widest(self) -> int:
        """Most bins of a feature, which is the number of the bin of missing values."""
        return max(one.bins for one in self.features)

    @cached_property
    def bins_of(self) -> NDArray[np.int64]:
        """Bins of each feature, (n_features,)."""
        return np.array([one.bins for one in self.features])

    @cached_property
    def levels_of(self) -> NDArray[np.int64]:
        """Levels of each feature, 0 of numbers, (n_features,)."""
        return np.array([one.levels for one in self.features])

    @cached_property
    def has_missing(self) -> bool:
        return any(one.missing for one in self.features)

    @cached_property
    def subtracts(self) -> bool:
        """Whether of two siblings only the smaller is asked for."""
        return self.cell == 0 and not self.node_columns

    @cached_property
    def step(self) -> float:
        """Largest value of a leaf before `rate`; 0: any."""
        return POISSON_DAMPING if self.loss == "poisson" else 0.0

    @cached_property
    def gradient_exponent(self) -> int:
        """Power of two that no first derivative times a weight exceeds."""
        bound = {
            "squared": 2 * self.response_bound,
            "poisson": self.response_bound,
            "focal": 1.0 + self.focus,
            "cox": COX_BOUND,
        }
        return exponent(bound.get(self.loss, 1.0) * self.design.weight_bound * self.most_weight)

    @cached_property
    def hessian_exponent(self) -> int:
        """The same for second derivatives."""
        focal = (1 + self.focus) ** 2 / (2 + self.focus)
        focal *= ((1 + self.focus) / (2 + self.focus)) ** (1 + self.focus)
        bound = {"logistic": 0.25, "softmax": 0.5, "squared": 1.0, "focal": focal, "cox": COX_BOUND}
        most = bound.get(self.loss, 2.5 * self.response_bound)
        return exponent(most * self.design.weight_bound * self.most_weight)

    @cached_property
    def response_bound(self) -> float:
        return 1.0 if self.classes else self.design.response_bound

    @cached_property
    def most_weight(self) -> float:
        """Of a class and of the draws of one patient."""
        classes = max(self.class_weight, default=1.0) if isinstance(self.class_weight, tuple) else 1
        balanced = 64.0 if self.class_weight == "balanced" else max(classes, 1.0)
        return balanced * (8.0 if self.bootstrap else 1.0)

    def algorithm(self) -> Algorithm:
        from polyclinic.models.trees.edges import binning, searching
        from polyclinic.models.trees.grow import Growing
        from polyclinic.models.trees.private import PrivateGrowing

        if self.private:
            return PrivateGrowing(self)
        return binning(self) if searching(self) else Growing(self)

    def to_data(self) -> dict[str, Any]:
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        weight = self.class_weight
        return data | {
            "design": self.design.to_data(),
            "features": [
                {
                    "name": f.name,
                    "edges": np.array(f.edges, dtype=np.float64),
                    "levels": f.levels,
                    "missing": f.missing,
                    "names": list(f.names),
                    "quantiles": f.quantiles,
                    "low": f.low,
                    "high": f.high,
                }
                for f in self.features
            ],
            "monotone": list(self.monotone),
            "levels": list(self.levels),
            "class_weight": list(weight) if isinstance(weight, tuple) else weight,
            "private": None if self.private is None else asdict(self.private),
            "rows": dict(self.rows),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Spec:
        weight = data["class_weight"]
        return Spec(
            **{
                **{one.name: data[one.name] for one in fields(Spec) if one.name != "rows"},
                "design": Design.from_data(data["design"]),
                "features": tuple(map(feature_of, data["features"])),
                "monotone": tuple(data["monotone"]),
                "levels": tuple(data["levels"]),
                "class_weight": tuple(weight) if isinstance(weight, list) else weight,
                "private": None if data["private"] is None else Private(**data["private"]),
                "rows": dict(data.get("rows", {})),
            }
        )


def feature_of(data: Mapping[str, Any]) -> Feature:
    """A feature of the data of a spec. Raises WRONG_VALUE."""
    edges, names = tuple(map(float, data["edges"])), tuple(data["names"])
    return Feature(**{**data, "edges": edges, "names": names})


def places(feature: Feature) -> NDArray[np.float64]:
    """Where edges that are found may lie: a grid inside the range."""
    return np.linspace(feature.low, feature.high, EDGE_PLACES + 1)[1:-1]


def _wrong(what: str, rule: str) -> InputError:
    return InputError(what, code="WRONG_VALUE", rule=rule, next="correct it")
