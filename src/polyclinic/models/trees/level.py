"""The nodes of one level while their histograms are asked for and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.category import best_set
from polyclinic.models.trees.kernels import GRADIENT_BITS, HESSIAN_BITS
from polyclinic.models.trees.rows import columns_of
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.split import LEAST_GAIN, Rules, scan
from polyclinic.models.trees.stack import Stack, stacked

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Level:
    """Open nodes and what is known of them.

    nodes        tree and node of each open one, (n_open, 2); siblings stand together
    asked        those whose histograms are asked for, (n_asked, 2)
    place        of each open node in the answer; -1: it is its parent less its sibling
    parent       of each open node in the histograms of the level before; -1: none
    g, h, n      histograms: of the level before, and once answered of this one
    low, high    bounds of values, (n_open,)
    depth        of this level
    gain, cover  per node of the growing trees so far, (n_nodes,)
    """

    nodes: Ints
    asked: Ints
    place: Ints
    parent: Ints
    g: Ints
    h: Ints
    n: Ints
    low: Floats
    high: Floats
    depth: int
    gain: Floats
    cover: Floats

    def to_data(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Level:
        return Level(**data)

    def answered(self, spec: Spec, g: Ints, h: Ints, n: Ints) -> Level:
        """With the histograms of all open nodes: those answered, and by difference the others."""
        if len(self.nodes) == len(self.asked):
            return replace(self, g=g, h=h, n=n)
        full = []
        for before, answer in ((self.g, g), (self.h, h), (self.n, n)):
            out = np.empty((len(self.nodes), *answer.shape[1:]), dtype=np.int64)
            for i, (place, parent) in enumerate(zip(self.place, self.parent, strict=True)):
                if place >= 0:
                    out[i] = answer[place]
                else:
                    np.subtract(before[parent], answer[self.place[i ^ 1]], out=out[i])
            full.append(out)
        return replace(self, g=full[0], h=full[1], n=full[2])


@dataclass(frozen=True)
class Splits:
    """The best split of each open node: gain 0 where there is none."""

    gain: Floats
    feature: Ints
    split: Ints
    set: Ints
    missing_left: Ints
    line: Ints


def roots(spec: Spec, many: int) -> tuple[Level, Stack]:
    """The first level of so many trees."""
    one = np.zeros(1, dtype=np.int64)
    root = Stack(np.array([0, 1]), one, one - 1, one, one + 1, one - 1, np.zeros((1, spec.width)))
    nodes = np.stack([np.arange(many), np.zeros(many, dtype=np.int64)], axis=1)
    if spec.depth == 0:
        nodes = nodes[:0]
    empty = np.zeros((0, 0, 0), dtype=np.int64)
    bound = spec.step or np.inf
    level = Level(
        nodes,
        nodes,
        np.arange(len(nodes)),
        np.full(len(nodes), -1),
        empty[..., None],
        empty,
        empty,
        np.full(len(nodes), -bound),
        np.full(len(nodes), bound),
        0,
        np.zeros(many),
        np.zeros(many),
    )
    return level, stacked([root] * many, spec.width)


def units(spec: Spec) -> tuple[float, float]:
    """Of the whole numbers of first and of second derivatives."""
    return (
        float(np.ldexp(1.0, spec.gradient_exponent - GRADIENT_BITS)),
        float(np.ldexp(1.0, spec.hessian_exponent - HESSIAN_BITS)),
    )


def splits_of(spec: Spec, level: Level, first: int) -> Splits:
    """The best split of each open node; `first`: number of the first growing tree."""
    rules, unit = Rules.of(spec), units(spec)
    bins, category = spec.bins_of, spec.levels_of > 0
    columns = columns_of(spec, first, level.nodes)
    last = np.where(category[columns], 0, bins[columns])
    if not spec.has_missing:
        last = np.maximum(last - 1, 0)
    signs = np.asarray(spec.monotone or [0] * len(bins), dtype=np.int64)[columns]
    gains, places = np.zeros(columns.shape), np.zeros((*columns.shape, 2), dtype=np.int64)
    scan(
        level.g, level.h, level.n, last, spec.has_missing, unit, rules, signs,
        level.low, level.high, gains, places,
    )  # fmt: skip
    sets = np.zeros(columns.shape, dtype=np.int64)
    for node, line in np.argwhere(category[columns]):
        g, h = level.g[node, line] * unit[0], level.h[node, line] * unit[1]
        found = best_set(
            g, h, level.n[node, line], spec.has_missing, rules, level.low[node], level.high[node]
        )
        gains[node, line], sets[node, line] = found.gain, found.set
        places[node, line] = -1, int(found.missing_left)
    best = np.argmax(gains, axis=1)
    at = (np.arange(len(best)), best)
    gain = gains[at]
    gain = np.where((gain > LEAST_GAIN) & (gain >= spec.gamma), gain, 0.0)
    return Splits(gain, columns[at], places[(*at, 0)], sets[at], places[(*at, 1)], best)


def children_of(spec: Spec, level: Level, grow: Stack, found: Splits) -> tuple[Stack, Level]:
    """The trees with the level's splits, and the next level."""
    gains, covers = (np.split(part, grow.start[1:-1]) for part in (level.gain, level.cover))
    parts = zip(gains, covers, strict=True)
    trees = [_Tree(grow.tree(at), *part) for at, part in enumerate(parts)]
    sides = _sides(spec, level, found)
    for i, (tree, node) in enumerate(level.nodes.tolist()):
        trees[tree].note(node, level, i, sides, spec)
    opened: list[dict[str, Any]] = []
    for i in np.flatnonzero(found.gain > 0).tolist():
        tree, node = (int(v) for v in level.nodes[i])
        left = trees[tree].split(node, i, found, sides)
        low, high = _bounds(spec, level, i, found, sides)
        for side in (0, 1):
            opened.append({
                "tree": tree, "node": left + side, "parent": i, "n": sides.n[i, side],
                "h": sides.h[i, side], "low": low[side], "high": high[side],
            })  # fmt: skip
            trees[tree].child(sides.value[i, side], sides.h[i, side])
    done = [tree.finished() for tree in trees]
    stack = stacked([one[0] for one in done], spec.width)
    gain, cover = (np.concatenate([one[k] for one in done]) for k in (1, 2))
    return stack, _next(spec, level, opened, gain, cover)


