"""The site's half of Cox regression.

What leaves the site, each as a sum over its patients: the numbers of patients and of events; at
given coefficients the log partial likelihood of the site's own risk sets, its gradient and its
Hessian; on request the products of score vectors for robust errors, the numbers of concordant
pairs, and sums of Schoenfeld residuals times functions of time. No row and no event time leaves.
"""

from __future__ import annotations

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
from polyclinic.models.survival.concordance import PAIRS, Pairs, grouped, pairs
from polyclinic.models.survival.exposure import Asked, Exposed, Own, scores_of
from polyclinic.models.survival.kernel import Stratum, derivatives, hazards
from polyclinic.models.survival.rows import rows_of, spec_of, strata_of

Floats = NDArray[np.float64]
SCALES = ("identity", "log", "rank")
# Sums of times, of their logarithms and of the squares of both: for each as many events as the
# minimum. Five whole numbers follow from their product, and that from the sum of logarithms.
OF_TIMES, TIMED = 4, "patients with the event, by functions of its time"


def theta_of(plan: Plan) -> Floats:
    """The plan's coefficients, (m, n_terms). Raises BAD_MESSAGE where they do not fit."""
    theta = plan.values["state"].get("theta")
    size = len(spec_of(plan).design.terms)
    good = isinstance(theta, np.ndarray) and theta.dtype == np.float64 and theta.ndim == 2
    if not good or theta.shape[1] != size or not len(theta):
        raise PolyclinicError("theta does not fit the design", code="BAD_MESSAGE")
    if not np.all(np.isfinite(theta)):
        raise PolyclinicError("theta is not finite", code="BAD_MESSAGE")
    return np.asarray(theta)


@dataclass(frozen=True)
class CountsTask(Exposed):
    """Patients and events."""

    name: str = "survival.counts"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        names = (("n", "rows"), ("patients", "patients"), ("not_allowed", "rows"), ("events", ""))
        counts = tuple(Leaf(name, (), "count", "int64", unit=unit) for name, unit in names)
        return (*counts, Leaf("weight", (), "sum of weights of events"))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = rows_of(spec_of(plan), partition)
        chosen = np.ones(len(rows.time), bool) if rows.weight is None else rows.weight != 0
        event = chosen & rows.event
        patients = partition.patients(chosen)
        weight = event.sum() if rows.weight is None else rows.weight[event].sum()
        values = {
            "n": int(np.count_nonzero(chosen)),
            "patients": patients,
            "not_allowed": int(np.count_nonzero(chosen & ~rows.allowed)),
            "events": int(np.count_nonzero(event)),
            "weight": float(weight),
        }
        return Contribution(values, Evidence(patients))


@dataclass(frozen=True)
class DerivativesTask(Exposed):
    """Loss, gradient and Hessian of the site's own risk sets at candidates "theta" (m, n_terms)."""

    name: str = "survival.derivatives"
    version: int = 1
    grain: Grain = "site"

    def asked(self, plan: Plan) -> Asked:
        return Asked(theta_of(plan), int(plan.values["state"]["order"]), True)

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        m, size = theta_of(plan).shape
        order = plan.values["state"]["order"]
        leaves = [
            Leaf("too_large", (m,), "flag", "int64", support="weights"),
            Leaf("loss", (m,), "loss", support="weights"),
        ]
        if order >= 1:
            leaves.append(Leaf("gradient", (m, size), "gradient", support="weights"))
        if order == 2:
            packed = size * (size + 1) // 2
            leaves.append(Leaf("hessian", (m, packed), "Hessian", support="weights"))
        return tuple(leaves)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        order = plan.values["state"]["order"]
        sums = derivatives(strata_of(spec_of(plan), partition), theta_of(plan), order)
        values: dict[str, Any] = {"loss": sums.loss, "too_large": sums.lost.astype(np.int64)}
        if order >= 1:
            values["gradient"] = sums.gradient
        if order == 2:
            values["hessian"] = sums.hessian[(slice(None), *np.triu_indices(sums.hessian.shape[1]))]
        return Contribution(values, Evidence(_patients(plan, partition)))


@dataclass(frozen=True)
class ScoresTask(Exposed):
    """Products of score vectors at the coefficients, for robust standard errors.

    "by" in the plan's state: "row" adds the square of each patient's summed score, "site" that of
    the site's.
    """

    name: str = "survival.scores"
    version: int = 1
    grain: Grain = "site"

    def asked(self, plan: Plan) -> Asked:
        return Asked(theta_of(plan)[:1], 2, scores=True)

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = theta_of(plan).shape[1]
        return (
            Leaf("clusters", (), "count", "int64"),
            Leaf("meat", (size * (size + 1) // 2,), "score products"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        beta = theta_of(plan)[0]
        parts = scores_of(spec_of(plan), partition, beta)
        if plan.values["state"]["by"] == "site":
            parts = parts.sum(axis=0)[None]
        elif partition.key is not None and len(parts):
            starts = np.flatnonzero(np.diff(partition.key, prepend=partition.key[0] - 1))
            parts = np.add.reduceat(parts, starts, axis=0)
        meat = parts.T @ parts
        clusters = int(np.count_nonzero(parts.any(axis=1)))
        values: dict[str, Any] = {"clusters": clusters, "meat": meat[np.triu_indices(len(beta))]}
        return Contribution(values, Evidence(_patients(plan, partition)))


@dataclass(frozen=True)
class ConcordanceTask(Exposed):
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

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """That of the regression, and the fewest patients whose risks count as one."""
        found, size = super().exposure(plan, partition, own), group_size(spec_of(plan).least)
        return replace(found, slots={**found.slots, "of one risk": size})

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
        return Contribution(found.leaves(), Evidence(_patients(plan, partition)))


@dataclass(frozen=True)
class SchoenfeldTask(Exposed):
    """Sums of Schoenfeld residuals times time, its logarithm, and its rank among the events."""

    name: str = "survival.schoenfeld"
    version: int = 1
    grain: Grain = "site"

    def asked(self, plan: Plan) -> Asked:
        return Asked(theta_of(plan)[:1], 1, times=True)

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """That of the regression, and how many events stand behind each function of time."""
        found = super().exposure(plan, partition, own)
        events = found.slots["outcome = 1"]
        timed = max(events // OF_TIMES, min(events, 1))
        return replace(found, slots={**found.slots, TIMED: timed})

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
        return Contribution(values, Evidence(_patients(plan, partition)))


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


def _patients(plan: Plan, partition: Partition) -> int:
    return partition.patients(rows_of(spec_of(plan), partition).used)


tasks = [CountsTask(), DerivativesTask(), ScoresTask(), ConcordanceTask(), SchoenfeldTask()]
