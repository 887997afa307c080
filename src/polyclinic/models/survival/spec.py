"""What a survival model is asked to be: records of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from polyclinic.core.algorithm import Algorithm
from polyclinic.core.design import Design
from polyclinic.core.errors import InputError
from polyclinic.models.glm.spec import Solver

TIES = ("efron", "breslow")
DIAGNOSTICS = ("concordance", "proportional", "baseline")
MOST_ROUNDS = 50


@dataclass(frozen=True)
class CoxSpec:
    """A Cox regression.

    design      terms; the response is the duration, `event` the column that says how it ended
    cause       level of the event column that is the event; all others are censored
    levels      number of levels of each of the design's strata
    ties        "efron" or "breslow"
    by_site     every site has a baseline of its own, and no time leaves; False: one baseline for
                all, on the agreed `edges`
    edges       ascending ends of time intervals, for one baseline over sites and for predictions
    least       patients whose times are taken together on the grid
    l2, l1      weights of 1/2 |coef|^2 and |coef|_1 beside minus the log partial likelihood
    robust      "": model-based errors; "row": clustered by patient; "site": by site
    diagnostics of DIAGNOSTICS
    """

    design: Design
    rows: Mapping[str, Any] = field(default_factory=dict)
    cause: int = 1
    levels: tuple[int, ...] = ()
    ties: str = "efron"
    by_site: bool = True
    edges: tuple[float, ...] = ()
    least: int = 5
    l2: float = 0.0
    l1: float = 0.0
    robust: str = ""
    diagnostics: tuple[str, ...] = DIAGNOSTICS
    solver: Solver = field(default_factory=lambda: Solver(warm_rows=0))

    def __post_init__(self) -> None:
        _one_of("ties", self.ties, TIES)
        _one_of("robust", self.robust, ("", "row", "site"))
        for name in self.diagnostics:
            _one_of("diagnostics", name, DIAGNOSTICS)
        check_edges(self.edges)
        if not self.by_site and not self.edges:
            raise InputError(
                "one baseline for all sites needs a grid of times",
                code="GRID_NEEDED",
                rule="event times do not leave a hospital, so the intervals are agreed",
                next="give grid= or time_bins=, or stratify by site",
            )
        if not self.by_site and self.robust:
            raise InputError(
                "robust errors on a grid",
                code="WRONG_VALUE",
                rule="score vectors are of the sites' own risk sets",
                next="stratify by site, or leave robust out",
            )
        if min(self.l1, self.l2) < 0:
            raise InputError(
                "a penalty is negative", code="NEGATIVE_PENALTY", rule="l1 and l2 are 0 or more"
            )

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return len(self.design.terms)

    def to_data(self) -> dict[str, Any]:
        return {
            "design": self.design.to_data(),
            "rows": dict(self.rows),
            "cause": self.cause,
            "levels": list(self.levels),
            "ties": self.ties,
            "by_site": self.by_site,
            "edges": list(self.edges),
            "least": self.least,
            "l2": self.l2,
            "l1": self.l1,
            "robust": self.robust,
            "diagnostics": list(self.diagnostics),
            "solver": self.solver.to_data(),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> CoxSpec:
        return CoxSpec(
            Design.from_data(data["design"]),
            dict(data["rows"]),
            data["cause"],
            tuple(data["levels"]),
            data["ties"],
            data["by_site"],
            tuple(data["edges"]),
            data["least"],
            data["l2"],
            data["l1"],
            data["robust"],
            tuple(data["diagnostics"]),
            Solver(**data["solver"]),
        )

    def algorithm(self) -> Algorithm:
        """What fits it."""
        from polyclinic.models.survival.cox import cox

        return cox(self)


def check_edges(edges: tuple[float, ...]) -> None:
    """Raises WRONG_VALUE unless they are finite and ascend."""
    ascends = all(a < b for a, b in pairwise(edges))
    if not ascends or any(not abs(edge) < float("inf") for edge in edges):
        raise InputError(
            "the grid of times does not ascend",
            code="WRONG_VALUE",
            rule="a grid is ascending finite times, the ends of its intervals",
            next="sort it, each time once",
        )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(
            f"{name} = {value!r}",
            code="WRONG_VALUE",
            rule=f"{name} is one of {', '.join(repr(one) for one in allowed)}",
            next=f"correct {name}",
        )
