"""The sites' half of boosted survival beside the histograms of cells.py.

What leaves a site:
- `trees.events`: rows, patients, events, rows without a duration, and the weight of the events.
- `trees.held`: the partial likelihood of the patients that are held out, in risk sets of their own,
  and the weight of their events; nothing where fewer than `cell` of them have the event.
- `trees.concordance`: pairs of patients by whether the trees rank them rightly, where the risks of
  `cell` patients next to each other count as one.
- `trees.risk_sums` never crosses a border, like `trees.sums`.

What they are computed from is asked of chunks step by step (at_risk.py): risk sets are of all rows
of the site, and for the pairs the site gathers when and how each row ended, and its risk.

No time leaves. How sums that follow the order of times are kept from telling one patient's place in
it is said in cox.py; the gate counts that `cell` is large enough for it. A patient's share in the
curvature is their weight for the gate, as in Cox regression, and patients with the event are
counted like a level, also in each stratum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Shares, packed
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Answer, Grain, Question, Steps
from polyclinic.models.survival.exposure import ALLOWED, NOT_ALLOWED
from polyclinic.models.trees.at_risk import (
    ASKED,
    BySteps,
    ExactShares,
    at_risk_of,
    exposure_of,
    together,
    told,
)
from polyclinic.models.trees.at_times import Table
from polyclinic.models.trees.cox import RiskSets
from polyclinic.models.trees.predictor import TreesPredictor
from polyclinic.models.trees.rows import Rows, rows_of, spec_of, state_of
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.tasks import (
    SumsTask,
    columns_named,
    histograms,
    mask_of,
    members,
    rows_at_start,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Own = Mapping[str, NDArray[Any]]
PAIRS = ("concordant", "discordant", "tied_risk")


def slots_of(spec: Spec) -> tuple[str, ...]:
    """Levels that every plan of survival names."""
    count = spec.strata if spec.levels else 0
    strata = [f"stratum{part} = {k}" for k in range(count) for part in ("", " with the event")]
    return ("outcome = 0", "outcome = 1", *strata)


def slots_in(rows: Rows, partition: Partition, chosen: Ints) -> dict[str, int]:
    """Patients by how it ended, and by stratum, of the rows `chosen`."""
    mask, event = mask_of(chosen, partition.n_rows), rows.y > 0
    slots = {f"outcome = {k}": partition.patients(mask & (event == bool(k))) for k in (0, 1)}
    if rows.stratum is not None:
        for k in range(rows.spec.strata):
            here = mask & (rows.stratum == k)
            slots[f"stratum = {k}"] = partition.patients(here)
            slots[f"stratum with the event = {k}"] = partition.patients(here & event)
    return slots


def shares_at(rows: Rows, partition: Partition, chosen: Ints, second: Floats) -> dict[str, Any]:
    """Of a chunk the patients behind the rows `chosen`, and how they share in the curvature, of
    which each row's is given, (n_chosen,)."""
    key = None if partition.key is None else partition.key[chosen]
    return {
        "slots": slots_in(rows, partition, chosen),
        "weights": vars(ExactShares.of(second * rows.weight[chosen], key)),
        "persons": [packed(np.unique(partition.persons[chosen]))],
    }


