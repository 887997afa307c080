"""Trees from histograms, level by level: a tree, a forest, gradient boosting.

Every round asks for the histograms of all open nodes of all trees that grow side by side: per node,
column and bin the sums of first derivatives, of second derivatives, and of rows. Of two siblings
only the smaller is asked for in one trust domain; the other is their parent less it, exactly, as
all sums are whole numbers. So the trees have the same bytes however rows are split.

A tree of one round of squared loss from the mean is a regression tree; of class indicators it is a
classification tree by the Gini index (Breiman et al. 1984), whose impurity is the variance. A
forest averages such trees (Breiman 2001), with Poisson bootstrap (Oza and Russell 2001).

What leaves a site: see tasks.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State as Kept
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.learner import Fixed
from polyclinic.models.survival.cox import check_counts
from polyclinic.models.trees import losses
from polyclinic.models.trees.kernels import GRADIENT_BITS
from polyclinic.models.trees.level import Level, children_of, roots, splits_of
from polyclinic.models.trees.result import Fit
from polyclinic.models.trees.rows import State
from polyclinic.models.trees.spec import Spec
from polyclinic.models.trees.stack import Grown, Stack, grown

Floats = NDArray[np.float64]
MOST_CELLS = 1 << 22  # of the histograms of one round of a forest


@dataclass(frozen=True)
class Growing:
    """Rounds: start sums, then per level of the trees that grow side by side, then, where rows are
    held out, their loss; of survival last the concordance. Model: `Fit`."""

    spec: Spec

    def init(self, seed: int) -> Kept:
        return {"step": "start"}

    def plan(self, state: Kept) -> Plan | None:
        step, spec = state["step"], self.spec
        if step == "done":
            return None
        if step == "start":
            name = "trees.events" if spec.survival else "trees.start"
            return self._plan(name, {}, "start of the trees")
        at = self._state(state).to_data()
        if step == "concordance":
            return self._plan("trees.concordance", at, "pairs of patients by risk")
        at["trees"] = state["trees"]
        if step == "loss":
            name = "trees.held" if spec.survival else "trees.loss"
            return self._plan(name, at, "loss of the held-out rows")
        name = "trees.risk_sums" if spec.survival else "trees.sums"
        name = "trees.cells" if spec.cell else name
        return self._plan(name, at, "histograms of a level")

    def _plan(self, task: str, state: Mapping[str, Any], step: str) -> Plan:
        return Plan(task, self._fixed.plan_values(**state), step)

    @cached_property
    def _fixed(self) -> Fixed:
        return Fixed(self.spec)

    def update(self, state: Kept, plan: Plan, total: Total) -> Kept:
        step = state["step"]
        if step == "start":
            found = self._events(total) if self.spec.survival else self._start(total)
        else:
            found = self._answered(step, {**state, "rounds": state["rounds"] + 1}, total)
        ranked = not self.spec.survival or step == "concordance"
        return found if ranked or found["step"] != "done" else {**found, "step": "concordance"}

    def _answered(self, step: str, state: Kept, total: Total) -> Kept:
        if step == "concordance":
            return {**state, "step": "done", "pairs": dict(total.values)}
        return (self._after_loss if step == "loss" else self._after_level)(state, total)

    def model(self, state: Kept) -> Fit:
        spec = self.spec
        if state["step"] == "start":
            return Fit.none(spec)
        trees = self._best(state)
        nodes = int(trees.start[-1])
        gain, cover = state["gain"][:nodes], state["cover"][:nodes]
        counts = (state["n"], state["patients"], state["rounds"])
        more = (state.get("events", 0), state.get("pairs"))
        return Fit(spec, state["base"], trees, gain, cover, *counts, list(state["losses"]), *more)

    def _best(self, state: Kept) -> Stack:
        """All trees, or those until the best loss of the held-out rows."""
        trees, spec = grown(state["trees"]), self.spec
        if not spec.validation or not state["losses"]:
            return trees
        return trees.first(int(np.argmin(state["losses"])) * spec.at_once)

    def progress(self, state: Kept) -> Mapping[str, float]:
        if state["step"] == "start":
            return {}
        found = {"trees": float(len(state["trees"]["start"]) - 1)}
        if state.get("losses"):
            found["held-out loss"] = state["losses"][-1]
        return found

    def _state(self, state: Kept) -> State:
        level = Level.from_data(state["level"]) if state["step"] == "level" else None
        grow = Stack.from_data(state["grow"]) if level else Stack.none(self.spec.width)
        asked = level.asked if level else np.zeros((0, 2), dtype=np.int64)
        trees = grown(state["trees"])
        if state["step"] == "concordance":
            trees = self._best(state)
        return State(state["base"], state["class_weight"], trees, grow, asked)

    def _start(self, total: Total) -> Kept:
        """Class weights and the margin without a split, from weighted sums of the outcome."""
        spec = self.spec
        sums = np.ldexp(total["sums"].astype(np.float64), spec.gradient_exponent - GRADIENT_BITS)
        weight = np.zeros(0)
        if spec.classes and spec.class_weight is not None:
            counts = total["classes"].astype(np.float64)
            if spec.class_weight == "balanced":
                weight = counts.sum() / (len(counts) * np.maximum(counts, 1.0))
                weight = np.minimum(weight, 64.0)
            else:
                weight = np.asarray(spec.class_weight, dtype=np.float64)
            sums = sums * weight[:, None] if sums.ndim == 2 else sums
        by_class = sums.reshape(-1, spec.lanes + 1).sum(axis=0)
        base = losses.start(by_class[:-1], float(by_class[-1]), spec.loss)
        return self._first(total, base, weight)

    def _events(self, total: Total) -> Kept:
        """Relative hazards start at 1. Raises what `check_counts` raises."""
        counts = {name: float(value) for name, value in total.values.items()}
        check_counts(counts, self.spec.design)
        return {**self._first(total, np.zeros(1), np.zeros(0)), "events": int(total["events"])}

    def _first(self, total: Total, base: Floats, weight: Floats) -> Kept:
        none = Stack.none(self.spec.width)
        state: Kept = {
            "step": "level",
            "rounds": 1,
            "n": int(total["n"]),
            "patients": int(total["patients"]),
            "base": base,
            "class_weight": weight,
            "trees": Grown(none),
            "gain": np.zeros(0),
            "cover": np.zeros(0),
            "losses": [],
        }
        return {**state, "step": "loss"} if self.spec.validation else self._begin(state)

    def _begin(self, state: Kept) -> Kept:
        """Roots of the next trees, or the end."""
        spec = self.spec
        done = len(state["trees"]["start"]) - 1
        left = spec.trees * spec.at_once - done
        if left <= 0 or state["n"] == 0:
            return {**state, "step": "done", "level": None, "grow": None}
        many = min(left, self._side_by_side if spec.forest else spec.at_once)
        level, grow = roots(spec, many)
        if not len(level.asked):  # trees without a level: values from the start sums alone
            return self._finished({**state, "grow": grow.to_data()}, grow)
        return {**state, "step": "level", "level": level.to_data(), "grow": grow.to_data()}

    @property
    def _side_by_side(self) -> int:
        spec = self.spec
        cells = (1 << min(spec.depth, 10)) * spec.columns * spec.bins * (spec.width + 2)
        return max(1, MOST_CELLS // cells)

    def _after_level(self, state: Kept, total: Total) -> Kept:
        spec = self.spec
        level, grow = Level.from_data(state["level"]), Stack.from_data(state["grow"])
        first = len(state["trees"]["start"]) - 1
        level = level.answered(spec, total["g"], total["h"], total["n"])
        found = splits_of(spec, level, first)
        grow, level = children_of(spec, level, grow, found)
        state = {**state, "grow": grow.to_data(), "level": level.to_data()}
        if len(level.asked):
            return state
        return self._finished(state, grow, level)

    def _finished(self, state: Kept, grow: Stack, level: Level | None = None) -> Kept:
        spec = self.spec
        nodes = int(grow.start[-1])
        gain = level.gain if level else np.zeros(nodes)
        cover = level.cover if level else np.zeros(nodes)
        grow = replace(grow, value=grow.value * (spec.rate / (spec.trees if spec.forest else 1)))
        trees = grown(state["trees"]).plus(grow)
        state = {
            **state,
            "trees": Grown(trees),
            "gain": np.concatenate([state["gain"], gain]),
            "cover": np.concatenate([state["cover"], cover]),
            "level": None,
            "grow": None,
        }
        if spec.validation:
            return {**state, "step": "loss"}
        stumps = not spec.forest and not np.any(grow.left >= 0)
        idle = stumps and spec.rows_share >= 1 and spec.columns_share >= 1 and not spec.node_columns
        return {**state, "step": "done"} if idle and not grow.value.any() else self._begin(state)

    def _after_loss(self, state: Kept, total: Total) -> Kept:
        weight = float(total["weight"])
        loss = float(total["loss"]) / weight if weight > 0 else 0.0
        kept = [*state["losses"], loss]
        state = {**state, "losses": kept}
        if len(kept) - 1 - int(np.argmin(kept)) >= self.spec.patience:
            return {**state, "step": "done", "level": None, "grow": None}
        return self._begin(state)
