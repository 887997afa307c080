"""How well the model of one site predicts at another (combine = "collect").

What leaves the site: what `evaluation.own` tells of a risk model, or `evaluation.scores` of a model
of a number, for the model in the plan and the rows that are fitted. A policy must allow it by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.core.contribution import Contribution
from polyclinic.core.design import exponent
from polyclinic.core.exposure import Exposure
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation.own import OwnTask
from polyclinic.evaluation.scores import ScoresTask
from polyclinic.models.ensembles.bases import holds_rows
from polyclinic.models.ensembles.kinds import check_scores
from polyclinic.models.ensembles.spec import Spec
from polyclinic.models.ensembles.train import check_by_name, without_fold
from polyclinic.models.learner import spec_in

OWN, SCORES = OwnTask(), ScoresTask()


@dataclass(frozen=True)
class CrossedTask:
    """The measures of one model at a site."""

    name: str = "ensemble.scores"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        check_by_name(plan)
        return self._task(plan).leaves(scoring(plan))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Those of the measures."""
        return self._task(plan).slots(scoring(plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Those of the measures."""
        return self._task(plan).candidates(scoring(plan))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        check_by_name(plan)
        rows = without_fold(plan.values["rows"], partition)
        return self._task(plan).local(scoring(plan), rows)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """Of the patients who are scored."""
        spec: Spec = spec_in(plan, Spec.from_data)
        if spec.model.holds_rows:
            raise holds_rows(str(spec.base["name"]))
        rows = without_fold(plan.values["rows"], partition)
        return self._task(plan).exposure(scoring(plan), rows, own)

    def _task(self, plan: Plan) -> OwnTask | ScoresTask:
        return OWN if spec_in(plan, Spec.from_data).classes else SCORES


def scoring(plan: Plan) -> Plan:
    """The plan of the measures, made once."""
    return plan.once("scoring", lambda: _scoring(plan))


def _scoring(plan: Plan) -> Plan:
    spec: Spec = spec_in(plan, Spec.from_data)
    if not spec.model.holds_rows:
        check_scores(spec, plan)
    arrays = plan.values["state"]["model"]
    values = {
        "predictors": [spec.model.predictor(arrays)],
        "folds": 0,
        "outcome": "binary" if spec.classes else "number",
        "thresholds": [],
        "where": None,
        "classes": 2,
        "exponent": exponent(spec.design.response_bound),
        "least": spec.least,
    }
    task = OWN.name if spec.classes else SCORES.name
    inner = Plan(task, values, plan.step, combine="collect")
    inner.once("predictors", lambda: values["predictors"])
    return inner
