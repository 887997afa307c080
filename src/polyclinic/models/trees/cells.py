"""Histograms of nodes as a hospital lets them out.

What leaves the site: per asked node, column and bin the sums of first and of second derivatives and
the number of rows, over none or at least `cell` patients each (groups.py). A sum of first
derivatives of a class outcome is how many of them have it, less how many were expected to.

Each hospital joins its own bins, so trees see a patient a few bins away from where they are, and
follow the patient that way while they grow; what they predict is not touched. Where every bin has
enough patients nothing is joined, and the trees are those of the pooled rows, bit for bit.

Bins of a column are joined once for all patients of the cohort, before any tree: their cells move
as a whole whatever the margins are, and are compared like cohorts with those of other edges.

Derivatives of survival follow the order of times in risk sets of all rows (at_risk.py): who makes
these up is judged as well (survival.py).

What bins are joined to is found step by step over all chunks of the hospital's rows (joint.py).

The gate counts again: a cell of fewer patients than its policy's minimum, or of which two patients
are nearly all, refuses the round. It happens where `cell` is below the hospital's minimum.
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
from polyclinic.models.trees.at_risk import ASKED, BySteps, at_risk_of, exposure_of, told
from polyclinic.models.trees.at_times import Table
from polyclinic.models.trees.bins import Bools
from polyclinic.models.trees.groups import Lines, lines_of
from polyclinic.models.trees.joint import Joint, lines_to, state_at, together
from polyclinic.models.trees.kernels import COUNT
from polyclinic.models.trees.rows import Rows, line_columns, same_rows, spec_of, state_of
from polyclinic.models.trees.stack import Stack
from polyclinic.models.trees.survival import shares_at, slots_of
from polyclinic.models.trees.tasks import columns_named, histogram_leaves, histograms

Ints = NDArray[np.int64]


class RoutedRows(Rows):
    """Rows of a chunk, which go where the hospital's cells go.

    ways  of each split that is known which bins go left, by tree and node
    """

    ways: Mapping[tuple[int, int], Bools]

    def _follow(self, at: int, tree: Stack) -> None:
        nodes = self.nodes[at]
        for node in tree.split_nodes:
            left = self.ways.get((self.grown + at, node))
            if left is not None and node not in nodes.done:
                nodes.follow(tree, node, self.columns, left)

    def lines(self, at: int, node: int, several: bool, where: Ints | None = None) -> Lines:
        """Of the rows of a node, at their bins or at `where` these are counted."""
        order = self.nodes[at].rows(node)
        parts, bins = np.abs(self.lanes[at][order]), self.bins[order]
        parts[:, -1] &= (1 << COUNT) - 1
        if where is not None:
            bins = where[np.arange(len(where)), bins]
        # One more bin stands for missing values where the study keeps none.
        return lines_of(bins, parts, self.spec.widest + 1, self.keys[order] if several else None)

    def all_lines(self, several: bool) -> Lines:
        """Of all rows, fitted or not."""
        nothing = np.zeros((len(self.y), 0), np.int64)
        return lines_of(self.bins, nothing, self.spec.widest + 1, self.keys if several else None)

    @property
    def fitted(self) -> Bools:
        """Which rows are fitted."""
        found = np.zeros(len(self.y), dtype=bool)
        found[self.used] = True
        return found


@dataclass(frozen=True)
class CellsTask(BySteps):
    """Histograms of nodes over the cells of a hospital."""

    name: str = "trees.cells"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return histogram_leaves(plan, "cells")

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Of survival, whose sums are about the risk sets of all rows; else none."""
        return slots_of(spec_of(plan)) if spec_of(plan).survival else ()

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Of survival the shares in all risk sets; else none: cells are judged each by itself."""
        return (), int(spec_of(plan).survival)

    def together(self, one: Answer, other: Answer) -> Answer:
        """Sums of both, and what each chunk has side by side."""
        return together(one, other)

    def steps(self, plan: Plan, kept: dict[str, Any]) -> Steps:
        """Cells of the asked nodes, then who is behind them."""
        spec, state = spec_of(plan), state_of(plan)
        joint = joint_of(plan, kept)
        yield from joint.at(state)
        first = state.trees.trees
        trees = (state.asked[:, 0] + first).tolist() if spec.rows_share < 1.0 else [0]
        samples = sorted({tree // spec.at_once for tree in trees})
        members = yield from joint.members(samples, plan.cohort)
        exposure = Exposure(cells=_shares(spec, joint, first, state.asked), members=members)
        if spec.survival:
            shares = yield from joint.shares()
            more = exposure_of(spec, columns_named(spec), shares)
            exposure = replace(more, cells=exposure.cells, members=(*members, *more.members))
        return self._joined(plan, joint), exposure

    def _joined(self, plan: Plan, joint: Joint) -> Contribution:
        """The histograms with bins counted where their cells are."""
        spec, state = spec_of(plan), state_of(plan)
        leaves = {leaf.name: np.zeros(leaf.shape, np.int64) for leaf in self.leaves(plan)}
        behind = np.zeros(leaves["n"].shape, np.int64)
        for i, (tree, node) in enumerate(state.asked.tolist()):
            columns = line_columns(spec, state.trees.trees + tree, node)
            cells = joint.cells[state.trees.trees + tree, node]
            where = cells.where[columns, : spec.bins]
            to = (where + spec.bins * np.arange(len(columns))[:, None]).ravel()
            for name, sums in joint.sums.items():
                flat = (len(to), *sums.shape[3:])
                np.add.at(leaves[name][i].reshape(flat), to, sums[i].reshape(flat))
            behind[i] = cells.lines.count[columns, : spec.bins]
        by_lane = np.repeat(behind[..., None], spec.width, axis=-1)
        return Contribution(
            leaves, Evidence(joint.patients, {"g": by_lane, "h": behind, "n": behind})
        )

    def part(self, plan: Plan, question: Question, partition: Partition) -> Answer:
        """What one chunk holds; see `Joint`."""
        asked, spec, state = question.values, spec_of(plan), state_of(plan)
        rows = same_rows(spec, state, partition, RoutedRows)
        if asked["ask"] == "whole":
            several = bool(np.any(np.diff(rows.keys) == 0))
            return {
                "lines": lines_to([rows.all_lines(several)]),
                "several": int(several),
                "patients": partition.patients(rows.fitted),
            }
        if asked["ask"] == "members":
            return _members(asked, rows, partition)
        splits = map(tuple, asked["split"].tolist())
        rows.ways = dict(zip(splits, asked["left"], strict=True))
        rows.at(state_at(state, spec, asked["first"]))
        if asked["ask"] in ASKED:
            return told(asked, rows.risks, rows.margin[rows.used, 0])
        if "table" in asked:
            rows.table = Table(**asked["table"])
        if asked["ask"] == "shares":
            second = rows.risks.derivatives(rows.margin[rows.used, 0], rows.table)[1]
            return shares_at(rows, partition, rows.used, second)
        nodes, several = asked["nodes"].tolist(), asked["several"]
        if asked["ask"] == "moved":
            pairs = zip(nodes, asked["where"], strict=True)
            return {
                "lines": lines_to([rows.lines(i, k, several, where) for (i, k), where in pairs])
            }
        return {
            "lines": lines_to([rows.lines(i, k, several) for i, k in nodes]),
            "sums": histograms(rows, asked["first"], asked["sums"]),
        }


def joint_of(plan: Plan, kept: dict[str, Any]) -> Joint:
    """What is known of the rows under a plan's spec."""
    spec, state = spec_of(plan), state_of(plan)
    found: Joint | None = kept.get("cells")
    same = found is not None and np.array_equal(found.class_weight, state.class_weight)
    if found is None or not same or found.spec != spec:
        at_risk = at_risk_of(kept, "used", spec, state.class_weight)
        found = kept["cells"] = Joint(spec, state.class_weight, at_risk)
    return found


