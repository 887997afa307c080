"""The site's half of support vector machines.

What leaves the site, each as a sum over its rows: counts and moments of the columns; at given
coefficients the losses of the rows that a machine misses, their gradient and their Hessian; at
given coefficients and two numbers of a probability's curve, its log-likelihood with two
derivatives. No row leaves, so no support vector. In one trust domain, where nothing leaves, also
sums in which rows far from a margin count by a line (band.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.models.glm.kernel import TOO_LARGE
from polyclinic.models.own_moments import MomentsTask
from polyclinic.models.svm.band import band_of
from polyclinic.models.svm.exposure import CurveExposed, Exposed
from polyclinic.models.svm.kernel import sums
from polyclinic.models.svm.rows import curve, exponents, plain, question, rows_of, shift_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MachinesTask(Exposed):
    """Loss, gradient and Hessian at candidate coefficients "theta" (m, d)."""

    name: str = "svm.machines"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        m, d = question(plan).theta.shape
        order = int(plan.values["state"]["order"])
        leaves = [
            Leaf("too_large", (m,), "flag", "int64", support="weights"),
            Leaf("loss", (m,), "loss", support="weights"),
            Leaf("sharp", (m,), "loss", support="weights"),
            Leaf("dual", (m,), "sum", support="weights"),
        ]
        if order >= 1:
            leaves.append(Leaf("gradient", (m, d), "gradient", support="weights"))
        if order == 2:
            leaves.append(Leaf("hessian", (m, d * (d + 1) // 2), "Hessian", support="weights"))
        return tuple(leaves)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        rows, patients = rows_of(plan, partition)
        order, e = int(plan.values["state"]["order"]), exponents(plan)
        asked, shift, many = question(plan), shift_of(plan), partition.n_rows
        with np.errstate(over="ignore", invalid="ignore"):
            band = band_of(plan, partition, rows)
            found = sums(rows if band is None else band.near, asked, order, shift, many)
            found = found if band is None else band.with_far(found, asked)
        lost = found.too_large
        values: dict[str, Any] = {"loss": found.loss, "sharp": found.sharp, "dual": found.dual}
        if order >= 1:
            values["gradient"] = np.ldexp(found.gradient, -e)
        if order == 2:
            scaled = np.ldexp(found.hessian, -(e[:, None] + e))
            upper = plan.once("svm upper", lambda: np.triu_indices(len(e)))
            values["hessian"] = scaled[(slice(None), *upper)]
        for array in values.values() if lost.any() else ():
            array[lost] = 0.0
        return Contribution({**values, "too_large": lost.astype(np.int64)}, Evidence(patients))


@dataclass(frozen=True)
class PlattTask(CurveExposed):
    """Log-likelihood of a probability's curve, with two derivatives, at "theta" (m, 2)."""

    name: str = "svm.platt"
    version: int = 1
    grain: Grain = "row"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        m = len(plan.values["state"]["theta"])
        return (
            Leaf("too_large", (m,), "flag", "int64", support="weights"),
            Leaf("loss", (m,), "loss", support="weights"),
            Leaf("gradient", (m, 2), "gradient", support="weights"),
            Leaf("hessian", (m, 3), "Hessian", support="weights"),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        _, patients = rows_of(plan, partition)
        f, loss, first, second = curve(plan, partition)
        values: dict[str, Any] = {
            "loss": loss.sum(axis=0),
            "gradient": np.stack([(first * f).sum(axis=0), first.sum(axis=0)], axis=1),
            "hessian": np.stack(
                [(second * f * f).sum(axis=0), (second * f).sum(axis=0), second.sum(axis=0)],
                axis=1,
            ),
        }
        worst = np.max([np.abs(a.reshape(len(a), -1)).max(axis=1) for a in values.values()], axis=0)
        lost = ~(worst < TOO_LARGE)
        for array in values.values():
            array[lost] = 0.0
        return Contribution({**values, "too_large": lost.astype(np.int64)}, Evidence(patients))


tasks = [MomentsTask("svm.moments", plain), MachinesTask(), PlattTask()]
