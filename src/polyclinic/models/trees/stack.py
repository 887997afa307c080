"""Grown trees as arrays, one after the other: what a plan carries and a predictor keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.models.trees.spec import Spec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LARGEST = 2.0**40  # of a value in a leaf
_ARRAYS = ("feature", "split", "set", "missing_left", "left")


@dataclass(frozen=True)
class Stack:
    """Trees; node 0 of each is its root, and the right child stands behind the left one.

    start         first node of each tree, and the number of nodes, (n_trees + 1,)
    feature       of the split, (n_nodes,)
    split         bins up to this one go left, (n_nodes,); of a category -1
    set           of a category: the levels that go right, as bits, (n_nodes,)
    missing_left  1 where missing values go left, (n_nodes,)
    left          left child within the tree, -1 for a leaf, (n_nodes,)
    value         (n_nodes, width)
    """

    start: Ints
    feature: Ints
    split: Ints
    set: Ints
    missing_left: Ints
    left: Ints
    value: Floats

    @staticmethod
    def none(width: int) -> Stack:
        empty = np.zeros(0, dtype=np.int64)
        one = np.zeros(1, dtype=np.int64)
        return Stack(one, empty, empty, empty, empty, empty, np.zeros((0, width)))

    @property
    def trees(self) -> int:
        return len(self.start) - 1

    def tree(self, at: int) -> Stack:
        """One of them."""
        nodes = slice(int(self.start[at]), int(self.start[at + 1]))
        parts = [getattr(self, name)[nodes] for name in (*_ARRAYS, "value")]
        return Stack(np.array([0, nodes.stop - nodes.start]), *parts)

    def first(self, trees: int) -> Stack:
        """The first of them."""
        stop = int(self.start[trees])
        parts = [getattr(self, name)[:stop] for name in (*_ARRAYS, "value")]
        return Stack(self.start[: trees + 1], *parts)

    def plus(self, other: Stack) -> Stack:
        """These, then the others."""
        parts = [
            np.concatenate([getattr(self, name), getattr(other, name)])
            for name in (*_ARRAYS, "value")
        ]
        return Stack(np.concatenate([self.start, other.start[1:] + self.start[-1]]), *parts)

    def starts_with(self, other: Stack) -> bool:
        """Whether the first of these are the others."""
        if other is self:
            return True
        if other.trees > self.trees:
            return False
        mine = self.first(other.trees)
        return all(
            np.array_equal(getattr(mine, name), getattr(other, name))
            for name in ("start", *_ARRAYS, "value")
        )

    def goes_left(self, node: int, spec: Spec) -> Bools:
        """Which bins of the split's feature go left, the one of missing values last."""
        feature = spec.features[int(self.feature[node])]
        bins = np.arange(spec.widest + 1)
        if feature.levels:
            found = (int(self.set[node]) >> np.minimum(bins, 62)) & 1 == 0
        else:
            found = bins <= self.split[node]
        found[-1] = bool(self.missing_left[node])
        return np.asarray(found)

    def leaves(self, bins: NDArray[Any], spec: Spec) -> Ints:
        """The leaf of each row in the only tree, (n_rows,); bins (n_rows, n_features)."""
        at = np.zeros(len(bins), dtype=np.int64)
        if not len(self.left):
            return at
        tables = {
            node: self.goes_left(node, spec) for node in np.flatnonzero(self.left >= 0).tolist()
        }
        groups = [(0, np.arange(len(bins)))]
        while groups:
            node, rows = groups.pop()
            at[rows] = node
            if self.left[node] >= 0 and len(rows):
                mask = tables[node][bins[rows, self.feature[node]]]
                left = int(self.left[node])
                groups += [(left, rows[mask]), (left + 1, rows[~mask])]
        return at

    def to_data(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("start", *_ARRAYS, "value")}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Stack:
        return Stack(*(data[name] for name in ("start", *_ARRAYS, "value")))

    @cached_property
    def split_nodes(self) -> list[int]:
        """Nodes with children, in ascending order."""
        found: list[int] = np.flatnonzero(self.left >= 0).tolist()
        return found


