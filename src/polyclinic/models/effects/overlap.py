"""The site's half of the diagnostics: are the two arms alike, and do their propensities overlap?

What leaves the site: for each arm, plain and weighted, sums of the weights, of the covariates, of
the outcome and of their squares; and the number of patients per arm in each of 20 parts of the
propensity, where enough of them are in it, five neighbours at their mean. No row leaves.
Reference: Austin & Stuart, Statistics in Medicine 34 (2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.groups import SMALLEST, behind_bins, groups_of, means
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.effects.exposure import Judged, Rates, by_column, padded
from polyclinic.models.effects.rows import Rows, rows_of, spec_of, weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 20
SQUARE, OUTCOME, OUTCOME_SQUARE = "(square of)", "(outcome)", "(square of the outcome)"
WEIGHT_SQUARE = "(square of a weight)"


@dataclass(frozen=True)
class OverlapTask(Judged):
    """Sums over the arms 0 and 1, plain and then weighted, and histograms of the propensity.

    "state": propensity (folds, p + 1).
    """

    name: str = "effects.overlap"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        p = len(spec_of(plan).covariates)
        return (
            Leaf("rows", (2,), "count", "int64", unit="rows"),
            Leaf("patients", (), "count", "int64", unit="patients"),
            Leaf("weight", (4,), "sum of weights"),
            Leaf("square", (4,), "sum of squared weights"),
            Leaf("x", (4, p), "sum"),
            Leaf("xx", (4, p), "sum of squares"),
            Leaf("y", (4,), "sum"),
            Leaf("yy", (4,), "sum of squares"),
            Leaf(
                "scores",
                (2, BINS),
                "histogram",
                "int64",
                support="cells",
                small="hide",
                closed=("last",),
            ),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = rows_of(plan, partition)
        rates = _weighted(plan, rows)
        x = rows.x[:, 1:]
        counts, behind = np.zeros((2, 2, BINS), np.int64)
        for arm in (0, 1):
            counts[arm], behind[arm] = _histogram(rows.score, partition.keys, rows.a == arm)
        sums = {
            "rows": np.array([np.count_nonzero(rows.a == arm) for arm in (0, 1)]),
            "patients": partition.n_patients,
            "weight": rates.sum(axis=0),
            "square": (rates * rates).sum(axis=0),
            "x": rates.T @ x,
            "xx": rates.T @ (x * x),
            "y": rates.T @ rows.y,
            "yy": rates.T @ (rows.y * rows.y),
            "scores": counts,
        }
        return Contribution(sums, Evidence(partition.n_patients, {"scores": behind}))

    def weights(self, plan: Plan) -> int:
        return 4

    def columns(self, plan: Plan) -> tuple[str, ...]:
        names = spec_of(plan).matrix.names
        squares = tuple(f"{SQUARE} {name}" for name in names)
        return (*names, *squares, OUTCOME, OUTCOME_SQUARE, WEIGHT_SQUARE)

    def rates(self, plan: Plan, rows: Rows) -> Rates:
        spec = spec_of(plan)
        arms = _weighted(plan, rows)
        factors = arms
        y = rows.y[:, None]
        columns = by_column(spec, rows.x, factors)
        columns |= by_column(spec, rows.x * rows.x, factors, f"{SQUARE} ")
        columns |= {OUTCOME: factors * y, OUTCOME_SQUARE: factors * y * y}
        columns[WEIGHT_SQUARE] = padded(arms * arms, factors.shape[1])
        return Rates(factors, columns)


def _histogram(score: Floats, keys: Ints, inside: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Rows per part of the propensity, and patients behind them, (BINS,) each.

    Neighbours in an arm count at their mean: who crosses an edge as coefficients move a little
    would show the arm that he is in.
    """
    score, keys = score[inside], keys[inside]
    group = groups_of(score, keys, SMALLEST)
    place = np.minimum((means(score, group) * BINS).astype(np.int64), BINS - 1)
    behind = behind_bins(place, group, keys, BINS) if len(score) else np.zeros(BINS, np.int64)
    return np.bincount(place, minlength=BINS).astype(np.int64), behind


def _weighted(plan: Plan, rows: Rows) -> Floats:
    """1 in the row's arm, then the row's weight in it, (n, 4); no weights for a regression."""
    w = weights(spec_of(plan), rows)[0]
    return np.hstack([rows.arms, w if spec_of(plan).method != "regression" else 0.0 * w])
