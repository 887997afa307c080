"""The probability of a class from a machine's decision value: 1 / (1 + exp(-(a f + b))).

a and b maximise the likelihood of the outcomes, pulled a little to the middle as if two more
patients had been seen: (n+ + 1) / (n+ + 2) for a patient of the class, 1 / (n- + 2) for another. Of
several classes each has its own; they are divided by their sum. The decision values are those of
the rows that were fitted.
Reference: Lin, Lin & Weng, "A note on Platt's probabilistic outputs for support vector machines",
Machine Learning 68 (2007).

What leaves the site: see `polyclinic.models.svm.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm.newton import _solve
from polyclinic.models.glm.scale import unpack
from polyclinic.models.learner import values
from polyclinic.models.svm.frame import Frame
from polyclinic.models.svm.newton import Solved

Floats = NDArray[np.float64]
MOST_ROUNDS = 50
STEPS = 0.5 ** np.arange(1, 11)
WARM = 1e-5  # of the sample's likelihood: it is no nearer to that of all rows
GAIN = 1e-12  # of the likelihood: less is rounding


@dataclass(frozen=True)
class Platt:
    """Newton's method for all machines' two numbers in the same rounds; see the module.

    With very many rows the first rounds are over the sample on which the machines began.

    State: "theta" (k, 2) slope and intercept of each machine, "loss" (k,), "end" when over.
    """

    frame: Frame
    solved: Solved
    sample: Mapping[str, Any]

    def init(self, seed: int) -> State:
        counts = self._counts
        start = np.zeros((len(counts), 2))
        start[:, 1] = np.log((counts[:, 1] + 1.0) / (counts[:, 0] + 1.0))
        return {
            "theta": start,
            "direction": np.zeros_like(start),
            "loss": None,
            "searching": False,
            "warm": bool(self.sample),
            "seed": seed,
            "rounds": 0,
            "end": "",
        }

    @property
    def _counts(self) -> Floats:
        """Weight of the rows outside and inside each machine's class, (k, 2)."""
        moments = self.frame.moments
        by_class = moments.class_weights_sum
        if moments.class_weight is not None:
            by_class = by_class / moments.class_weight
        inside = by_class[list(self.frame.spec.machines)]
        return np.stack([by_class.sum() - inside, inside], axis=1)

    @property
    def _target(self) -> Floats:
        """The probabilities that are aimed at, outside and inside each class, (k, 2)."""
        outside, inside = self._counts.T
        return np.stack([1.0 / (outside + 2.0), (inside + 1.0) / (inside + 2.0)], axis=1)

    def plan(self, state: State) -> Plan | None:
        if state["end"]:
            return None
        tried = self._tried(state)
        more: dict[str, Any] = {
            "coef": self.solved.theta / self.frame.spread,
            "theta": tried.reshape(-1, 2),
            "machine": np.tile(np.arange(tried.shape[1]), len(tried)),
            "target": self._target,
            "shift": self.frame.shift,
            **self.frame.map,
        }
        step = "probability curve"
        if state["warm"]:
            step, more = f"{step} on a sample", {**more, "sample": self._drawn(state)}
        return Plan("svm.platt", values(self.frame.spec, **more), step)

    def _drawn(self, state: State) -> dict[str, Any]:
        return {**self.sample, "seed": state["seed"]}

    def _tried(self, state: State) -> Floats:
        """Candidates, (steps, k, 2)."""
        steps = STEPS if state["searching"] else np.ones(1)
        return np.asarray(state["theta"] + steps[:, None, None] * state["direction"])

    def update(self, state: State, plan: Plan, total: Total) -> State:
        tried, before = self._tried(state), state["loss"]
        m, k = tried.shape[:2]
        losses = np.where(total["too_large"] > 0, np.inf, total["loss"]).reshape(m, k)
        best, each = np.argmin(losses, axis=0), np.arange(k)
        loss, rounds = losses[best, each], state["rounds"] + 1
        if before is not None and np.any(loss > before + GAIN * before):
            end = "no_descent" if state["searching"] else ""
            return {**state, "searching": True, "rounds": rounds, "end": end}
        if np.any(np.isinf(loss)):
            return {**state, "rounds": rounds, "end": "withheld"}
        gradient = total["gradient"].reshape(m, k, 2)[best, each]
        hessian = total["hessian"].reshape(m, k, 3)[best, each]
        pairs = zip(hessian, gradient, strict=True)
        direction = np.array([-_solve(unpack(h, 2), g) for h, g in pairs])
        gain = -0.5 * np.einsum("ij,ij->i", gradient, direction)
        new = {**state, "theta": tried[best, each], "direction": direction, "loss": loss}
        new |= {"rounds": rounds, "searching": False}
        if state["warm"] and np.all(gain <= WARM * loss):
            return {**new, "loss": None, "warm": False}
        if np.all(gain <= GAIN * loss):
            return {**new, "theta": new["theta"] + direction, "end": "converged"}
        return {**new, "end": "max_rounds" if rounds >= MOST_ROUNDS else ""}

    def progress(self, state: State) -> Mapping[str, float]:
        return {} if state["loss"] is None else {"loss": float(state["loss"].sum())}

    def model(self, state: State) -> Mapping[str, Any]:
        """Slope and intercept of each machine, (k, 2), over its raw decision values."""
        return {"theta": state["theta"], "end": state["end"], "rounds": state["rounds"]}
