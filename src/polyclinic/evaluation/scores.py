"""Scoring rows where they are, and the sums from which every measure is computed.

What leaves the site: for two classes the number of rows with and without the event per bin of
predicted risk (2000 bins), the sum of predicted risks per bin, two loss sums and decision counts;
for more classes a confusion matrix, a loss sum and one histogram per class; for numbers six sums.
A subgroup of too few patients at a site is hidden by the gate: its sums are zeroed and flagged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation.metrics import BINS, bin_of
from polyclinic.models.predictor import Predictor, predictor_from

Floats = NDArray[np.float64]
FLOOR = 1e-15  # of a probability inside a logarithm


@dataclass(frozen=True)
class Scored:
    """Predictions (n_rows,) or (n_rows, classes) and outcomes (n_rows,) of the chosen rows."""

    predicted: Floats
    outcome: Floats
    patients: int


def predictors_of(plan: Plan) -> list[Predictor]:
    """The predictors of a plan, made once."""
    return plan.once("predictors", lambda: [predictor_from(p) for p in plan.values["predictors"]])


def scored(plan: Plan, partition: Partition) -> Scored:
    """Score the rows: in cross-validation each by the model fitted without its patient."""
    predictors, folds = predictors_of(plan), plan.values["folds"]
    outcome = predictors[0].outcome(partition)
    predicted = predictors[0].predict(partition)
    if folds:
        fold = partition.keys % folds
        for i in range(1, folds):
            at = fold == i
            if at.any():
                predicted = predicted.copy() if i == 1 else predicted
                predicted[at] = predictors[i].predict(partition)[at]
    where = plan.values.get("where")
    if where is None:
        return Scored(predicted, outcome, partition.n_patients)
    mask = partition.columns[where["column"]] == where["level"]
    return Scored(predicted[mask], outcome[mask], partition.patients(mask))


@dataclass(frozen=True)
class ScoresTask:
    """The sums; "outcome" in the plan is binary, classes or number."""

    name: str = "evaluation.scores"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        leaves = self._sums(plan)
        if plan.values.get("where") is None:
            return leaves
        return tuple(replace(leaf, support="cells", small="hide") for leaf in leaves)

    def _sums(self, plan: Plan) -> tuple[Leaf, ...]:
        n = Leaf("n", (), "count", "int64", unit="rows")
        if plan.values["outcome"] == "binary":
            thresholds = len(plan.values["thresholds"])
            return (
                n,
                Leaf("histogram", (2, BINS), "histogram", "int64", unit="rows"),
                Leaf("predicted", (BINS,), "sum"),
                Leaf("losses", (2,), "sum"),
                Leaf("above", (thresholds, 2), "count", "int64", unit="rows"),
            )
        if plan.values["outcome"] == "classes":
            k = plan.values["classes"]
            return (
                n,
                Leaf("confusion", (k, k), "cross-table", "int64", unit="rows"),
                Leaf("losses", (1,), "sum"),
                Leaf("histograms", (k, 2, BINS), "histogram", "int64", unit="rows"),
            )
        return (n, Leaf("sums", (6,), "sum"))

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = scored(plan, partition)
        make = {"binary": _binary, "classes": _classes, "number": _number}[plan.values["outcome"]]
        leaves = {"n": len(rows.outcome), **make(plan.values, rows.predicted, rows.outcome)}
        if plan.values.get("where") is None:
            return Contribution(leaves, Evidence(rows.patients))
        cells = {leaf.name: np.full(leaf.shape, rows.patients) for leaf in self._sums(plan)}
        return Contribution(leaves, Evidence(partition.n_patients, cells))


def _binary(values: Mapping[str, Any], p: Floats, y: Floats) -> dict[str, Any]:
    place = bin_of(p)
    histogram = np.stack([np.bincount(place[y == k], minlength=BINS) for k in (0, 1)])
    chance = np.clip(np.where(y == 1, p, 1 - p), FLOOR, 1.0)
    above = [
        [int(np.count_nonzero((p >= t) & (y == k))) for k in (0, 1)] for t in values["thresholds"]
    ]
    return {
        "histogram": histogram,
        "predicted": np.bincount(place, weights=p, minlength=BINS),
        "losses": np.array([((p - y) ** 2).sum(), -np.log(chance).sum()]),
        "above": np.array(above, dtype=np.int64).reshape(len(values["thresholds"]), 2),
    }


def _classes(values: Mapping[str, Any], p: Floats, y: Floats) -> dict[str, Any]:
    k, label = values["classes"], y.astype(np.int64)
    confusion = np.zeros((k, k), dtype=np.int64)
    np.add.at(confusion, (label, p.argmax(axis=1) if len(p) else label), 1)
    chance = np.clip(p[np.arange(len(label)), label], FLOOR, 1.0)
    histograms = np.stack(
        [
            np.stack(
                [
                    np.bincount(bin_of(p[:, c])[(label == c) == hit], minlength=BINS)
                    for hit in (False, True)
                ]
            )
            for c in range(k)
        ]
    )
    return {
        "confusion": confusion,
        "losses": np.array([-np.log(chance).sum()]),
        "histograms": histograms,
    }


def _number(values: Mapping[str, Any], f: Floats, y: Floats) -> dict[str, Any]:
    """Sums of y, y^2, (y - f)^2, |y - f|, f, and f^2 in units of 2**exponent."""
    e = -values["exponent"]
    y, f = np.ldexp(y, e), np.ldexp(f, e)
    r = y - f
    return {"sums": np.array([y.sum(), y @ y, r @ r, np.abs(r).sum(), f.sum(), f @ f])}