class Survival:
    """What its tasks have in common."""

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Levels of the outcome and of the strata."""
        return slots_of(spec_of(plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """The weights."""
        return (), 1


@dataclass(frozen=True)
class EventsTask(Survival):
    """Patients and events before the first tree."""

    name: str = "trees.events"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        names = ("n", "patients", "not_allowed", "events")
        counts = (Leaf(name, ring="int64", kind="count") for name in names)
        return (*counts, Leaf("weight", ring="int64", kind="sum"))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = rows_at_start(plan, partition)
        event = rows.used[rows.y[rows.used] > 0]
        patients = partition.patients(mask_of(rows.used, partition.n_rows))
        leaves: dict[str, Any] = {
            "n": len(rows.used),
            "patients": patients,
            "not_allowed": int(np.count_nonzero(rows.chosen & ~rows.allowed)),
            "events": len(event),
            "weight": _whole(rows.weight[event]),
        }
        return Contribution(leaves, Evidence(patients))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Patients by how it ended, and how those with the event share in its weight."""
        rows = rows_at_start(plan, partition)
        lost, weight = rows.chosen & ~rows.allowed, rows.weight * rows.y
        more = {
            ALLOWED: partition.patients(rows.chosen & rows.allowed),
            NOT_ALLOWED: partition.patients(lost),
        }
        key = None if partition.key is None else partition.key[rows.used]
        return Exposure(
            slots={**slots_in(rows, partition, rows.used), **more},
            weights=Shares.of(weight[rows.used], key),
            members=(members(rows.spec, partition, mask_of(rows.used, partition.n_rows)),),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        return (*super().slots(plan), ALLOWED, NOT_ALLOWED)


@dataclass(frozen=True)
class HeldTask(Survival, BySteps):
    """Partial likelihood of the rows that are held out."""

    name: str = "trees.held"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return Leaf("loss", ring="int64", kind="loss"), Leaf("weight", ring="int64", kind="sum")

    def slots(self, plan: Plan) -> tuple[str, ...]:
        return ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        return ("(loss)",), 1

    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps:
        """The loss and its weight; 0 where too few patients have the event."""
        spec, weight = spec_of(plan), state_of(plan).class_weight
        held = at_risk_of(kept, "held", spec, weight)
        table, near = yield from held.tables({}, losses=True)
        asked = {"ask": "losses", "table": vars(table), "near": vars(near)}
        found = yield Question(asked)
        exposure = exposure_of(spec, columns_named(spec), found)
        counted = found["ended"] >= spec.cell
        sums = {name: found[name] if counted else 0 for name in ("loss", "weight")}
        shares = ExactShares(**found["losses"]) if counted else ExactShares.of(np.zeros(0))
        exposure = replace(
            exposure,
            columns={"(loss)": shares.shares},
            slots={"of one risk": exposure.slots["of one risk"]},  # few events add nothing
        )
        return Contribution(sums, Evidence(found["patients"])), exposure

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """What one chunk's rows add."""
        asked, rows = question.values, rows_of(plan, partition)
        held, sets = rows.held, rows.held_risks
        margin = rows.margin[held, 0]
        if asked["ask"] in ASKED:
            return told(asked, sets, margin)
        parts, event = sets.losses(margin, Table(**asked["near"])), (rows.y * rows.weight)[held]
        second = sets.derivatives(margin, Table(**asked["table"]))[1]
        key = None if partition.key is None else partition.key[held]
        return {
            **shares_at(rows, partition, held, second),
            "loss": _whole(parts),
            "weight": _whole(event),
            "losses": vars(ExactShares.of(np.abs(parts), key)),
            "ended": partition.patients(mask_of(held[event > 0], partition.n_rows)),
            "patients": partition.patients(mask_of(held, partition.n_rows)),
        }


@dataclass(frozen=True)
class ConcordanceTask(Survival, BySteps):
    """Pairs of the patients that are held out, or else of those that were fitted."""

    name: str = "trees.concordance"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        counts = (Leaf(name, (), "pairs", "int64") for name in PAIRS)
        return (*counts, Leaf("squares", (3,), "sums of squares of pairs", scale=40))

    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps:
        """Pairs of all rows, of which chunks tell when and how each ended, and its risk."""
        spec = spec_of(plan)
        which = "held" if spec.validation else "used"
        (table,) = yield from at_risk_of(kept, which, spec, np.zeros(0)).tables({})
        found = yield Question({"ask": "ranks", "table": vars(table)}, long=True)
        time, event, margin, stratum = (
            np.concatenate(found[name]) for name in ("time", "event", "margin", "stratum")
        )
        order = np.arange(len(time))
        sets = RiskSets(time, event, np.ones(len(time)), order, stratum)
        counts, squares = sets.pairs(margin, max(spec.cell, 1))
        values: dict[str, Any] = dict(zip(PAIRS, counts.tolist(), strict=True))
        done = Contribution({**values, "squares": squares}, Evidence(found["patients"]))
        return done, exposure_of(spec, columns_named(spec), found)

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """A chunk's rows at the margins of the plan's trees."""
        asked, spec, state = question.values, spec_of(plan), state_of(plan)
        rows = rows_at_start(plan, partition)
        chosen, sets = (rows.held, rows.held_risks) if spec.validation else (rows.used, rows.risks)
        margin = TreesPredictor(spec, state.base, state.trees).margin(partition.columns)[chosen, 0]
        if asked["ask"] in ASKED:
            return told(asked, sets, margin)
        second = sets.derivatives(margin, Table(**asked["table"]))[1]
        number = np.zeros(len(chosen), np.int64) if rows.stratum is None else rows.stratum[chosen]
        return {
            **shares_at(rows, partition, chosen, second),
            "patients": partition.patients(mask_of(chosen, partition.n_rows)),
            "time": [rows.time[chosen]],
            "event": [rows.y[chosen] > 0],
            "margin": [margin],
            "stratum": [number],
        }


@dataclass(frozen=True)
class RiskSumsTask(SumsTask):
    """Histograms of nodes of survival inside one trust domain. It has no `exposure` either."""

    name: str = "trees.risk_sums"
    version: int = 1
    grain: Grain = "site"

    @property
    def exact(self) -> bool:
        """All sums are of whole numbers."""
        return True

    def by_steps(self, plan: Plan) -> bool:
        """Always."""
        return True

    def together(self, one: Answer, other: Answer) -> Answer:
        """Sums of both."""
        return together(one, other)

    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps:
        """Risk sets once for each tree, and then the histograms."""
        state = state_of(plan)
        used = at_risk_of(kept, "used", spec_of(plan), state.class_weight)
        table = yield from used.at(state.base, state.trees, {})
        found = yield Question({"ask": "sums", **table})
        sums = {leaf.name: found[leaf.name] for leaf in self.leaves(plan)}
        return Contribution(sums, Evidence(found["patients"])), Exposure()

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """What one chunk's rows add."""
        asked, rows, state = question.values, rows_of(plan, partition), state_of(plan)
        if asked["ask"] in ASKED:
            return told(asked, rows.risks, rows.margin[rows.used, 0])
        rows.table = Table(**asked["table"])
        sums = histograms(rows, state.trees.trees, state.asked)
        return {**sums, "patients": partition.n_patients}


def _whole(parts: Floats) -> int:
    return int(np.rint(np.ldexp(np.minimum(parts, 2.0**30), 20)).sum())
