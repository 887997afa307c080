"""Evaluation of a network of masks over all sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.core.plan import Plan
from polyclinic.evaluation.masks import NAME, measures
from polyclinic.evaluation.parts import Parts


@dataclass(frozen=True)
class FoundMasks(Parts):
    """Masks of patients that the network was not trained on."""

    what = "masks"

    def _plan(
        self,
        step: str,
        predictors: tuple[Mapping[str, Any], ...],
        folds: int,
        alone: bool = False,
    ) -> Plan:
        values = {"predictors": [dict(one) for one in predictors], "folds": folds, "where": None}
        return Plan(NAME, values, step, combine="collect" if alone else "sum")

    def _measures(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return measures(sums)
