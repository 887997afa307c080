"""The site's half of the R-learner: how a patient's columns change the effect.

With models of the treatment and of the outcome that were fitted without the patient's fold, beta
of tau(z) = z'beta minimises sum ((Y - m(x)) - (A - e(x)) z'beta)^2, m = (1 - e) m_0 + e m_1. That
is least squares of (Y - m) / (A - e) on z with weights (A - e)^2, so the sums, and the rules for
them, are those of a linear model.
Reference: Nie & Wager, Biometrika 108 (2021).

What leaves the site: gradient and Hessian of that linear model, and in a second round the products
of its patients' scores. No row leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.design import Design
from polyclinic.core.exposure import Exposure, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.effects.exposure import (
    MEANS,
    ODDS,
    STEEP,
    Rates,
    check_certain,
    folds_of,
    underneath,
    with_steep,
)
from polyclinic.models.effects.means import by_patient
from polyclinic.models.effects.rows import rows_of, spec_of
from polyclinic.models.effects.spec import Spec
from polyclinic.models.glm import exposure as glm_exposure
from polyclinic.models.glm import rows as glm_rows
from polyclinic.models.glm.spec import Spec as GLMSpec
from polyclinic.models.glm.tasks import derivatives

Floats = NDArray[np.float64]
LEFT, WEIGHT = "(effect)", "(weight)"  # columns that a site makes, under names that none can have


def linear_model(spec: Spec) -> GLMSpec:
    """The model of the modified effect."""
    bound = 2.0 * spec.design.response_bound / spec.trim
    read = {factor.column for term in spec.modifying for factor in term.factors}
    fills = {column: value for column, value in spec.design.fills.items() if column in read}
    design = Design(spec.modifying, LEFT, weight=WEIGHT, fills=fills, response_bound=bound)
    return GLMSpec(design, "gaussian")


def inside(plan: Plan) -> Plan:
    """The plan of that model at "effect" in the state, (1, k)."""

    def made() -> Plan:
        glm, theta = linear_model(spec_of(plan)), plan.values["state"]["effect"]
        values = glm.values(
            theta=theta,
            order=2,
            shift=np.zeros(len(glm.design.terms)),
            class_weight=np.zeros(0),
            response_exponent=glm.response_exponent,
        )
        return Plan("glm.derivatives", values)

    return plan.once("inside", made)


def with_effects(plan: Plan, partition: Partition) -> Partition:
    """The partition with (Y - m) / (A - e) and (A - e)^2 as columns."""
    spec, rows = spec_of(plan), rows_of(plan, partition)
    if rows.mean is None:
        raise ValueError("the R-learner needs models of the outcome")
    expected = (1.0 - rows.e) * rows.mean[:, 0] + rows.e * rows.mean[:, 1]
    treated = rows.a - rows.e
    left = np.ldexp((rows.y - expected) / treated, spec.outcome().response_exponent)
    columns = {**partition.columns, LEFT: left, WEIGHT: treated * treated}
    return replace(partition, columns=columns, cache={})


class Modifying:
    """A task of the R-learner: judged as the linear model that it is, and as its propensities."""

    def exposure(
        self, plan: Plan, partition: Partition, own: Mapping[str, NDArray[Any]]
    ) -> Exposure:
        """As both models; the patients behind it are those of all columns."""
        spec, rows, made = spec_of(plan), rows_of(plan, partition), with_effects(plan, partition)
        check_certain(spec, rows, ("propensity", "outcome"))
        found = glm_exposure.exposure(inside(plan), made, {}, _asked(plan))
        base = glm_exposure.exposure(underneath(plan), partition, {}, MEANS)
        weight = made.columns[WEIGHT][:, None]
        rates = with_steep(Rates(weight, {}), plan, rows, partition, ("propensity",))
        width = rates.weights.shape[1]
        columns = {name: _first_of(one, width) for name, one in found.columns.items()}
        columns |= {n: Shares.of(np.abs(v), partition.key) for n, v in rates.columns.items()}
        return replace(
            found,
            slots={**base.slots, **found.slots},
            joint={**base.joint, **found.joint},
            values={**base.values, **found.values},
            columns=columns,
            weights=Shares.of(rates.weights, partition.key),
            members=base.members,
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Those of both models."""
        one = glm_exposure.slots(inside(plan), _asked(plan))
        two = glm_exposure.slots(underneath(plan), MEANS)
        return tuple(dict.fromkeys((*one, *two)))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns, and the number of factors."""
        spec = spec_of(plan)
        names = glm_exposure.judged(linear_model(spec).design, _asked(plan))
        odds = tuple(f"{ODDS} {name}" for name in spec.matrix.names)
        return (*names, *odds), 1 + STEEP * folds_of(plan)


def _asked(plan: Plan) -> glm_exposure.Asked:
    return glm_exposure.Asked(plan.values["state"]["effect"], 2, False, True, True)


def _first_of(shares: Shares, width: int) -> Shares:
    """The shares as the first of so many, of which the others are empty."""
    parts = (shares.total, shares.squares, shares.first, shares.second)
    return Shares(*(np.concatenate([[part], np.zeros(width - 1)]) for part in parts))


@dataclass(frozen=True)
class ModifyTask(Modifying):
    """Gradient and Hessian of the linear model at "effect"."""

    name: str = "effects.modify"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = plan.values["state"]["effect"].shape[1]
        hessian = Leaf("hessian", (size * (size + 1) // 2,), "Hessian")
        return (Leaf("gradient", (size,), "gradient"), hessian)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows, patients = glm_rows.rows_of(inside(plan), with_effects(plan, partition))
        sums = derivatives(inside(plan), rows, plan.values["state"]["effect"], 2)
        hessian = sums.hessian[0][np.triu_indices(sums.hessian.shape[1])]
        return Contribution({"gradient": sums.gradient[0], "hessian": hessian}, Evidence(patients))


@dataclass(frozen=True)
class ModifyScoresTask(Modifying):
    """Products of the patients' scores at "effect", for errors that need no equal variances."""

    name: str = "effects.modify_scores"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = plan.values["state"]["effect"].shape[1]
        return (Leaf("meat", (size * (size + 1) // 2,), "score products"),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        made, glm = with_effects(plan, partition), linear_model(spec_of(plan))
        e, unit = glm.design.exponents, glm.response_exponent
        x = np.ldexp(glm.design.matrix(made.columns, made.site), -e)
        x = np.hstack([np.ones((len(x), 1)), x])
        left = np.ldexp(made.columns[LEFT], -unit) - x @ plan.values["state"]["effect"][0]
        scores = by_patient((made.columns[WEIGHT] * left)[:, None] * x, partition.key)
        meat = (scores.T @ scores)[np.triu_indices(x.shape[1])]
        return Contribution({"meat": meat}, Evidence(partition.n_patients))
