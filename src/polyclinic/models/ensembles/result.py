"""What a fit of an ensemble found: its models, how they compare, how they are put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.ensembles.bases import Arrays
from polyclinic.models.ensembles.predictor import EnsemblePredictor
from polyclinic.models.ensembles.spec import Spec
from polyclinic.models.glm.inference import GLMFit

Floats = NDArray[np.float64]
WORDS = {"auroc": "AUROC", "log_loss": "log loss", "r2": "R2", "mse": "mean squared error"}
Z = 1.959963984540054
ALL = "all rows"


@dataclass(frozen=True)
class Models:
    """The models of sites.

    arrays  of each model, by site
    sizes   rows and patients on which each was fitted
    silent  sites without a model, or that keep it
    """

    arrays: Mapping[str, Arrays]
    sizes: Mapping[str, tuple[int, int]]
    silent: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnsembleResult:
    """A fitted ensemble.

    cells      by model, by site: n, auroc and log_loss, or r2 and mse; empty where not asked
    elsewhere  of each model the mean of `metric` over the other sites
    meta       of stacking: the regression over the models' predictions
    threshold  risk from which on a patient counts as having the event; None: above one half
    """

    spec: Spec
    models: Models
    cells: Mapping[str, Mapping[str, Mapping[str, float]]]
    elsewhere: Mapping[str, float | None]
    metric: str
    meta: GLMFit | None
    threshold: float | None
    together: EnsemblePredictor

    @property
    def n(self) -> int:
        return sum(rows for rows, _ in self.models.sizes.values())

    @property
    def patients(self) -> int:
        return sum(patients for _, patients in self.models.sizes.values())

    @property
    def rounds(self) -> int:
        return 1 + len(self.cells) + (self.meta.rounds + 1 if self.meta else 0)

    @property
    def converged(self) -> bool:
        return self.meta is None or self.meta.converged

    @property
    def best(self) -> str | None:
        """The site of the model that was selected; None where there is more than one."""
        arrays = self.together.models
        if self.spec.how != "select-best":
            return None
        return next(site for site, found in self.models.arrays.items() if found is arrays[0])

    @property
    def weights(self) -> dict[str, float]:
        """By site, what its model weighs; of stacking its coefficient."""
        if self.spec.how == "select-best":
            return {site: float(site == self.best) for site in self.models.arrays}
        values = self.together.weights[1:] if self.meta else self.together.weights
        return dict(zip(self.models.arrays, values.tolist(), strict=True))

    def predictor(self) -> EnsemblePredictor:
        return self.together

    def warnings(self) -> list[str]:
        found = []
        if self.models.silent and set(self.models.silent) != {""}:
            names = ", ".join(self.models.silent)
            found.append(
                f"no model of {names}: too few patients, of one outcome or of a level, or the "
                "hospital keeps it"
            )
        if not self.converged:
            found.append("the regression over the models' predictions did not converge")
        return found

    def blocks(self) -> list[dict[str, Any]]:
        rows = [[site or ALL, *self.models.sizes[site]] for site in self.models.arrays]
        found: list[dict[str, Any]] = [
            {
                "kind": "table",
                "title": "Models, one of each hospital's own patients",
                "head": ["model of", "rows", "patients"],
                "rows": rows,
                "note": "Each model was fitted at its hospital, and left it.",
            }
        ]
        if self.cells:
            found.append(self._matrix())
        if self.meta is not None:
            found.append(self._meta(self.meta))
        elif self.spec.how == "weighted-average":
            bars = [{"name": site or ALL, "value": w} for site, w in self.weights.items()]
            found.append({"kind": "bars", "title": "Weights", "bars": bars, "x_label": "weight"})
        return [*found, {"kind": "text", "text": self._sentence()}]

    @property
    def _judges(self) -> list[str]:
        """Sites that said how well models predict there."""
        found: dict[str, None] = {}
        for row in self.cells.values():
            found |= dict.fromkeys(row)
        return list(found)

    def _matrix(self) -> dict[str, Any]:
        judges = self._judges
        rows = [
            [
                site or ALL,
                *(row.get(other, {}).get(self.metric) for other in judges),
                self.elsewhere[site],
            ]
            for site, row in self.cells.items()
        ]
        return {
            "kind": "table",
            "title": f"{WORDS[self.metric]} of every model at every hospital",
            "head": ["model of", *(other or ALL for other in judges), "mean of the others"],
            "rows": rows,
            "note": "At its own hospital a model has seen the patients; the mean, weighted by "
            "rows, is over the other ones.",
        }

    def _meta(self, meta: GLMFit) -> dict[str, Any]:
        return {
            "kind": "table",
            "title": "Regression over the models' predictions",
            "head": ["prediction of the model of", "coefficient", "standard error", "from", "to"],
            "rows": [[line[name] for name in line] for line in self._lines(meta)],
            "note": "At its own hospital a model's predictions are by models fitted without the "
            "patient. From and to: 95 % interval.",
        }

    def _lines(self, meta: GLMFit) -> list[dict[str, Any]]:
        errors = np.sqrt(np.diag(meta.covariance))
        names = ["(intercept)", *(site or ALL for site in self.models.arrays)]
        found = []
        for name, coef, se in zip(names, meta.coef[0].tolist(), errors.tolist(), strict=True):
            known = bool(np.isfinite(se))
            ends = (coef - Z * se, coef + Z * se) if known else (None, None)
            line = {"model": name, "coef": coef, "se": se if known else None}
            found.append({**line, "lower": ends[0], "upper": ends[1]})
        return found

    def _sentence(self) -> str:
        many = len(self.models.arrays)
        said = {
            "select-best": f"The model of {self.best or ALL} predicts, by {WORDS[self.metric]}, "
            "best at the other hospitals, and is used.",
            "voting": f"The {many} models vote with equal weight.",
            "weighted-average": f"The predictions of the {many} models are averaged.",
            "stacking": f"A regression puts the predictions of the {many} models together.",
        }[self.spec.how]
        if self.threshold is None:
            return said
        return f"{said} From a risk of {self.threshold:.3g} on a patient counts as a case."

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {
            "weights": [{"model": site, "weight": w} for site, w in self.weights.items()]
        }
        if self.cells:
            found["matrix"] = [
                {"model": site, "hospital": other, **cell}
                for site, row in self.cells.items()
                for other, cell in row.items()
            ]
        if self.meta is not None:
            found["regression"] = self._lines(self.meta)
        return found
