"""Solvers that use gradients only: L-BFGS, distributed gradient descent, stochastic descent.

gd    theta <- theta - eta * (sum of gradients), all rows, synchronous. A round evaluates twice,
      once and half the last step size and keeps the best, so eta follows the curvature.
sgd   rows fall into batches by hash(seed, key), once; every pass takes all batches in a new order.
      (Batches drawn anew each round would single out patients by their differences.) The step
      decays as 1 / (1 + decay * round) and the iterates of the second half are averaged (Polyak &
      Juditsky 1992).
      With `Solver.staleness` s, and workers in one trust domain, round k may begin once round
      k - s - 1 is added, at the coefficients of then or later; who is further ahead waits ("stale
      synchronous parallel", Ho et al. 2013). Rounds are still added whole and in order, so every
      row counts once in each pass. A step is divided by 1 + the age of its gradient, in rounds,
      mean over rows (Zhang et al. 2016).
lbfgs Nocedal & Wright, *Numerical Optimization* (2006), algorithm 7.4; step sizes travel together.

With `Solver.compress` gd and sgd ask for rounded differences of gradients: gd to the last gradient
that it has used, sgd to that of the batch before. See `polyclinic.core.compress`.

References: Ho et al. (2013), "More effective distributed ML via a stale synchronous parallel
parameter server"; Zhang, Gupta, Lian & Liu (2016), "Staleness-aware async-SGD for distributed deep
learning".

What leaves the site: see `polyclinic.models.glm.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.core.sampling import uniform
from polyclinic.models.glm.scale import Point, Scale
from polyclinic.models.glm.solution import Optimum

Floats = NDArray[np.float64]
MEMORY = 10
BACKTRACK = np.array([0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-5])
STALLED = 1e-6
FLAT = 1e-13  # share of a loss by which rounding changes it
CURVATURE = {"binomial": 0.25, "multinomial": 0.5}  # bound per row; else 1


def _start(scale: Scale, seed: int) -> State:
    based = {"base": "", "row": 0} if scale.spec.solver.compress else {}
    return {
        **based,
        "seed": seed,
        "theta": scale.start(),
        "objective": None,
        "gradient": None,
        "loss": None,
        "rounds": 0,
        "step": None,
        "end": "",
        "eta": 1.0,
    }


def _rounded(scale: Scale, state: State, plan: Plan) -> Plan:
    """The plan that asks for the difference to the gradient that was used last."""
    kind = scale.spec.solver.compress
    if not kind:
        return plan
    return replace(plan, compress=kind, base=state["base"], row=state["row"], _derived={})


def _used(plan: Plan, row: int) -> State:
    """What the next round starts from, when this one's gradient in `row` was used."""
    return {"base": plan.content_hash, "row": row} if plan.compress else {}


def _optimum(state: State, theta: Any = None) -> Optimum:
    at = state["theta"] if theta is None else theta
    end = state["end"] or "stopped"
    events = tuple((number, a, b, age) for number, a, b, age in state.get("events", ()))
    return Optimum(at, state["loss"], None, None, state["rounds"], end, state["step"], events)


def _figures(scale: Scale, state: State) -> Mapping[str, float]:
    if state["objective"] is None:
        return {}
    return {"loss": state["objective"] * 2.0 ** (2 * scale.spec.response_exponent)}


