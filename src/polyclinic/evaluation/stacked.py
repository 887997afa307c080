"""The site's half of stacking: a regression over what the models of all sites predict.

The columns are predictions: of another site's model directly, of the site's own by models fitted
without the patient, in inner folds. Predictions of models that may treat any patient on his own,
and risks of a regression that are nearly all 0 or 1, are first replaced by the mean over groups of
neighbouring ones, as where models are evaluated.
What leaves the site are the sums of `polyclinic.models.glm.tasks`, of these columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.contribution import Contribution
from polyclinic.core.exposure import Exposure, Members
from polyclinic.core.groups import group_size, groups_of, means
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation.rows import together
from polyclinic.models.ensembles.bases import RegressionBase, holds_rows
from polyclinic.models.ensembles.kinds import check_derivatives, check_moments
from polyclinic.models.ensembles.spec import SCORE, Spec
from polyclinic.models.ensembles.train import predictions, without_fold
from polyclinic.models.glm.predictor import GLMPredictor
from polyclinic.models.glm.tasks import DerivativesTask, MomentsTask
from polyclinic.models.learner import spec_in

Floats = NDArray[np.float64]
CHECKS = {"ensemble.moments": check_moments, "ensemble.derivatives": check_derivatives}
KEPT = ("shift", "theta", "order")
FEWEST = 10  # effective number of rows with risks between 0 and 1
CERTAIN = 2.0**-20  # of p (1 - p)


@dataclass(frozen=True)
class StackedTask:
    """Sums of a regression over predictions."""

    name: str
    version: int = 1
    grain: Grain = "site"
    inner: ClassVar[Any]

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        leaves: tuple[Leaf, ...] = self.inner.leaves(regression(self.inner.name, plan))
        return tuple(replace(leaf, lossy=False) for leaf in leaves)

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Those of the regression."""
        found: tuple[str, ...] = self.inner.slots(regression(self.inner.name, plan))
        return found

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Those of the regression."""
        found: tuple[tuple[str, ...], int] = self.inner.candidates(
            regression(self.inner.name, plan)
        )
        return found

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = predicted(plan, partition)
        found: Contribution = self.inner.local(regression(self.inner.name, plan), rows)
        return found

    def exposure(
        self, plan: Plan, partition: Partition, own: Mapping[str, NDArray[Any]]
    ) -> Exposure:
        """As of the regression; behind it stand the columns that the models read."""
        spec: Spec = spec_in(plan, Spec.from_data)
        if spec.model.holds_rows:
            raise holds_rows(str(spec.base["name"]))
        rows = predicted(plan, partition)
        found: Exposure = self.inner.exposure(regression(self.inner.name, plan), rows, own)
        kept = without_fold(plan.values["rows"], partition)
        members = Members(spec.design.columns, np.unique(kept.persons))
        return replace(found, members=(members,))


@dataclass(frozen=True)
class StackedMoments(StackedTask):
    """Counts and moments of the predictions."""

    name: str = "ensemble.moments"
    inner = MomentsTask()


@dataclass(frozen=True)
class StackedDerivatives(StackedTask):
    """Loss, gradient and Hessian of the regression."""

    name: str = "ensemble.derivatives"
    inner = DerivativesTask()


def regression(task: str, plan: Plan) -> Plan:
    """The plan of the regression, made once."""
    return plan.once("regression", lambda: _regression(task, plan))


def _regression(task: str, plan: Plan) -> Plan:
    state = plan.values["state"]
    spec: Spec = spec_in(plan, Spec.from_data)
    if not spec.model.holds_rows:
        CHECKS[plan.task](spec, plan)
    inner = spec.stacked(len(state["models"]))
    more = {name: state[name] for name in KEPT if name in state}
    if "theta" in more:
        more["class_weight"] = np.zeros(0)
    values = inner.values(response_exponent=inner.response_exponent, **more)
    return Plan(task, values, plan.step)


def predicted(plan: Plan, partition: Partition) -> Partition:
    """The site's rows with predictions as columns; kept for the further rounds."""
    models = plan.values["state"]["models"]
    about = codec.digest([plan.values["spec"], plan.values["rows"], models])
    found: Partition = partition.cached(
        f"predicted {about}", lambda: _predicted(plan, models, partition)
    )
    return found


def _steep(risks: Floats) -> bool:
    """Whether few rows have risks of a model that are not all but 0 or 1.

    Then they tell on which side of a plane a patient is, and two models tell one patient apart.
    """
    spread = risks * (1.0 - risks)
    squares = np.maximum((spread * spread).sum(axis=0), 1e-300)
    few = spread.sum(axis=0) ** 2 / squares < min(FEWEST, len(risks) / 2)
    return bool(np.any(few | (np.mean(spread >= CERTAIN, axis=0) < 0.5)))


def _linear(spec: Spec, arrays: Mapping[str, Any], partition: Partition) -> Floats:
    """Linear predictors: where risks are 0 and 1, who is next to whom."""
    return GLMPredictor(spec.design, "gaussian", np.atleast_2d(arrays["coef"])).predict(partition)


def _predicted(plan: Plan, models: Mapping[str, Any], partition: Partition) -> Partition:
    spec: Spec = spec_in(plan, Spec.from_data)
    found = predictions(spec, models, partition)
    size = group_size(spec.least)
    if not isinstance(spec.model, RegressionBase):
        found = together(found, partition.keys, size)
    elif spec.classes and size > 1 and _steep(found):
        for i, (site, arrays) in enumerate(sorted(models.items())):
            own = site in ("", partition.site)
            order = found[:, i] if own else _linear(spec, arrays, partition)
            found[:, i] = means(found[:, i], groups_of(order, partition.keys, size))
    kept = (spec.design.response, spec.design.weight)
    columns = {name: partition.columns[name] for name in kept if name}
    columns |= {SCORE.format(i): column for i, column in enumerate(found.T)}
    return replace(partition, columns=columns, cache={})
