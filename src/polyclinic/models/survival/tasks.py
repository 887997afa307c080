"""The site's half of Cox regression.

What leaves the site, each as a sum over its patients: the numbers of patients and of events; at
given coefficients the log partial likelihood of the site's own risk sets, its gradient and its
Hessian; on request the products of score vectors for robust errors, the numbers of concordant
pairs, and sums of Schoenfeld residuals times functions of time. No row and no event time leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure_data import exposure_from_data, exposure_to_data
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Answer, Grain, Question, Steps
from polyclinic.models.exact import WIDE, floats_of
from polyclinic.models.survival.by_steps import Asker, ByRiskSets, InChunks, Part
from polyclinic.models.survival.exposure import Asked, scores_of
from polyclinic.models.survival.kernel import derivatives
from polyclinic.models.survival.pieces import whole
from polyclinic.models.survival.risk_sums import Band, ahead
from polyclinic.models.survival.rows import rows_of, spec_of, strata_of

Floats = NDArray[np.float64]
LARGEST = 2.0**61  # of a sum that chunks can tell
LEAVES = ("loss", "gradient", "hessian")


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
class CountsTask(InChunks):
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

    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps:
        """All of it at once."""
        found = dict((yield Question({})))
        seen, weight = found.pop("shared"), floats_of(found["weight"], WIDE)
        exposure = reduce(add, map(exposure_from_data, seen[0]))
        return Contribution({**found, "weight": weight}, Evidence(found["patients"])), exposure

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """The counts of one chunk."""
        values = self.local(plan, partition).leaves
        shared = [[exposure_to_data(self.exposure(plan, partition, {}))]]
        return {**values, "weight": whole(np.asarray(values["weight"])), "shared": shared}


@dataclass(frozen=True)
class DerivativesTask(ByRiskSets):
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
        return Contribution(values, Evidence(patients_of(plan, partition)))

    def asking(self, asker: Asker) -> Steps:
        order, p = asker.plan.values["state"]["order"], len(asker.known.times.wide)
        second = np.zeros((len(asker.top), p, p))

        def use(k: int, band: Band) -> None:
            second[k] += band.products()

        yield from asker.at_times(use if order == 2 else None)
        found, exposure = yield from asker.parts()
        upper = np.triu_indices(p)
        sums = {name: floats_of(found[name], WIDE) for name in LEAVES[: order + 1]}
        if order == 2:
            with np.errstate(all="ignore"):
                sums["hessian"] = sums["hessian"] - second[:, upper[0], upper[1]]
        lost = asker.sums.lost | (found["lost"] > 0) | lost_of(sums)
        for one in sums.values():
            one[lost] = 0.0
        if order == 2 and found["curved"][0] > 0 and not lost[0]:
            mean = found["curved"][1:] / found["curved"][0]
            answer = yield asker.question("leverage", mean=mean, hessian=sums["hessian"][0])
            exposure = replace(exposure, leverage=float(answer["leverage"][0]))
        values: dict[str, Any] = {**sums, "too_large": lost.astype(np.int64)}
        return Contribution(values, Evidence(found["patients"])), exposure

    def found(self, plan: Plan, part: Part) -> dict[str, Any]:
        """The Hessian as if means over risk sets were 0; and sums of the first candidate's
        curvature, alone and by the columns."""
        x, order = part.piece.x, plan.values["state"]["order"]
        sums: dict[str, Floats] = {"loss": part.rates[0].sum(axis=0)}
        more: dict[str, Any] = {}
        if order >= 1:
            sums["gradient"] = -(part.rates[1].T @ x)
        if order == 2:
            upper = np.triu_indices(x.shape[1])
            roots = (np.sqrt(np.maximum(own, 0.0))[:, None] for own in part.own.T)
            sums["hessian"] = np.array([(z.T @ z)[upper] for z in (x * root for root in roots)])
            curved = part.rates[2, :, 0]
            more["curved"] = np.append(curved.sum(), curved @ part.rows.x[part.piece.rows])
        lost = ~np.isfinite(part.rates).all(axis=(0, 1)) | lost_of(sums)
        return {**{name: whole(one) for name, one in sums.items()}, **more, "lost": lost * 1}


def lost_of(sums: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Candidates of which a sum is larger than chunks can tell, or no number."""
    found = [(np.abs(v.reshape(len(v), -1)) < LARGEST).all(axis=1) for v in sums.values()]
    return np.asarray(~np.all(found, axis=0))


@dataclass(frozen=True)
class ScoresTask(ByRiskSets):
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
        parts = scores_of(spec_of(plan), partition, theta_of(plan)[0])
        if plan.values["state"]["by"] == "site":
            parts = parts.sum(axis=0)[None]
        else:
            parts = _of_patients(parts, partition)
        return Contribution(_meat(parts), Evidence(patients_of(plan, partition)))

    def asking(self, asker: Asker) -> Steps:
        known = asker.known
        shape = len(known.times.time), len(known.times.wide)
        vectors = {name: np.zeros(shape) for name in ("ahead", "less", "mean")}

        def use(k: int, band: Band) -> None:
            vectors["ahead"][band.times], vectors["less"][band.times] = band.moved()
            vectors["mean"][band.times] = band.means()

        yield from asker.at_times(use)
        vectors["ahead"] = ahead(known, vectors["ahead"])
        found, exposure = yield from asker.parts(vectors=vectors)
        total = floats_of(found["total"], WIDE)
        values: dict[str, Any] = _meat(total[None])
        if asker.plan.values["state"]["by"] != "site":
            values = {"clusters": found["clusters"], "meat": floats_of(found["meat"], WIDE)}
        if asker.sums.lost[0]:
            values["meat"] = np.full_like(values["meat"], np.nan)  # the ring refuses it
        return Contribution(values, Evidence(found["patients"])), exposure

    def found(self, plan: Plan, part: Part) -> dict[str, Any]:
        parts = part.scored()
        each = _meat(_of_patients(parts, part.partition))
        return {**each, "meat": whole(each["meat"]), "total": whole(parts.sum(axis=0))}


def _of_patients(parts: Floats, partition: Partition) -> Floats:
    """Rows of a patient added up."""
    if partition.key is None or not len(parts):
        return parts
    starts = np.flatnonzero(np.diff(partition.key, prepend=partition.key[0] - 1))
    return np.asarray(np.add.reduceat(parts, starts, axis=0))


def _meat(parts: Floats) -> dict[str, Any]:
    """Products of the scores of clusters, (n, p)."""
    products = (parts.T @ parts)[np.triu_indices(parts.shape[1])]
    return {"clusters": int(np.count_nonzero(parts.any(axis=1))), "meat": products}


def patients_of(plan: Plan, partition: Partition) -> int:
    """With a row that counts."""
    return partition.patients(rows_of(spec_of(plan), partition).used)


tasks = [CountsTask(), DerivativesTask(), ScoresTask()]
