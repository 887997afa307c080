"""The site's half of a log-rank test stratified by site.

What leaves the site: per group the observed less the expected events, and their covariances. At
each event time of a stratum with d events among n at risk, of which n_g are of group g,

    difference_g = sum (d_g - d n_g / n),
    variance_gh  = sum d (n - d) / (n - 1) (n_g / n) ([g = h] - n_h / n)

It is the score of a Cox regression on the groups at no effect, and is judged as that is. Over
several chunks of a scan the site asks them for the event times, for what the gate judges
(by_steps.py), and how many of each group come to be at risk, and have the event, at each time.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Members, packed, unpacked
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Answer, Grain, Question, Steps
from polyclinic.models.by_time import ByTime
from polyclinic.models.glm.support import patients
from polyclinic.models.survival import risk_sums
from polyclinic.models.survival.by_steps import Asker, ByRiskSets, Part
from polyclinic.models.survival.curve_rows import Left, left, spec_of
from polyclinic.models.survival.curve_spec import CurveSpec
from polyclinic.models.survival.exposure import ALLOWED, NOT_ALLOWED, Asked, Own, judged, slots_of
from polyclinic.models.survival.known import Piece, Times, piece_of
from polyclinic.models.survival.risk_sums import Totals
from polyclinic.models.survival.rows import strata_numbers
from polyclinic.models.survival.spec import CoxSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class LogRankTask(ByRiskSets):
    """Observed less expected events per group but the first, and their covariances."""

    name: str = "survival.log_rank"
    version: int = 1
    grain: Grain = "site"

    def spec(self, plan: Plan) -> CoxSpec:
        """The Cox regression on the groups."""
        return _test_of(plan).cox

    def asked(self, plan: Plan) -> Asked:
        """At no effect."""
        return Asked(np.zeros((1, len(_test_of(plan).groups) - 1)), 2)

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = len(_test_of(plan).groups) - 1
        return (
            Leaf("difference", (size,), "observed less expected events"),
            Leaf("variance", (size * (size + 1) // 2,), "covariances"),
            Leaf("events", (), "count", "int64"),
            Leaf("patients", (), "count", "int64", unit="patients"),
            Leaf("not_allowed", (), "count", "int64", unit="rows"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        spec, found = _test_of(plan), left(plan, partition)
        time = partition.columns[spec.design.response]
        stratum = strata_numbers(partition.columns, spec.design.strata, spec.levels)
        size = len(spec.groups)
        difference, variance = np.zeros(size), np.zeros((size, size))
        for rows in _by(stratum, found.inside):
            one = log_rank(time[rows], found.way[rows] > 0, found.group[rows], size)
            difference += one[0]
            variance += one[1]
        return _contribution(difference, variance, _counts(found, partition))

    def asking(self, asker: Asker) -> Steps:
        """The risk sets at no effect, of all patients for the gate and by group for the test."""
        size = len(_test_of(asker.plan).groups)
        yield from asker.at_times()
        difference, variance = yield from _sums(asker, size)
        told, exposure = yield from asker.parts()
        inside = np.concatenate([unpacked(one) for one in told["who"]])
        exposure = self._behind(asker.plan, exposure, np.unique(inside))
        return _contribution(difference, variance, told), exposure

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """The answer of one chunk."""
        asked = question.values
        if asked["ask"] == "groups":
            piece = piece_of(self.spec(plan), partition, Times(**asked["times"]))
            return {"times": vars(_at_times(left(plan, partition), piece, asked))}
        return super().part(plan, question, partition)

    def found(self, plan: Plan, part: Part) -> dict[str, Any]:
        """Counts, and who is in a group."""
        inside = left(plan, part.partition)
        who = packed(np.unique(part.partition.persons[inside.allowed]))
        return {**_counts(inside, part.partition), "who": [who]}

    def counted(self, plan: Plan, partition: Partition) -> dict[str, int]:
        """Patients with an outcome and a group."""
        allowed, key = left(plan, partition).allowed, partition.key
        return {NOT_ALLOWED: patients(~allowed, key), ALLOWED: patients(allowed, key)}

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """That of the Cox regression; and who is in no group is in none of the sums."""
        inside = np.unique(partition.persons[left(plan, partition).allowed])
        return self._behind(plan, super().exposure(plan, partition, own), inside)

    def _behind(self, plan: Plan, cox: Exposure, inside: Ints) -> Exposure:
        return replace(cox, members=(Members(self.spec(plan).design.columns, inside),))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Levels, events and strata."""
        return slots_of(self.spec(plan), self.asked(plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """The groups."""
        return judged(self.spec(plan).design, self.asked(plan)), 1


def _test_of(plan: Plan) -> CurveSpec:
    """Raises BAD_MESSAGE where it is no log-rank test within sites."""
    spec = spec_of(plan)
    if spec.asked != "log-rank" or spec.on_grid:
        raise PolyclinicError("no such test", code="BAD_MESSAGE")
    return spec


def _counts(found: Left, partition: Partition) -> dict[str, int]:
    """Of rows that are asked about, and of those that cannot be."""
    return {
        "events": int(np.count_nonzero(found.way > 0)),
        "patients": partition.patients(found.inside),
        "not_allowed": int(np.count_nonzero(~found.allowed)),
    }


def _contribution(difference: Floats, variance: Floats, counts: Mapping[str, int]) -> Contribution:
    """Of the sums of all groups, the first among them, and the counts."""
    values: dict[str, Any] = {
        "difference": difference[1:],
        "variance": variance[1:, 1:][np.triu_indices(len(difference) - 1)],
        **{name: counts[name] for name in ("events", "patients", "not_allowed")},
    }
    return Contribution(values, Evidence(counts["patients"]))


Asking = Generator[Question, Answer, tuple[Floats, Floats]]


def _sums(asker: Asker, size: int) -> Asking:
    """As `log_rank` over all strata, some times after the other."""
    known, totals = asker.known, Totals(asker.known)
    difference, variance = np.zeros(size), np.zeros((size, size))
    width = max(1, risk_sums.MOST // (2 * size))
    for first in range(0, len(known.ties), width):
        here = slice(first, min(first + width, len(known.ties)))
        asked = {"times": vars(known.times), "first": here.start, "stop": here.stop, "size": size}
        answer = yield Question({"ask": "groups", **asked}, long=True)
        by, counts = ByTime(**answer["times"]), np.zeros((here.stop - first, 2 * size), np.int64)
        counts[by.stratum - first] = by.sums
        risk = totals.upto(counts[:, :size], here).astype(np.float64)
        happened = counts[:, size:].astype(np.float64)
        one = score_of(happened, risk, happened.sum(axis=1))
        difference += one[0]
        variance += one[1]
    return difference, variance


def _at_times(found: Left, piece: Piece, asked: Mapping[str, Any]) -> ByTime:
    """Of each group, at the event times from number `first` up to `stop`: rows that are at risk for
    the first time, the latest times first; and those with the event, (times, 2 size)."""
    way, size = found.way[piece.rows], asked["size"]
    inside = (piece.at >= asked["first"]) & (piece.at < asked["stop"]) & (way >= 0)
    group, event = found.group[piece.rows[inside]], way[inside] > 0
    at, number = np.unique(piece.at[inside], return_inverse=True)
    sums = np.zeros((len(at), 2 * size), np.int64)
    np.add.at(sums, (number, group), 1)
    np.add.at(sums, (number[event], size + group[event]), 1)
    return ByTime(at, np.zeros(len(at)), sums)


def _by(stratum: Ints | None, used: Bools) -> list[Ints]:
    if stratum is None:
        return [np.flatnonzero(used)]
    return [np.flatnonzero(used & (stratum == k)) for k in np.unique(stratum[used])]


def log_rank(time: Floats, event: Bools, group: Ints, size: int) -> tuple[Floats, Floats]:
    """Observed less expected events per group, (size,), and their covariance matrix.

    Expected: at each event time the events, by the groups' parts of those at risk.
    """
    times, at, deaths = np.unique(time[event], return_inverse=True, return_counts=True)
    happened = np.zeros((len(times), size))
    np.add.at(happened, (at, group[event]), 1.0)
    risk = np.empty((len(times), size))
    for g in range(size):
        ordered = np.sort(time[group == g])
        risk[:, g] = len(ordered) - np.searchsorted(ordered, times, side="left")
    return score_of(happened, risk, deaths.astype(np.float64))


def score_of(happened: Floats, risk: Floats, deaths: Floats) -> tuple[Floats, Floats]:
    """The same from counts per event time and group, (n_times, size)."""
    every = risk.sum(axis=1)
    part = risk / np.where(every > 0, every, 1.0)[:, None]
    difference = (happened - deaths[:, None] * part).sum(axis=0)
    scale = np.where(every > 1, deaths * (every - deaths) / np.maximum(every - 1, 1e-9), 0.0)
    variance = np.diag(scale @ part) - part.T @ (part * scale[:, None])
    return difference, variance
