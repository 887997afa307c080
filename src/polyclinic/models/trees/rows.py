"""What a site knows of its rows while trees grow: their bins, margins and nodes.

All of it is a pure function of the plan and the rows; it is kept in the partition's cache between
rounds and made anew where it does not fit the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.sampling import uniform
from polyclinic.models.learner import spec_in
from polyclinic.models.survival.rows import outcome_of, strata_numbers
from polyclinic.models.trees import kernels, losses
from polyclinic.models.trees.at_times import Table
from polyclinic.models.trees.bins import BLOCK, Bools, both_ways
from polyclinic.models.trees.cox import RiskSets
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Stack, checked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
VALIDATION, SAMPLE, COLUMNS, NODE = 1, 2, 3, 4  # what a hash is for


@dataclass(frozen=True)
class State:
    """What only a run knows, as it stands in a plan.

    base          margin of a model without a split, (n_lanes,)
    class_weight  per class, (n_classes,) or empty
    trees         finished ones
    grow          those that are grown now
    asked         nodes whose histograms are wanted: tree among `grow` and node, (n_asked, 2)
    """

    base: Floats
    class_weight: Floats
    trees: Stack
    grow: Stack
    asked: Ints

    def to_data(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "class_weight": self.class_weight,
            "trees": self.trees.to_data(),
            "grow": self.grow.to_data(),
            "asked": self.asked,
        }


def spec_of(plan: Plan) -> Spec:
    """The spec of a plan, made once. Raises BAD_MESSAGE for another form."""
    found: Spec = spec_in(plan, Spec.from_data)
    return found


def state_of(plan: Plan) -> State:
    """The state of a plan, checked once. Raises BAD_MESSAGE for one that cannot be."""

    def make() -> State:
        try:
            return check_state(spec_of(plan), plan)
        except (ValueError, KeyError, TypeError) as error:
            raise PolyclinicError(
                f"the plan's trees: {error}",
                code="BAD_MESSAGE",
                rule="a plan names trees and nodes that its study could grow",
            ) from None

    return plan.once("state", make)


def check_state(spec: Spec, plan: Plan) -> State:
    """The state of a plan. Raises ValueError for one that no algorithm of `spec` could send."""
    data = plan.values["state"]
    if set(data) != {"base", "class_weight", "trees", "grow", "asked"}:
        raise ValueError("other fields")
    base, weight = data["base"], data["class_weight"]
    for name, array, shape in (("base", base, (spec.lanes,)), ("class_weight", weight, None)):
        if not isinstance(array, np.ndarray) or array.dtype != np.float64 or array.ndim != 1:
            raise ValueError(f"{name} is not a row of numbers")
        if (shape and array.shape != shape) or not np.all(np.abs(array) <= 2.0**40):
            raise ValueError(f"{name} is not finite, or not one per class")
    if len(weight) not in (0, max(spec.classes, 2)) or np.any(weight < 0):
        raise ValueError("not one weight per class")
    trees = checked(data["trees"], spec, spec.trees * spec.at_once)
    grow = checked(data["grow"], spec, spec.trees * spec.at_once)
    _check_asked(data["asked"], grow)
    return State(base, weight, trees, grow, data["asked"])


def _check_asked(asked: Any, grow: Stack) -> None:
    if not isinstance(asked, np.ndarray) or asked.dtype != np.int64:
        raise ValueError("nodes are whole numbers")
    if asked.ndim != 2 or asked.shape[1] != 2 or len(set(map(tuple, asked.tolist()))) < len(asked):
        raise ValueError("nodes are asked for once, by tree and number")
    (tree, node), sizes = asked.T, np.diff(grow.start)
    if np.any((tree < 0) | (tree >= grow.trees)) or np.any((node < 0) | (node >= sizes[tree])):
        raise ValueError("a node that no tree has")
    if np.any(grow.left[grow.start[tree] + node] >= 0):
        raise ValueError("a node that was split already")


@dataclass
class Nodes:
    """The rows of one tree in the order of its nodes.

    order  rows, grouped by node; stop, begin: of each node in `order`
    tree   the splits that have been followed so far
    """

    order: NDArray[np.int32]
    begin: dict[int, int]
    stop: dict[int, int]
    done: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @staticmethod
    def of(rows: Ints) -> Nodes:
        return Nodes(rows.astype(np.int32), {0: 0}, {0: len(rows)})

    def rows(self, node: int) -> NDArray[np.int32]:
        return self.order[self.begin[node] : self.stop[node]]

    def ranges(self, nodes: Ints) -> tuple[Ints, Ints]:
        """Where the rows of some nodes begin and stop in `order`."""
        begin, stop = ([side[node] for node in nodes.tolist()] for side in (self.begin, self.stop))
        return np.array(begin, dtype=np.int64), np.array(stop, dtype=np.int64)

    def follow(self, tree: Stack, node: int, columns: Any, left: Bools) -> None:
        """Divide a node's rows among its children."""
        begin, stop, child = self.begin[node], self.stop[node], int(tree.left[node])
        mine = self.order[begin:stop]
        middle = begin + kernels.divide(columns[int(tree.feature[node])], mine, left)
        self.begin |= {child: begin, child + 1: middle}
        self.stop |= {child: middle, child + 1: stop}
        self.done[node] = split_of(tree, node)


