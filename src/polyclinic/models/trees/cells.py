"""Histograms of nodes as a hospital lets them out.

What leaves the site: per asked node, column and bin the sums of first and of second derivatives and
the number of rows, over none or at least `cell` patients each (groups.py). A sum of first
derivatives of a class outcome is how many of them have it, less how many were expected to.

Each hospital joins its own bins, so trees see a patient a few bins away from where they are, and
follow the patient that way while they grow; what they predict is not touched. Where every bin has
enough patients nothing is joined, and the trees are those of the pooled rows, bit for bit.

Bins of a column are joined once for all patients of the cohort, before any tree: their cells move
as a whole whatever the margins are, and are compared like cohorts with those of other edges.

Derivatives of survival follow the order of times in risk sets of all rows: who makes these up is
judged as well (survival.py).

The gate counts again: a cell of fewer patients than its policy's minimum, or of which two patients
are nearly all, refuses the round. It happens where `cell` is below the hospital's minimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.trees.bins import Bools
from polyclinic.models.trees.groups import Lines, joined, lines_of
from polyclinic.models.trees.kernels import COUNT
from polyclinic.models.trees.rows import Rows, kept_rows, line_columns, spec_of, state_of
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack
from polyclinic.models.trees.survival import exposed_at, slots_of
from polyclinic.models.trees.tasks import histogram_leaves, histograms, members

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """One node's cells: at which bin each bin is counted, and who is behind each of them."""

    where: Ints
    lines: Lines


