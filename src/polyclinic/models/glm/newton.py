"""Newton's method over sums, with warm start, line search and proximal step.

Each round the sites sum loss, gradient and Hessian at one point; the coordinator solves for the
next one.
The end is exact: all rows, until a step would move the information, and with it the standard
errors, by no more than the share `tolerance`; that step is still taken. With an L1 penalty the
quadratic model is minimised by coordinate descent (proximal Newton).

When the data are much larger than `warm_rows`, phases save passes. "warm": Newton on a sample of
rows drawn by hash. "wide", where that are few of them: one Newton round on a larger sample. "near":
all rows, gradients only, with the last sample's Hessian as a metric that BFGS updates improve; a
round costs a quarter of a Newton round, and errors shrink as that Hessian's do. "exact": Newton
rounds on all rows, of which one is then enough; it verifies the end and gives the standard errors.

References: Nocedal & Wright, *Numerical Optimization* (2006), ch. 3; Lee, Sun & Saunders, "Proximal
Newton-type methods", SIAM J. Optim. 24 (2014).

What leaves the site: see `polyclinic.models.glm.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.plan import Plan
from polyclinic.models.glm.rank import independent_columns
from polyclinic.models.glm.scale import Point, Scale
from polyclinic.models.glm.solution import Optimum

Floats = NDArray[np.float64]
WARM_GAIN = 5  # the data are at least this many times the sample
WIDE = 1.0 / WARM_GAIN  # share of the rows in the larger sample
FEW_ROWS = 10_000  # a default sample is not smaller: then there is no warm start
STALLED = 1e-6  # standard errors: a smaller step that no longer shrinks is rounding
SEPARATED = 1e3  # standard units: no honest coefficient has such a standard error
HALVINGS = 0.5 ** np.arange(1, 13)
_FORGET: dict[str, None] = dict.fromkeys(
    ("theta", "objective", "gradient", "active", "step", "direction", "curvature", "loss")
)


@dataclass(frozen=True)
class Newton:
    """The solver for one model; see the module."""

    scale: Scale

    def init(self, seed: int) -> State:
        solver, n = self.scale.spec.solver, self.scale.moments.n
        many = n >= WARM_GAIN * min(solver.warm_rows, FEW_ROWS)
        quadratic = self.scale.spec.family == "gaussian"  # there the first step is the last one
        warm = solver.warm_rows > 0 and many and not quadratic
        return {
            "phase": "warm" if warm else "exact",
            "seed": seed,
            "try": self.scale.start(),
            "theta": None,
            "objective": None,
            "direction": None,
            "gradient": None,
            "loss": None,
            "curvature": None,
            "active": None,
            "step": None,
            "gain": None,
            "rounds": 0,
            "searching": False,
            "end": "",
            "metric": None,
        }

    @property
    def _share(self) -> float:
        """Of the rows, that the first sample has."""
        return min(self.scale.spec.solver.warm_rows / self.scale.moments.n, WIDE)

    def _sample(self, phase: str) -> tuple[float, int] | None:
        """Share of the rows, and the draw: sites keep rows of the first one; None: all rows."""
        return {"warm": (self._share, 0), "wide": (WIDE, 1)}.get(phase)

    @property
    def _leverage(self) -> float:
        """Typical share by which a step of one standard error moves the information."""
        return min(1.0, float(np.sqrt(self.scale.spec.size / max(self.scale.moments.n, 1))))

    def plan(self, state: State) -> Plan | None:
        if state["end"]:
            return None
        rows, sample = {}, self._sample(state["phase"])
        if sample is not None:
            share, draw = sample
            rows = {"sample": share, "seed": state["seed"], "round": draw, "part": 0}
        if state["searching"]:
            return self.scale.plan(self._candidates(state), 0, "step sizes", **rows)
        if state["phase"] == "near":
            return self.scale.plan(state["try"], 1, "gradient round")
        label = "Newton round" if state["phase"] == "exact" else "Newton round on a sample"
        return self.scale.plan(state["try"], 2, label, **rows)

    def update(self, state: State, plan: Plan, total: Total) -> State:
        sample = self._sample(state["phase"])
        share = 1.0 if sample is None else sample[0]
        state = {**state, "rounds": state["rounds"] + (sample is None)}
        if state["phase"] == "near":
            return self._near(state, self.scale.point(total, state["try"]))
        if state["searching"]:
            return self._search(state, total, share)
        point = self.scale.point(total, state["try"], share)
        if point is None or not self._improves(state, point):
            if state["theta"] is None:
                return self._shrink(state)
            return {**state, "searching": True}
        return self._accept(state, point, share)

    def progress(self, state: State) -> Mapping[str, float]:
        if state["objective"] is None or self._sample(state["phase"]):
            return {}
        unit = 2.0 ** (2 * self.scale.spec.response_exponent)
        return {"loss": state["objective"] * unit, "gain": state["gain"] * unit}

    def model(self, state: State) -> Optimum:
        return Optimum(
            theta=state["theta"],
            loss=state["loss"],
            curvature=state["curvature"],
            active=state["active"],
            rounds=state["rounds"],
            end=state["end"] or "stopped",
            step=state["step"],
        )

    def _improves(self, state: State, point: Point) -> bool:
        before = state["objective"]
        return before is None or point.objective <= before + 1e-11 * (1.0 + abs(before))

    def _accept(self, state: State, point: Point, share: float) -> State:
        active = state["active"]
        if active is None or share < 1.0:
            active = self._active(point)
        direction, decrease = self._direction(state["try"], point, active, share)
        step = float(np.sqrt(2.0 * max(decrease, 0.0)))
        new = {
            **state,
            "theta": state["try"],
            "objective": point.objective,
            "loss": point.loss,
            "gradient": point.gradient,
            "curvature": point.curvature,
            "active": active,
            "direction": direction,
            "gain": decrease,
            "step": step,
            "searching": False,
        }
        if share < 1.0:
            return self._after_sample(new, step, share)
        return self._next(new, state["step"])

    def _next(self, new: State, last_step: float | None) -> State:
        solver = self.scale.spec.solver
        polished = new["theta"] + new["direction"]
        if new["step"] * self._leverage <= solver.tolerance:
            return {**new, "theta": polished, "end": "converged"}
        if last_step is not None and new["step"] < STALLED and new["step"] > 0.25 * last_step:
            return {**new, "end": "converged"}
        if self._separated(new):
            return {**new, "end": "separated"}
        if new["rounds"] >= solver.max_rounds:
            return {**new, "end": "max_rounds"}
        return {**new, "try": polished}

    def _after_sample(self, new: State, step: float, share: float) -> State:
        start = {**new, "try": new["theta"] + new["direction"]}
        if new["phase"] == "warm":
            # Newton leaves step^2 sqrt(size / rows): little beside the sample's own sqrt(size)
            is_near = step * step <= 0.25 * np.sqrt(share * self.scale.moments.n)
            if not is_near and not self._separated(new):
                return start
            if 2 * share <= WIDE:
                return {**start, **_FORGET, "phase": "wide"}
        whole = bool(new["active"].all()) and not self.scale.absolute.any()
        metric = new["curvature"] / share + self.scale.quadratic
        return {**start, **_FORGET, "phase": "near" if whole else "exact", "metric": metric}

    def _near(self, state: State, point: Point | None) -> State:
        """One gradient round: a BFGS step, or on to exact rounds when it no longer pays."""
        exact = {**state, **_FORGET, "phase": "exact"}
        if point is None or not self._improves(state, point):
            return {**exact, "try": state["try"] if state["theta"] is None else state["theta"]}
        metric = state["metric"]
        if state["gradient"] is not None:
            metric = _bfgs(
                metric, state["try"] - state["theta"], point.gradient - state["gradient"]
            )
        direction = -_solve(metric, point.gradient)
        gain = -0.5 * float(point.gradient @ direction)
        step = float(np.sqrt(2.0 * max(gain, 0.0)))
        shrinks = step / state["step"] if state["step"] else 1.0
        slow = state["step"] is not None and shrinks > 0.5
        ahead = step * min(shrinks, 1.0) * self._leverage
        if ahead <= self.scale.spec.solver.tolerance or slow:
            return {**exact, "try": state["try"] + direction}
        return {
            **state,
            "theta": state["try"],
            "try": state["try"] + direction,
            "gain": gain,
            "objective": point.objective,
            "gradient": point.gradient,
            "metric": metric,
            "step": step,
        }

    def _separated(self, state: State) -> bool:
        if self.scale.spec.family == "gaussian" or self.scale.absolute.any():
            return False
        curvature = state["curvature"] + self.scale.quadratic
        keep = state["active"]
        try:
            low = np.linalg.cholesky(curvature[np.ix_(keep, keep)])
        except np.linalg.LinAlgError:
            return True
        variance = (np.linalg.inv(low) ** 2).sum(axis=0)
        return bool(variance.max(initial=0.0) > SEPARATED**2)

    def _active(self, point: Point) -> NDArray[np.bool_]:
        """Coefficients whose term is no linear combination of the terms before it."""
        spec = self.scale.spec
        if spec.l2 > 0 or spec.l1 > 0:
            return np.ones(spec.size, dtype=bool)
        one = independent_columns(point.curvature[: spec.width, : spec.width])
        return np.tile(one, spec.predictors)

    def _direction(
        self, theta: Floats, point: Point, active: NDArray[np.bool_], share: float
    ) -> tuple[Floats, float]:
        """Newton direction and the decrease of the objective that its quadratic model promises."""
        curvature = point.curvature + share * self.scale.quadratic
        weights = share * self.scale.absolute
        if weights.any():
            return _coordinate_descent(curvature, point.gradient, theta, weights)
        direction = np.zeros_like(theta)
        part = curvature[np.ix_(active, active)]
        direction[active] = -_solve(part, point.gradient[active])
        return direction, -0.5 * float(point.gradient @ direction)

    def _candidates(self, state: State) -> Floats:
        candidates: Floats = state["theta"] + HALVINGS[:, None] * state["direction"]
        return candidates

    def _search(self, state: State, total: Total, share: float) -> State:
        candidates = self._candidates(state)
        losses = self.scale.losses(total, candidates, share)
        best = int(np.argmin(losses))
        if losses[best] >= state["objective"]:
            end = "converged" if (state["step"] or 1.0) < STALLED else "no_descent"
            if share < 1.0:
                return {
                    **state,
                    **_FORGET,
                    "phase": "exact",
                    "searching": False,
                    "try": state["theta"],
                }
            return {**state, "searching": False, "end": end}
        return {**state, "searching": False, "try": candidates[best]}

    def _shrink(self, state: State) -> State:
        """The very first point cannot be held: nearer to zero it can."""
        return {**state, "try": 0.5 * state["try"]}


def _solve(matrix: Floats, vector: Floats) -> Floats:
    try:
        low = np.linalg.cholesky(matrix)
        return np.asarray(np.linalg.solve(low.T, np.linalg.solve(low, vector)))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, vector, rcond=1e-13)[0])


def _bfgs(metric: Floats, moved: Floats, change: Floats) -> Floats:
    """The metric after a step `moved` that changed the gradient by `change`."""
    along, image = float(moved @ change), metric @ moved
    if along <= 0.0:
        return metric
    updated: Floats = (
        metric + np.outer(change, change) / along - np.outer(image, image) / float(moved @ image)
    )
    return updated


def _coordinate_descent(
    curvature: Floats, gradient: Floats, theta: Floats, weights: Floats, sweeps: int = 2000
) -> tuple[Floats, float]:
    """Minimise g'd + 1/2 d'Hd + sum weights |theta + d|."""
    d, hd = np.zeros_like(theta), np.zeros_like(theta)
    diagonal = np.maximum(np.diag(curvature), 1e-300)
    for _ in range(sweeps):
        largest = 0.0
        for j in range(len(theta)):
            at = theta[j] + d[j]
            target = at - (gradient[j] + hd[j]) / diagonal[j]
            new = np.sign(target) * max(abs(target) - weights[j] / diagonal[j], 0.0)
            change = new - at
            if change != 0.0:
                d[j] += change
                hd += curvature[j] * change
                largest = max(largest, abs(change) * float(np.sqrt(diagonal[j])))
        if largest < 1e-13:
            break
    change_l1 = float(weights @ (np.abs(theta + d) - np.abs(theta)))
    return d, -(float(gradient @ d) + 0.5 * float(d @ hd) + change_l1)
