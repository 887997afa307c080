"""The site's half of average effects: sums behind the two means, and behind their errors.

What leaves the site: for each arm the sums U and V of a method (see `rows`), and their derivatives
in the coefficients of the models, as many numbers as the models have coefficients; in a second
round three sums of products of influences; where a hospital answers by name, ten sums of products
of its patients' parts. No row leaves. A coordinator could choose models under
which a few patients have nearly all of a weight, of a derivative or of an influence: such a sum
does not leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.effects.exposure import Judged, Rates, by_column, padded
from polyclinic.models.effects.rows import Rows, influence, parts, rows_of, spec_of, weights

Floats = NDArray[np.float64]
PART, INFLUENCE, WEIGHT = (
    "(part)",
    "(influence)",
    "(weight)",
)  # no term has a name that begins like these


@dataclass(frozen=True)
class MeansTask(Judged):
    """Sums of U and V for each arm under a method, and their derivatives in the models.

    "state": method, propensity (folds, p + 1), outcome (folds, 2, p + 1) where it is modelled.
    """

    name: str = "effects.means"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = len(spec_of(plan).covariates) + 1
        return (
            Leaf("u", (2,), "sum"),
            Leaf("v", (2,), "sum of weights"),
            Leaf("u_propensity", (2, size), "derivative"),
            Leaf("v_propensity", (2, size), "derivative"),
            Leaf("u_outcome", (2, size), "derivative"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows = rows_of(plan, partition)
        one = parts(spec_of(plan), plan.values["state"]["method"], rows)
        sums = {
            "u": one.u.sum(axis=0),
            "v": one.v.sum(axis=0),
            "u_propensity": one.u_e.T @ rows.x,
            "v_propensity": one.v_e.T @ rows.x,
            "u_outcome": one.u_m.T @ rows.x,
        }
        return Contribution(sums, Evidence(partition.n_patients))

    def uses(self, plan: Plan) -> tuple[str, ...]:
        return models_of(plan)

    def weights(self, plan: Plan) -> int:
        return 8

    def columns(self, plan: Plan) -> tuple[str, ...]:
        names = spec_of(plan).matrix.names
        return (PART, *names, *(f"{PART} {name}" for name in names))

    def rates(self, plan: Plan, rows: Rows) -> Rates:
        spec, method = spec_of(plan), plan.values["state"]["method"]
        one = parts(spec, method, rows)
        w, _, change = weights(spec, rows)
        weighted = method != "regression"
        factors = np.hstack([one.v, one.u_m, w * weighted, change * weighted])
        columns = {PART: padded(one.u, self.weights(plan))}
        columns |= by_column(spec, rows.x, factors)
        columns |= by_column(spec, rows.x, padded(one.u_e, self.weights(plan)), f"{PART} ")
        return Rates(factors, columns)


@dataclass(frozen=True)
class InfluenceTask(Judged):
    """Sums of products of the patients' influences on the two means: (0, 0), (0, 1), (1, 1).

    "state": as for the means, and mean (2,), by_propensity and by_outcome (2, p + 1) or empty:
    what a row's scores in the two models do to the means.
    """

    name: str = "effects.influence"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return (Leaf("products", (3,), "products of influences"),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        found = influence(spec_of(plan), plan.values["state"], rows_of(plan, partition))
        found = by_patient(found, partition.key)
        products = found.T @ found
        sums = products[np.triu_indices(2)]
        return Contribution({"products": sums}, Evidence(partition.n_patients))

    def uses(self, plan: Plan) -> tuple[str, ...]:
        used = models_of(plan)
        return used if not len(plan.values["state"]["by_propensity"]) else ("propensity", *used)

    def weights(self, plan: Plan) -> int:
        return 3

    def columns(self, plan: Plan) -> tuple[str, ...]:
        return (INFLUENCE,)

    def rates(self, plan: Plan, rows: Rows) -> Rates:
        spec, state = spec_of(plan), plan.values["state"]
        one, found = parts(spec, state["method"], rows), influence(spec, state, rows)
        both = np.abs(found[:, [0]] * found[:, [1]])
        # A third factor for a third product: whether a row is in the sums at all.
        factors = np.hstack([one.v, one.v.max(axis=1, keepdims=True)])
        return Rates(factors, {INFLUENCE: np.hstack([found**2, both])})


@dataclass(frozen=True)
class SquaresTask(Judged):
    """Sums of products of the patients' (u0, u1, v0, v1), for the errors of one hospital's means.

    "state" as for the means.
    """

    name: str = "effects.squares"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return (Leaf("products", (10,), "products of parts"),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        one = parts(spec_of(plan), plan.values["state"]["method"], rows_of(plan, partition))
        found = by_patient(np.hstack([one.u, one.v]), partition.key)
        products = (found.T @ found)[np.triu_indices(4)]
        return Contribution({"products": products}, Evidence(partition.n_patients))

    def uses(self, plan: Plan) -> tuple[str, ...]:
        return models_of(plan)

    def weights(self, plan: Plan) -> int:
        return 2

    def columns(self, plan: Plan) -> tuple[str, ...]:
        return (PART, WEIGHT)

    def rates(self, plan: Plan, rows: Rows) -> Rates:
        one = parts(spec_of(plan), plan.values["state"]["method"], rows)
        return Rates(one.v, {PART: one.u**2, WEIGHT: one.v**2})


def models_of(plan: Plan) -> tuple[str, ...]:
    """Models on which a method's sums depend."""
    found = {"ipw": ("propensity",), "regression": ("outcome",)}
    return found.get(plan.values["state"]["method"], ("propensity", "outcome"))


def by_patient(rows: Floats, key: NDArray[np.int64] | None) -> Floats:
    """Sums of each patient's rows, which stand together."""
    if key is None or not len(key):
        return rows
    found: Floats = np.add.reduceat(rows, np.flatnonzero(np.diff(key, prepend=key[0] - 1)), axis=0)
    return found
