"""What is asked of survival curves and their tests: a record of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.design import Design, Factor, Term
from polyclinic.core.errors import InputError
from polyclinic.models.survival.spec import CoxSpec, check_edges

ASKED = ("kaplan-meier", "log-rank", "cumulative-incidence")
MOST_STEPS = 2000


@dataclass(frozen=True)
class CurveSpec:
    """Curves by group on a grid, or a test between groups.

    asked    one of ASKED
    design   the response is the duration, `event` the column that says how it ended; the terms
             are those of the group's column, if there is one
    cause    level of the event column that is the event; all others are censored
    causes   levels 1 to `causes` are events of their own (cumulative incidence)
    groups   names of the levels of the column `by`, ("all",) without one
    levels   number of levels of each of the design's strata
    edges    ascending ends of time intervals
    least    patients that each step holds
    horizon  end of the restricted mean; 0: the last edge
    confidence   of the intervals
    by_site  a log-rank test compares patients of one site only, and no time leaves
    """

    asked: str
    design: Design
    rows: Mapping[str, Any] = field(default_factory=dict)
    cause: int = 1
    causes: int = 1
    by: str = ""
    groups: tuple[str, ...] = ("all",)
    levels: tuple[int, ...] = ()
    edges: tuple[float, ...] = ()
    least: int = 5
    horizon: float = 0.0
    confidence: float = 0.95
    by_site: bool = True
    exact: bool = False

    def __post_init__(self) -> None:
        check_edges(self.edges)
        if self.on_grid and not self.edges:
            raise InputError(
                "a curve over sites needs a grid of times",
                code="GRID_NEEDED",
                rule="event times do not leave a hospital, so the intervals are agreed",
                next="give grid= or time_bins=",
            )
        if self.asked == "log-rank" and len(self.groups) < 2:
            raise InputError(
                "a log-rank test needs a group",
                code="BAD_FORMULA",
                rule='a log-rank test reads "Surv(duration, event) ~ group"',
                next="name the column of the groups",
            )

    @property
    def on_grid(self) -> bool:
        """Whether times leave, on the grid."""
        return self.asked != "log-rank" or not self.by_site

    @property
    def cox(self) -> CoxSpec:
        """The Cox regression on the groups, whatever else a design holds: no test has weights."""
        terms = tuple(
            Term(f"{self.by} = {k}", (Factor("level", self.by, (float(k),)),), 1.0)
            for k in range(1, len(self.groups))
        )
        design = replace(self.design, terms=terms, offset=None, weight=None)
        return CoxSpec(design, {}, self.cause, self.levels, "breslow")

    def to_data(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "design": self.design.to_data(),
            "rows": dict(self.rows),
            "cause": self.cause,
            "causes": self.causes,
            "by": self.by,
            "groups": list(self.groups),
            "levels": list(self.levels),
            "edges": list(self.edges),
            "least": self.least,
            "horizon": self.horizon,
            "confidence": self.confidence,
            "by_site": self.by_site,
            "exact": self.exact,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> CurveSpec:
        given = dict(data)
        for name in ("groups", "levels", "edges"):
            given[name] = tuple(given[name])
        return CurveSpec(**{**given, "design": Design.from_data(given["design"])})

    def algorithm(self) -> Algorithm:
        """What finds it."""
        from polyclinic.models.survival.curves import Curves

        return Curves(self)
