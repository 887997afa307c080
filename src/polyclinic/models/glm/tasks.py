"""The site's half of generalised linear models.

What leaves the site, each as a sum over its rows: counts, first and second moments of the terms
and of the outcome; at given coefficients the loss, its gradient and its Hessian; on request the
outer products of score vectors for robust standard errors. No row leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.exposure import Exposed
from polyclinic.models.glm.family import FAMILIES, MULTINOMIAL
from polyclinic.models.glm.kernel import (
    BLOCK_ROWS,
    Derivatives,
    Rows,
    many_predictors,
    one_predictor,
)
from polyclinic.models.glm.rows import design_of, invalid, rows_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MomentsTask(Exposed):
    """Counts and moments; with "shift" in the plan, second moments about it."""

    name: str = "glm.moments"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        p, classes = len(design_of(plan).terms), plan.values["classes"]
        return (
            Leaf("n", (), "count", "int64", unit="rows"),
            Leaf("patients", (), "count", "int64", unit="patients"),
            Leaf("invalid", (), "count", "int64", unit="rows"),
            Leaf("counts", (classes,), "count", "int64", unit="rows"),
            Leaf("class_weights", (classes,), "sum"),
            Leaf("x", (p,), "sum"),
            Leaf("xx", (p,), "sum of squares"),
            Leaf("outcome", (5,), "sum"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        design, rows, patients = design_of(plan), *rows_of(plan, partition)
        classes = plan.values["classes"]
        shift = plan.values.get("shift")
        raw_shift = np.ldexp(shift, design.exponents) if shift is not None else None
        x, xx = _column_sums(rows, raw_shift)
        e = design.exponents
        weight = np.ones(len(rows.y)) if rows.weight is None else rows.weight
        counts, by_class = _class_counts(rows.y, rows.weight, classes)
        return Contribution(
            {
                "n": int(np.count_nonzero(weight))
                if "folds" in plan.values["rows"]
                else len(weight),
                "patients": patients,
                "invalid": int(np.count_nonzero(invalid(plan, rows.y))),
                "counts": counts,
                "class_weights": by_class,
                "x": np.ldexp(x, -e),
                "xx": np.ldexp(xx, -2 * e),
                "outcome": _outcome(plan, rows, weight),
            },
            Evidence(patients),
        )


def _column_sums(rows: Rows, shift: Floats | None) -> tuple[Floats, Floats]:
    """Sums of every column and of its squares, (n_terms,) each."""
    n_rows, p = rows.x.shape
    x, xx, squares = np.zeros(p), np.zeros(p), np.empty((min(n_rows, BLOCK_ROWS), p))
    ones = np.ones(len(squares))
    with np.errstate(over="ignore", invalid="ignore"):  # the ring refuses what is not finite
        for at, block in rows.blocks(shift):
            weight = ones[: len(block)] if rows.weight is None else rows.weight[at]
            x += weight @ block
            xx += weight @ np.multiply(block, block, out=squares[: len(block)])
    return x, xx


def _class_counts(
    y: Floats, weight: Floats | None, classes: int
) -> tuple[NDArray[np.int64], Floats]:
    if not classes:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    label = np.clip(np.nan_to_num(y), 0, classes - 1).astype(np.int64)
    if weight is None:
        counts = np.array([np.count_nonzero(label == k) for k in range(classes)], dtype=np.int64)
        return counts, counts.astype(np.float64)
    counts = np.bincount(label[weight != 0], minlength=classes).astype(np.int64)
    return counts, np.bincount(label, weights=weight, minlength=classes).astype(np.float64)


def _outcome(plan: Plan, rows: Rows, weight: Floats) -> Floats:
    """Sums of weight, w y, w y^2, and of the family's saturated loss and constant."""
    y = rows.y
    if plan.values["family"] == MULTINOMIAL:
        return np.array([weight.sum(), 0.0, 0.0, 0.0, 0.0])
    family = FAMILIES[plan.values["family"]]
    good = ~invalid(plan, y)
    y, weight = y[good], weight[good]
    return np.array(
        [
            weight.sum(),
            weight @ y,
            weight @ (y * y),
            weight @ family.saturated(y),
            weight @ family.constant(y),
        ]
    )


@dataclass(frozen=True)
class DerivativesTask(Exposed):
    """Loss, gradient and Hessian at candidate coefficients "theta" (m, size)."""

    name: str = "glm.derivatives"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        m, size = plan.values["theta"].shape
        order = plan.values["order"]
        leaves = [
            Leaf("too_large", (m,), "flag", "int64", support="weights"),
            Leaf("loss", (m,), "loss", support="weights"),
        ]
        if order >= 1:
            gradient = Leaf("gradient", (m, size), "gradient", support="weights", lossy=True)
            leaves.append(gradient)
        if order == 2:
            packed = size * (size + 1) // 2
            leaves.append(Leaf("hessian", (m, packed), "Hessian", support="weights"))
        return tuple(leaves)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows, patients = rows_of(plan, partition)
        sums = derivatives(plan, rows, plan.values["theta"], plan.values["order"])
        lost = sums.too_large
        values: dict[str, Any] = {"loss": sums.loss}
        if plan.values["order"] >= 1:
            values["gradient"] = sums.gradient
        if plan.values["order"] == 2:
            values["hessian"] = sums.hessian[(slice(None), *np.triu_indices(sums.hessian.shape[1]))]
        for array in values.values():
            array[lost] = 0.0
        values["too_large"] = lost.astype(np.int64)
        return Contribution(values, Evidence(patients))


