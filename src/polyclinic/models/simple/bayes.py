"""Gaussian naive Bayes: within a class every term is normal, and terms are independent.

    P(class k | x) ~ prior_k * prod_j N(x_j; mean_kj, variance_kj + smoothing)

with smoothing = `var_smoothing` times the largest variance of a term over all rows, as in
scikit-learn. Reference: Hastie, Tibshirani & Friedman, *The Elements of Statistical Learning*
(2009), 6.6.3.

What leaves the site: numbers of rows, and sums of each term and of its square, by class
(`moments.py`), each number in one form. Two rounds, a third where the codebook's bounds are far
from the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.algorithm import State
from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.models.predictor import register_predictor
from polyclinic.models.simple.moments import Counted, Moments, MomentsTask, OfMoments

Floats = NDArray[np.float64]
TASK = MomentsTask("naive_bayes.moments")
FARTHEST = 1e12  # squared distance from a class in units of its variance


@dataclass(frozen=True)
class GaussianNBSpec:
    """What is fitted.

    classes        levels of the outcome
    var_smoothing  part of the largest variance of a term that is added to all variances
    priors         probability of each class beforehand; None: its part of the weights
    """

    design: Design
    classes: int
    var_smoothing: float = 1e-9
    priors: tuple[float, ...] | None = None
    rows: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        return {
            "design": self.design.to_data(),
            "rows": dict(self.rows),
            "classes": self.classes,
            "var_smoothing": float(self.var_smoothing),
            "priors": None if self.priors is None else list(self.priors),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> GaussianNBSpec:
        priors = data["priors"]
        return GaussianNBSpec(
            Design.from_data(data["design"]),
            data["classes"],
            data["var_smoothing"],
            None if priors is None else tuple(priors),
            dict(data["rows"]),
        )

    def algorithm(self) -> NaiveBayes:
        return NaiveBayes(self)


@dataclass(frozen=True)
class NaiveBayes(OfMoments):
    """The rounds of the moments; model: `GaussianNBFit`."""

    task: ClassVar[str] = TASK.name
    spec: GaussianNBSpec

    def model(self, state: State) -> GaussianNBFit:
        return GaussianNBFit(self.spec, self.moments(state))


@dataclass(frozen=True)
class GaussianNBFit(Counted):
    """Means and variances of each class."""

    spec: GaussianNBSpec
    moments: Moments
    converged: bool = True

    @property
    def epsilon(self) -> float:
        """What is added to all variances."""
        return self.spec.var_smoothing * float(self.moments.variance[0].max(initial=0.0))

    @property
    def mean(self) -> Floats:
        """(n_classes, n_terms)."""
        return self.moments.mean[1:]

    @property
    def variance(self) -> Floats:
        """(n_classes, n_terms), with the smoothing."""
        return np.asarray(self.moments.variance[1:] + self.epsilon)

    @property
    def priors(self) -> Floats:
        if self.spec.priors is not None:
            return np.asarray(self.spec.priors)
        weight = self.moments.weight[1:]
        return np.asarray(weight / weight.sum())

    def predictor(self) -> GaussianNBPredictor:
        return GaussianNBPredictor(self.spec.design, self.priors, self.mean, self.variance)

    def warnings(self) -> list[str]:
        names, constant = self.spec.design.names, self.moments.constant
        found = []
        for j in np.flatnonzero(constant):
            found.append(f"{names[j]} is the same in all rows and says nothing about the outcome")
        same = (self.moments.variance[1:] == 0) & ~constant
        for k, j in np.argwhere(same):
            found.append(
                f"{names[j]} is the same in all rows of class {k}: only the smoothing keeps others "
                "from being ruled out"
            )
        return found

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Mean and standard deviation of each term by class."""
        sd = np.sqrt(self.moments.variance[1:])
        return {
            "classes": [
                {
                    "class": k,
                    "term": name,
                    "mean": float(self.mean[k, j]),
                    "sd": float(sd[k, j]),
                }
                for k in range(self.spec.classes)
                for j, name in enumerate(self.spec.design.names)
            ]
        }

    def blocks(self) -> list[dict[str, Any]]:
        """Of each term the mean and the standard deviation by class."""
        sd = np.sqrt(self.moments.variance[1:])
        head = ["term", *(f"class {k}" for k in range(self.spec.classes))]
        rows = [
            [name, *(f"{self.mean[k, j]:.4g} ({sd[k, j]:.3g})" for k in range(self.spec.classes))]
            for j, name in enumerate(self.spec.design.names)
        ]
        counts = [f"{n:,} rows" for n in self.moments.counts.tolist()]
        return [
            {
                "title": "Mean (standard deviation) by class",
                "kind": "table",
                "head": head,
                "rows": [["", *counts], *rows],
                "note": "Terms count as independent within a class.",
            }
        ]