@dataclass(frozen=True)
class _Sides:
    """Of each open node and of its two children: h, n (n_open, 2) and values (n_open, 2, width)."""

    whole_g: Floats
    whole_h: Floats
    h: Floats
    n: Ints
    value: Floats


def _sides(spec: Spec, level: Level, found: Splits) -> _Sides:
    unit, many = units(spec), len(level.nodes)
    lines = (np.arange(many), found.line)
    g, h, n = (array[lines] for array in (level.g, level.h, level.n))
    numbers = np.arange(g.shape[1])
    category = spec.levels_of[found.feature] > 0
    right = numbers[None] > found.split[:, None]
    bits = (found.set[:, None] >> np.minimum(numbers, 62)[None]) & 1 == 1
    right = np.where(category[:, None], bits, right)
    if spec.has_missing:
        right[:, -1] = found.missing_left == 0
    wholes = g.sum(axis=1), h.sum(axis=1), n.sum(axis=1)
    rights = (
        np.matmul(right[:, None], g)[:, 0],
        np.einsum("ib,ib->i", right, h),
        np.einsum("ib,ib->i", right, n),
    )
    sides = [np.stack([a - b, b], axis=1) for a, b in zip(wholes, rights, strict=True)]
    sums_g, sums_h, counts = sides[0] * unit[0], sides[1] * unit[1], sides[2]
    value = np.stack([
        weights(spec, sums_g[:, side], sums_h[:, side], level.low, level.high) for side in (0, 1)
    ], axis=1)  # fmt: skip
    return _Sides(wholes[0] * unit[0], wholes[1] * unit[1], sums_h, counts, value)


