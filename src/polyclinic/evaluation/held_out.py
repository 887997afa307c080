"""Evaluation of a survival model over all sites: concordance of patients it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.core.plan import Plan
from polyclinic.evaluation import metrics
from polyclinic.evaluation.pairs import TASKS
from polyclinic.evaluation.parts import Parts
from polyclinic.models.learner import values
from polyclinic.models.survival import HELD_OUT, CoxSpec
from polyclinic.models.survival.concordance import Pairs, concordance_of


@dataclass(frozen=True)
class HeldOut(Parts):
    """Concordance of patients that the model was not fitted on.

    Parameters
    ----------
    spec : of the regression, over all rows; None: of other models, `predictors` say all.
    least : patients whose risks are taken together, where there is no spec.
    The others as `Parts`.
    """

    spec: CoxSpec | None = None
    least: int = 5

    what = "concordance"

    def _plan(
        self,
        step: str,
        predictors: tuple[Mapping[str, Any], ...],
        folds: int,
        alone: bool = False,
    ) -> Plan:
        tasks = TASKS if self.spec is None else HELD_OUT
        if self.spec is None:
            asked: dict[str, Any] = {"predictors": [dict(one) for one in predictors]}
            asked |= {"folds": folds, "outcome": "survival", "where": None, "least": self.least}
        else:
            exponents = np.array(self.spec.design.exponents, dtype=np.int64)
            theta = np.array([np.ldexp(one["coef"], exponents) for one in predictors])
            theta = theta.reshape(len(predictors), self.spec.size)
            asked = values(self.spec, theta=theta, folds=folds)
        return Plan(tasks[alone], asked, step, combine="collect" if alone else "sum")

    def _measures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return _of_pairs(sums)

    def _own(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return _own(found)


def _of_pairs(sums: Mapping[str, Any]) -> dict[str, Any]:
    found = concordance_of(Pairs.of(sums))
    defined = found["pairs"] > 0
    return _measures(sums, found["c"] if defined else None, found["se"]) | {
        "pairs": int(found["pairs"])
    }


def _own(found: Mapping[str, Any]) -> dict[str, Any]:
    value, error = (float(v) for v in found["concordance"])
    return _measures(found, value if int(found["defined"]) else None, error)


def _measures(counts: Mapping[str, Any], value: float | None, error: float) -> dict[str, Any]:
    return {
        "n": int(counts["n"]),
        "events": int(counts["events"]),
        "concordance": metrics.interval(value, None if value is None else error, 0.0, 1.0),
    }
