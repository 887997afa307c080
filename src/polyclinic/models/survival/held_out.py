"""How well a Cox regression ranks patients it was not fitted on: Harrell's concordance.

Each patient is scored by the coefficients that were found without his fold, and compared with the
patients of the same hospital, stratum and fold: relative risks of two fits have no common zero. As
in `polyclinic.models.survival.concordance` pairs of equal risk count half, and the risks of
`group_size(least)` patients next to each other count as one.

What leaves the site: the numbers of rows, of events and of right, wrong and tied pairs over all
folds, and sums of squares of pairs for the standard error. By name ("collect") instead of the pairs
only the concordance and its error, to hundredths: exact pairs of all hospitals but one, taken from
a total, would be the pairs of that one.
Reference: Harrell, Lee & Mark, "Multivariable prognostic models", *Statistics in Medicine* 15
(1996).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Shares
from polyclinic.core.groups import group_size
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain, Steps
from polyclinic.models.survival.by_steps import Asker, ByRiskSets, Part, Ranked
from polyclinic.models.survival.concordance import PAIRS, Pairs, concordance_of, grouped, pairs
from polyclinic.models.survival.exposure import Asked, judged, slots_of
from polyclinic.models.survival.rows import rows_of, spec_of, strata_of
from polyclinic.models.survival.tasks import theta_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WEIGHT = "(weight)"
PLACES = 2  # of what a hospital says of itself


def folds_of(plan: Plan) -> int:
    """Folds of the validation; 0: all patients by the only coefficients. Raises BAD_MESSAGE."""
    folds = plan.values["state"].get("folds")
    if type(folds) is not int or folds < 0 or len(theta_of(plan)) != max(folds, 1):
        raise PolyclinicError(
            "coefficients that do not fit the folds",
            code="BAD_MESSAGE",
            rule="a validation has coefficients for every fold",
        )
    return folds


def held_out_pairs(plan: Plan, strata: Iterable[Ranked]) -> Pairs:
    """Pairs of the site's patients of each stratum and fold."""
    size, found = group_size(spec_of(plan).least), Pairs.none()
    for one in strata:
        risk = grouped(one.eta, one.keys, size)
        if len(np.unique(risk)) > 1 or size == 1:  # one group only ranks nobody
            found += pairs(one.time, one.event, risk)
    return found


def _in_place(plan: Plan, partition: Partition) -> Iterator[Ranked]:
    """Strata and folds of rows in one place."""
    for one in strata_of(spec_of(plan), partition):
        keys = partition.keys[one.rows]
        for beta, at in zip(theta_of(plan), _inside(plan, keys), strict=True):
            eta = one.x[at] @ beta
            if one.offset is not None:
                eta = eta + one.offset[at]
            yield Ranked(one.time[at], one.is_event[at], keys[at], eta)


def _apart(plan: Plan, strata: Iterable[Ranked]) -> Iterator[Ranked]:
    """Folds of strata under the coefficients of all of them."""
    for one in strata:
        for i, at in enumerate(_inside(plan, one.keys)):
            yield Ranked(one.time[at], one.event[at], one.keys[at], one.eta[at, i])


def _inside(plan: Plan, keys: Ints) -> list[NDArray[np.bool_]]:
    """The patients of each fold."""
    folds = folds_of(plan)
    return [keys % folds == i for i in range(folds)] or [np.ones(len(keys), dtype=bool)]


