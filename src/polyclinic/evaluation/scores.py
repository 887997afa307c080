"""Scoring rows where they are, and the sums from which every measure is computed.

What leaves the site: for two classes the number of rows with and without the event per bin of
predicted risk (2000 bins), the sum of predicted risks per bin, two loss sums and decision counts;
for more classes a confusion matrix, a loss sum and one histogram per class; for numbers six sums.
No bin holds fewer than `least` patients: risks are first replaced by the mean of that many patients
with neighbouring risks (microaggregation; Defays & Anwar, *J. Official Statistics* 14, 1998), which
moves an AUROC by about 1e-4.
A subgroup of too few patients at a site is hidden by the gate: its sums are zeroed and flagged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.design import Design
from polyclinic.core.exposure import Exposure, Members
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation.metrics import BINS, bin_of
from polyclinic.models.glm.exposure import few_values
from polyclinic.models.glm.predictor import GLMPredictor
from polyclinic.models.predictor import Predictor, predictor_from

Floats = NDArray[np.float64]
FLOOR = 1e-15  # of a probability inside a logarithm


@dataclass(frozen=True)
class Scored:
    """Predictions (n_rows,) or (n_rows, classes), outcomes and patients (n_rows,) of the chosen
    rows."""

    predicted: Floats
    outcome: Floats
    keys: NDArray[np.int64]
    patients: int


def predictors_of(plan: Plan) -> list[Predictor]:
    """The predictors of a plan, made once."""
    return plan.once("predictors", lambda: [predictor_from(p) for p in plan.values["predictors"]])


def _designs(plan: Plan) -> list[Design]:
    """The different designs of the predictors."""
    found: list[Design] = []
    for predictor in predictors_of(plan):
        if isinstance(predictor, GLMPredictor) and predictor.design not in found:
            found.append(predictor.design)
    return found


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
    if plan.values.get("where") is None:
        return Scored(predicted, outcome, partition.keys, partition.n_patients)
    mask = _chosen(plan, partition)
    return Scored(predicted[mask], outcome[mask], partition.keys[mask], partition.patients(mask))


def _chosen(plan: Plan, partition: Partition) -> NDArray[np.bool_]:
    """The rows of the plan's subgroup; all rows without one."""
    where = plan.values.get("where")
    if where is None:
        return np.ones(partition.n_rows, dtype=bool)
    return np.asarray(partition.columns[where["column"]] == where["level"])