def _per_row(scale: Scale) -> float:
    """The summed curvature in standard units of one term: a bound, or for counts a fair guess."""
    heaviest = 2.0 * scale.moments.y_mean if scale.spec.family == "poisson" else 1.0
    if scale.moments.class_weight is not None:
        heaviest = float(scale.moments.class_weight.max())
    return CURVATURE.get(scale.spec.family, 1.0) * scale.moments.weight * heaviest


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent; see the module."""

    scale: Scale

    def init(self, seed: int) -> State:
        return {**_start(self.scale, seed), "eta": self.scale.spec.solver.step}

    def _candidates(self, state: State) -> Floats:
        if state["gradient"] is None:
            return np.asarray(state["theta"])[None]
        etas = state["eta"] * np.array([2.0, 1.0, 0.5]) / _per_row(self.scale)
        candidates: Floats = state["theta"] - etas[:, None] * state["gradient"]
        return candidates

    def plan(self, state: State) -> Plan | None:
        if state["end"]:
            return None
        plan = self.scale.plan(self._candidates(state), 1, "gradient round")
        return _rounded(self.scale, state, plan)

    def _best(self, total: Total, candidates: Floats, losses: Floats) -> int:
        """The candidate of the smallest loss. Where losses differ by rounding only, and gradients
        are rounded as well, that choice lets the step drift: there the smallest gradient decides.
        """
        best = int(np.argmin(losses))
        if not self.scale.spec.solver.compress:
            return best
        close = np.flatnonzero(losses <= losses[best] + FLAT * abs(losses[best]))
        points = {int(i): self.scale.point(total, candidates[i], index=int(i)) for i in close}
        sizes = {i: np.linalg.norm(point.gradient) for i, point in points.items() if point}
        return min(sizes, key=sizes.__getitem__, default=best)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        solver, rounds = self.scale.spec.solver, state["rounds"] + 1
        candidates = self._candidates(state)
        losses = self.scale.losses(total, candidates)
        best = self._best(total, candidates, losses)
        first = state["objective"] is None
        if not first and losses[best] > state["objective"] + FLAT * abs(state["objective"]):
            end = "max_rounds" if rounds >= solver.max_rounds else ""
            return {**state, "eta": state["eta"] * 0.25, "rounds": rounds, "end": end}
        point = self.scale.point(total, candidates[best], index=best)
        if point is None:
            return {**state, "theta": state["theta"] * 0.5, "rounds": rounds}
        eta = state["eta"] if first else state["eta"] * (2.0, 1.0, 0.5)[best]
        step = float(np.linalg.norm(point.gradient) / np.sqrt(_per_row(self.scale)))
        new = {
            **state,
            **_used(plan, best),
            "theta": candidates[best],
            "objective": point.objective,
            "step": step,
            "loss": point.loss,
            "gradient": point.gradient,
            "eta": eta,
            "rounds": rounds,
        }
        if step <= solver.tolerance or eta < 1e-9:
            return {**new, "end": "converged"}
        return {**new, "end": "max_rounds" if rounds >= solver.max_rounds else ""}

    def progress(self, state: State) -> Mapping[str, float]:
        return _figures(self.scale, state)

    def model(self, state: State) -> Optimum:
        return _optimum(state)


@dataclass(frozen=True)
class StochasticDescent:
    """Mini-batch gradient descent with decaying step and averaging; see the module."""

    scale: Scale

    def init(self, seed: int) -> State:
        events: State = {} if self.scale.spec.solver.staleness is None else {"events": []}
        mean = np.zeros(self.scale.spec.size)
        return {**_start(self.scale, seed), **events, "mean": mean, "averaged": 0}

    def plan(self, state: State) -> Plan | None:
        return None if state["end"] else self._plan(state, state["rounds"])

    def ahead(self, state: State) -> Sequence[Plan] | None:
        """The next rounds at the newest coefficients, as far as staleness lets them begin."""
        solver, now = self.scale.spec.solver, state["rounds"]
        if solver.staleness is None or state["end"]:
            return None
        stop = min(now + solver.staleness + 1, solver.max_rounds)
        return [self._plan(state, number) for number in range(now, stop)]

    def _plan(self, state: State, number: int) -> Plan:
        """Of the round of this number, counted from 0, at the coefficients of `state`."""
        turn, place = divmod(number, self._batches)
        order = np.argsort(uniform(np.arange(self._batches), state["seed"], turn + 1))
        draw = {
            "sample": 1.0 / self._batches,
            "seed": state["seed"],
            "round": 0,
            "part": int(order[place]),
        }
        plan = self.scale.plan(state["theta"], 1, "gradient round on a batch", **draw)
        return _rounded(self.scale, state, plan)

    @property
    def _batches(self) -> int:
        return max(1, round(1.0 / self.scale.spec.solver.batch))

    def update(self, state: State, plan: Plan, total: Total) -> State:
        solver, rounds = self.scale.spec.solver, state["rounds"] + 1
        share = 1.0 / self._batches
        point = self.scale.point(total, state["theta"], share=share)
        end = "" if rounds < solver.max_rounds else "averaged"
        if total.ages:
            state = {**state, "events": [*state["events"], *([plan.round, *a] for a in total.ages)]}
        if point is None:
            return {**state, "theta": 0.5 * state["theta"], "rounds": rounds, "end": end}
        eta = solver.step / (1.0 + solver.decay * rounds) / (_per_row(self.scale) * share)
        eta /= 1.0 + _age(total)
        theta = state["theta"] - eta * point.gradient
        new = {
            **state,
            **_used(plan, 0),
            "theta": theta,
            "rounds": rounds,
            "loss": point.loss,
            "objective": point.objective / share,
            "end": end,
        }
        if 2 * rounds > solver.max_rounds:
            count = state["averaged"] + 1
            mean = state["mean"] + (theta - state["mean"]) / count
            new = {**new, "averaged": count, "mean": mean}
        return new

    def progress(self, state: State) -> Mapping[str, float]:
        return _figures(self.scale, state)

    def model(self, state: State) -> Optimum:
        return _optimum(state, state["mean"] if state["averaged"] else None)


def _age(total: Total) -> float:
    """Rounds that were added while a gradient was computed, mean over rows."""
    rows = sum(stop - first for first, stop, _ in total.ages)
    return sum((stop - first) * age for first, stop, age in total.ages) / max(rows, 1)


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS; see the module."""

    scale: Scale

    def init(self, seed: int) -> State:
        empty = np.zeros((0, self.scale.spec.size))
        return {**_start(self.scale, seed), "s": empty, "y": empty, "searching": False}

    def plan(self, state: State) -> Plan | None:
        if state["end"]:
            return None
        return self.scale.plan(self._candidates(state), 1, "L-BFGS round")

    def _candidates(self, state: State) -> Floats:
        if state["gradient"] is None:
            return np.asarray(state["theta"])[None]
        sizes = BACKTRACK if state["searching"] else np.ones(1)
        candidates: Floats = state["theta"] + sizes[:, None] * self._direction(state)
        return candidates

    def _direction(self, state: State) -> Floats:
        """Two-loop recursion."""
        q, s, y = -state["gradient"], state["s"], state["y"]
        alphas = []
        for i in range(len(s) - 1, -1, -1):
            alpha = float(s[i] @ q) / float(s[i] @ y[i])
            alphas.append(alpha)
            q = q - alpha * y[i]
        q = q * (
            float(s[-1] @ y[-1]) / float(y[-1] @ y[-1]) if len(s) else 1.0 / _per_row(self.scale)
        )
        for i, alpha in enumerate(reversed(alphas)):
            q = q + (alpha - float(y[i] @ q) / float(s[i] @ y[i])) * s[i]
        return np.asarray(q)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        state = {**state, "rounds": state["rounds"] + 1}
        candidates = self._candidates(state)
        if state["gradient"] is None:
            point = self.scale.point(total, candidates[0])
            if point is None:
                return {**state, "theta": 0.5 * state["theta"]}
            return self._accept(state, candidates[0], point)
        losses = self.scale.losses(total, candidates)
        slope = float(state["gradient"] @ self._direction(state))
        sizes = BACKTRACK if state["searching"] else np.ones(1)
        slack = 1e-12 * (1.0 + abs(state["objective"]))
        good = np.flatnonzero(losses <= state["objective"] + 1e-4 * sizes * slope + slack)
        if not len(good):
            return self._failed(state)
        at = int(good[np.argmin(losses[good])])
        point = self.scale.point(total, candidates[at], index=at)
        return self._failed(state) if point is None else self._accept(state, candidates[at], point)

    def _failed(self, state: State) -> State:
        if not state["searching"]:
            return self._bounded({**state, "searching": True})
        if len(state["s"]):
            empty = np.zeros((0, self.scale.spec.size))
            return self._bounded({**state, "searching": False, "s": empty, "y": empty})
        end = "converged" if (state["step"] or 1.0) < STALLED else "no_descent"
        return {**state, "end": end}

    def _bounded(self, state: State) -> State:
        full = state["rounds"] >= self.scale.spec.solver.max_rounds
        return {**state, "end": "max_rounds"} if full else state

    def _accept(self, state: State, theta: Floats, point: Point) -> State:
        s, y = state["s"], state["y"]
        if state["gradient"] is not None:
            ds, dy = theta - state["theta"], point.gradient - state["gradient"]
            if float(ds @ dy) > 1e-14 * float(np.linalg.norm(ds) * np.linalg.norm(dy)):
                s, y = np.vstack([s, ds])[-MEMORY:], np.vstack([y, dy])[-MEMORY:]
        new = {
            **state,
            "theta": theta,
            "objective": point.objective,
            "loss": point.loss,
            "gradient": point.gradient,
            "s": s,
            "y": y,
            "searching": False,
        }
        decrease = -0.5 * float(point.gradient @ self._direction(new))
        step = float(np.sqrt(2.0 * max(decrease, 0.0)))
        stalled = state["step"] is not None and step < STALLED and step > 0.5 * state["step"]
        new["step"] = step
        if step <= self.scale.spec.solver.tolerance or stalled:
            return {**new, "end": "converged"}
        return self._bounded(new)

    def progress(self, state: State) -> Mapping[str, float]:
        return _figures(self.scale, state)

    def model(self, state: State) -> Optimum:
        return _optimum(state)