def derivatives(plan: Plan, rows: Rows, theta: Floats, order: int) -> Derivatives:
    """Derivatives with respect to coefficients of the scaled, shifted terms."""
    design, family = design_of(plan), plan.values["family"]
    if theta.shape[1] % (len(design.terms) + int(design.intercept)):
        raise PolyclinicError("theta does not fit the design", code="BAD_MESSAGE")
    lead = np.zeros(int(design.intercept), dtype=np.int64)
    e = np.concatenate([lead, design.exponents])
    shift = plan.values["shift"]
    raw_shift = np.ldexp(shift, design.exponents) if np.any(shift) else None
    e = np.tile(e, theta.shape[1] // len(e)) if len(e) else e
    at = np.ldexp(theta, -e)
    with np.errstate(over="ignore", invalid="ignore"):
        if family == MULTINOMIAL:
            classes = plan.values["classes"]
            raw = many_predictors(rows, classes, at, order, raw_shift, design.intercept)
        else:
            raw = one_predictor(rows, FAMILIES[family], at, order, raw_shift, design.intercept)
    gradient = np.ldexp(raw.gradient, -e) if order >= 1 else raw.gradient
    hessian = np.ldexp(raw.hessian, -(e[:, None] + e)) if order == 2 else raw.hessian
    return Derivatives(raw.loss, gradient, hessian)


@dataclass(frozen=True)
class InformationTask(Exposed):
    """At the final coefficients: expected information and Pearson's chi-square.

    Needed where the link is not canonical, so that the Hessian is not the information.
    """

    name: str = "glm.information"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = plan.values["theta"].shape[1]
        return (
            Leaf("pearson", (), "chi-square"),
            Leaf("information", (size * (size + 1) // 2,), "information"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        design, family = design_of(plan), FAMILIES[plan.values["family"]]
        rows, patients = rows_of(plan, partition)
        pearson, information = 0.0, np.zeros((plan.values["theta"].shape[1],) * 2)
        for full, eta, at in _scaled_blocks(design, rows, plan):
            w = np.ones(len(eta)) if rows.weight is None else rows.weight[at]
            mean = family.mean(eta)
            residual = rows.y[at] - mean
            pearson += float(w @ (residual * residual / family.variance(mean)))
            information += full.T @ (full * (w * family.information(eta))[:, None])
        packed = information[np.triu_indices(len(information))]
        return Contribution({"pearson": pearson, "information": packed}, Evidence(patients))


def _scaled_blocks(design: Design, rows: Rows, plan: Plan) -> Any:
    """Blocks of the scaled, shifted model matrix with intercept, and their linear predictor."""
    shift = np.ldexp(plan.values["shift"], design.exponents)
    theta = plan.values["theta"][0]
    for at, x in rows.blocks(shift):
        scaled = np.ldexp(x, -design.exponents)
        full = np.hstack([np.ones((len(x), 1)), scaled]) if design.intercept else scaled
        q = len(theta) // full.shape[1]
        eta = full @ theta.reshape(q, -1).T
        if rows.offset is not None:
            eta = eta + rows.offset[at, None]
        yield full, eta[:, 0] if q == 1 else eta, at


@dataclass(frozen=True)
class ScoresTask(Exposed):
    """Outer products of score vectors at the final coefficients, for robust standard errors.

    "by" in the plan: "row" adds every row's own (HC0); "site" the square of each site's summed
    score, for errors clustered by site.
    """

    name: str = "glm.scores"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        size = plan.values["theta"].shape[1]
        return (
            Leaf("clusters", (), "count", "int64"),
            Leaf("meat", (size * (size + 1) // 2,), "score products"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        design, size = design_of(plan), plan.values["theta"].shape[1]
        rows, patients = rows_of(plan, partition)
        meat, total = np.zeros((size, size)), np.zeros(size)
        for full, eta, at in _scaled_blocks(design, rows, plan):
            first = _first(plan, eta, rows.y[at])
            if rows.weight is not None:
                first = first * rows.weight[at, None]
            score = (first[:, :, None] * full[:, None, :]).reshape(len(full), size)
            meat += score.T @ score
            total += score.sum(axis=0)
        if plan.values["by"] == "site":
            meat = np.outer(total, total)
        packed = meat[np.triu_indices(size)]
        return Contribution({"clusters": 1, "meat": packed}, Evidence(patients))


def _first(plan: Plan, eta: Floats, y: Floats) -> Floats:
    if plan.values["family"] != MULTINOMIAL:
        return FAMILIES[plan.values["family"]].derivatives(eta, y)[1][:, None]
    top = np.maximum(eta.max(axis=1, keepdims=True), 0.0)
    e = np.exp(eta - top)
    p = e / (e.sum(axis=1, keepdims=True) + np.exp(-top))
    return np.asarray(p - (y[:, None] == np.arange(1, eta.shape[1] + 1)))


tasks = [MomentsTask(), DerivativesTask(), InformationTask(), ScoresTask()]