class GroupedRows(Rows):
    """Rows of a hospital, of which whole cells move."""

    def __init__(self, spec: Spec, partition: Partition, class_weight: NDArray[np.float64]) -> None:
        super().__init__(spec, partition, class_weight)
        self._members: dict[int, Members] = {}
        self._cuts: tuple[Members, ...] | None = None
        self.whole = self._whole_cells(partition)

    def _whole_cells(self, partition: Partition) -> Ints:
        """Bins joined until each has enough of the cohort's patients: what moves together in every
        tree, whatever its margins are."""
        nothing = np.zeros((partition.n_rows, 0), np.int64)
        lines = lines_of(
            self.bins, nothing, self.spec.widest + 1, self.keys if self.several else None
        )
        return joined([lines], None, max(self.spec.cell, 1))

    def cuts(self, partition: Partition, cohort: Any) -> tuple[Members, ...]:
        """The cohort's patients by cell of each column, each patient once: other edges that differ
        by a few are refused like a cohort."""
        if self._cuts is None:
            first = np.flatnonzero(np.diff(self.keys, prepend=-1))
            about, persons, found = codec.digest(cohort or {}), partition.persons[first], []
            for j, feature in enumerate(self.spec.features):
                cell, column = self.whole[j][self.bins[first, j]], (f"{feature.name} in {about}",)
                found += [Members(column, np.unique(persons[cell == b])) for b in np.unique(cell)]
            self._cuts = tuple(found)
        return self._cuts

    @cached_property
    def several(self) -> bool:
        """Whether a patient has several rows."""
        return bool(np.any(np.diff(self.keys) == 0))

    def _begin(self, first_tree: int, many: int) -> None:
        super()._begin(first_tree, many)
        self.cells: list[dict[int, Cells]] = [{} for _ in range(many)]
        self.parents: list[dict[int, int]] = [{} for _ in range(many)]

    def behind(self, partition: Partition, first: int, trees: list[int]) -> tuple[Members, ...]:
        """Patients behind the sums of some trees: of samples, those of each."""
        if self.spec.rows_share >= 1.0:
            trees = [0]
        samples = sorted({(first + tree) // self.spec.at_once for tree in trees})
        for sample in samples:
            if sample not in self._members:
                mask = _used(self)
                if self.spec.rows_share < 1.0:
                    mask[self.used] = self.draws(sample * self.spec.at_once) > 0
                self._members[sample] = members(self.spec, partition, mask)
        return tuple(self._members[sample] for sample in samples)

    def goes_left(self, at: int, tree: Stack, node: int) -> Bools:
        """Bins go where the one goes that they are counted at."""
        left = int(tree.left[node])
        self.parents[at] |= {left: node, left + 1: node}
        where = self.cells_of(at, node).where[int(tree.feature[node])]
        found: Bools = super().goes_left(at, tree, node)[where]
        return found

    def cells_of(self, at: int, node: int) -> Cells:
        """Of a node whose parents were split, made together with its sibling's."""
        if node not in self.cells[at]:
            if node == 0:
                pair, before = [0], self.whole
            else:
                parent = self.parents[at][node]
                pair = sorted(k for k, above in self.parents[at].items() if above == parent)
                before = self.cells_of(at, parent).where
            lines = [self._lines(at, one) for one in pair]
            where = joined(lines, before, max(self.spec.cell, 1))
            for one, mine in zip(pair, lines, strict=True):
                moved = self._lines(at, one, where) if len(mine.most) else mine.at(where)
                self.cells[at][one] = Cells(where, moved)
        return self.cells[at][node]

    def _lines(self, at: int, node: int, where: Ints | None = None) -> Lines:
        """Of the rows of a node, at their bins or at `where` these are counted."""
        order = self.nodes[at].rows(node)
        parts, bins = np.abs(self.lanes[at][order]), self.bins[order]
        parts[:, -1] &= (1 << COUNT) - 1
        if where is not None:
            bins = where[np.arange(len(where)), bins]
        # One more bin stands for missing values where the study keeps none.
        return lines_of(
            bins, parts, self.spec.widest + 1, self.keys[order] if self.several else None
        )


def grouped(plan: Plan, partition: Partition) -> GroupedRows:
    """The hospital's rows at the place of the plan."""
    return kept_rows(spec_of(plan), state_of(plan), partition, GroupedRows)


@dataclass(frozen=True)
class CellsTask:
    """Histograms of nodes over the cells of a hospital."""

    name: str = "trees.cells"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return histogram_leaves(plan, "cells")

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        spec, state = spec_of(plan), state_of(plan)
        rows, first = grouped(plan, partition), state.trees.trees
        leaves = {leaf.name: np.zeros(leaf.shape, np.int64) for leaf in self.leaves(plan)}
        own = histograms(rows, first, state.asked)
        behind = np.zeros(leaves["n"].shape, np.int64)
        for i, (tree, node) in enumerate(state.asked.tolist()):
            columns = line_columns(spec, first + tree, node)
            cells = rows.cells_of(tree, node)
            where = cells.where[columns, : spec.bins]
            to = (where + spec.bins * np.arange(len(columns))[:, None]).ravel()
            for name, sums in own.items():
                flat = (len(to), *sums.shape[3:])
                np.add.at(leaves[name][i].reshape(flat), to, sums[i].reshape(flat))
            behind[i] = cells.lines.count[columns, : spec.bins]
        by_lane = np.repeat(behind[..., None], spec.width, axis=-1)
        evidence = {"g": by_lane, "h": behind, "n": behind}
        patients = partition.patients(_used(rows))
        return Contribution(leaves, Evidence(patients, evidence))

    def exposure(
        self, plan: Plan, partition: Partition, own: Mapping[str, NDArray[Any]]
    ) -> Exposure:
        """Shares of patients in the magnitudes that each cell adds up."""
        spec, state = spec_of(plan), state_of(plan)
        rows, first = grouped(plan, partition), state.trees.trees
        parts: dict[str, list[Ints]] = {name: [] for name in ("total", "first", "second")}
        for tree, node in state.asked.tolist():
            columns = line_columns(spec, first + tree, node)
            lines = rows.cells_of(tree, node).lines
            for name, kept in parts.items():
                kept.append(getattr(lines, name)[columns, : spec.bins])
        shape = (0, spec.columns, spec.bins, spec.width + 1)
        total, most, second = (
            np.stack(kept).astype(np.float64) if kept else np.zeros(shape)
            for kept in parts.values()
        )
        shares = Shares(total, most**2, most, second)
        found = Exposure(
            cells={"g": _lanes(shares, slice(0, -1)), "h": _lanes(shares, -1)},
            members=(
                *rows.behind(partition, first, state.asked[:, 0].tolist()),
                *rows.cuts(partition, plan.cohort),
            ),
        )
        if not spec.survival:
            return found
        margin = rows.margin[rows.used, 0]
        everyone = exposed_at(rows, partition, rows.used, rows.risks, margin)
        return replace(
            found,
            slots=everyone.slots,
            weights=everyone.weights,
            members=(*found.members, *everyone.members),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Of survival, whose sums are about the risk sets of all rows; else none."""
        return slots_of(spec_of(plan)) if spec_of(plan).survival else ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Of survival the shares in all risk sets; else none: cells are judged each by itself."""
        return (), int(spec_of(plan).survival)


def _lanes(shares: Shares, lanes: Any) -> Shares:
    return Shares(*(part[..., lanes] for part in vars(shares).values()))


def _used(rows: Rows) -> Bools:
    found = np.zeros(len(rows.y), dtype=bool)
    found[rows.used] = True
    return found