@dataclass(frozen=True)
class GaussianNBPredictor:
    """Class probabilities; with two classes that of the second, as the evaluation asks for it."""

    design: Design
    priors: Floats
    mean: Floats
    variance: Floats

    @property
    def explains(self) -> str:
        return "binary" if len(self.priors) == 2 else "classes"

    def joint(self, x: Floats) -> Floats:
        """log prior + log density, (n_rows, n_classes)."""
        out = np.empty((len(x), len(self.priors)))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for k, (mean, variance) in enumerate(zip(self.mean, self.variance, strict=True)):
                scaled = (x - mean) ** 2 / variance
                scaled[np.isnan(scaled)] = 0.0  # a constant without smoothing, met again
                constant = np.where(variance > 0, np.log(2.0 * np.pi * variance), 0.0)
                out[:, k] = np.log(self.priors[k]) - 0.5 * (constant.sum() + scaled.sum(axis=1))
        return out

    def probabilities(self, x: Floats) -> Floats:
        """(n_rows, n_classes)."""
        joint = self.joint(x)
        top = joint.max(axis=1, keepdims=True)
        e = np.exp(joint - np.where(np.isfinite(top), top, 0.0))
        total = e.sum(axis=1, keepdims=True)
        # Nowhere near any class: nothing but the priors is left.
        return np.asarray(np.where(total > 0, e / np.where(total > 0, total, 1.0), self.priors))

    def predict(self, partition: Partition) -> Floats:
        """Raises BAD_MESSAGE for variances so small that the rows lie nowhere near a class: there
        the probabilities are those of rounding, and could be made to tell one patient apart."""
        x = self.design.matrix(partition.columns, partition.site)
        for mean, variance in zip(self.mean, self.variance, strict=True):
            if np.any((x - mean) ** 2 > FARTHEST * variance):
                raise too_far()
        p = self.probabilities(x)
        return p[:, 1] if p.shape[1] == 2 else p

    def outcome(self, partition: Partition) -> Floats:
        return partition.columns[self.design.response]

    def weight(self, partition: Partition) -> Floats | None:
        return partition.columns[self.design.weight] if self.design.weight else None

    def to_data(self) -> dict[str, Any]:
        return {
            "kind": "gaussian-nb",
            "design": self.design.to_data(),
            "priors": self.priors,
            "mean": self.mean,
            "variance": self.variance,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> GaussianNBPredictor:
        """Raises BAD_MESSAGE for numbers that are no fitted model."""
        design = Design.from_data(data["design"])
        priors, mean, variance = (
            np.asarray(data[name], dtype=np.float64) for name in ("priors", "mean", "variance")
        )
        shape = (len(priors), len(design.terms))
        fits = priors.ndim == 1 and mean.shape == variance.shape == shape
        finite = fits and all(np.isfinite(part).all() for part in (priors, mean, variance))
        if not finite or np.any(priors < 0) or abs(priors.sum() - 1) > 1e-9 or np.any(variance < 0):
            raise PolyclinicError(
                "a naive Bayes of numbers that are none",
                code="BAD_MESSAGE",
                rule="priors add up to 1, variances are 0 or more, one mean per class and term",
            )
        return GaussianNBPredictor(design, priors, mean, variance)


def too_far() -> PolyclinicError:
    """The error of rows that no class of a model comes near."""
    return PolyclinicError(
        "rows lie too many standard deviations from every class",
        code="BAD_MESSAGE",
        rule=f"at most {FARTHEST**0.5:.0e} standard deviations",
        next="use a larger var_smoothing, or leave out columns that are the same in a whole class",
    )


register_predictor("gaussian-nb", GaussianNBPredictor.from_data)
