"""What a hospital computes for itself alone and answers by name (combine = "collect").

What leaves the site: its own AUROC with standard error, calibration slope and intercept, 21 points
of its ROC curve; mean predicted risk, Brier score and log loss to hundredths; on request the AUROC
of a model fitted on its own rows only. A policy must allow these by name.
Levels of a category that few of the site's patients have are merged into the one whose
effect in the model is nearest before anything is scored; how many is said. Where the gate still
refuses, all arrays are hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure
from polyclinic.core.groups import group_size
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation import exposure as judged
from polyclinic.evaluation import metrics
from polyclinic.evaluation.exposure import FLOOR
from polyclinic.evaluation.rows import effects, merged, predictors_of, scored
from polyclinic.models import learner
from polyclinic.models.glm.alone import fit_alone
from polyclinic.models.predictor import predictor_from

Floats = NDArray[np.float64]
ROC_POINTS = 21
MEANS = ("predicted", "brier", "log_loss")
STATISTICS = (
    "auroc",
    "auroc_se",
    "auprc",
    "slope",
    "slope_lower",
    "slope_upper",
    "intercept",
    "intercept_lower",
    "intercept_upper",
)


@dataclass(frozen=True)
class OwnTask:
    """Exact measures of a risk model on the site's own rows. `defined` flags those that exist."""

    name: str = "evaluation.own"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        _check_by_name(plan)
        _check_risk(plan)
        return (
            Leaf("n", (), "count", "int64", unit="rows", small="hide"),
            Leaf("events", (), "count", "int64", unit="rows", small="hide"),
            Leaf("merged", (), "count", "int64", unit="levels", small="hide"),
            Leaf("means", (len(MEANS),), "mean", small="hide"),
            Leaf("defined", (len(STATISTICS),), "flag", "int64", small="hide"),
            Leaf("statistics", (len(STATISTICS),), "statistic", small="hide"),
            Leaf("roc", (ROC_POINTS,), "statistic", small="hide"),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Values of the predictors' terms, outcomes and folds."""
        return judged.slots(plan)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the sums, and one candidate."""
        return judged.candidates(plan)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """The patients who are scored, after levels were merged."""
        return judged.exposure(plan, self._merged(plan, partition)[0], alone=True)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        _check_by_name(plan)
        partition, many = self._merged(plan, partition)
        rows = scored(plan, partition)
        p, y = rows.predicted, rows.outcome
        found = _statistics(p, y)
        values = [found[name] for name in STATISTICS]
        return Contribution(
            {
                "n": len(y),
                "events": int(y.sum()),
                "merged": many,
                "means": _means(p, y),
                "defined": np.array([v is not None for v in values], dtype=np.int64),
                "statistics": np.array([0.0 if v is None else v for v in values]),
                "roc": _curve(p, y),
            },
            Evidence(rows.patients),
        )

    def _merged(self, plan: Plan, partition: Partition) -> tuple[Partition, int]:
        predictors, where = predictors_of(plan), plan.values.get("where") or {}
        kept = (predictors[0].design.response, where.get("column"))
        designs = [predictor.design for predictor in predictors]
        least = group_size(plan.values["least"])
        return merged(designs, partition, least, kept, effects(predictors))


def _check_risk(plan: Plan) -> None:
    if any(predictor.explains != "binary" for predictor in predictors_of(plan)):
        raise PolyclinicError(
            f"{plan.task} is of risks",
            code="BAD_MESSAGE",
            rule="a risk lies between 0 and 1: the predictor is of two classes",
        )


def _check_by_name(plan: Plan) -> None:
    if plan.combine != "collect":
        raise PolyclinicError(
            f"{plan.task} is not added up",
            code="BAD_MESSAGE",
            rule="what a hospital computes for itself is asked by name: combine = collect",
        )


def _means(p: Floats, y: Floats) -> Floats:
    """Mean risk, Brier score and log loss, to hundredths.

    They are sums in disguise: exact ones of all hospitals but one, taken from a secure total, would
    be the sum of that one.
    """
    if len(y) == 0:
        return np.zeros(len(MEANS))
    chance = np.clip(np.where(y == 1, p, 1 - p), FLOOR, 1.0)
    return np.round([p.mean(), ((p - y) ** 2).mean(), -np.log(chance).mean()], 2)


def _statistics(p: Floats, y: Floats) -> dict[str, float | None]:
    if len(y) == 0:
        return dict.fromkeys(STATISTICS)
    histogram = metrics.exact_histogram(p, y)
    area, error = metrics.auroc(histogram)
    lines = metrics.calibration(metrics.log_odds(p), np.ones_like(y), y)
    found: dict[str, Any] = {
        "auroc": area,
        "auroc_se": error,
        "auprc": metrics.average_precision(histogram),
    }
    for name, line in lines.items():
        found |= {
            name: line["value"],
            f"{name}_lower": line["lower"],
            f"{name}_upper": line["upper"],
        }
    return found


def _curve(p: Floats, y: Floats) -> Floats:
    """Share of events found at 0, 5, ... 100 % false alarms."""
    if y.sum() in (0, len(y)):
        return np.zeros(ROC_POINTS)
    points = metrics.roc(metrics.exact_histogram(p, y), points=2 * len(y))
    fpr, tpr = (np.array([point[k] for point in points]) for k in ("fpr", "tpr"))
    last = np.searchsorted(fpr, np.linspace(0, 1, ROC_POINTS) + 1e-12, side="right") - 1
    return tpr[last]


@dataclass(frozen=True)
class AloneTask:
    """AUROC, cross-validated, of the same model fitted on the site's own rows only."""

    name: str = "evaluation.alone"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        _check_by_name(plan)
        return (
            Leaf("fitted", (), "flag", "int64", small="hide"),
            Leaf("merged", (), "count", "int64", unit="levels", small="hide"),
            Leaf("auroc", (), "statistic", small="hide"),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Values of the model's terms, outcomes and folds."""
        return judged.slots(plan)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the model's terms, and one candidate."""
        return judged.candidates(plan)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """The patients on whom the model is fitted, after levels were merged."""
        return judged.exposure(plan, self._merged(plan, partition)[0], alone=True)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        _check_by_name(plan)
        spec, folds = plan.values["spec"], plan.values["folds"]
        partition, many = self._merged(plan, partition)
        area = _auroc(spec, partition, folds) if folds > 1 else None
        values = {
            "fitted": int(area is not None),
            "merged": many,
            "auroc": 0.0 if area is None else area,
        }
        return Contribution(values, Evidence(partition.n_patients))

    def _merged(self, plan: Plan, partition: Partition) -> tuple[Partition, int]:
        design = Design.from_data(plan.values["spec"]["design"])
        return merged([design], partition, group_size(plan.values["least"]), [design.response])


def _auroc(spec: Mapping[str, Any], partition: Partition, folds: int) -> float | None:
    """Of the risks by models fitted without the patient; None where there is no such model."""
    p = np.zeros(partition.n_rows)
    try:
        for fold in range(folds):
            fit_own = learner.fit_alone if "learner" in spec else fit_alone
            predictor = predictor_from(fit_own(spec, partition, fold, folds))
            at = partition.keys % folds == fold
            p[at] = predictor.predict(partition)[at]
    except (PolyclinicError, ValueError, ArithmeticError):
        return None  # one class in a fold: this hospital cannot have a model of its own
    return metrics.auroc(metrics.exact_histogram(p, predictor.outcome(partition)))[0]
