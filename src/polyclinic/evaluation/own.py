"""What a hospital computes for itself alone and answers by name (combine = "collect").

What leaves the site: its own AUROC with standard error, mean predicted risk, Brier score, log loss,
calibration slope and intercept, 21 points of its ROC curve; on request the AUROC of a model fitted
on its own rows only. A policy must allow these by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation import metrics
from polyclinic.evaluation.scores import FLOOR, scored
from polyclinic.models.glm.alone import fit_alone
from polyclinic.models.predictor import predictor_from

Floats = NDArray[np.float64]
ROC_POINTS = 21
STATISTICS = (
    "auroc",
    "auroc_se",
    "predicted",
    "brier",
    "log_loss",
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
        return (
            Leaf("n", (), "count", "int64", unit="rows"),
            Leaf("events", (), "count", "int64", unit="rows"),
            Leaf("defined", (len(STATISTICS),), "flag", "int64"),
            Leaf("statistics", (len(STATISTICS),), "statistic"),
            Leaf("roc", (ROC_POINTS,), "statistic"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = scored(plan, partition)
        p, y = rows.predicted, rows.outcome
        found = _statistics(p, y)
        values = [found[name] for name in STATISTICS]
        return Contribution(
            {
                "n": len(y),
                "events": int(y.sum()),
                "defined": np.array([v is not None for v in values], dtype=np.int64),
                "statistics": np.array([0.0 if v is None else v for v in values]),
                "roc": _curve(p, y),
            },
            Evidence(rows.patients),
        )


def _statistics(p: Floats, y: Floats) -> dict[str, float | None]:
    if len(y) == 0:
        return dict.fromkeys(STATISTICS)
    histogram = metrics.exact_histogram(p, y)
    area, error = metrics.auroc(histogram)
    lines = metrics.calibration(metrics.log_odds(p), np.ones_like(y), y)
    chance = np.clip(np.where(y == 1, p, 1 - p), FLOOR, 1.0)
    found: dict[str, Any] = {
        "auroc": area,
        "auroc_se": error,
        "predicted": float(p.mean()),
        "brier": float(((p - y) ** 2).mean()),
        "log_loss": float(-np.log(chance).mean()),
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
        return (Leaf("fitted", (), "flag", "int64"), Leaf("auroc", (), "statistic"))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        spec, folds = plan.values["spec"], plan.values["folds"]
        area = None
        try:
            p = np.zeros(partition.n_rows)
            for fold in range(folds):
                predictor = predictor_from(fit_alone(spec, partition, fold, folds))
                at = partition.keys % folds == fold
                p[at] = predictor.predict(partition)[at]
            y = predictor.outcome(partition)
            area, _ = metrics.auroc(metrics.exact_histogram(p, y))
        except PolyclinicError:
            pass  # one class in a fold: this hospital cannot have a model of its own
        values = {"fitted": int(area is not None), "auroc": 0.0 if area is None else area}
        return Contribution(values, Evidence(partition.n_patients))
