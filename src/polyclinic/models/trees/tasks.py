"""The sites' half of trees inside one trust domain, and the sums that trees start and stop with.

What leaves a site:
- `trees.start`: patients and rows, and per outcome class (or for all) the sums of weights and of
  weighted outcomes.
- `trees.cells`: histograms of nodes, of which every number has enough patients; see cells.py.
- `trees.loss`: the sum of losses of the rows that are held out, and of their weights.
- survival: see survival.py.
- `trees.sums` never crosses a border: it says nothing about how patients share in its sums, so
  every gate refuses it. It is for rows in one trust domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.trees import losses
from polyclinic.models.trees.bins import BLOCK
from polyclinic.models.trees.kernels import GRADIENT_BITS, add_nodes
from polyclinic.models.trees.rows import Rows, columns_of, rows_of, spec_of, state_of
from polyclinic.models.trees.spec import Spec

Ints = NDArray[np.int64]
Own = Mapping[str, NDArray[Any]]


def histogram_leaves(plan: Plan, support: str = "patients") -> tuple[Leaf, ...]:
    """First derivatives, second derivatives and rows per asked node, line and bin."""
    spec, state = spec_of(plan), state_of(plan)
    shape = (len(state.asked), spec.columns, spec.bins)
    more: dict[str, Any] = {"kind": "histogram", "ring": "int64", "support": support}
    return (
        Leaf("g", (*shape, spec.width), **more),
        Leaf("h", shape, **more),
        Leaf("n", shape, **more),
    )


@dataclass(frozen=True)
class SumsTask:
    """Histograms of nodes inside one trust domain. It has no `exposure`, so no gate lets it out."""

    name: str = "trees.sums"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return histogram_leaves(plan)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        state = state_of(plan)
        found = histograms(rows_of(plan, partition), state.trees.trees, state.asked)
        return Contribution(found, Evidence(partition.n_patients))


def histograms(rows: Rows, first: int, asked: Ints) -> dict[str, Ints]:
    """Of nodes of growing trees, (n_asked, 2), of which `first` is the number of the first."""
    spec, (trees, nodes) = rows.spec, asked.T
    shape = (len(asked), spec.columns, spec.bins)
    g = np.zeros((*shape, spec.width), np.int64)
    h, n = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    columns = columns_of(spec, first, asked)
    for tree in np.unique(trees):
        at, mine = np.flatnonzero(trees == tree), rows.nodes[tree]
        order, ranges, lanes = mine.order, mine.ranges(nodes[at]), rows.lanes[tree]
        add_nodes(rows.bins, order, ranges, lanes, columns, at, (g, h, n))
    return {"g": g, "h": h, "n": n}


@dataclass(frozen=True)
class StartTask:
    """Sums of the outcome before the first tree."""

    name: str = "trees.start"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        spec = spec_of(plan)
        classes = max(spec.classes, 2) if spec.classes else 0
        return (
            Leaf("n", ring="int64", kind="count"),
            Leaf("patients", ring="int64", kind="count"),
            Leaf("classes", (classes,), ring="int64", kind="count"),
            Leaf("sums", (max(classes, 1), spec.lanes + 1), ring="int64", kind="sum"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        spec, rows = spec_of(plan), rows_at_start(plan, partition)
        used = rows.used
        classes = max(spec.classes, 2) if spec.classes else 0
        label = rows.y[used].astype(np.int64) if classes else np.zeros(len(used), np.int64)
        scale = np.ldexp(1.0, GRADIENT_BITS - spec.gradient_exponent)
        sums = np.zeros((max(classes, 1), spec.lanes + 1), dtype=np.int64)
        for start in range(0, len(used), BLOCK):
            at = slice(start, start + BLOCK)
            parts = np.column_stack([rows.target[used[at]], rows.weight[used[at]]])
            parts[:, :-1] *= parts[:, -1:]
            whole = np.rint(parts * scale).astype(np.int64)
            for k in range(len(sums)):
                sums[k] += whole[label[at] == k].sum(axis=0)
        counts = np.bincount(label, minlength=classes)[:classes].astype(np.int64)
        patients = partition.patients(mask_of(used, partition.n_rows))
        leaves: dict[str, Any] = {
            "n": len(used),
            "patients": patients,
            "classes": counts,
            "sums": sums,
        }
        return Contribution(leaves, Evidence(patients))

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Patients per class; of a number, how they share in its sum."""
        spec, rows = spec_of(plan), rows_at_start(plan, partition)
        used = rows.used
        mask = mask_of(used, partition.n_rows)
        slots = {
            f"outcome = {k}": partition.patients(mask & (rows.y == k))
            for k in range(max(spec.classes, 2) if spec.classes else 0)
        }
        parts = np.where(mask, np.abs(rows.y) * rows.weight, 0.0)
        columns = {} if spec.classes else {"(outcome)": Shares.of(parts, partition.key)}
        return Exposure(
            slots=slots,
            columns=columns,
            weights=Shares.of(np.where(mask, rows.weight, 0.0), partition.key),
            members=(members(spec, partition, mask),),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        spec = spec_of(plan)
        return tuple(f"outcome = {k}" for k in range(max(spec.classes, 2) if spec.classes else 0))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        return (() if spec_of(plan).classes else ("(outcome)",)), 1


@dataclass(frozen=True)
class LossTask:
    """Loss of the rows that are held out."""

    name: str = "trees.loss"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return (
            Leaf("loss", ring="int64", kind="loss"),
            Leaf("weight", ring="int64", kind="sum"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        parts, weight, held = self._parts(plan, partition)
        sums: dict[str, Any] = {name: int(np.rint(np.ldexp(each, 20)).sum()) for name, each in
                (("loss", parts), ("weight", weight))}  # fmt: skip
        return Contribution(sums, Evidence(partition.patients(held)))

    def _parts(self, plan: Plan, partition: Partition) -> Any:
        spec, rows = spec_of(plan), rows_of(plan, partition)
        if spec.survival:
            raise PolyclinicError("a loss of risk sets is no sum over rows", code="BAD_MESSAGE")
        held = rows.held
        found = losses.losses(rows.margin[held], rows.target[held], spec.loss, spec.focus)
        most = np.ldexp(1.0, spec.gradient_exponent + 4) ** 2
        return (
            np.clip(found, -most, most) * rows.weight[held],
            rows.weight[held],
            mask_of(held, partition.n_rows),
        )

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """How patients share in the loss."""
        parts, weight, held = self._parts(plan, partition)
        key = None if partition.key is None else partition.key[held]
        return Exposure(
            columns={"(loss)": Shares.of(np.abs(parts), key)},
            weights=Shares.of(weight, key),
            members=(members(spec_of(plan), partition, held),),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        return ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        return ("(loss)",), 1


def members(spec: Spec, partition: Partition, mask: NDArray[np.bool_]) -> Members:
    """Patients behind sums over the rows `mask`."""
    return Members(columns_named(spec), np.unique(partition.persons[mask]))


def columns_named(spec: Spec) -> tuple[str, ...]:
    """All columns that sums are about."""
    design = spec.design
    more = (one for one in (design.response, design.weight, design.event) if one)
    return (*(f.name for f in spec.features), *more, *design.strata)


def mask_of(rows: Ints, size: int) -> NDArray[np.bool_]:
    """Rows as a mask of so many."""
    found = np.zeros(size, dtype=bool)
    found[rows] = True
    return found


def rows_at_start(plan: Plan, partition: Partition) -> Rows:
    """The rows before there is a state."""
    spec = spec_of(plan)
    made: Rows = partition.cached("trees at the start", lambda: Rows(spec, partition, np.zeros(0)))
    return made if made.spec == spec else Rows(spec, partition, np.zeros(0))
