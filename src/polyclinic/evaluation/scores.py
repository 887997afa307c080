"""Scoring rows where they are, and the sums from which every measure is computed.

What leaves the site: for two classes the number of rows with and without the event per bin of
predicted risk (2000 bins), the sum of predicted risks per bin, two loss sums and decision counts;
for more classes a confusion matrix, a loss sum and one histogram per class; for numbers six sums.
No bin holds fewer than `least` patients: risks are first replaced by the mean of that many patients
with neighbouring risks (microaggregation; Defays & Anwar, *J. Official Statistics* 14, 1998), which
moves an AUROC by about 1e-4. Where a plan asks for less than the site's policy, the gate sees it in
the smallest group. A class that is predicted for fewer is not predicted.
A subgroup of too few patients at a site is hidden by the gate: its sums are zeroed and flagged. So
is one in which a patient or two make up nearly all of a sum, and its losses where few patients have
the outcome, or have it not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.exposure import Exposure
from polyclinic.core.groups import (
    behind_bins,
    behind_thresholds,
    group_size,
    groups_of,
    means,
)
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation import exposure as judged
from polyclinic.evaluation.exposure import FLOOR
from polyclinic.evaluation.metrics import BINS, bin_of
from polyclinic.evaluation.rows import Scored, chosen, scored

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ScoresTask:
    """The sums; "outcome" in the plan is binary, classes or number."""

    name: str = "evaluation.scores"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        leaves = self._sums(plan)
        if plan.combine == "collect":
            return tuple(replace(leaf, small="hide") for leaf in leaves)
        if plan.values.get("where") is None:
            return leaves
        return tuple(replace(leaf, support="cells", small="hide") for leaf in leaves)

    def _sums(self, plan: Plan) -> tuple[Leaf, ...]:
        n = Leaf("n", (), "count", "int64", unit="rows")
        if plan.values["outcome"] == "binary":
            above = (len(plan.values["thresholds"]), 2)
            return (
                n,
                Leaf("histogram", (2, BINS), "histogram", "int64", unit="rows", support="cells"),
                Leaf("predicted", (BINS,), "sum", support="cells"),
                Leaf("losses", (2,), "sum"),
                Leaf("above", above, "count", "int64", unit="rows", support="cells"),
            )
        if plan.values["outcome"] == "classes":
            k = plan.values["classes"]
            return (
                n,
                Leaf("confusion", (k, k), "cross-table", "int64", unit="rows", support="cells"),
                Leaf("losses", (1,), "sum"),
                Leaf(
                    "histograms", (k, 2, BINS), "histogram", "int64", unit="rows", support="cells"
                ),
            )
        return (n, Leaf("sums", (6,), "sum"))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Values of the predictors' terms, outcomes and folds."""
        return judged.slots(plan)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the sums, and one candidate; none for a subgroup."""
        return judged.candidates(plan)

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """The patients who are scored; of a subgroup their shares in every array."""
        found = judged.exposure(plan, partition, alone=False)
        if judged.whole_rows(plan):
            return found
        most = judged.worst(judged.shares_of(plan, partition, chosen(plan, partition)))
        return replace(found, cells={leaf.name: most for leaf in self._sums(plan)})

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = scored(plan, partition)
        make = {"binary": _binary, "classes": _classes, "number": _number}[plan.values["outcome"]]
        found, cells = make(plan.values, rows)
        leaves = {"n": len(rows.outcome), **found}
        if judged.whole_rows(plan):
            return Contribution(leaves, Evidence(rows.patients, cells))
        behind = min(rows.patients, judged.carried(plan, rows))
        whole = {leaf.name: np.full(leaf.shape, behind) for leaf in self._sums(plan)}
        for name, counts in cells.items():
            cells[name] = np.minimum(counts, whole[name])
        if "losses" in whole:
            whole["losses"] = np.minimum(whole["losses"], _of_rarest_outcome(rows))
        return Contribution(leaves, Evidence(partition.n_patients, {**whole, **cells}))


Sums = tuple[dict[str, Any], dict[str, Any]]  # leaves, and patients behind their entries


def _of_rarest_outcome(rows: Scored) -> int:
    """Patients with the outcome that fewest of them have; the losses of all but one outcome are
    known from other sums."""
    counts = [len(np.unique(rows.keys[rows.outcome == k])) for k in np.unique(rows.outcome)]
    return min(counts, default=0)


def _binary(values: Mapping[str, Any], rows: Scored) -> Sums:
    y, exact, keys = rows.outcome, rows.predicted, rows.keys
    group = groups_of(exact, keys, group_size(values["least"]))
    p, thresholds = means(exact, group), values["thresholds"]
    place = bin_of(p)
    histogram = np.stack([np.bincount(place[y == k], minlength=BINS) for k in (0, 1)])
    chance = np.clip(np.where(y == 1, exact, 1 - exact), FLOOR, 1.0)
    above = [[int(np.count_nonzero((p >= t) & (y == k))) for k in (0, 1)] for t in thresholds]
    behind = behind_bins(place, group, keys, BINS)
    decided = behind_thresholds(p, group, keys, thresholds)
    leaves = {
        "histogram": histogram,
        "predicted": np.bincount(place, weights=p, minlength=BINS),
        "losses": np.array([((exact - y) ** 2).sum(), -np.log(chance).sum()]),
        "above": np.array(above, dtype=np.int64).reshape(len(thresholds), 2),
    }
    return leaves, {
        "histogram": np.stack([behind, behind]),
        "predicted": behind,
        "above": np.stack([decided, decided], axis=1),
    }


def _classes(values: Mapping[str, Any], rows: Scored) -> Sums:
    p, k, label = rows.predicted, values["classes"], rows.outcome.astype(np.int64)
    least = group_size(values["least"])
    confusion = np.zeros((k, k), dtype=np.int64)
    said, many = _said(p, rows.keys, least)
    np.add.at(confusion, (label, said), 1)
    chance = np.clip(p[np.arange(len(label)), label], FLOOR, 1.0)
    histograms = np.zeros((k, 2, BINS), dtype=np.int64)
    behind = np.zeros((k, 2, BINS), dtype=np.int64)
    for c in range(k):
        group = groups_of(p[:, c], rows.keys, least)
        place = bin_of(means(p[:, c], group))
        behind[c] = behind_bins(place, group, rows.keys, BINS)
        for hit in (False, True):
            histograms[c, int(hit)] = np.bincount(place[(label == c) == hit], minlength=BINS)
    leaves = {
        "confusion": confusion,
        "losses": np.array([-np.log(chance).sum()]),
        "histograms": histograms,
    }
    return leaves, {"confusion": np.tile(many, (k, 1)), "histograms": behind}


def _said(p: Floats, keys: Ints, least: int) -> tuple[Ints, Ints]:
    """The likeliest class of each row among those said of `least` patients or more; patients per
    class, (classes,)."""
    left = np.ones(p.shape[1], dtype=bool)
    while True:
        said = np.where(left, p, -1.0).argmax(axis=1)
        many = np.array([len(np.unique(keys[said == c])) for c in range(p.shape[1])])
        few = (many > 0) & (many < least)
        if not few.any() or left.sum() == 1:
            return said, many
        left[np.where(few, many, len(p) + 1).argmin()] = False


def _number(values: Mapping[str, Any], rows: Scored) -> Sums:
    """Sums of y, y^2, (y - f)^2, |y - f|, f, and f^2 in units of 2**exponent."""
    e = -values["exponent"]
    y, f = np.ldexp(rows.outcome, e), np.ldexp(rows.predicted, e)
    r = y - f
    return {"sums": np.array([y.sum(), y @ y, r @ r, np.abs(r).sum(), f.sum(), f @ f])}, {}