class Grown(codec.Fixed):
    """The trees in a plan, by who has grown them: in the rounds of the next tree they are the same,
    and where the plan has not travelled nobody has to look through them again."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack.to_data())
        self.stack = stack


def grown(data: Mapping[str, Any]) -> Stack:
    """The stack of a state's data."""
    return data.stack if isinstance(data, Grown) else Stack.from_data(data)


def checked(data: Any, spec: Spec, most_trees: int) -> Stack:
    """The stack in a message. Raises ValueError for one that no algorithm of `spec` could send."""
    if isinstance(data, Grown):
        return data.stack
    if not isinstance(data, Mapping) or set(data) != {"start", *_ARRAYS, "value"}:
        raise ValueError("trees have other fields")
    for name in ("start", *_ARRAYS):
        array = data[name]
        if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.ndim != 1:
            raise ValueError(f"{name} is not a row of whole numbers")
    value: Any = data["value"]
    stack, nodes = Stack.from_data(data), len(data["left"])
    if not isinstance(value, np.ndarray) or value.dtype != np.float64:
        raise ValueError("values are not numbers")
    if value.shape != (nodes, spec.width) or not np.all(np.abs(value) <= LARGEST):
        raise ValueError("values are not finite, or not one per node")
    if any(len(getattr(stack, name)) != nodes for name in _ARRAYS):
        raise ValueError("not one entry per node")
    start = stack.start
    if len(start) < 1 or start[0] != 0 or start[-1] != nodes or np.any(np.diff(start) < 1):
        raise ValueError("trees do not follow each other")
    if stack.trees > most_trees:
        raise ValueError("too many trees")
    _check_children(stack, spec)
    _check_splits(stack, spec)
    return stack


def _check_children(stack: Stack, spec: Spec) -> None:
    """Each node has one parent before it, and no more levels than agreed."""
    sizes = np.diff(stack.start)
    root = np.repeat(stack.start[:-1], sizes)
    split = np.flatnonzero(stack.left >= 0)
    left = root[split] + stack.left[split]
    if np.any(left <= split) or np.any(left + 1 >= (root + np.repeat(sizes, sizes))[split]):
        raise ValueError("children do not follow their parents")
    parents = np.bincount(np.concatenate([left, left + 1]), minlength=len(root))
    parents[stack.start[:-1]] += 1
    if np.any(parents != 1) or np.any(stack.left < -1):
        raise ValueError("a node has not one parent")
    child = np.full(len(root), -1)
    child[split] = left
    nodes = stack.start[:-1]
    for _ in range(spec.depth + 1):
        nodes = child[nodes[child[nodes] >= 0]]
        nodes = np.concatenate([nodes, nodes + 1])
    if len(nodes):
        raise ValueError("more levels than agreed")


def _check_splits(stack: Stack, spec: Spec) -> None:
    split = stack.left >= 0
    feature, place, right = stack.feature[split], stack.split[split], stack.set[split]
    if np.any((feature < 0) | (feature >= len(spec.features))):
        raise ValueError("a split on no column")
    levels, bins = spec.levels_of[feature], spec.bins_of[feature]
    category = levels > 0
    if np.any(category & ((place != -1) | (right < 0) | (right >> levels != 0))):
        raise ValueError("a split that is no set of levels")
    if np.any(~category & ((right != 0) | (place < -1) | (place >= bins))):
        raise ValueError("a split at no bin")


def stacked(trees: Sequence[Stack], width: int) -> Stack:
    """Trees one after the other."""
    found = Stack.none(width)
    parts = {
        name: [getattr(found, name), *(getattr(tree, name) for tree in trees)]
        for name in (*_ARRAYS, "value")
    }
    sizes = np.cumsum([0, *(len(tree.left) for tree in trees)])
    return Stack(sizes, *(np.concatenate(parts[name]) for name in (*_ARRAYS, "value")))