class _HeldOut(ByRiskSets):
    """What both tasks share."""

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Those of the regression, the smallest group of risks, and the folds."""
        names = [*slots_of(spec_of(plan), _one(plan, 0)), "of one risk"]
        for i in range(folds_of(plan)):
            names += [f"fold {i}", f"fold {i} with the event"]
        return tuple(names)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the sums under each fold's coefficients, and one candidate."""
        names = (*judged(spec_of(plan).design, _one(plan, 0)), WEIGHT)
        marked = [_mark(name, i) for i in range(len(theta_of(plan))) for name in names]
        return tuple(marked), 1

    def views(self, plan: Plan) -> list[Asked]:
        """The coefficients of every fold."""
        return [_one(plan, i) for i in range(len(theta_of(plan)))]

    def counted(self, plan: Plan, partition: Partition) -> dict[str, int]:
        """Patients of each fold, and those with the event."""
        return _folds(plan, partition)

    def judged(self, plan: Plan, seen: list[Exposure]) -> Exposure:
        """Of all rows under the coefficients of every fold, so that none covers another."""
        columns: dict[str, Shares] = {}
        for i, one in enumerate(seen):
            columns |= {_mark(name, i): shares for name, shares in one.columns.items()}
            columns[_mark(WEIGHT, i)] = one.weights or Shares.of(np.zeros(0))
        size = group_size(spec_of(plan).least)
        return replace(seen[-1], columns=columns, slots={**seen[-1].slots, "of one risk": size})

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        counts, patients = _counted(plan, partition)
        found = held_out_pairs(plan, _in_place(plan, partition))
        return Contribution(self.values(counts, found), Evidence(patients))

    @abstractmethod
    def values(self, counts: Mapping[str, int], found: Pairs) -> dict[str, Any]:
        """What leaves."""

    def asking(self, asker: Asker) -> Steps:
        yield from asker.at_times()
        found, exposure = yield from asker.parts()
        counts = {name: found[name] for name in ("n", "events")}
        ranks = _apart(asker.plan, (yield from asker.ranked()))
        values = self.values(counts, held_out_pairs(asker.plan, ranks))
        return Contribution(values, Evidence(found["patients"])), exposure

    def found(self, plan: Plan, part: Part) -> dict[str, Any]:
        """Rows and events; pairs are of all chunks."""
        return dict(_counted(plan, part.partition)[0])


def _one(plan: Plan, fold: int) -> Asked:
    return Asked(theta_of(plan)[fold : fold + 1], 0)


def _mark(name: str, fold: int) -> str:
    return f"{name} [{fold}]" if fold else name


def _folds(plan: Plan, partition: Partition) -> dict[str, int]:
    """Patients of each fold, and those with the event."""
    folds, rows = folds_of(plan), rows_of(spec_of(plan), partition)
    found = {}
    for i in range(folds):
        inside = rows.used & (partition.keys % folds == i)
        found[f"fold {i}"] = partition.patients(inside)
        found[f"fold {i} with the event"] = partition.patients(inside & rows.event)
    return found


@dataclass(frozen=True)
class HeldOutTask(_HeldOut):
    """The pairs, to be added up."""

    name: str = "survival.held_out"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        counts = tuple(Leaf(name, (), "pairs", "int64") for name in PAIRS)
        return (*_COUNTS, *counts, Leaf("squares", (3,), "sums of squares of pairs", scale=40))

    def values(self, counts: Mapping[str, int], found: Pairs) -> dict[str, Any]:
        return {**counts, **found.leaves()}


@dataclass(frozen=True)
class OwnHeldOutTask(_HeldOut):
    """The concordance of a site by itself (combine = "collect"). A policy must allow it by name."""

    name: str = "survival.held_out_own"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        if plan.combine != "collect":
            raise PolyclinicError(
                f"{plan.task} is not added up",
                code="BAD_MESSAGE",
                rule="what a hospital computes for itself is asked by name: combine = collect",
            )
        found = (
            *_COUNTS,
            Leaf("defined", (), "flag", "int64"),
            Leaf("concordance", (2,), "statistic"),
        )
        return tuple(replace(leaf, small="hide") for leaf in found)

    def judged(self, plan: Plan, seen: list[Exposure]) -> Exposure:
        """As of a sum of this site alone."""
        return replace(super().judged(plan, seen), alone=True)

    def values(self, counts: Mapping[str, int], found: Pairs) -> dict[str, Any]:
        one = concordance_of(found)
        defined = one["pairs"] > 0
        said = np.round([one["c"], one["se"]], PLACES) if defined else np.zeros(2)
        return {**counts, "defined": int(defined), "concordance": said}


_COUNTS = (
    Leaf("n", (), "count", "int64", unit="rows"),
    Leaf("events", (), "count", "int64", unit="rows"),
)


def _counted(plan: Plan, partition: Partition) -> tuple[dict[str, int], int]:
    """Rows and events, and patients."""
    rows = rows_of(spec_of(plan), partition)
    counts = {"n": np.count_nonzero(rows.used), "events": np.count_nonzero(rows.used & rows.event)}
    return {name: int(count) for name, count in counts.items()}, partition.patients(rows.used)


tasks = [HeldOutTask(), OwnHeldOutTask()]
