"""Trees under differential privacy: noisy histograms, level by level, and noisy sums of the leaves.

A tree of depth D takes D rounds of histograms and one of its leaves; boosting takes one more for
its start. All rounds have the same noise multiplier, so each costs the same part of epsilon. The
noise of a round in which T trees grow side by side is for a patient who is in all of them; see
private_tasks.py.

Splits are chosen by the usual gain from noisy sums that were made consistent: all columns of a node
add up to the same, so each column is moved to the mean of all totals, weighted by their precision.
A side whose second derivatives are below their noise is not split off. Values of leaves come from
the last round alone, in which a patient is counted once and not once per column. Nothing else of
the data is looked at, so all of it is covered by the guarantee.

Reference: S. Maddock et al., "Federated Boosted Decision Trees with Differential Privacy", ACM CCS
(2022), for histograms with Gaussian noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State as Kept
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.core.task import lookup
from polyclinic.models.learner import values
from polyclinic.models.private import noise_variance
from polyclinic.models.trees.level import Level, children_of, roots, splits_of, units
from polyclinic.models.trees.private_tasks import curvature_scale, row_scale
from polyclinic.models.trees.result import Fit
from polyclinic.models.trees.rows import State, line_columns
from polyclinic.models.trees.spec import Private, Spec
from polyclinic.models.trees.stack import Stack
from polyclinic.privacy import accounting, noisy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST_CELLS = 1 << 20  # of the histograms of one round of a forest
LEVELS = 2.0  # noise levels that second derivatives of a leaf exceed before they divide
LARGEST = {"squared": 2.0, "logistic": 4.0}  # value of a leaf that corrects others
LARGEST_SUM = 2.0**54  # in the units of the exact sums


@dataclass(frozen=True)
class PrivateGrowing:
    """Rounds: a start (boosting), then per trees that grow side by side their levels and their
    leaves. Model: `Fit`, of which everything comes from noisy sums."""

    spec: Spec

    @property
    def private(self) -> Private:
        """What is guaranteed, and the scale of the outcome."""
        return self.spec.private or Private(1.0, 1e-6)

    def init(self, seed: int) -> Kept:
        private, spec = self.private, self.spec
        none = Stack.none(1)
        state: Kept = {
            "multiplier": float(
                accounting.calibrate(private.epsilon, private.delta, rounds_of(spec))
            ),
            "rounds": 0,
            "n": 0.0,
            "base": np.zeros(1),
            "trees": none.to_data(),
            "gain": np.zeros(0),
            "cover": np.zeros(0),
        }
        if not private.start:
            return self._begin(state)
        level, grow = roots(spec, 1)
        return {**state, "step": "start", "level": level.to_data(), "grow": grow.to_data()}

    def plan(self, state: Kept) -> Plan | None:
        step = state["step"]
        if step == "done":
            return None
        grow = Stack.from_data(state["grow"])
        asked = Level.from_data(state["level"]).asked if step == "level" else _leaves(grow)
        trees = Stack.from_data(state["trees"])
        about = State(state["base"], np.zeros(0), trees, grow, asked).to_data()
        noise = {noisy.KEY: {"multiplier": state["multiplier"]}}
        task, words = {
            "start": ("trees.private_leaves", "noisy start of the trees"),
            "level": ("trees.private_level", "noisy histograms of a level"),
            "leaves": ("trees.private_leaves", "noisy sums of leaves"),
        }[step]
        return Plan(task, {**values(self.spec, **about), **noise}, words)

    def update(self, state: Kept, plan: Plan, total: Total) -> Kept:
        (leaf,) = lookup(plan.task, plan.version).leaves(plan)
        scale = np.array([1.0, 1.0 / curvature_scale(self.spec)]) / row_scale(self.spec)
        sums = total[leaf.name] * scale
        sd = math.sqrt(noise_variance(total, leaf, plan)) * float(scale[1])
        state = {**state, "rounds": state["rounds"] + 1}
        if state["step"] == "start":
            return self._start(state, sums[0], sd)
        if state["step"] == "level":
            return self._after_level(state, sums, sd)
        return self._after_leaves(state, sums, sd)

    def model(self, state: Kept) -> Fit:
        spec, private = self.spec, self.private
        trees = Stack.from_data(state["trees"])
        n = max(round(float(state["n"])), 0)
        base = private.centre + private.unit * state["base"]
        trees = replace(trees, value=trees.value * private.unit)
        gain = state["gain"] * private.unit**2
        return Fit(spec, base, trees, gain, state["cover"], n, n, state["rounds"], [])

    def progress(self, state: Kept) -> Mapping[str, float]:
        return {"trees": float(len(state["trees"]["start"]) - 1)}

    def _start(self, state: Kept, sums: Floats, sd: float) -> Kept:
        """The margin without a split, from the derivatives at 0."""
        n = max(self._rows(float(sums[1])), 1.0)
        mean = float(sums[0]) / n
        if self.spec.loss == "squared":
            base = -min(max(mean, -1.0), 1.0)
        else:
            least = min(max(LEVELS * sd, 1.0) / n, 0.5)
            p = min(max(0.5 - mean, least), 1.0 - least)
            base = math.log(p / (1.0 - p))
        return self._begin({**state, "n": n, "base": np.array([base])})

    def _rows(self, second: float) -> float:
        """Rows behind second derivatives, at least: 1 each of squared loss, else 1/4 at most."""
        return second if self.spec.loss == "squared" else 4.0 * second

    def _begin(self, state: Kept) -> Kept:
        """Roots of the next trees, or the end."""
        left = self.spec.trees - (len(state["trees"]["start"]) - 1)
        if left <= 0:
            return {**state, "step": "done", "level": None, "grow": None}
        level, grow = roots(self.spec, min(left, side_by_side(self.spec)))
        step = "level" if len(level.asked) else "leaves"
        return {**state, "step": step, "level": level.to_data(), "grow": grow.to_data()}

    def _after_level(self, state: Kept, sums: Floats, sd: float) -> Kept:
        level, grow = Level.from_data(state["level"]), Stack.from_data(state["grow"])
        first = len(state["trees"]["start"]) - 1
        columns = np.stack([
            line_columns(self.spec, first + int(tree), int(node)) for tree, node in level.asked
        ])  # fmt: skip
        real = real_bins(self.spec, columns)
        sums = consistent(sums, real)
        unit = units(self.spec)
        g, h = (
            np.rint(np.clip(sums[..., k] / unit[k], -LARGEST_SUM, LARGEST_SUM)).astype(np.int64)
            for k in (0, 1)
        )
        rows = np.clip(self._rows(1.0) * sums[..., 1], 1.0, 2.0**40)
        n = np.where(real, np.rint(rows).astype(np.int64), 0)
        spec = self._search(sd)
        level = level.answered(spec, g[..., None], h, n)
        grow, level = children_of(spec, level, grow, splits_of(spec, level, first))
        grow = replace(grow, value=np.zeros_like(grow.value))  # the leaves' round has the values
        step = "level" if len(level.asked) else "leaves"
        return {**state, "step": step, "grow": grow.to_data(), "level": level.to_data()}

    def _search(self, sd: float) -> Spec:
        """What splits must fulfil: noisy counts say nothing, second derivatives beyond noise do."""
        spec = self.spec
        wanted = spec.leaf / self._rows(1.0)
        least = max(spec.hessian, wanted, LEVELS * sd * math.sqrt(spec.bins) / 2.0)
        return replace(spec, hessian=least, leaf=1, gamma=spec.gamma / self.private.unit**2)

    def _after_leaves(self, state: Kept, sums: Floats, sd: float) -> Kept:
        spec, grow = self.spec, Stack.from_data(state["grow"])
        level = Level.from_data(state["level"])
        value = grow.value.copy()
        asked = _leaves(grow)
        value[grow.start[asked[:, 0]] + asked[:, 1], 0] = self._values(sums, asked[:, 0], sd)
        grow = replace(grow, value=value * (spec.rate / (spec.trees if spec.forest else 1)))
        n = state["n"] or self._rows(float(sums[asked[:, 0] == 0, 1].sum()))
        return self._begin({
            **state,
            "n": n,
            "trees": Stack.from_data(state["trees"]).plus(grow).to_data(),
            "gain": np.concatenate([state["gain"], level.gain]),
            "cover": np.concatenate([state["cover"], level.cover]),
        })  # fmt: skip

    def _values(self, sums: Floats, tree: Ints, sd: float) -> Floats:
        """Of leaves, before the rate; one that the noise drowns keeps to the mean of its tree, or
        corrects nothing."""
        spec, (g, h) = self.spec, sums.T
        least = LEVELS * sd
        if self.private.start:
            size = np.sign(g) * np.maximum(np.abs(g) - spec.l1, 0.0)
            return _cut(-size / np.maximum(h + spec.l2, least), LARGEST[spec.loss])
        whole = np.array([np.bincount(tree, part) for part in (g, h)])
        mean = _cut(-whole[0] / np.maximum(whole[1], least), 1.0)[tree]
        return _cut(mean - (g + mean * h) / np.maximum(h, least), 1.0)


def rounds_of(spec: Spec) -> int:
    """Rounds of a fit at most: each is one Gaussian mechanism of the same multiplier."""
    start = int(spec.private is not None and spec.private.start)
    return start + math.ceil(spec.trees / side_by_side(spec)) * (spec.depth + 1)


def side_by_side(spec: Spec) -> int:
    """Trees that grow in the same rounds."""
    if not spec.forest:
        return 1
    cells = (1 << min(spec.depth, 10)) * spec.columns * spec.bins * 2
    return max(1, min(spec.trees, MOST_CELLS // cells))


def real_bins(spec: Spec, columns: Ints) -> NDArray[np.bool_]:
    """Which bins of lines (n_nodes, n_lines) there are, (n_nodes, n_lines, n_bins)."""
    bins = np.array([f.bins for f in spec.features])[columns]
    real = np.arange(spec.bins) < bins[..., None]
    if spec.has_missing:
        real[..., -1] = np.array([f.missing for f in spec.features])[columns]
    return np.asarray(real)


def consistent(sums: Floats, real: NDArray[np.bool_]) -> Floats:
    """Sums (n_nodes, n_lines, n_bins, 2) of which all lines of a node have the same total."""
    many = real.sum(axis=2, dtype=np.float64)[..., None]
    sums = np.where(real[..., None], sums, 0.0)
    totals = sums.sum(axis=2)
    common = (totals / many).sum(axis=1, keepdims=True) / (1.0 / many).sum(axis=1, keepdims=True)
    moved: Floats = sums + np.where(real[..., None], ((common - totals) / many)[:, :, None], 0.0)
    return moved


def _leaves(grow: Stack) -> Ints:
    """Tree and node of all leaves."""
    tree = np.repeat(np.arange(grow.trees), np.diff(grow.start))
    node = np.arange(len(tree)) - grow.start[tree]
    return np.stack([tree, node], axis=1)[grow.left < 0].astype(np.int64)


def _cut(x: Floats, most: float) -> Floats:
    return np.clip(x, -most, most)
