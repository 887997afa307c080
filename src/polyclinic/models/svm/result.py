"""A fitted support vector machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.svm.frame import Frame
from polyclinic.models.svm.newton import Solved
from polyclinic.models.svm.predictor import SVMPredictor

Floats = NDArray[np.float64]
GOOD = ("converged", "withheld")
WORST_SHOWN = 20  # coefficients of a table in the report


@dataclass(frozen=True)
class SVMFit:
    """What was found; raw units.

    solved  by machine
    curve   of the probabilities; {} for a number
    """

    frame: Frame
    solved: Solved
    curve: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return self.frame.moments.n

    @property
    def patients(self) -> int:
        return self.frame.moments.patients

    @property
    def rounds(self) -> int:
        return self.solved.rounds + int(self.curve.get("rounds", 0))

    @property
    def converged(self) -> bool:
        return all(end == "converged" for end in self.solved.end)

    @property
    def coef(self) -> Floats:
        """Coefficients of each machine, intercept first, (n_machines, width)."""
        return self.frame.raw(self.solved.theta)

    @property
    def objective(self) -> float:
        """1/2 |w|^2 + C sum of losses, over all machines."""
        return float(self.solved.objective.sum())

    @property
    def gap(self) -> float:
        """How far the objective of the worst machine is from its optimum at most, relative."""
        return float(self.solved.gap.max())

    def predictor(self) -> SVMPredictor:
        """What predicts with it."""
        spec = self.frame.spec
        platt = np.asarray(self.curve["theta"]) if self.curve else np.zeros((0, 2))
        nothing = np.zeros(0)
        return SVMPredictor(
            spec.design,
            self.coef,
            platt,
            spec.classes,
            spec.features,
            self.frame.map.get("centre", nothing),
            self.frame.map.get("spread", nothing),
        )

    def warnings(self) -> list[str]:
        """What a reader of the result should know."""
        found = []
        ends = set(self.solved.end)
        if "withheld" in ends:
            found.append(
                "the fit ended where the next sums would have shown a few patients of a hospital; "
                f"the objective is within {self.gap:.1g} of its optimum"
            )
        if ends & {"max_rounds", "no_descent", "stopped"}:
            found.append(
                f"the fit ended before its optimum: the objective is within {self.gap:.1g} of it"
            )
        if self.curve and self.curve["end"] != "converged":
            found.append("the curve of the probabilities did not converge; use decision values")
        return found

    def blocks(self) -> list[dict[str, Any]]:
        """Its part of the report."""
        rows = [[line["machine"], line["column"], f"{line['coef']:.4g}"] for line in self._lines()][
            :WORST_SHOWN
        ]
        note = (
            f"objective {self.objective:.6g}, within {self.gap:.1g} of its optimum; "
            f"{self.rounds} rounds"
        )
        head = ["Class", "Column", "Weight"]
        return [{"title": "Weights", "kind": "table", "head": head, "rows": rows, "note": note}]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Lines of the CSV files of the run folder."""
        return {"weights": self._lines()}

    def _lines(self) -> list[dict[str, Any]]:
        spec = self.frame.spec
        names = ["Intercept"] * int(spec.design.intercept)
        if spec.features is None:
            names += list(spec.design.names)
        else:
            names += [f"feature {j}" for j in range(spec.features.components)]
        return [
            {"machine": machine, "column": name, "coef": float(value)}
            for machine, coef in zip(spec.machines, self.coef, strict=True)
            for name, value in zip(names, coef, strict=True)
        ]