def split_of(tree: Stack, node: int) -> tuple[int, ...]:
    """All that decides which way a row goes."""
    names = ("feature", "split", "set", "missing_left", "left")
    return tuple(int(getattr(tree, name)[node]) for name in names)


class Rows:
    """The rows of a partition under one spec."""

    def __init__(self, spec: Spec, partition: Partition, class_weight: Floats) -> None:
        columns, self.spec = partition.columns, spec
        self.bins, self.columns = _bins(spec, partition)
        self.time, self.y, allowed = _outcome(columns, spec, partition.site)
        self.target = losses.targets(self.y, spec)
        self.weight = _weights(columns, spec, self.y, class_weight)
        self.chosen = _chosen(spec, partition) & (self.weight > 0)
        self.class_weight = class_weight
        self.keys, self.site = partition.keys, partition.site
        strata = spec.design.strata if spec.survival else ()
        self.stratum = strata_numbers(columns, strata, spec.levels)
        self.allowed = allowed
        mine = self.chosen & allowed
        held = np.zeros(len(mine), dtype=bool)
        if spec.validation:
            held = uniform(self.keys, spec.seed, VALIDATION, self.site) < spec.validation
        self.used = np.flatnonzero(mine & ~held)
        self.held = np.flatnonzero(mine & held)
        self.base: Floats | None = None
        self.margin: Floats = np.zeros((0, 0))
        self.table: Table | None = None  # of survival: of these and other rows, at the margins
        self.trees = Stack.none(spec.width)
        self.nodes: list[Nodes] = []
        self._drawn: list[Floats] = []  # weights of the rows in each tree that grows now
        self._lanes: list[Ints] | None = []
        self.grown = 0  # trees before those that are grown now, or -1

    def risk_sets(self, rows: Ints) -> RiskSets:
        """The order of some rows' times. Raises BAD_MESSAGE for outcomes without."""
        if not self.spec.survival:
            raise PolyclinicError("these trees are not of survival", code="BAD_MESSAGE")
        stratum = None if self.stratum is None else self.stratum[rows]
        keys = self.keys[rows]
        several = int(np.unique(keys, return_counts=True)[1].max(initial=1))
        order = (self.time[rows], self.y[rows] > 0, self.weight[rows], keys, stratum)
        return RiskSets(
            *order,
            parts=max(self.spec.cell, 1) * several,
            strata=self.spec.strata,
            bound=self.spec.weight_exponent,
        )

    @cached_property
    def risks(self) -> RiskSets:
        """That of the rows that are fitted."""
        return self.risk_sets(self.used)

    @cached_property
    def held_risks(self) -> RiskSets:
        """That of the rows that are held out."""
        return self.risk_sets(self.held)

    def derivatives(self, rows: slice) -> tuple[Floats, Floats]:
        """First and second of some rows at the margins, as `losses.derivatives`; of survival of all
        rows, 0 of those that are not fitted."""
        if not self.spec.survival:
            return losses.derivatives(self.margin[rows], self.target[rows], self.spec)
        first, second = np.zeros((2, len(self.y), 1))
        found = self.risks.derivatives(self.margin[self.used, 0], self.table)
        first[self.used, 0], second[self.used, 0] = found
        return first, second

    def draws(self, tree: int) -> Floats:
        """How often each used row is in the sample of a tree, (n_used,)."""
        spec = self.spec
        if not spec.bootstrap and spec.rows_share >= 1.0:
            return np.ones(len(self.used))
        number = tree // spec.at_once
        u = uniform(self.keys[self.used], spec.seed + SAMPLE, number, self.site)
        return poisson(u) if spec.bootstrap else (u < spec.rows_share).astype(np.float64)

    def at(self, state: State) -> None:
        """Bring margins and nodes to where the plan is."""
        self._finish(state)
        if self.grown != state.trees.trees or len(self.nodes) != state.grow.trees:
            self._begin(state.trees.trees, state.grow.trees)
        trees = [state.grow.tree(at) for at in range(state.grow.trees)]
        if not all(map(_fits, self.nodes, trees)):
            self._begin(state.trees.trees, state.grow.trees)
        for at, tree in enumerate(trees):
            self._follow(at, tree)

    def goes_left(self, at: int, tree: Stack, node: int) -> Bools:
        """Which bins of a node's rows go left in the growing tree `at`."""
        return tree.goes_left(node, self.spec)

    def _follow(self, at: int, tree: Stack) -> None:
        nodes = self.nodes[at]
        for node in tree.split_nodes:
            if node not in nodes.done:
                nodes.follow(tree, node, self.columns, self.goes_left(at, tree, node))

    def _finish(self, state: State) -> None:
        """Add the trees that were finished since the last plan to the margins."""
        if self.base is None or not np.array_equal(self.base, state.base):
            self._restart(state)
        if not state.trees.starts_with(self.trees):
            self._restart(state)
        if not self.spec.forest:
            for first in range(self.trees.trees, state.trees.trees, self.spec.at_once):
                self._add(state.trees, first)
        self.trees = state.trees

    def _restart(self, state: State) -> None:
        self.base = state.base
        self.margin = np.repeat(state.base[None], len(self.y), axis=0)
        self.trees, self.grown, self.nodes = Stack.none(self.spec.width), -1, []

    def _add(self, trees: Stack, first: int) -> None:
        """Values of the trees of one round, from where their rows stand."""
        spec, many = self.spec, min(self.spec.at_once, trees.trees - first)
        round_ = [trees.tree(first + at) for at in range(many)]
        if (
            self.grown != first
            or len(self.nodes) != many
            or not all(map(_fits, self.nodes, round_))
        ):
            self._begin(first, many)
        for at, tree in enumerate(round_):
            self._follow(at, tree)
            lanes, nodes = self._lane(at), self.nodes[at]
            leaves = np.flatnonzero(tree.left < 0)
            margin, values = self.margin[:, lanes], tree.value[leaves]
            kernels.add_values(margin, nodes.order, nodes.ranges(leaves), values)
            if len(nodes.order) < len(self.y):
                rest = np.setdiff1d(np.arange(len(self.y)), nodes.order, assume_unique=True)
                self.margin[rest, lanes] += tree.value[tree.leaves(self.bins[rest], spec)]

    def _lane(self, at: int) -> slice:
        return (
            slice(None)
            if self.spec.width > 1
            else slice(at % self.spec.lanes, at % self.spec.lanes + 1)
        )

    def _begin(self, first_tree: int, many: int) -> None:
        """Derivatives and samples of the trees that grow now; all rows stand at the roots."""
        spec, self.grown, self.nodes = self.spec, first_tree, []
        sampled, weights = spec.bootstrap or spec.rows_share < 1.0, []
        for at in range(many):
            weight, used = self.weight, self.used
            if sampled:
                drawn = self.draws(first_tree + at)
                weight = np.zeros(len(self.y))
                weight[used] = self.weight[used] * drawn
                used = used[drawn > 0]
            weights.append(weight)
            self.nodes.append(Nodes.of(used))
        self._drawn, self._lanes = weights, None

    @property
    def lanes(self) -> list[Ints]:
        """Derivatives of each tree that grows now, (n_rows, width + 1); found when first asked for:
        of finished trees nobody does."""
        if self._lanes is None:
            self._lanes = self._whole(self._drawn)
        return self._lanes

    def _whole(self, weights: list[Floats]) -> list[Ints]:
        """Derivatives of each tree as whole numbers; block by block, so that rows stay near."""
        spec, many = self.spec, len(self.y)
        found = [np.empty((many, spec.width + 1), np.int64) for _ in weights]
        size = max(many, 1) if spec.survival else 4 * BLOCK
        for start in range(0, many, size):
            rows = slice(start, start + size)
            first, second = self.derivatives(rows)
            for at, weight in enumerate(weights):
                lane = self._lane(at)
                h = second[:, min(lane.start or 0, second.shape[1] - 1)]
                found[at][rows] = losses.whole(first[:, lane], h, weight[rows], spec)
        return found


