"""How well any model of a hazard ranks patients: Harrell's concordance of what it predicts.

As `polyclinic.models.survival.held_out` does for a Cox regression: each patient is scored by the
model that was found without his fold and compared with the patients of the same hospital and fold;
pairs of equal risk count half, and the risks of `group_size(least)` patients next to each other
count as one.

What leaves the site: the numbers of rows, of events and of right, wrong and tied pairs, and sums of
squares of pairs for the standard error. By name ("collect") instead of the pairs only the
concordance and its error, to hundredths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure
from polyclinic.core.groups import group_size
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation import exposure as judged
from polyclinic.evaluation.rows import predictions, predictors_of
from polyclinic.models.survival.concordance import PAIRS, Pairs, concordance_of, grouped, pairs
from polyclinic.models.survival.held_out import PLACES

TASKS = ("evaluation.pairs", "evaluation.pairs_own")
ONE_RISK = "of one risk"
COUNTS = (
    Leaf("n", (), "count", "int64", unit="rows"),
    Leaf("events", (), "count", "int64", unit="rows"),
)


def happened(plan: Plan, partition: Partition) -> NDArray[np.bool_]:
    """Rows with the event that the model is of, (n_rows,). Raises BAD_MESSAGE."""
    one: Any = predictors_of(plan)[0]
    if any(predictor.explains != "survival" for predictor in predictors_of(plan)):
        raise PolyclinicError(
            f"{plan.task} is of durations",
            code="BAD_MESSAGE",
            rule="the model predicts a relative hazard",
        )
    return np.asarray(partition.columns[one.design.event] == one.cause)


def pairs_of(plan: Plan, partition: Partition) -> Pairs:
    """Pairs of the site's patients within folds."""
    event, folds = happened(plan, partition), plan.values["folds"]
    time, keys = predictors_of(plan)[0].outcome(partition), partition.keys
    size, found = group_size(plan.values["least"]), Pairs.none()
    for i in range(max(folds, 1)):
        at = keys % folds == i if folds else np.ones(len(keys), dtype=bool)
        risk = grouped(predictions(plan, i, partition)[at], keys[at], size)
        if len(np.unique(risk)) > 1 or size == 1:  # one group only ranks nobody
            found += pairs(time[at], event[at], risk)
    return found


class _Judged:
    """What both tasks share."""

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Those of scores, patients with the event by fold, and the smallest group of risks."""
        return (*judged.slots(plan), *_with_event(plan), ONE_RISK)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the sums, and one candidate."""
        return judged.candidates(plan)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """Of all rows under every fold's model."""
        found = judged.exposure(plan, partition, alone=False)
        event, folds = happened(plan, partition), max(plan.values["folds"], 1)
        counts = {
            name: partition.patients(event & (partition.keys % folds == i))
            for i, name in enumerate(_with_event(plan))
        }
        slots = {**found.slots, **counts, ONE_RISK: group_size(plan.values["least"])}
        return replace(found, slots=slots)


def _with_event(plan: Plan) -> list[str]:
    return [f"fold {i} with the event" for i in range(max(plan.values["folds"], 1))]


@dataclass(frozen=True)
class PairsTask(_Judged):
    """The pairs, to be added up."""

    name: str = TASKS[0]
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        if plan.combine != "sum":
            raise _by_another_way(plan, "sum")
        counts = tuple(Leaf(name, (), "pairs", "int64") for name in PAIRS)
        return (*COUNTS, *counts, Leaf("squares", (3,), "sums of squares of pairs", scale=40))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        found = pairs_of(plan, partition).leaves()
        return Contribution({**_counted(plan, partition), **found}, Evidence(partition.n_patients))


@dataclass(frozen=True)
class OwnPairsTask(_Judged):
    """The concordance of a site by itself (combine = "collect"). A policy must allow it by name."""

    name: str = TASKS[1]
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        if plan.combine != "collect":
            raise _by_another_way(plan, "collect")
        found = (
            *COUNTS,
            Leaf("defined", (), "flag", "int64"),
            Leaf("concordance", (2,), "statistic"),
        )
        return tuple(replace(leaf, small="hide") for leaf in found)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """As of a sum of this site alone."""
        return replace(super().exposure(plan, partition, own), alone=True)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        found = concordance_of(pairs_of(plan, partition))
        defined = found["pairs"] > 0
        said = np.round([found["c"], found["se"]], PLACES) if defined else np.zeros(2)
        values = {**_counted(plan, partition), "defined": int(defined), "concordance": said}
        return Contribution(values, Evidence(partition.n_patients))


def _counted(plan: Plan, partition: Partition) -> dict[str, Any]:
    return {"n": partition.n_rows, "events": int(happened(plan, partition).sum())}


def _by_another_way(plan: Plan, combine: str) -> PolyclinicError:
    return PolyclinicError(
        f"{plan.task} is asked in another way",
        code="BAD_MESSAGE",
        rule=f"combine = {combine}",
    )
