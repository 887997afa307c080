"""Survival curves, cumulative incidence and log-rank tests over sites, one round each.

What leaves the site: see `polyclinic.models.survival.curve_tasks` and `log_rank` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.contribution import Total
from polyclinic.core.errors import InputError
from polyclinic.core.plan import Plan
from polyclinic.models.distributions import chi2_tail, normal_quantile
from polyclinic.models.glm.scale import unpack
from polyclinic.models.learner import values
from polyclinic.models.survival.curve import (
    Curve,
    Incidence,
    Table,
    cumulative_incidence,
    kaplan_meier,
)
from polyclinic.models.survival.curve_spec import CurveSpec
from polyclinic.models.survival.log_rank import score_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """One round."""

    spec: CurveSpec

    def init(self, seed: int) -> State:
        return {"sums": None}

    def plan(self, state: State) -> Plan | None:
        if state["sums"] is not None:
            return None
        if self.spec.on_grid:
            return Plan("survival.steps", values(self.spec), "patients who left, by step of time")
        return Plan("survival.log_rank", values(self.spec), "observed less expected events")

    def update(self, state: State, plan: Plan, total: Total) -> State:
        sums = dict(total.values)
        if sums["not_allowed"]:
            raise InputError(
                f"{self.spec.design.response}, {self.spec.design.event}: "
                f"{int(sums['not_allowed'])} rows hold no time, no way to end or no group",
                code="OUTCOME_NOT_ALLOWED",
                rule="a duration is a finite number of 0 or more, an event is a level",
                next="correct the columns or the codebook",
            )
        counted = sums["late"].sum() if self.spec.on_grid else sums["patients"]
        if not counted:
            raise InputError(
                "no patient is left",
                code="NO_ROWS",
                rule="each way to leave has as many patients at a site as a step needs, or none",
                next="look at the cohort; let more patients or fewer groups take part",
            )
        return {"sums": sums}

    def model(self, state: State) -> Curved | Ranked:
        """The curves, or the test."""
        if self.spec.asked == "log-rank":
            return Ranked(self.spec, state["sums"])
        return Curved(self.spec, state["sums"])

    def progress(self, state: State) -> Mapping[str, float]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class OneRound:
    """What one round of sums says."""

    spec: CurveSpec
    sums: Mapping[str, Any]
    rounds: int = 1
    converged: bool = True

    @property
    def left_out(self) -> int:
        """How many sites had too few patients of a group for a step."""
        return int(self.sums.get("left_out", 0))

    @property
    def pooled(self) -> bool:
        """Whether pooled rows would give the same."""
        return not self.spec.on_grid

    @property
    def n(self) -> int:
        return self.patients

    @property
    def patients(self) -> int:
        """In the sums."""
        on_grid = "late" in self.sums
        return int(self.sums["late"].sum() if on_grid else self.sums["patients"])

    @property
    def events(self) -> int:
        """Of any cause, within the grid."""
        on_grid = "late" in self.sums
        return int(self.sums["late"][:, 1:].sum() if on_grid else self.sums["events"])

    def table(self, group: int) -> Table:
        """Counts of one group."""
        edges = np.asarray(self.spec.edges)
        return Table(edges, self.sums["late"][group], self.sums["early"][group])

    def predictor(self) -> None:
        """None."""

    def warnings(self) -> list[str]:
        """What a reader of the result should know."""
        count = self.left_out
        if not count:
            return []
        where = "" if len(self.spec.groups) == 1 else " in one of the groups"
        has, them = ("hospital has", "it is") if count == 1 else ("hospitals have", "they are")
        return [
            f"{count} {has} too few patients who left in one way{where} for a step of "
            f"{self.spec.least}; {them} left out"
        ]


@dataclass(frozen=True)
class Curved(OneRound):
    """Curves by group."""

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Kaplan-Meier curves by group, of events of any cause."""
        level, exact = self.spec.confidence, self.spec.exact
        found = {g: self.table(k) for k, g in enumerate(self.spec.groups)}
        return {
            g: kaplan_meier(table, level, exact) for g, table in found.items() if table.patients
        }

    @cached_property
    def incidences(self) -> dict[str, dict[int, Incidence]]:
        """Cumulative incidence by group and cause."""
        level, causes = self.spec.confidence, range(1, self.spec.causes + 1)
        found = {g: self.table(k) for k, g in enumerate(self.spec.groups)}
        return {
            g: {c: cumulative_incidence(table, c, level) for c in causes}
            for g, table in found.items()
            if table.patients
        }

    @property
    def horizon(self) -> float:
        """End of the restricted mean."""
        return self.spec.horizon or self.spec.edges[-1]

    @property
    def distance(self) -> float:
        """How far a curve is from the exact one at most, at an edge."""
        return max((curve.distance for curve in self.curves.values()), default=0.0)

    def figures(self) -> list[dict[str, Any]]:
        """Median and restricted mean by group, with intervals."""
        lines = []
        z = float(normal_quantile(0.5 + self.spec.confidence / 2))
        for k, group in enumerate(self.spec.groups):
            if group not in self.curves:
                continue
            curve, table = self.curves[group], self.table(k)
            median, mean = curve.median(), curve.mean(self.horizon)
            lines.append(
                {
                    "group": group,
                    "patients": table.patients,
                    "events": int(table.events.sum()),
                    "median": median[0],
                    "median_lower": median[1],
                    "median_upper": median[2],
                    "mean": mean[0],
                    "mean_se": mean[1],
                    "mean_lower": mean[0] - z * mean[1],
                    "mean_upper": mean[0] + z * mean[1],
                    "distance": curve.distance,
                }
            )
        return lines

    def lines(self) -> list[dict[str, Any]]:
        """The curves as one long table."""
        if self.spec.asked == "cumulative-incidence":
            return [line for g, by in self.incidences.items() for line in _incidence(g, by)]
        return [line for g, curve in self.curves.items() for line in _steps(g, curve)]

    def blocks(self) -> list[dict[str, Any]]:
        """Its part of the report."""
        from polyclinic.models.survival.blocks import curve_blocks

        return curve_blocks(self)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Lines of the CSV files of the run folder."""
        if self.spec.asked == "cumulative-incidence":
            return {"incidence": self.lines()}
        return {"curves": self.lines(), "survival": self.figures()}


def _steps(group: str, curve: Curve) -> list[dict[str, Any]]:
    names = ("survival", "se", "lower", "upper", "at_risk", "events", "exact_low", "exact_high")
    columns = {"time": curve.times, **{name: getattr(curve, name) for name in names}}
    return [
        {"group": group, **{name: array[k].item() for name, array in columns.items()}}
        for k in range(len(curve.times))
    ]


def _incidence(group: str, by: Mapping[int, Incidence]) -> list[dict[str, Any]]:
    names = ("times", "incidence", "se", "lower", "upper")
    return [
        {"group": group, "cause": cause, **{name: getattr(one, name)[k].item() for name in names}}
        for cause, one in by.items()
        for k in range(len(one.times))
    ]


@dataclass(frozen=True)
class Ranked(OneRound):
    """A log-rank test between groups."""

    @cached_property
    def score(self) -> tuple[Floats, Floats]:
        """Observed less expected events of all groups but the first, and their covariances."""
        size = len(self.spec.groups)
        if not self.spec.on_grid:
            return self.sums["difference"], unpack(self.sums["variance"], size - 1)
        tables = [self.table(g) for g in range(size)]
        happened = np.column_stack([table.events for table in tables])
        risk = np.column_stack([table.at_risk for table in tables])
        difference, variance = score_of(happened, risk, happened.sum(axis=1))
        return difference[1:], variance[1:, 1:]

    @property
    def test(self) -> dict[str, float]:
        """chi2, df, p."""
        difference, variance = self.score
        keep = np.diag(variance) > 0
        df = int(np.linalg.matrix_rank(variance[np.ix_(keep, keep)])) if keep.any() else 0
        inverse = np.linalg.pinv(variance[np.ix_(keep, keep)], hermitian=True)
        chi2 = float(difference[keep] @ inverse @ difference[keep])
        return {"chi2": chi2, "df": df, "p": float(chi2_tail(chi2, df)) if df else 1.0}

    def blocks(self) -> list[dict[str, Any]]:
        """Its part of the report."""
        from polyclinic.models.survival.blocks import rank_blocks

        return rank_blocks(self)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Lines of the CSV files of the run folder."""
        difference, variance = self.score
        lines = [
            {"group": g, "observed_less_expected": float(a), "variance": float(b)}
            for g, a, b in zip(self.spec.groups[1:], difference, np.diag(variance), strict=True)
        ]
        return {"log_rank": [{"test": "log-rank", **self.test}], "log_rank_groups": lines}