def _fits(nodes: Nodes, tree: Stack) -> bool:
    """Whether the splits that were followed are those of the tree."""
    known = len(tree.left)
    return all(node < known and split_of(tree, node) == was for node, was in nodes.done.items())


def rows_of(plan: Plan, partition: Partition) -> Rows:
    """The partition's rows at the place of the plan."""
    spec, state = spec_of(plan), state_of(plan)
    return kept_rows(spec, state, partition, Rows)


R = TypeVar("R", bound=Rows)


def kept_rows(spec: Spec, state: State, partition: Partition, kind: type[R]) -> R:
    """The rows in the partition's cache, brought to a state."""
    found = same_rows(spec, state, partition, kind)
    found.at(state)
    return found


def same_rows(spec: Spec, state: State, partition: Partition, kind: type[R]) -> R:
    """The rows in the partition's cache, in whatever state they are."""
    name = f"trees: {kind.__name__}"
    kept: R | None = partition.cache.get(name)
    if (
        kept is None
        or kept.spec != spec
        or not np.array_equal(kept.class_weight, state.class_weight)
    ):
        kept = partition.cache[name] = kind(spec, partition, state.class_weight)
    return kept


def line_columns(spec: Spec, tree: int, node: int) -> Ints:
    """Features of the lines of a node's histogram, ascending; by hash of tree and node."""
    every = np.arange(len(spec.features))
    if spec.tree_columns < len(every):
        number = tree // spec.at_once
        every = np.sort(
            np.argsort(uniform(every, spec.seed + COLUMNS, number))[: spec.tree_columns]
        )
    if spec.node_columns:
        place = uniform(every, spec.seed + NODE + (tree << 20), node)
        every = np.sort(every[np.argsort(place)[: spec.node_columns]])
    return every