def weights(spec: Spec, g: Floats, h: Floats, low: Floats, high: Floats) -> Floats:
    """Values of nodes before `rate`, (m, n_lanes)."""
    bottom = (h + spec.l2)[:, None]
    size = np.maximum(np.abs(g) - spec.l1, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(bottom > 0, -np.sign(g) * size / bottom, 0.0)
    if spec.lanes > 1:
        return found
    clipped: Floats = np.clip(found, low[:, None], high[:, None])
    return clipped


def _bounds(
    spec: Spec, level: Level, i: int, found: Splits, sides: _Sides
) -> tuple[list[float], list[float]]:
    """Bounds of the two children: a monotone split parts them in the middle."""
    low, high = [float(level.low[i])] * 2, [float(level.high[i])] * 2
    sign = spec.monotone[int(found.feature[i])] if spec.monotone else 0
    if sign:
        middle = float(sides.value[i].mean())
        first, second = (high, low) if sign > 0 else (low, high)
        first[0], second[1] = middle, middle
    return low, high


class _Tree:
    """One growing tree as lists."""

    def __init__(self, tree: Stack, gain: Floats, cover: Floats) -> None:
        self.columns = {
            name: getattr(tree, name).tolist()
            for name in ("feature", "split", "set", "missing_left", "left")
        }
        self.value = list(tree.value)
        self.gain, self.cover = gain.tolist(), cover.tolist()

    def note(self, node: int, level: Level, i: int, sides: _Sides, spec: Spec) -> None:
        self.cover[node] = float(sides.whole_h[i])
        if level.depth == 0:
            at = slice(i, i + 1)
            root = weights(
                spec, sides.whole_g[at], sides.whole_h[at], level.low[at], level.high[at]
            )
            self.value[node] = root[0]

    def split(self, node: int, i: int, found: Splits, sides: _Sides) -> int:
        left = len(self.value)
        for name in ("feature", "split", "set", "missing_left"):
            self.columns[name][node] = int(getattr(found, name)[i])
        self.columns["left"][node] = left
        self.gain[node] = float(found.gain[i])
        return left

    def child(self, value: Floats, cover: float) -> None:
        for name, empty in (
            ("feature", 0), ("split", -1), ("set", 0), ("missing_left", 1), ("left", -1)
        ):  # fmt: skip
            self.columns[name].append(empty)
        self.value.append(value)
        self.gain.append(0.0)
        self.cover.append(float(cover))

    def finished(self) -> tuple[Stack, Floats, Floats]:
        columns = {name: np.array(v, dtype=np.int64) for name, v in self.columns.items()}
        stack = Stack(np.array([0, len(self.value)]), **columns, value=np.array(self.value))
        return stack, np.array(self.gain), np.array(self.cover)


def _next(
    spec: Spec, level: Level, opened: list[dict[str, Any]], gain: Floats, cover: Floats
) -> Level:
    """The next level: which children may still be split, and whose histograms are asked for."""
    kept: list[dict[str, Any]] = []
    if level.depth + 1 < spec.depth:
        for one, two in zip(opened[::2], opened[1::2], strict=True):
            if _may_split(spec, one) or _may_split(spec, two):
                kept += [one, two]
    asked: list[tuple[int, int]] = []
    place: list[int] = []
    for one, two in zip(kept[::2], kept[1::2], strict=True):
        for mine, other, second in ((one, two, False), (two, one, True)):
            larger = mine["n"] > other["n"] or (mine["n"] == other["n"] and second)
            if spec.subtracts and larger:
                place.append(-1)
            else:
                place.append(len(asked))
                asked.append((mine["tree"], mine["node"]))
    shape = np.array(asked, dtype=np.int64).reshape(-1, 2)
    hist = (
        (level.g, level.h, level.n)
        if spec.subtracts and kept
        else (level.g[:0], level.h[:0], level.n[:0])
    )
    return Level(
        np.array([(one["tree"], one["node"]) for one in kept], dtype=np.int64).reshape(-1, 2),
        shape,
        np.array(place, dtype=np.int64),
        np.array([one["parent"] for one in kept], dtype=np.int64),
        *hist,
        np.array([one["low"] for one in kept], dtype=np.float64),
        np.array([one["high"] for one in kept], dtype=np.float64),
        level.depth + 1,
        gain,
        cover,
    )


def _may_split(spec: Spec, node: Mapping[str, Any]) -> bool:
    return bool(node["n"] >= 2 * max(spec.leaf, 1) and node["h"] >= 2 * spec.hessian)
