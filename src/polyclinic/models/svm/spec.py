"""What a support vector machine is asked to be: one record, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyclinic.core.design import Design
from polyclinic.models import glm
from polyclinic.models.svm.features import Features

if TYPE_CHECKING:
    from polyclinic.core.algorithm import Algorithm

SQUARED = ("squared_hinge", "squared_epsilon_insensitive")
CLASSIFIES = ("hinge", "squared_hinge")
REGRESSES = ("epsilon_insensitive", "squared_epsilon_insensitive")
WARM_ROWS = 20_000


@dataclass(frozen=True)
class SVMSpec:
    """A machine to fit: 1/2 |w|^2 + C sum of losses.

    design             model matrix, outcome and weight
    loss               hinge | squared_hinge | epsilon_insensitive | squared_epsilon_insensitive
    classes            of the outcome; 0: a number
    C                  weight of the losses
    epsilon            width of the tube in which a number's error costs nothing
    intercept_scaling  None: the intercept b is free; s: 1/2 (b / s)^2 is added, as liblinear does
    class_weight       weight per class, "balanced" (from summed label counts), or None
    curve              whether the probabilities' curve is fitted after the machines
    features           random features that stand for a kernel; None: the columns themselves
    tolerance          relative distance of the objective from its optimum
    max_rounds         a bound on rounds, not a target
    warm_rows          rows of the sample on which a fit starts when the data are much larger
    rows               which rows: {} all; {"folds": k, "without": i} all but fold i
    """

    design: Design
    loss: str = "squared_hinge"
    classes: int = 2
    C: float = 1.0
    epsilon: float = 0.0
    intercept_scaling: float | None = None
    class_weight: tuple[float, ...] | str | None = None
    features: Features | None = None
    tolerance: float = 1e-9
    max_rounds: int = 300
    warm_rows: int = WARM_ROWS
    curve: bool = True
    rows: Mapping[str, Any] = field(default_factory=dict)

    @property
    def squared(self) -> bool:
        """Whether losses are squares, which have a derivative everywhere."""
        return self.loss in SQUARED

    @property
    def classifies(self) -> bool:
        return self.classes > 0

    @property
    def machines(self) -> tuple[int, ...]:
        """The class that each machine tells from the others; a number has one machine."""
        return tuple(range(self.classes)) if self.classes > 2 else (1,)

    @property
    def width(self) -> int:
        """Coefficients of one machine, the intercept first."""
        terms = len(self.design.terms) if self.features is None else self.features.components
        return terms + int(self.design.intercept)

    def plain(self) -> glm.Spec:
        """The generalised linear model that has the same rows, moments and classes."""
        family = "gaussian" if not self.classes else "binomial"
        family = "multinomial" if self.classes > 2 else family
        return glm.Spec(
            self.design,
            family,
            self.classes,
            class_weight=self.class_weight,
            rows=self.rows,
        )

    def algorithm(self) -> Algorithm:
        """Moments, machines, probabilities; the last result is an `SVMFit`."""
        from polyclinic.models.svm.algorithm import svm

        return svm(self)

    def to_data(self) -> dict[str, Any]:
        weight = self.class_weight
        return {
            **vars(self),
            "design": self.design.to_data(),
            "class_weight": list(weight) if isinstance(weight, tuple) else weight,
            "features": None if self.features is None else dict(vars(self.features)),
            "rows": dict(self.rows),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> SVMSpec:
        weight, features = data["class_weight"], data["features"]
        return SVMSpec(
            **{
                **data,
                "design": Design.from_data(data["design"]),
                "class_weight": tuple(weight) if isinstance(weight, list) else weight,
                "features": None if features is None else Features(**features),
                "rows": dict(data["rows"]),
            }
        )
