"""What a generalised linear model is asked to be: one record, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.compress import KINDS
from polyclinic.core.design import Design, exponent
from polyclinic.core.errors import InputError
from polyclinic.models.glm.family import MULTINOMIAL

SOLVERS = ("newton", "lbfgs", "gd", "sgd")
ROUNDING = ("gd", "sgd")  # solvers that go on with a gradient that rounding has changed
NOT_ROUNDING = (
    'only the solvers "gd" and "sgd" go on with rounded gradients; the others build curvature from '
    "differences of exact sums"
)
MASKED = "masked numbers do not shrink: secure sums are whole numbers of 128 bits, rounded or not"
NOISY = "noise is measured against exact sums, not against rounded ones"
MAX_ROUNDS = {"newton": 25, "lbfgs": 500, "gd": 5000, "sgd": 500}  # where nobody says another


@dataclass(frozen=True)
class Solver:
    """How the optimum is found. All solvers reach the same one where they converge.

    name        newton | lbfgs | gd | sgd
    max_rounds  a bound on passes over the data, not a target
    tolerance   stop when a step would move the standard errors by no more than this share (newton),
                or a coefficient by no more than this many standard errors (the others)
    step        gd: first step size; sgd: step size at the start (both in units of 1 / curvature)
    batch       sgd: share of the rows in a batch; rows fall into batches by hash(seed, key)
    decay       sgd: the step falls as 1 / (1 + decay * round)
    warm_rows   newton: rows of the sample that a warm start uses, when the data are much larger
    staleness   sgd in one trust domain with workers: rounds by which one may be ahead of another;
                None: all wait for each other
    compress    gd, sgd: gradients leave sites as "float16" or "int8" differences; "": exactly

    Raises
    ------
    InputError : WRONG_VALUE for `compress` of another kind, or with another solver; and so for
        `staleness`.
    """

    name: str = "newton"
    max_rounds: int = 25
    tolerance: float = 1e-10
    step: float = 1.0
    batch: float = 0.1
    decay: float = 0.05
    warm_rows: int = 40_000
    compress: str = ""
    staleness: int | None = None

    def __post_init__(self) -> None:
        if self.staleness is not None:
            self._check_staleness(self.staleness)
        if self.compress and (self.compress not in KINDS or self.name not in ROUNDING):
            raise InputError(
                f"compress = {self.compress!r} with solver {self.name!r}",
                code="WRONG_VALUE",
                rule=f"compress is one of {', '.join(KINDS)}; {NOT_ROUNDING}",
                next='use solver = "gd", or leave compress out',
            )

    def _check_staleness(self, rounds: Any) -> None:
        whole = isinstance(rounds, int) and not isinstance(rounds, bool) and rounds >= 0
        if self.name != "sgd" or not whole or self.compress:
            raise InputError(
                f"staleness = {rounds!r} with solver {self.name!r}"
                + (f" and compress = {self.compress!r}" if self.compress else ""),
                code="WRONG_VALUE",
                rule='staleness is a whole number of rounds, 0 or more; only "sgd" goes on with '
                "gradients of earlier coefficients, and only with exact ones",
                next='solver = "sgd" with staleness = 4, say; or leave staleness out',
            )

    def to_data(self) -> dict[str, Any]:
        """Plain data; what is neither rounded nor ahead is written as ever."""
        unset = {"compress": "", "staleness": None}
        return {n: value for n, value in vars(self).items() if n not in unset or value != unset[n]}


@dataclass(frozen=True)
class Spec:
    """A model to fit.

    design        model matrix, outcome, offset and weight
    family        gaussian | binomial | poisson | gamma | multinomial
    classes       number of outcome classes (2 for binomial, 0 without classes)
    l2, l1        weights of 1/2 |coef|^2 and |coef|_1 beside the sum of losses; intercept free
    class_weight  weight per class, "balanced" (from summed label counts), or None
    rows          which rows: {} all; {"folds": k, "without": i} all but fold i
    """

    design: Design
    family: str
    classes: int = 0
    l2: float = 0.0
    l1: float = 0.0
    class_weight: tuple[float, ...] | str | None = None
    rows: Mapping[str, Any] = field(default_factory=dict)
    solver: Solver = Solver()

    @property
    def width(self) -> int:
        """Coefficients of one linear predictor, the intercept first."""
        return len(self.design.terms) + int(self.design.intercept)

    @property
    def predictors(self) -> int:
        """Linear predictors: one, or one per class against class 0, or one per class with l1."""
        if self.family != MULTINOMIAL:
            return 1
        return self.classes if self.symmetric else self.classes - 1

    @property
    def symmetric(self) -> bool:
        """An L1 penalty has no form against a reference class, so every class gets its own."""
        return self.family == MULTINOMIAL and self.l1 > 0

    @property
    def size(self) -> int:
        return self.width * self.predictors

    @property
    def response_exponent(self) -> int:
        """Power of two that brings a number outcome into [-1, 1]; only least squares allows it."""
        return exponent(self.design.response_bound) if self.family == "gaussian" else 0

    def values(self, **more: Any) -> dict[str, Any]:
        """The plan's values that every step of this model shares."""
        return {
            "design": self.design.to_data(),
            "family": self.family,
            "classes": self.classes,
            "rows": dict(self.rows),
            **more,
        }

    def to_data(self) -> dict[str, Any]:
        weight = self.class_weight
        return {
            "design": self.design.to_data(),
            "family": self.family,
            "classes": self.classes,
            "l2": self.l2,
            "l1": self.l1,
            "rows": dict(self.rows),
            "class_weight": list(weight) if isinstance(weight, tuple) else weight,
            "solver": self.solver.to_data(),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Spec:
        weight = data["class_weight"]
        return Spec(
            Design.from_data(data["design"]),
            data["family"],
            data["classes"],
            data["l2"],
            data["l1"],
            tuple(weight) if isinstance(weight, list) else weight,
            dict(data["rows"]),
            Solver(**data["solver"]),
        )


@dataclass(frozen=True)
class Moments:
    """Sums over the rows that are fitted, in units of the design's powers of two.

    n, patients   rows, and patients behind them
    weight        sum of weights; `y_mean` weighted mean of the outcome
    mean, sd      per term, (n_terms,)
    shift         what is taken off each term before the kernel, (n_terms,): its mean where the mean
                  is much larger than the spread, else 0
    counts        rows per outcome class, (classes,); `class_weight` the weight of each, or None
    saturated     loss of the model that fits every row; `constant` as in `Family`
    y_square      weighted sum of the squared outcome
    """

    n: int
    patients: int
    weight: float
    y_mean: float
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    shift: NDArray[np.float64]
    counts: NDArray[np.int64]
    class_weight: NDArray[np.float64] | None
    saturated: float
    constant: float
    y_square: float
    class_weights_sum: NDArray[np.float64]
