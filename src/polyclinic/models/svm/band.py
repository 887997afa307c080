"""Rows whose margin is near, and the sums of all others, for a hinge in one trust domain.

Of a row that misses its margin by u, |u| > width, at some coefficients nearby ones change the loss
along a line: u where u > 0, and nothing where u < 0. As max(0, u) is no less than either of both,
the sum in which far rows count by their lines is nowhere above the true one, and its optimum no
higher. So far rows are added once, rounds go over near ones, and one round over all rows shows
how far the objective at the optimum so found can be from its own.

What leaves the site is a sum over all rows, which only a trust domain may ask for: no gate judges
it, so a plan with a band crosses no border.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.glm.kernel import BLOCK_ROWS, Rows
from polyclinic.models.svm import compiled
from polyclinic.models.svm.kernel import Question, Sums
from polyclinic.models.svm.rows import exponents, question, shift_of
from polyclinic.models.trees.kernels import compiled as there_is_numba

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Of one machine.

    near    the rows that are near
    weight  of far rows that miss their margin, summed
    slope   their weights times side and columns, summed, the intercept first, (d,)
    """

    near: Rows
    weight: float
    slope: Floats

    def with_far(self, near: Sums, asked: Question) -> Sums:
        """Sums over all rows, from those over the near ones."""
        far = self.weight - asked.theta @ self.slope
        gradient = near.gradient - self.slope if near.gradient.size else near.gradient
        return replace(
            near,
            loss=near.loss + far,
            sharp=near.sharp + far,
            dual=near.dual + self.weight,
            gradient=gradient,
        )


def band_of(plan: Plan, partition: Partition, rows: Rows) -> Band | None:
    """The band that a plan asks for; kept until there is another one. None: all rows are near."""
    wanted = plan.values["state"].get("band")
    if wanted is None:
        return None
    name = plan.once("svm band", lambda: codec.digest([plan.values["spec"], _about(plan)]))
    kept: tuple[str, Band] | None = partition.cache.get("svm band")
    if kept is None or kept[0] != name:
        theta = np.ldexp(np.asarray(wanted["theta"]), -exponents(plan))
        asked = replace(question(plan), theta=theta[None])
        kept = name, parted(rows, asked, float(wanted["width"]), shift_of(plan), partition.n_rows)
        partition.cache["svm band"] = kept
    return kept[1]


def _about(plan: Plan) -> list[Any]:
    """All that decides which rows are near, and what the others add."""
    state = plan.values["state"]
    return [dict(state["band"]), state["shift"], state["class_weight"], state["machine"][:1]]


def parted(
    rows: Rows, asked: Question, width: float, shift: Floats | None, of_rows: int = 0
) -> Band:
    """Near and far rows by the margins at `asked.theta` (1, d)."""
    lead, p = int(asked.intercept), rows.x.shape[1]
    quick = max(len(rows.y), of_rows) >= compiled.LEAST_ROWS and rows.x.flags.c_contiguous
    own = np.zeros(0) if rows.weight is None else rows.weight
    slope, near = np.zeros(p + 1), np.empty(len(rows.y), dtype=bool)
    if quick and there_is_numba():
        theta = np.append(np.zeros(1 - lead), asked.theta[0])
        off = np.zeros(p) if shift is None else shift
        given = (rows.x, rows.y, own, asked.weight[0], float(asked.machine[0]), theta, off)
        weight = compiled.parted(*given, width, slope, near)
    else:
        weight = 0.0
        for at, x in rows.blocks(shift, BLOCK_ROWS):
            y = rows.y[at]
            side = asked.side(y)[:, 0]
            f = x @ asked.theta[0, lead:] + (asked.theta[0, 0] if lead else 0.0)
            missed = 1.0 - side * f
            near[at] = ~(np.abs(missed) > width)
            w = asked.weights(y, own[at] if len(own) else None)
            each = (missed > width) * (1.0 if w is None else w[:, 0])
            weight += float(each.sum())
            slope[0] += each @ side
            slope[1:] += (each * side) @ x
    at_hand = np.flatnonzero(near)
    x, y = rows.x.take(at_hand, axis=0), rows.y.take(at_hand)
    kept = None if rows.weight is None else rows.weight.take(at_hand)
    return Band(Rows(x, y, kept, None), float(weight), slope[1 - lead :])