def _members(asked: Mapping[str, Any], rows: RoutedRows, partition: Partition) -> Answer:
    """A chunk's patients behind each sample; and all of them with their cell of each column."""
    spec, behind = rows.spec, []
    for sample in asked["samples"]:
        mask = rows.fitted
        if spec.rows_share < 1.0:
            mask[rows.used] = rows.draws(sample * spec.at_once) > 0
        behind.append([packed(np.unique(partition.persons[mask]))])
    if not asked["cuts"]:
        return {"behind": behind, "persons": [], "labels": []}
    first = np.flatnonzero(np.diff(rows.keys, prepend=-1))
    kind = np.int16 if spec.widest < 1 << 15 else np.int64
    cells = [where[rows.bins[first, j]].astype(kind) for j, where in enumerate(asked["where"])]
    persons = [packed(partition.persons[first])]
    return {"behind": behind, "persons": persons, "labels": [cells]}


def _shares(spec: Any, joint: Joint, first: int, asked: Ints) -> dict[str, Shares]:
    parts: dict[str, list[Ints]] = {name: [] for name in ("total", "first", "second")}
    for tree, node in asked.tolist():
        columns = line_columns(spec, first + tree, node)
        lines = joint.cells[first + tree, node].lines
        for name, kept in parts.items():
            kept.append(getattr(lines, name)[columns, : spec.bins])
    shape = (0, spec.columns, spec.bins, spec.width + 1)
    total, most, second = (
        np.stack(kept).astype(np.float64) if kept else np.zeros(shape) for kept in parts.values()
    )
    shares = Shares(total, most**2, most, second)
    return {"g": _lanes(shares, slice(0, -1)), "h": _lanes(shares, -1)}


def _lanes(shares: Shares, lanes: Any) -> Shares:
    return Shares(*(part[..., lanes] for part in vars(shares).values()))