@dataclass(frozen=True)
class ScoresTask:
    """The sums; "outcome" in the plan is binary, classes or number."""

    name: str = "evaluation.scores"
    version: int = 1
    grain: Grain = "site"

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
                Leaf("histogram", (2, BINS), "histogram", "int64", unit="rows", support="cells"),
                Leaf("predicted", (BINS,), "sum", support="cells"),
                Leaf("losses", (2,), "sum"),
                Leaf("above", (thresholds, 2), "count", "int64", unit="rows"),
            )
        if plan.values["outcome"] == "classes":
            k = plan.values["classes"]
            return (
                n,
                Leaf("confusion", (k, k), "cross-table", "int64", unit="rows"),
                Leaf("losses", (1,), "sum"),
                Leaf(
                    "histograms", (k, 2, BINS), "histogram", "int64", unit="rows", support="cells"
                ),
            )
        return (n, Leaf("sums", (6,), "sum"))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Values of the predictors' columns, as in a fit, and folds."""
        names = dict.fromkeys(name for design in _designs(plan) for name in design.names)
        values = (f"{name} = {value}" for name in names for value in (0, 1))
        return (*values, *(f"fold {i}" for i in range(plan.values["folds"])))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """None."""
        return (), 0

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """The patients who are scored, by fold, and by value of the predictors' columns.

        A column that few have, or a predictor for few, would make a sum of scores one of theirs.
        """
        mask, folds = _chosen(plan, partition), plan.values["folds"]
        values: dict[str, dict[str, int]] = {}
        for design in _designs(plan):
            x = design.matrix(partition.columns, partition.site)
            values |= few_values(design, x, partition.key)
        fold = partition.keys % max(folds, 1)
        return Exposure(
            slots={f"fold {i}": partition.patients(fold == i) for i in range(folds)},
            values=values,
            members=(Members(("score",), np.unique(partition.persons[mask])),),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = scored(plan, partition)
        make = {"binary": _binary, "classes": _classes, "number": _number}[plan.values["outcome"]]
        found, cells = make(plan.values, rows)
        leaves = {"n": len(rows.outcome), **found}
        if plan.values.get("where") is None:
            return Contribution(leaves, Evidence(rows.patients, cells))
        whole = {leaf.name: np.full(leaf.shape, rows.patients) for leaf in self._sums(plan)}
        return Contribution(leaves, Evidence(partition.n_patients, {**whole, **cells}))


Sums = tuple[dict[str, Any], dict[str, Any]]  # leaves, and patients behind their entries


def _binary(values: Mapping[str, Any], rows: Scored) -> Sums:
    y, exact = rows.outcome, rows.predicted
    p = grouped(exact, rows.keys, values["least"])
    place = bin_of(p)
    histogram = np.stack([np.bincount(place[y == k], minlength=BINS) for k in (0, 1)])
    chance = np.clip(np.where(y == 1, exact, 1 - exact), FLOOR, 1.0)
    above = [
        [int(np.count_nonzero((p >= t) & (y == k))) for k in (0, 1)] for t in values["thresholds"]
    ]
    behind = _patients(place, rows.keys)
    leaves = {
        "histogram": histogram,
        "predicted": np.bincount(place, weights=p, minlength=BINS),
        "losses": np.array([((exact - y) ** 2).sum(), -np.log(chance).sum()]),
        "above": np.array(above, dtype=np.int64).reshape(len(values["thresholds"]), 2),
    }
    return leaves, {"histogram": np.stack([behind, behind]), "predicted": behind}


def _classes(values: Mapping[str, Any], rows: Scored) -> Sums:
    p, k, label = rows.predicted, values["classes"], rows.outcome.astype(np.int64)
    confusion = np.zeros((k, k), dtype=np.int64)
    np.add.at(confusion, (label, p.argmax(axis=1) if len(p) else label), 1)
    chance = np.clip(p[np.arange(len(label)), label], FLOOR, 1.0)
    histograms = np.zeros((k, 2, BINS), dtype=np.int64)
    behind = np.zeros((k, 2, BINS), dtype=np.int64)
    for c in range(k):
        place = bin_of(grouped(p[:, c], rows.keys, values["least"]))
        behind[c] = _patients(place, rows.keys)
        for hit in (False, True):
            histograms[c, int(hit)] = np.bincount(place[(label == c) == hit], minlength=BINS)
    leaves = {
        "confusion": confusion,
        "losses": np.array([-np.log(chance).sum()]),
        "histograms": histograms,
    }
    return leaves, {"histograms": behind}


def grouped(p: Floats, keys: NDArray[np.int64], least: int) -> Floats:
    """Each risk replaced by the mean over its group of neighbours, (n_rows,).

    Groups are cut along ascending risks, between different ones, as soon as `least` patients are
    in; what is left over at the end joins the last group.
    """
    if least <= 1 or not len(p):
        return p
    order = np.argsort(p, kind="stable")
    sorted_p, sorted_keys = p[order], keys[order]
    group = np.zeros(len(p), dtype=np.int64)
    inside: set[int] = set()
    number = 0
    for i, key in enumerate(sorted_keys.tolist()):
        if len(inside) >= least and sorted_p[i] != sorted_p[i - 1]:
            number, inside = number + 1, set()
        inside.add(key)
        group[i] = number
    if number and len(inside) < least:
        group[group == number] = number - 1
    mean = np.bincount(group, weights=sorted_p) / np.maximum(np.bincount(group), 1)
    out = np.empty_like(p)
    out[order] = mean[group]
    return out


def _patients(place: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Patients per bin, (BINS,)."""
    pairs = np.unique(np.stack([place, keys]), axis=1)
    return np.bincount(pairs[0], minlength=BINS).astype(np.int64)


def _number(values: Mapping[str, Any], rows: Scored) -> Sums:
    """Sums of y, y^2, (y - f)^2, |y - f|, f, and f^2 in units of 2**exponent."""
    e = -values["exponent"]
    y, f = np.ldexp(rows.outcome, e), np.ldexp(rows.predicted, e)
    r = y - f
    return {"sums": np.array([y.sum(), y @ y, r @ r, np.abs(r).sum(), f.sum(), f @ f])}, {}
