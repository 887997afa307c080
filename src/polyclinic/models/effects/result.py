"""What a run found: effects, how the arms overlap, and who profits more than others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.partition import Partition
from polyclinic.models.distributions import normal_quantile, normal_tail
from polyclinic.models.effects import estimate
from polyclinic.models.effects.estimate import Contrast, Modified
from polyclinic.models.effects.modify import linear_model
from polyclinic.models.effects.overlap import BINS
from polyclinic.models.effects.spec import Spec
from polyclinic.models.predictor import Predictor

Floats = NDArray[np.float64]
CRUDE = "unadjusted"
UNCLEAR = "no clear advantage"
BETTER = ("lower", "higher")


@dataclass(frozen=True)
class Effect:
    """The effect of a `Spec`; the outcome in its own unit, arm 0 before arm 1.

    done     what is kept of each step of the run, by name
    asked    rounds of the run
    """

    spec: Spec
    done: Mapping[str, Any]
    asked: int
    converged: bool

    @property
    def rounds(self) -> int:
        return self.asked

    @property
    def n(self) -> int:
        """Rows."""
        return int(self.done["propensity"]["n"])

    @property
    def patients(self) -> int:
        return int(self.done["propensity"]["patients"])

    @property
    def _unit(self) -> int:
        return self.spec.outcome().response_exponent

    def mean(self, method: str = "") -> Floats:
        """Expected outcome if nobody, and if everybody, were treated, (2,)."""
        sums = self.done[f"{method or self.spec.method} means"]
        return np.ldexp(estimate.mean_of(sums), self._unit)

    def covariance(self, method: str = "") -> Floats:
        """Covariance of the two means, (2, 2)."""
        name = method or self.spec.method
        products = self.done[f"{name} errors"]["products"]
        found = estimate.covariance_of(self.done[f"{name} means"], products)
        return np.ldexp(found, 2 * self._unit)

    def contrasts(self, method: str = "", level: float = 0.95) -> list[Contrast]:
        """The effect as a difference and, of a 0/1 outcome, as ratios."""
        if method == CRUDE:
            return estimate.crude(self.spec, self.done["overlap"], level)
        mean, covariance = self.mean(method), self.covariance(method)
        return estimate.contrasts(mean, covariance, self.spec.binary, level)

    def needed_to_treat(self, level: float = 0.95) -> tuple[float, float, float] | None:
        """Patients to treat for one event more or fewer, with its interval.

        None where the interval of the difference holds 0, so that no number is enough.
        """
        one = self.contrasts(level=level)[0]
        if not self.spec.binary or one.lower <= 0.0 <= one.upper:
            return None
        ends = sorted((1.0 / abs(one.lower), 1.0 / abs(one.upper)))
        return 1.0 / abs(one.estimate), ends[0], ends[1]

    def of_hospital(self, sums: Mapping[str, Any], products: Floats, level: float) -> Contrast:
        """The effect in one hospital, from its own sums; the models count as known."""
        unit = self._unit
        mean, covariance = estimate.of_one(sums, products)
        mean, covariance = np.ldexp(mean, unit), np.ldexp(covariance, 2 * unit)
        return estimate.contrasts(mean, covariance, self.spec.binary, level)[0]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of the arms, (2,)."""
        return np.asarray(self.done["overlap"]["rows"])

    @property
    def effective(self) -> Floats | None:
        """Effective numbers of rows behind the weights, (2,); None without weights."""
        if self.spec.method == "regression":
            return None
        return estimate.effective(self.done["overlap"])

    @property
    def balance(self) -> list[dict[str, Any]]:
        """Means of the covariates per arm, and standardised differences."""
        return estimate.balance(self.spec, self.done["overlap"])

    @property
    def scores(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows per arm and part of the propensity, (2, bins), and the sites that hid each."""
        found = self.done["overlap"]
        counts = np.asarray(found["scores"]).reshape(2, BINS)
        hidden = found["hidden"].get("scores", np.zeros(2 * BINS, np.int64))
        return counts, np.asarray(hidden).reshape(2, BINS)

    @property
    def outside(self) -> float:
        """Share of the rows that are known to have a propensity below 0.05 or above 0.95."""
        counts, _ = self.scores
        return float(counts[:, [0, -1]].sum() / max(int(self.sizes.sum()), 1))

    @property
    def alone(self) -> float:
        """Share of the rows with a propensity that no patient of the other arm has.

        Five patients count in one bin, so the bins beside are looked at, too.
        """
        counts, hidden = self.scores
        none = np.pad((counts == 0) & (hidden == 0), ((0, 0), (1, 1)), constant_values=True)
        nobody = none[:, :-2] & none[:, 1:-1] & none[:, 2:]
        return float(counts[nobody[::-1]].sum() / max(int(self.sizes.sum()), 1))

    @cached_property
    def modified(self) -> Modified | None:
        """How columns change the effect; None where nobody asked."""
        if not self.spec.modifiers:
            return None
        sums, meat = self.done["modify"], self.done["modify errors"]["meat"]
        return estimate.modified(self.spec, sums, meat, estimate.solve(self.spec, sums))

    def effect_of(self, partition: Partition, level: float = 0.95) -> tuple[Floats, Floats, Floats]:
        """Each row's effect with its interval, (n,) each. Raises ValueError without modifiers."""
        found = self.modified
        if found is None:
            raise ValueError("this effect is one number: nobody asked for effect modifiers")
        terms = linear_model(self.spec).design
        z = terms.matrix(partition.columns, partition.site)
        z = np.hstack([np.ones((len(z), 1)), z])
        known = ~np.isnan(np.diag(found.covariance))
        effect = z @ found.coef
        variance = np.einsum(
            "ij,jk,ik->i", z[:, known], found.covariance[np.ix_(known, known)], z[:, known]
        )
        half = float(normal_quantile(0.5 + level / 2)) * np.sqrt(np.maximum(variance, 0.0))
        return effect, effect - half, effect + half

    def predictor(self) -> Predictor | None:
        """None: what would have happened otherwise is never observed, so nothing is scored."""
        return None

    def warnings(self) -> list[str]:
        """What a reader should know."""
        from polyclinic.models.effects.words import warnings

        return warnings(self)

    def blocks(self) -> list[dict[str, Any]]:
        """For the report."""
        from polyclinic.models.effects.words import blocks

        return blocks(self)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Effects, balance and effect modifiers as rows."""
        effects = [
            {"method": method, **vars(one)}
            for method in (*self.spec.methods, CRUDE)
            for one in self.contrasts(method)
        ]
        found = {"effects": effects, "balance": self.balance}
        if self.modified is not None:
            found["modifiers"] = modifiers(self.modified)
        return found


def modifiers(found: Modified, level: float = 0.95) -> list[dict[str, Any]]:
    """Coefficients of the modified effect with errors, z, p and intervals."""
    se = np.sqrt(np.diag(found.covariance))
    half = float(normal_quantile(0.5 + level / 2)) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        z = found.coef / se
    return [
        {
            "term": name,
            "coef": float(found.coef[j]),
            "se": float(se[j]),
            "z": float(z[j]),
            "p": float(2 * normal_tail(abs(z[j]))),
            "lower": float(found.coef[j] - half[j]),
            "upper": float(found.coef[j] + half[j]),
        }
        for j, name in enumerate(found.names)
    ]
