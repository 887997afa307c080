"""The site's half of a GLM under differential privacy: sums in which every patient is bounded.

A row is the vector x of its terms, centred and scaled by declared ranges, cut to [-1, 1], with a
leading 1. It has the weight w = min(1, R^2 / |x|^2) / m, where m rows belong to its patient: a
patient with m rows counts like m rows of weight 1/m. The weight does not depend on the outcome,
so it shifts no coefficient. What leaves the site, with noise from the gate, is one array per round:

    least squares   sum of w v v' with v = (x, y), |y| <= 1: L2 norm R^2 + 1 at most
    logistic        sum of w (r x, k m (1 - m) x x' / R), r = m - y: L2 norm R at most
    Poisson         the same over B, the largest count, with the mean m cut to B / 2

Off-diagonal entries carry sqrt(2), so that the norm of a packed matrix is its Frobenius norm. In
the last two the Hessian is free: where m (1 - m) is large, |r| is not. No useful L1 norm bounds
them, so the noise is Gaussian; a plan without noise is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.family import FAMILIES
from polyclinic.models.glm.rows import design_of
from polyclinic.models.private import BLOCK_CELLS, LOGISTIC_CURVATURE
from polyclinic.privacy.bounded import LARGEST_CLIP, SMALLEST_CLIP, BoundedSum
from polyclinic.privacy.noisy import noise_required

Floats = NDArray[np.float64]
POISSON_CURVATURE = math.sqrt(0.75)  # k: (m - y)^2 + 4 k^2 m^2 <= 1, y in [0, 1], m in [0, 1/2]


@dataclass(frozen=True)
class Block:
    """Rows of some patients, ready to be summed.

    x        (n_rows, 1 + n_terms), y (n_rows,), weight (n_rows,)
    patient  ordinal of each row's patient, None where each has one row
    """

    x: Floats
    y: Floats
    weight: Floats
    patient: NDArray[np.int64] | None


@dataclass(frozen=True)
class PrivateProductsTask:
    """Products of terms and outcome, for least squares. Plan values: those of `blocks`."""

    name: str = "glm.private_products"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        noise_required(plan)
        d = width_of(plan) + 1
        bound = _bound(plan.values["row_norm"] ** 2 + 1.0)
        return (Leaf("products", (packed_size(d),), "sum of products", bound=bound),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        (leaf,) = self.leaves(plan)
        bounded, total = BoundedSum(leaf.bound or 0.0, leaf.norm), np.zeros(leaf.shape)
        patients = 0
        for block in blocks(plan, partition, leaf.size):
            v = np.column_stack([block.x, block.y])
            found = bounded.of(pack_rows(v, block.weight), block.patient)
            total += found.total
            patients += found.patients
        return Contribution({leaf.name: total}, Evidence(patients))


@dataclass(frozen=True)
class PrivateNewtonTask:
    """Gradient and Hessian at "theta", in one array. Plan values: also those of `blocks`."""

    name: str = "glm.private_newton"
    version: int = 1
    grain: Grain = "patient"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        noise_required(plan)
        d = width_of(plan)
        if plan.values["theta"].shape != (d,):
            raise _bad("theta does not fit the design")
        return (
            Leaf(
                "derivatives",
                (d + packed_size(d),),
                "gradient and Hessian",
                bound=_bound(plan.values["row_norm"]),
            ),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        (leaf,) = self.leaves(plan)
        bounded, total = BoundedSum(leaf.bound or 0.0, leaf.norm), np.zeros(leaf.shape)
        radius, patients = float(plan.values["row_norm"]), 0
        for block in blocks(plan, partition, leaf.size):
            residual, curvature = row_derivatives(plan, block)
            gradient = block.x * (block.weight * residual)[:, None]
            hessian = pack_rows(block.x, block.weight * curvature / radius)
            found = bounded.of(np.hstack([gradient, hessian]), block.patient)
            total += found.total
            patients += found.patients
        return Contribution({leaf.name: total}, Evidence(patients))


def row_derivatives(plan: Plan, block: Block) -> tuple[Floats, Floats]:
    """Residual and scaled second derivative per row, (n_rows,) each, together of norm 1 at most."""
    eta = np.zeros(len(block.y))
    # Column by column: a matrix product may round a row differently beside other rows.
    for column, coefficient in zip(block.x.T, plan.values["theta"], strict=True):
        eta += column * coefficient
    if plan.values["family"] == "binomial":
        mean = FAMILIES["binomial"].mean(eta)
        return mean - block.y, LOGISTIC_CURVATURE * mean * (1.0 - mean)
    largest = float(plan.values["largest"])
    mean = np.exp(np.minimum(eta, math.log(largest / 2.0))) / largest
    return mean - block.y, 2.0 * POISSON_CURVATURE * mean


def blocks(plan: Plan, partition: Partition, cells: int) -> Iterator[Block]:
    """The plan's rows in blocks that hold whole patients.

    Plan values: design, family, rows ({} or folds and without), centre and unit (n_terms,) of the
    terms, row_norm R, and of the outcome: outcome_centre and outcome_unit ("gaussian") or largest
    ("poisson"). None of them comes from rows.

    Raises
    ------
    PolyclinicError : BAD_DATA for an outcome that the family cannot have.
    """
    for part in partition.chunks(max(BLOCK_CELLS // max(cells, 1), 64)):
        yield _block(plan, part)


def _block(plan: Plan, part: Partition) -> Block:
    design, values, chosen = design_of(plan), plan.values, plan.values["rows"]
    x, y = design.matrix(part.columns, part.site), part.columns[design.response]
    keys = part.key
    if "folds" in chosen:
        kept = part.keys % chosen["folds"] != chosen["without"]
        x, y, keys = x[kept], y[kept], None if keys is None else keys[kept]
    full = np.ones((len(y), x.shape[1] + 1))
    full[:, 1:] = np.clip((x - values["centre"]) / values["unit"], -1.0, 1.0)
    norm = np.zeros(len(y))
    for column in full.T:
        norm += column * column
    weight = np.minimum(1.0, values["row_norm"] ** 2 / norm)
    if keys is not None:
        _, where, rows = np.unique(keys, return_inverse=True, return_counts=True)
        weight = weight / rows[where]
    return Block(full, _outcome(plan, y), weight, keys)


def _outcome(plan: Plan, y: Floats) -> Floats:
    family = plan.values["family"]
    if np.any(FAMILIES[family].invalid(y)):
        raise PolyclinicError(
            "a row holds an outcome that this model cannot have",
            code="BAD_DATA",
            rule="the outcome is a number, 0 or 1, or a count, as the family says",
            next="run the quality check at the hospital: polyclinic check",
        )
    if family == "gaussian":
        scaled = (y - plan.values["outcome_centre"]) / plan.values["outcome_unit"]
        return np.asarray(np.clip(scaled, -1.0, 1.0))
    if family == "poisson":
        return np.asarray(np.minimum(y / plan.values["largest"], 1.0))
    return y


def width_of(plan: Plan) -> int:
    """Terms and the constant, after a look at what the plan says. Raises BAD_MESSAGE."""
    values, p = plan.values, len(design_of(plan).terms)
    family = values["family"]
    scales = {"gaussian": "outcome_unit", "poisson": "largest"}
    positive = [values["row_norm"], *np.ravel(values["unit"])]
    positive += [values[scales[family]]] if family in scales else []
    fits = values["centre"].shape == values["unit"].shape == (p,)
    if not (fits and all(0.0 < float(v) < math.inf for v in positive)):
        raise _bad("the scales of the plan do not fit its design")
    return p + 1


def packed_size(d: int) -> int:
    """Entries of the upper triangle of a (d, d) matrix."""
    return d * (d + 1) // 2


def pack_rows(v: Floats, weight: Floats) -> Floats:
    """Upper triangle of weight * v v' per row, off the diagonal times sqrt(2)."""
    first, second = np.triu_indices(v.shape[1])
    factor = np.where(first == second, 1.0, math.sqrt(2.0))
    return np.asarray(v[:, first] * v[:, second] * factor * weight[:, None])


def unpack_norm(packed: Floats, d: int) -> Floats:
    """The symmetric (d, d) matrix that `pack_rows` packed."""
    full = np.zeros((d, d))
    full[np.triu_indices(d)] = packed
    full += np.triu(full, 1).T
    root = np.where(np.eye(d, dtype=bool), 1.0, math.sqrt(0.5))
    return np.asarray(full * root)


def _bound(value: Any) -> float:
    bound = float(value)
    if not SMALLEST_CLIP <= bound <= LARGEST_CLIP:
        raise _bad("the plan bounds no row")
    return bound


def _bad(what: str) -> PolyclinicError:
    return PolyclinicError(what, code="BAD_MESSAGE", rule="a plan says how far a row can reach")


tasks = [PrivateProductsTask(), PrivateNewtonTask()]
