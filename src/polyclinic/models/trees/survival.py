"""The sites' half of boosted survival beside the histograms of cells.py.

What leaves a site:
- `trees.events`: rows, patients, events, rows without a duration, and the weight of the events.
- `trees.held`: the partial likelihood of the patients that are held out, in risk sets of their own,
  and the weight of their events; nothing where fewer than `cell` of them have the event.
- `trees.concordance`: pairs of patients by whether the trees rank them rightly, where the risks of
  `cell` patients next to each other count as one.
- `trees.risk_sums` never crosses a border, like `trees.sums`.

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
from polyclinic.core.exposure import Exposure, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.survival.exposure import ALLOWED, NOT_ALLOWED
from polyclinic.models.trees.cox import RiskSets
from polyclinic.models.trees.predictor import TreesPredictor
from polyclinic.models.trees.rows import Rows, rows_of, spec_of, state_of
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.tasks import mask_of, members, rows_at_start

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Own = Mapping[str, NDArray[Any]]
PAIRS = ("concordant", "discordant", "tied_risk")


def slots_of(spec: Spec) -> tuple[str, ...]:
    """Levels that every plan of survival names."""
    count = int(np.prod(spec.levels, dtype=np.int64)) if spec.levels else 0
    strata = [f"stratum{part} = {k}" for k in range(count) for part in ("", " with the event")]
    return ("outcome = 0", "outcome = 1", *strata)


def exposed(rows: Rows, partition: Partition, chosen: Ints, weights: Floats) -> Exposure:
    """Of sums over the rows `chosen`, who share in them by `weights`, one per chosen row."""
    mask, event = mask_of(chosen, partition.n_rows), rows.y > 0
    slots = {f"outcome = {k}": partition.patients(mask & (event == bool(k))) for k in (0, 1)}
    if rows.stratum is not None:
        for k in range(int(np.prod(rows.spec.levels, dtype=np.int64))):
            here = mask & (rows.stratum == k)
            slots[f"stratum = {k}"] = partition.patients(here)
            slots[f"stratum with the event = {k}"] = partition.patients(here & event)
    key = None if partition.key is None else partition.key[chosen]
    return Exposure(
        slots=slots,
        weights=Shares.of(weights, key),
        members=(members(rows.spec, partition, mask),),
    )


def exposed_at(
    rows: Rows, partition: Partition, chosen: Ints, risks: RiskSets, margin: Floats
) -> Exposure:
    """The same with the rows' shares in the curvature at margins of the chosen rows, and the
    fewest patients that make up a risk set, or that a risk is taken of."""
    weights = risks.derivatives(margin)[1] * rows.weight[chosen]
    found = exposed(rows, partition, chosen, weights)
    return found + Exposure(slots={"of one risk": max(rows.spec.cell, 1)})


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
        found = exposed(rows, partition, rows.used, (rows.weight * rows.y)[rows.used])
        lost = rows.chosen & ~rows.allowed
        more = {
            ALLOWED: partition.patients(rows.chosen & rows.allowed),
            NOT_ALLOWED: partition.patients(lost),
        }
        return found + Exposure(slots=more)

    def slots(self, plan: Plan) -> tuple[str, ...]:
        return (*super().slots(plan), ALLOWED, NOT_ALLOWED)


@dataclass(frozen=True)
class HeldTask(Survival):
    """Partial likelihood of the rows that are held out."""

    name: str = "trees.held"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return Leaf("loss", ring="int64", kind="loss"), Leaf("weight", ring="int64", kind="sum")

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows, parts, weight = _held(plan, partition)
        sums: dict[str, Any] = {"loss": _whole(parts), "weight": _whole(weight)}
        return Contribution(
            sums, Evidence(partition.patients(mask_of(rows.held, partition.n_rows)))
        )

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """How patients share in the loss and in its curvature."""
        rows, parts, _ = _held(plan, partition)
        margin = rows.margin[rows.held, 0]
        found = exposed_at(rows, partition, rows.held, rows.held_risks, margin)
        key = None if partition.key is None else partition.key[rows.held]
        slots = {"of one risk": found.slots["of one risk"]}  # few events add nothing
        return replace(found, columns={"(loss)": Shares.of(np.abs(parts), key)}, slots=slots)

    def slots(self, plan: Plan) -> tuple[str, ...]:
        return ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        return ("(loss)",), 1


@dataclass(frozen=True)
class ConcordanceTask(Survival):
    """Pairs of the patients that are held out, or else of those that were fitted."""

    name: str = "trees.concordance"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        counts = (Leaf(name, (), "pairs", "int64") for name in PAIRS)
        return (*counts, Leaf("squares", (3,), "sums of squares of pairs", scale=40))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows, chosen, risks, margin = _ranked(plan, partition)
        counts, squares = risks.pairs(margin, max(rows.spec.cell, 1))
        values: dict[str, Any] = dict(zip(PAIRS, counts.tolist(), strict=True))
        patients = partition.patients(mask_of(chosen, partition.n_rows))
        return Contribution({**values, "squares": squares}, Evidence(patients))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Shares in the curvature."""
        rows, chosen, risks, margin = _ranked(plan, partition)
        return exposed_at(rows, partition, chosen, risks, margin)


def _whole(parts: Floats) -> int:
    return int(np.rint(np.ldexp(np.minimum(parts, 2.0**30), 20)).sum())


def _held(plan: Plan, partition: Partition) -> tuple[Rows, Floats, Floats]:
    """The rows with each held-out one's loss and weight; 0 where too few have the event."""
    rows = rows_of(plan, partition)
    held = rows.held
    event = rows.y * rows.weight
    patients = partition.patients(mask_of(held[event[held] > 0], partition.n_rows))
    if patients < rows.spec.cell:
        return rows, np.zeros(len(held)), np.zeros(len(held))
    return rows, rows.held_risks.losses(rows.margin[held, 0]), event[held]


def _ranked(plan: Plan, partition: Partition) -> tuple[Rows, Ints, RiskSets, Floats]:
    """The rows to be ranked, in what order they left, and what the plan's trees say of them."""
    spec, state, rows = spec_of(plan), state_of(plan), rows_at_start(plan, partition)
    chosen, risks = (rows.held, rows.held_risks) if spec.validation else (rows.used, rows.risks)
    margin = TreesPredictor(spec, state.base, state.trees).margin(partition.columns)
    return rows, chosen, risks, margin[chosen, 0]
