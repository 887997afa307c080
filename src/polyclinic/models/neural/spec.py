"""What a network is asked to be: one record, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from polyclinic.core.design import Design
from polyclinic.models import glm
from polyclinic.models.neural.losses import LOSSES
from polyclinic.models.neural.strategy import OPTIONS, Strategy

if TYPE_CHECKING:
    from polyclinic.core.algorithm import Algorithm

SCALES = ("pooled", "range", "none")
SAMPLINGS = ("shuffled", "balanced")


@dataclass(frozen=True)
class NeuralSpec:
    """A network to train.

    design        terms of the table's columns, media columns, outcome and weight
    architecture  name of an installed one, with its `version` and `options`
    loss          a name of `losses.LOSSES`, with its options
    classes       of the outcome; 0: a number
    shapes        of one item of each media column, by name
    output        shape of the outcome where it is an image; ()
    strategy      how it is trained
    scale         of the table's columns: "pooled" mean and standard deviation, the codebook's
                  "range", or "none"
    class_weight  weight per class, "balanced" (from summed label counts), or None
    sampling      "shuffled", or "balanced": every class as often in a site's batches
    validation    share of the patients on whom the loss is watched; they are not trained on
    augment       what is done to images while they are trained on, by name with all options
    seed          of first weights, batches, dropout and `augment`
    sites         names of the sites where not all of them train in every round, or each answers by
                  itself; else ()
    privacy       under differential privacy "unit", "epsilon", "delta", "clip" and "rate", see
                  `private`; {}: exact
    rows          which rows: {} all; {"folds": k, "without": i} all but fold i
    """

    design: Design
    architecture: str = "mlp"
    version: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "cross_entropy"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    classes: int = 2
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output: tuple[int, ...] = ()
    strategy: Strategy = field(default_factory=Strategy)
    scale: str = "pooled"
    class_weight: tuple[float, ...] | str | None = None
    validation: float = 0.0
    augment: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    sites: tuple[str, ...] = ()
    privacy: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Any] = field(default_factory=dict)
    sampling: str = "shuffled"

    @property
    def explains(self) -> str:
        """What the outcome is, as losses name it."""
        return LOSSES[self.loss].explains

    @property
    def outputs(self) -> int:
        """Numbers that the network gives per row: a logit per class, or one."""
        return self.classes if self.classes > 2 else 1

    @property
    def table(self) -> int:
        """Columns of the table that the network reads beside images and series."""
        return len(self.design.terms)

    def plain(self) -> glm.Spec:
        """The generalised linear model that has the same rows, moments and classes."""
        family = "poisson" if self.loss == "poisson" else "gaussian"
        family = "binomial" if self.classes else family
        family = "multinomial" if self.classes > 2 else family
        weight = self.class_weight
        design = replace(self.design, event=None, strata=())
        return glm.Spec(design, family, self.classes, class_weight=weight, rows=self.rows)

    def algorithm(self) -> Algorithm:
        """Moments, then rounds of training; the last result is a `NeuralFit`."""
        from polyclinic.models.neural.algorithm import neural

        return neural(self)

    def alone(self) -> NeuralSpec:
        """The network that a site fits to its own rows only: nothing is shared, so all of it is its
        own, and every turn is its own."""
        data, known = self.strategy.to_data(), OPTIONS["fedavg"]
        one = self.strategy
        if one.personal or one.by_turns or one.buffered:
            data = {name: value for name, value in data.items() if name in known}
            data |= {"name": "fedavg", "clients": 1.0, "fine_tune": 0}
        data |= {"compress": ""} if "compress" in data else {}
        return replace(self, strategy=Strategy.from_data(data), sites=())

    def to_data(self) -> dict[str, Any]:
        weight = self.class_weight
        return {
            **vars(self),
            "design": self.design.to_data(),
            "options": dict(self.options),
            "loss_options": dict(self.loss_options),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "output": list(self.output),
            "strategy": self.strategy.to_data(),
            "sites": list(self.sites),
            "augment": {name: dict(options) for name, options in self.augment.items()},
            "class_weight": list(weight) if isinstance(weight, tuple) else weight,
            "privacy": dict(self.privacy),
            "rows": dict(self.rows),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> NeuralSpec:
        weight = data["class_weight"]
        return NeuralSpec(
            **{
                **data,
                "design": Design.from_data(data["design"]),
                "shapes": {name: tuple(shape) for name, shape in data["shapes"].items()},
                "output": tuple(data["output"]),
                "sites": tuple(data["sites"]),
                "strategy": Strategy.from_data(data["strategy"]),
                "class_weight": tuple(weight) if isinstance(weight, list) else weight,
                "privacy": dict(data["privacy"]),
                "rows": dict(data["rows"]),
            }
        )
