"""The site's half of what is asked after a fit: concordance, and tests of proportional hazards.

What leaves the site, each as a sum over its patients: the numbers of concordant pairs with sums of
their squares, and sums of Schoenfeld residuals times functions of time. No row and no event time
leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure
from polyclinic.core.groups import group_size
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain, Steps
from polyclinic.models.survival.by_steps import Asker, ByRiskSets
from polyclinic.models.survival.concordance import PAIRS, Pairs, grouped, pairs
from polyclinic.models.survival.exposure import Asked
from polyclinic.models.survival.kernel import Stratum, hazards
from polyclinic.models.survival.known import Known
from polyclinic.models.survival.risk_sums import Band
from polyclinic.models.survival.rows import spec_of, strata_of
from polyclinic.models.survival.tasks import patients_of, theta_of

Floats = NDArray[np.float64]
SCALES = ("identity", "log", "rank")
# Sums of times, of their logarithms and of the squares of both: for each as many events as the
# minimum. Five whole numbers follow from their product, and that from the sum of logarithms.
OF_TIMES, TIMED = 4, "patients with the event, by functions of its time"


@dataclass(frozen=True)
class ConcordanceTask(ByRiskSets):
    """Pairs of the site's patients, of the same stratum, by whether the risk ranks them rightly.

    The risks of `group_size(least)` patients next to each other count as one: a pair that changes
    sides as the coefficients change would show where its two patients lie.
    With c the right ones of a row's pairs (ties half) and k all of them: sums of c, k, and of
    their squares and products, which give the standard error.
    """

    name: str = "survival.concordance"
    version: int = 1
    grain: Grain = "site"

    def asked(self, plan: Plan) -> Asked:
        return Asked(theta_of(plan)[:1], 0)

    def judged(self, plan: Plan, seen: list[Exposure]) -> Exposure:
        """That of the regression, and the fewest patients whose risks count as one."""
        size = group_size(spec_of(plan).least)
        return replace(seen[0], slots={**seen[0].slots, "of one risk": size})

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        counts = tuple(Leaf(name, (), "pairs", "int64") for name in PAIRS)
        return (*counts, Leaf("squares", (3,), "sums of squares of pairs", scale=40))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        beta, size = theta_of(plan)[0], group_size(spec_of(plan).least)
        found = Pairs.none()
        for one in strata_of(spec_of(plan), partition):
            eta = one.x @ beta if one.offset is None else one.x @ beta + one.offset
            risk = grouped(eta, partition.keys[one.rows], size)
            found += pairs(one.time, one.is_event, risk)
        return Contribution(found.leaves(), Evidence(patients_of(plan, partition)))

    def asking(self, asker: Asker) -> Steps:
        yield from asker.at_times()
        found, exposure = yield from asker.parts()
        size, counts = group_size(spec_of(asker.plan).least), Pairs.none()
        for one in (yield from asker.ranked()):
            counts += pairs(one.time, one.event, grouped(one.eta[:, 0], one.keys, size))
        return Contribution(counts.leaves(), Evidence(found["patients"])), exposure


@dataclass(frozen=True)
class SchoenfeldTask(ByRiskSets):
    """Sums of Schoenfeld residuals times time, its logarithm, and its rank among the events."""

    name: str = "survival.schoenfeld"
    version: int = 1
    grain: Grain = "site"

    def asked(self, plan: Plan) -> Asked:
        return Asked(theta_of(plan)[:1], 1, times=True)

    def judged(self, plan: Plan, seen: list[Exposure]) -> Exposure:
        """That of the regression, and how many events stand behind each function of time."""
        events = seen[0].slots["outcome = 1"]
        timed = max(events // OF_TIMES, min(events, 1))
        return replace(seen[0], slots={**seen[0].slots, TIMED: timed})

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Those of the regression, and the events."""
        return (*super().slots(plan), TIMED)

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size, bound = theta_of(plan).shape[1], spec_of(plan).design.response_bound
        scale = max(0, int(np.ceil(np.log2(max(bound, 1.0)))))
        return (
            Leaf("events", (), "count", "int64"),
            Leaf("times", (len(SCALES), 2), "sums of times", scale=2 * scale),
            Leaf("residuals", (len(SCALES), size), "residuals by time", scale=scale),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        beta = theta_of(plan)[0]
        times = np.zeros((len(SCALES), 2))
        residuals, events = np.zeros((len(SCALES), len(beta))), 0
        for one in strata_of(spec_of(plan), partition):
            with np.errstate(all="ignore"):  # the ring refuses what is not finite
                part = _schoenfeld(one, beta)
            for k, g in enumerate(_scales(one)):
                times[k] += g.sum(), g @ g
                residuals[k] += g @ part
            events += len(part)
        values: dict[str, Any] = {"events": events, "times": times, "residuals": residuals}
        return Contribution(values, Evidence(patients_of(plan, partition)))

    def asking(self, asker: Asker) -> Steps:
        known, scales = asker.known, _scales_at(asker.known)
        residuals = np.zeros((len(SCALES), len(known.times.wide)))

        def use(k: int, band: Band) -> None:
            part = band.observed - known.weight[band.times][:, None] * band.means()
            residuals[:] += scales[:, band.times] @ part

        yield from asker.at_times(use, observed=True)
        found, exposure = yield from asker.parts()
        if asker.sums.lost[0]:
            residuals[:] = np.nan  # the ring refuses it
        times = np.column_stack([scales @ known.ties, scales**2 @ known.ties])
        events = int(known.ties.sum())
        values: dict[str, Any] = {"events": events, "times": times, "residuals": residuals}
        return Contribution(values, Evidence(found["patients"])), exposure


def _schoenfeld(one: Stratum, beta: Floats) -> Floats:
    """x less its mean over the risk set, per event; tied ones share the mean of theirs."""
    mean = hazards(one, beta).mean
    ties = np.bincount(one.tie)
    by_time = np.zeros((len(ties), mean.shape[1]))
    np.add.at(by_time, one.tie, mean)
    weight = np.ones(len(one.event)) if one.weight is None else one.weight[one.event]
    part = one.x[one.event] - by_time[one.tie] / ties[one.tie][:, None]
    return np.asarray(part * weight[:, None])


def _scales(one: Stratum) -> tuple[Floats, ...]:
    """Functions of the events' times as `SCALES` names them; log(0) is taken as log(1)."""
    time = one.time[one.event]
    ties = np.bincount(one.tie)
    rank = (len(time) - np.cumsum(ties) + 0.5 * (ties + 1))[one.tie] / len(time)
    return time, np.log(np.where(time > 0, time, 1.0)), rank


def _scales_at(known: Known) -> Floats:
    """The same of event times, (len(SCALES), K)."""
    time, rank = known.times.time, np.zeros(len(known.ties))
    for a, b in pairwise(known.times.start.tolist()):
        ties = known.ties[a:b]
        rank[a:b] = (ties.sum() - np.cumsum(ties) + 0.5 * (ties + 1)) / ties.sum()
    return np.array([time, np.log(np.where(time > 0, time, 1.0)), rank])


tasks = [ConcordanceTask(), SchoenfeldTask()]
