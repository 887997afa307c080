"""Newton's method for machines, all of a model's in the same rounds.

A squared loss has a gradient everywhere and a curvature off its corner, which is enough for Newton
steps (Mangasarian 2002, "A finite Newton method for classification"). The corner of another loss is
rounded off, see `polyclinic.models.svm.kernel`; each time that optimum is near, it becomes the
point about which it is rounded off next, and sharper. The dual shows how far the optimum of the
loss with its corner can be. A step that goes too far is shortened by the slope at its end, and if
that does not help by one round over step sizes.

When the data are much larger than `warm_rows`, a machine starts with Newton steps on a sample of
rows drawn by hash, and goes on over all rows with gradients only: the sample's curvature, which
BFGS updates improve, is enough where losses are squares. Rounded corners stay as sharp as they were
on the sample at the end, which is before they are sharper than so few rows can tell.

A hinge of two classes in one trust domain goes on in bands about the margin after its sample: see
`polyclinic.models.svm.band`. How wide they are is told by the step to the optimum, and that by what
it gains.

Hospitals leave a candidate out that would show too few patients. Where that happens to squares
their corner is rounded off, too, sharper and sharper until hospitals leave it out again. There a
fit ends, and says how near its optimum it is at least.

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
from polyclinic.models.glm.newton import _bfgs, _solve
from polyclinic.models.svm.frame import Frame, Point

Floats = NDArray[np.float64]
Machine = dict[str, Any]
STEPS = 0.5 ** np.array([1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 23, 30])
WARM_GAIN = 5  # the data are at least this many times the sample
WARM_TOLERANCE = 1e-4  # of the sample's objective: it is no nearer to that of all rows
WARM_CORNER = 3e-3  # the same where corners are rounded off, which they still are over all rows
SLOW = 0.25  # a gain that falls by less calls for the curvature over all rows
INNER = 0.1  # of what rounding the corners off takes: nearer to that optimum is not needed
REACHED = 0.8  # of the tolerance: what sharp enough corners take at most
SHARPER = 2.0  # from one optimum to the next
WARM_SHARPER = 8.0  # the same on a sample, where a few sharp corners at the end do no harm
SHARPEST = 2.0**60
_UNKNOWN = {"primal": np.nan, "gap": np.nan, "rest": np.nan}
SAFE = 8.0  # widths of a band in steps to the optimum: few rows move as far
BAND_SAMPLE = 2.0  # times the rows of a sample, by which the first band is narrower
DRAWN = 6.0  # the same after a sample, in steps of as many rows
WIDEST, NARROWEST = 0.5, 0.02  # of bands: beyond, nothing is gained
NARROWER = 0.25  # of a band: where this is enough there is a new one
OUT = 0.5  # of a band: steps as long lead out of it
INSIDE = 0.9  # of the tolerance, within a band: the rest is for rows that were not near
NEAR = 1e-2  # of the objective: nearer to its optimum a step hits it but for a few patients


@dataclass(frozen=True)
class Solved:
    """Where the machines ended, in standard units; arrays by machine.

    gap   relative to the objective, at most; of a fit that did not converge as Newton's step tells
    end   converged | max_rounds | withheld | no_descent
    """

    theta: Floats
    objective: Floats
    gap: Floats
    end: tuple[str, ...]
    rounds: int


@dataclass(frozen=True)
class Newton:
    """The solver; see the module."""

    frame: Frame

    def init(self, seed: int) -> State:
        spec = self.frame.spec
        machine: Machine = {
            "try": np.zeros(spec.width),
            "theta": None,
            "point": None,
            "direction": None,
            "shortened": False,
            "gain": None,
            "metric": None,
            "sharpness": 0.0 if spec.squared else self._sharpness(),
            "past": np.zeros(spec.width),
            "past_sharpness": 0.0,
            "stuck": False,
            "searching": False,
            "order": 2,
            "band": None,
            "left": 0,
            "checking": "",
            "end": "",
        }
        machines = [dict(machine) for _ in spec.machines]
        return {
            "phase": "warm" if self.sample else "all",
            "seed": seed,
            "rounds": 0,
            "machines": machines,
        }

    def _sharpness(self) -> float:
        """At the start: such that most rows are where their loss is curved."""
        if self.frame.spec.classifies:
            return 2.0
        spread = np.sqrt(max(self.frame.moments.y_square / self.frame.moments.weight, 0.0))
        return 2.0 / (float(spread) or 1.0)

    @property
    def _share(self) -> float:
        rows = self.frame.spec.warm_rows * (BAND_SAMPLE if self._by_bands else 1.0)
        return min(rows / self.frame.moments.n, 1.0 / WARM_GAIN)

    @property
    def _by_bands(self) -> bool:
        """Whether rounds over all rows are spared: see `polyclinic.models.svm.band`."""
        spec = self.frame.spec
        plain = spec.features is None and spec.design.is_array
        return plain and spec.loss == "hinge" and len(spec.machines) == 1

    @property
    def sample(self) -> dict[str, Any]:
        """The rows on which a fit starts; {}: it starts on all of them."""
        spec, n = self.frame.spec, self.frame.moments.n
        if not 0 < spec.warm_rows * WARM_GAIN <= n:
            return {}
        return {"sample": self._share, "round": 0, "part": 0}

    def plan(self, state: State) -> Plan | None:
        asked = self._asked(state)
        if not asked:
            return None
        machines = [state["machines"][k] for k, _ in asked]
        searching = machines[0]["searching"]
        counts = [len(theta) for _, theta in asked]
        classes = np.array([self.frame.spec.machines[k] for k, _ in asked])
        more: dict[str, Any] = {
            "theta": np.vstack([theta for _, theta in asked]),
            "machine": np.repeat(classes, counts),
            "past": np.repeat([one["past"] for one in machines], counts, axis=0),
            **{
                name: np.repeat([one[name] for one in machines], counts)
                for name in ("sharpness", "past_sharpness")
            },
        }
        if machines[0]["band"] is not None and not machines[0]["checking"]:
            more["band"] = self.frame.banded(machines[0]["band"])
        if machines[0]["checking"]:
            return self.frame.plan(more, 0, "all rows")
        order = 0 if searching else max(machine["order"] for machine in machines)
        step = ("step sizes", "gradient round", "Newton round")[order]
        if state["phase"] == "warm":
            sample = {**self.sample, "seed": state["seed"]}
            return self.frame.plan(more, order, f"{step} on a sample", sample=sample)
        return self.frame.plan(more, order, step)

    def _asked(self, state: State) -> list[tuple[int, Floats]]:
        """Candidates by machine: step sizes first, where a machine looks for one."""
        open_ = [(k, one) for k, one in enumerate(state["machines"]) if not one["end"]]
        searching = [(k, _candidates(one)) for k, one in open_ if one["searching"]]
        return searching or [(k, one["try"][None]) for k, one in open_]

    def update(self, state: State, plan: Plan, total: Total) -> State:
        warm = state["phase"] == "warm"
        share = self._share if warm else 1.0
        rounds = state["rounds"] + 1
        machines, at = list(state["machines"]), 0
        last = rounds >= self.frame.spec.max_rounds - 1
        for k, theta in self._asked(state):
            machine = machines[k]
            if machine["checking"]:
                machines[k] = self._checked(machine, self.frame.sharp(total, theta[0], at), last)
            elif machine["searching"]:
                losses = self.frame.losses(total, theta, at, share)
                machines[k] = self._chosen(machine, theta, losses)
            else:
                point = self.frame.point(total, theta[0], at, share)
                machines[k] = self._next(machine, point, warm, share)
            at += len(theta)
        if not warm and self._by_bands:
            machines = [self._by_band(one, last) for one in machines]
        new = {**state, "rounds": rounds, "machines": machines}
        if warm and all(machine["end"] for machine in machines):
            return {**new, "phase": "all", "machines": [self._after_warm(one) for one in machines]}
        if rounds >= self.frame.spec.max_rounds:
            return {**new, "machines": [self._cut_short(machine) for machine in machines]}
        return new

    def _cut_short(self, machine: Machine) -> Machine:
        """After the last round; what a band has found is looked at over all rows."""
        return (
            machine if machine["checking"] or machine["end"] else {**machine, "end": "max_rounds"}
        )

    def progress(self, state: State) -> Mapping[str, float]:
        points = [machine["point"] for machine in state["machines"]]
        if state["phase"] == "warm" or not all(points):
            return {}
        loss = sum(point["primal"] for point in points)
        gap = sum(point["gap"] for point in points)
        return {"loss": self.frame.objective(loss), "gap": self.frame.objective(gap)}

    def model(self, state: State) -> Solved:
        machines = state["machines"]
        start = np.zeros(self.frame.spec.width)
        points = [one["point"] or _UNKNOWN for one in machines]
        primal = np.array([point["primal"] for point in points])
        gap = np.array([_gap(one["end"], p) for one, p in zip(machines, points, strict=True)])
        return Solved(
            np.array([start if one["theta"] is None else one["theta"] for one in machines]),
            np.array([self.frame.objective(value) for value in primal]),
            gap / np.maximum(primal, self.frame.least),
            tuple(machine["end"] or "stopped" for machine in machines),
            state["rounds"],
        )

    def _by_band(self, machine: Machine, last: bool) -> Machine:
        """Into a band where one is wide enough, out of it where steps lead out of it, and on to all
        rows where the optimum within it is near."""
        band = machine["band"]
        if machine["checking"] or machine["point"] is None:
            return {**machine, "band": band if machine["checking"] else None}
        if machine["end"] or last:
            return machine if band is None else self._checking(machine)
        if machine["searching"] or machine["shortened"]:
            return machine
        width = max(SAFE * 2.0 ** machine["left"] * machine["reach"], NARROWEST)
        if band is None:
            return self._on(machine, width) if width <= WIDEST else machine
        if self._moved(machine["metric"], machine["try"] - band["theta"]) > OUT * band["width"]:
            return self._out({**machine, "try": band["theta"]})
        narrower = not band["checked"] and width <= NARROWER * band["width"]
        return self._on(machine, width) if narrower else machine

    def _moved(self, metric: Floats, step: Floats) -> float:
        """By how much a step moves the rows on the corner, whose curvature the metric is, in the
        root mean square."""
        return float(np.sqrt(step @ metric @ step / self._corner(metric)))

    def _reach(self, metric: Floats, gain: float) -> float:
        """The same of the step to an optimum that is lower by `gain`."""
        return float(np.sqrt(2.0 * max(gain, 0.0) / self._corner(metric)))

    def _corner(self, metric: Floats) -> float:
        """Curvature of the rows, summed; about, without an intercept, as columns have spread 1."""
        own = metric[0, 0] if self.frame.spec.design.intercept else np.trace(metric) / len(metric)
        return max(float(own), 1e-300)

    def _on(self, machine: Machine, width: float, checked: bool = False) -> Machine:
        """On in a band about the next place; checked: a narrower one was too narrow."""
        point = {**machine["point"], "value": None}
        return {**machine, "point": point, "band": _band(machine["try"], width, checked)}

    def _out(self, machine: Machine) -> Machine:
        """On with all rows, until there is a band of twice the safety; and with corners as round as
        at first, as in a band they may have become sharp far from the optimum."""
        zero, point = np.zeros(self.frame.spec.width), {**machine["point"], "value": None}
        start = {"sharpness": self._sharpness(), "past": zero, "past_sharpness": 0.0}
        return {**machine, **start, "point": point, "band": None, "left": machine["left"] + 1}

    def _checking(self, machine: Machine) -> Machine:
        reason = machine["end"] or "max_rounds"
        place = {"try": machine["theta"], "searching": False}
        return {**machine, **place, "end": "", "checking": reason}

    def _checked(self, machine: Machine, sharp: float, last: bool) -> Machine:
        """After the objective over all rows: it is above its optimum by what is above the bound of
        the band, at most."""
        point, width = machine["point"], 2.0 * machine["band"]["width"]
        gap = max(sharp - (point["primal"] - point["gap"]), 0.0)
        known = {**point, "primal": sharp, "gap": gap, "rest": gap}
        new = {**machine, "checking": "", "point": known}
        if gap <= self.frame.spec.tolerance * max(sharp, self.frame.least):
            return {**new, "band": None, "end": "converged"}
        if last:
            return {**new, "band": None, "end": "max_rounds"}
        again = machine["checking"] == "converged" and width <= WIDEST
        return self._on(new, width, True) if again else self._out(new)

    def _next(self, machine: Machine, point: Point | None, warm: bool, share: float) -> Machine:
        """After the objective at what was tried."""
        if point is None:
            return self._withheld(machine)
        before = machine["point"]
        fresh = before is None or before["value"] is None
        if not fresh and self._too_far(machine, point):
            return self._shorter(machine, point)
        metric = point.curvature
        if metric is None:
            metric = machine["metric"]
            if before is not None:
                moved = machine["try"] - machine["theta"]
                metric = _bfgs(metric, moved, point.gradient - before["gradient"])
        direction = -_solve(metric, point.gradient)
        gain = -0.5 * float(point.gradient @ direction)
        rest = gain + abs(point.primal - point.value)
        known = {"value": point.value, "primal": point.primal, "gap": point.gap, "rest": rest}
        new = {
            **machine,
            "theta": machine["try"],
            "try": machine["try"] + direction,
            "direction": direction,
            "shortened": False,
            "metric": metric,
            "gain": gain,
            "reach": self._reach(metric, gain + point.corner),
            "falls": fresh or gain < SLOW * machine["gain"],
            "point": {**known, "gradient": point.gradient},
        }
        if not warm and machine["order"] == 1 and machine["gain"] is not None:
            new["order"] = 2 if gain > SLOW * machine["gain"] else 1
        return self._warmed(new, point) if warm else self._ended(new, point)

    def _too_far(self, machine: Machine, point: Point) -> bool:
        """Whether the objective rises; where its slope still falls, that is rounding."""
        least = machine["point"]["value"]
        rises = point.value > least + 1e-12 * abs(least)
        return rises and float(point.gradient @ machine["direction"]) > 0.0

    def _shorter(self, machine: Machine, point: Point) -> Machine:
        """Back to where the slope along the step vanishes, as its two ends tell."""
        if machine["shortened"]:
            return {**machine, "searching": True}
        along = machine["direction"]
        start, end = (float(along @ g) for g in (machine["point"]["gradient"], point.gradient))
        step = min(max(start / (start - end), 0.1), 0.7)
        shorter = {"shortened": True, "order": 2}
        return {**machine, **shorter, "try": machine["theta"] + step * along}

    def _warmed(self, new: Machine, point: Point) -> Machine:
        """On a sample what Newton's step promises is enough; the dual would ask for more rounds."""
        exact, least = new["sharpness"] == 0.0, max(point.primal, self.frame.least)
        far = new["gain"] if exact else new["gain"] + point.corner
        if far <= (WARM_TOLERANCE if exact else WARM_CORNER) * least:
            return {**new, "theta": new["try"], "end": "converged"}
        return self._sharpened(new, point, WARM_SHARPER)

    def _ended(self, new: Machine, point: Point) -> Machine:
        if point.gap <= self._tolerance(new) * max(point.primal, self.frame.least):
            exact = new["sharpness"] == 0.0
            return {**new, "theta": new["try" if exact else "theta"], "end": "converged"}
        return self._sharpened(new, point)

    def _tolerance(self, machine: Machine) -> float:
        """How near the optimum is near enough, as a share of the objective."""
        wanted = self.frame.spec.tolerance
        return wanted if machine["band"] is None else INSIDE * wanted

    def _sharpened(self, new: Machine, point: Point, times: float = SHARPER) -> Machine:
        """On to the next optimum, if this one is near; the last is approached while steps help."""
        if new["sharpness"] == 0.0 or new["gain"] > INNER * point.moved:
            return new
        reached = REACHED * self._tolerance(new) * max(point.primal, self.frame.least)
        if point.corner <= reached and new["falls"]:
            return new
        return self._sharper(new, times)

    def _sharper(self, machine: Machine, times: float = SHARPER) -> Machine:
        """The next optimum is another objective's: there is nothing to compare with."""
        sharpness = machine["sharpness"]
        if sharpness > SHARPEST:
            return {**machine, "end": "no_descent"}
        sharper = {**machine, "point": {**machine["point"], "value": None}}
        if self.frame.spec.squared:
            return {**sharper, "sharpness": times * sharpness}
        past = machine["past_sharpness"] + sharpness
        return {
            **sharper,
            "sharpness": (times - 1.0) * past,
            "past": machine["past"] + sharpness * machine["theta"],
            "past_sharpness": past,
        }

    def _withheld(self, machine: Machine) -> Machine:
        """After a candidate that a hospital has left out, or whose sums cannot be held."""
        point, theta = machine["point"], machine["theta"]
        if theta is None:
            return {**machine, "end": "withheld"}
        near = machine["gain"] <= NEAR * max(point["primal"], self.frame.least)
        if machine["sharpness"] > 0.0:
            if near or machine["searching"] or np.array_equal(machine["try"], theta):
                return {**machine, "searching": False, "end": "withheld"}
            if point["value"] is None:
                return {**machine, "try": theta}
            return {**machine, "searching": True}
        if near:
            known = {**point, "primal": point["primal"] - machine["gain"]}
            return {**machine, "theta": machine["try"], "point": known, "end": "withheld"}
        # With its corner rounded off, nobody comes or goes altogether.
        sharpness = self._sharpness()
        known = {**point, "value": None}
        start = {"try": theta, "order": 2, "searching": False}
        return {**machine, **start, "sharpness": sharpness, "point": known}

    def _chosen(self, machine: Machine, theta: Floats, losses: Floats) -> Machine:
        """After a round over step sizes."""
        best, done = int(np.argmin(losses)), {**machine, "searching": False}
        if losses[best] < machine["point"]["value"]:
            return {**done, "try": theta[best], "order": 2, "stuck": False}
        if np.all(np.isinf(losses)):
            return self._withheld(machine)
        if machine["sharpness"] == 0.0 or machine["stuck"]:
            return {**done, "end": "no_descent"}
        again = {**done, "try": machine["theta"], "direction": 0.0 * machine["direction"]}
        return {**self._sharper(again), "stuck": True}

    def _drawn(self, theta: Floats) -> dict[str, Any] | None:
        """The band about the optimum of a sample."""
        width = DRAWN * float(np.sqrt(self.frame.spec.width / (self._share * self.frame.moments.n)))
        return _band(theta, width) if width <= WIDEST else None

    def _after_warm(self, machine: Machine) -> Machine:
        """The sample's optimum as a start over all rows, with its curvature."""
        start = machine["try"] if machine["theta"] is None else machine["theta"]
        usable = self.frame.spec.squared and machine["metric"] is not None
        metric = machine["metric"] / self._share if usable else None
        return {
            **machine,
            "try": start,
            "theta": None,
            "point": None,
            "gain": None,
            "metric": metric,
            "sharpness": machine["past_sharpness"] + machine["sharpness"],
            "past": np.zeros(self.frame.spec.width),
            "past_sharpness": 0.0,
            "stuck": False,
            "shortened": False,
            "order": 1 if usable else 2,
            "searching": False,
            "band": self._drawn(start) if self._by_bands else None,
            "end": "",
        }


def _band(theta: Floats, width: float, checked: bool = False) -> dict[str, Any]:
    """Rows are near by their margins at `theta`."""
    return {"theta": theta, "width": width, "checked": checked}


def _gap(end: str, point: Mapping[str, float]) -> float:
    """The bound of the dual; off an optimum it is coarse, and Newton's promise finer."""
    return point["gap"] if end == "converged" else min(point["gap"], point["rest"])


def _candidates(machine: Machine) -> Floats:
    found: Floats = machine["theta"] + STEPS[:, None] * machine["direction"]
    return found
