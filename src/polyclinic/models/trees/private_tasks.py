"""The sites' half of trees under differential privacy: sums in which every patient is bounded.

A row's part are its first and second derivative, scaled so that both together have L2 norm 1 at
most:

    squared    (g, 1) / sqrt(2),     g = margin - z cut to [-1, 1], z the outcome scaled to [-1, 1]
    logistic   (p - y, k p (1 - p))

The m rows of a patient have the weight 1/m each. What leaves a site, with noise from the gate:

- `trees.private_level`: these sums per asked node, column and bin. In one tree a patient is in one
  bin of each column of one node at most, so of T trees and d columns the L2 norm is sqrt(T d).
- `trees.private_leaves`: per asked node alone; the L2 norm is sqrt(T).

A part is cut to a multiple of 2**-30, towards 0, and these are added as whole numbers, so that the
bound holds to the last bit. Samples of patients are refused: a patient's number, of which a sample
would be drawn, depends on who else is there, and is no secret.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain, Task
from polyclinic.models.learner import NOISY_FORM, spec_in
from polyclinic.models.private import LOGISTIC_CURVATURE
from polyclinic.models.trees import losses
from polyclinic.models.trees.kernels import add_lines
from polyclinic.models.trees.rows import Nodes, Rows, State, check_state, kept_rows, line_columns
from polyclinic.models.trees.spec import Private, Spec
from polyclinic.privacy.bounded import MOST_PATIENTS
from polyclinic.privacy.noisy import noise_required

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
QUANTUM = 2.0**-30
SHORTER = 1.0 - 2.0**-20  # no rounding error of a part reaches the bound


class PrivateRows(Rows):
    """Rows of a hospital of which every patient is bounded."""

    def __init__(self, spec: Spec, partition: Partition, class_weight: Floats) -> None:
        super().__init__(spec, partition, class_weight)
        _, where, rows = np.unique(self.keys, return_inverse=True, return_counts=True)
        if len(rows) > MOST_PATIENTS:
            raise PolyclinicError(
                "too many patients in one partition",
                code="RANGE",
                rule=f"a bounded sum is exact for at most {MOST_PATIENTS} patients at once",
                next="use more workers",
            )
        self.weight = 1.0 / rows[where]
        if spec.loss == "squared":
            bounds = spec.private or Private(0.0, 0.0)
            self.target = np.clip((self.y[:, None] - bounds.centre) / bounds.unit, -1.0, 1.0)

    def _begin(self, first_tree: int, many: int) -> None:
        """All rows stand at the roots, with their parts."""
        self.grown = first_tree
        self._lanes = [self._parts()] * many
        self.nodes = [Nodes.of(self.used) for _ in range(many)]

    def _parts(self) -> Ints:
        margin, target = self.margin[:, 0], self.target[:, 0]
        if self.spec.loss == "squared":
            first, second = np.clip(margin - target, -1.0, 1.0), np.ones(len(margin))
        else:
            p = losses.mean(margin, "logistic")
            first, second = p - target, LOGISTIC_CURVATURE * p * (1.0 - p)
        size = self.weight * (row_scale(self.spec) * SHORTER / QUANTUM)
        found: Ints = np.trunc(np.column_stack([first, second]) * size[:, None]).astype(np.int64)
        return found


def row_scale(spec: Spec) -> float:
    """What derivatives are multiplied by so that a row has norm 1 at most."""
    return math.sqrt(0.5) if spec.loss == "squared" else 1.0


def curvature_scale(spec: Spec) -> float:
    """What second derivatives are multiplied by beyond that."""
    return 1.0 if spec.loss == "squared" else LOGISTIC_CURVATURE


def private_of(plan: Plan) -> tuple[Spec, State]:
    """Spec and state of a plan with noise. Raises NOISE_REQUIRED, BAD_MESSAGE."""
    noise_required(plan)
    spec: Spec = spec_in(plan, Spec.from_data, NOISY_FORM)

    def make() -> State:
        try:
            _check_bounds(spec)
            state = check_state(spec, plan)
            if not len(state.asked) or len(state.class_weight):
                raise ValueError("nothing is asked, or classes have weights")
            return state
        except (ValueError, KeyError, TypeError) as error:
            raise PolyclinicError(
                f"the plan's trees: {error}",
                code="BAD_MESSAGE",
                rule="a plan says how far a patient's part can reach, and draws no patients",
            ) from None

    return spec, plan.once("state", make)


def check_private(spec: Spec, plan: Plan) -> None:
    """Raises PolyclinicError or ValueError for a plan that no algorithm of `spec` could send."""
    private_of(plan)


def _check_bounds(spec: Spec) -> None:
    """Raises ValueError for a spec under which a patient is not bounded."""
    private = spec.private
    if private is None or not 0 < private.unit < math.inf or not math.isfinite(private.centre):
        raise ValueError("no range of the outcome")
    if spec.loss not in ("squared", "logistic") or spec.lanes != 1:
        raise ValueError("a loss without bounds")
    drawn = spec.bootstrap or spec.rows_share < 1.0 or spec.validation or spec.rows
    if drawn or spec.design.weight is not None:
        raise ValueError("drawn or weighted patients")


def trees_of(state: State) -> int:
    """Trees with a node that is asked for."""
    return len(np.unique(state.asked[:, 0]))


@dataclass(frozen=True)
class PrivateLevelTask:
    """Bounded histograms of nodes."""

    name: str = "trees.private_level"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        spec, state = private_of(plan)
        bound = math.sqrt(trees_of(state) * spec.columns)
        shape = (len(state.asked), spec.columns, spec.bins, 2)
        return (Leaf("sums", shape, "histogram", bound=bound),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        (leaf,), (spec, state) = self.leaves(plan), private_of(plan)
        rows = kept_rows(spec, state, partition, PrivateRows)
        sums = np.zeros(leaf.shape, np.int64)
        for at, (tree, node) in enumerate(state.asked.tolist()):
            columns = line_columns(spec, state.trees.trees + tree, node)
            order = rows.nodes[tree].rows(node)
            add_lines(rows.bins, order, rows.lanes[tree], columns, sums[at])
        return _contribution(sums, partition)


@dataclass(frozen=True)
class PrivateLeavesTask:
    """Bounded sums of whole nodes."""

    name: str = "trees.private_leaves"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        _, state = private_of(plan)
        shape, bound = (len(state.asked), 2), math.sqrt(trees_of(state))
        return (Leaf("sums", shape, "sum", bound=bound),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        (leaf,), (spec, state) = self.leaves(plan), private_of(plan)
        rows = kept_rows(spec, state, partition, PrivateRows)
        sums = np.zeros(leaf.shape, np.int64)
        for at, (tree, node) in enumerate(state.asked.tolist()):
            sums[at] = rows.lanes[tree][rows.nodes[tree].rows(node)].sum(axis=0)
        return _contribution(sums, partition)


def _contribution(sums: Ints, partition: Partition) -> Contribution:
    leaves: dict[str, Any] = {"sums": sums * QUANTUM}
    return Contribution(leaves, Evidence(partition.n_patients))


tasks: list[Task] = [PrivateLevelTask(), PrivateLeavesTask()]