def columns_of(spec: Spec, first: int, nodes: Ints) -> Ints:
    """The same of nodes of growing trees, (n_nodes, 2), of which `first` is the number of the
    first: (n_nodes, n_lines)."""
    if spec.columns == len(spec.features):
        return np.tile(np.arange(spec.columns), (len(nodes), 1))
    found = [line_columns(spec, first + tree, node) for tree, node in nodes.tolist()]
    return np.array(found, dtype=np.int64).reshape(-1, spec.columns)


def poisson(u: Floats) -> Floats:
    """Poisson(1) numbers from uniform ones, 7 at most."""
    steps = np.cumsum(np.exp(-1.0) / np.array([1, 1, 2, 6, 24, 120, 720]))
    return np.searchsorted(steps, u, side="right").astype(np.float64)


def _bins(spec: Spec, partition: Partition) -> tuple[Any, Any]:
    """Bins by row and by column, made once for one set of edges."""
    kept = partition.cache.get("bins of trees")
    if kept is None or kept[0] != spec.features:
        kept = partition.cache["bins of trees"] = (
            spec.features, *both_ways(partition.columns, spec)
        )  # fmt: skip
    return kept[1], kept[2]


def _chosen(spec: Spec, partition: Partition) -> Bools:
    if "folds" not in spec.rows:
        return np.ones(partition.n_rows, dtype=bool)
    return np.asarray(partition.keys % spec.rows["folds"] != spec.rows["without"])


def _weights(columns: Any, spec: Spec, y: Floats, class_weight: Floats) -> Floats:
    name = spec.design.weight
    weight = np.ones(len(y)) if not name else np.clip(columns[name], 0.0, spec.design.weight_bound)
    if len(class_weight):
        weight = weight * class_weight[y.astype(np.int64)]
    return weight


def _outcome(columns: Any, spec: Spec, site: str) -> tuple[Floats, Floats, Bools]:
    """Durations (empty of other outcomes), outcomes or events, and which rows have one."""
    y, design = columns[spec.design.response], spec.design
    if spec.survival:
        time, event, allowed = outcome_of(columns, design, spec.cause)
        return time, event.astype(np.float64), allowed
    good = np.isfinite(y)
    if spec.classes:
        good &= np.isin(y, np.arange(max(spec.classes, 2)))
    elif spec.loss == "poisson":
        good &= y >= 0
    if not good.all():
        raise PolyclinicError(
            f"{site}: the outcome has values that its loss cannot have",
            code="BAD_DATA",
            rule="classes as in the codebook, counts of 0 or more",
        )
    return np.zeros(0), y, good
