"""How patients share in the sums of a generalised linear model: what the gate judges.

The weight of a row is its second derivative at the plan's coefficients, the factor that it has in
the Hessian. Coefficients that are chosen so that every weight but one vanishes give themselves away
by the effective number of patients, and within one column by the shares in its weighted sum. Beside
them stand the residuals, the factor in the gradient: where all rows but one are fitted perfectly,
the gradient is that row. Classes that are so certain that no weight is left are never shown. The
moments before a fit are judged as the fit itself is, by the same
number of coefficients and by leverages; they have no candidates of which one could be left out.
Sums of the outcome are over the rows whose outcome the family can have, and judged on just these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.glm.family import FAMILIES, MULTINOMIAL
from polyclinic.models.glm.kernel import Rows
from polyclinic.models.glm.pairs import pair_counts, pair_slots, plain_counts
from polyclinic.models.glm.rows import class_of, design_of, drawn, invalid, rows_of
from polyclinic.models.glm.scale import unpack
from polyclinic.models.glm.support import (
    Data,
    factors_of,
    few_values,
    filled_counts,
    filled_slots,
    patients,
    product_counts,
    value_counts,
)

Floats = NDArray[np.float64]
Array = NDArray[Any]
NEAR = 1024
Own = Mapping[str, NDArray[Any]]
LOSS, RESIDUAL = "(loss)", "(residual of)"  # no term has a name that begins like these
OUTCOME, WEIGHT = "(outcome)", "(weight of the outcome)"
NOT_ALLOWED, ALLOWED = "outcome: not allowed", "outcome: allowed"


class Exposed:
    """A task of this family: says how patients share in what it sums."""

    name: str

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Of the rows of one partition in the round `plan`."""
        return exposure(plan, partition, own, _asked(self.name, plan))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Names of the levels that the plan itself names."""
        return slots(plan, _asked(self.name, plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns, and the number of candidates."""
        asked = _asked(self.name, plan)
        return judged(design_of(plan), asked), 1 if asked.theta is None else len(asked.theta)


@dataclass(frozen=True)
class Asked:
    """What a task sums, whatever else a plan says.

    theta       the candidates; None: sums without coefficients
    order       highest derivative
    flagged     whether a candidate can be left out of the answer
    residuals   whether losses and residuals are in the sums
    curved      whether patients have weights of their own in the sums of products of two columns
    """

    theta: Floats | None
    order: int
    flagged: bool
    residuals: bool
    curved: bool = False


def _asked(task: str, plan: Plan) -> Asked:
    if task == "glm.moments":
        return Asked(None, 2, False, False)
    theta = plan.values["theta"]
    weighted = plan.values["family"] != "gaussian" or bool(design_of(plan).weight)
    if task == "glm.derivatives":
        order = int(plan.values["order"])
        return Asked(theta, order, True, True, order == 2 and weighted)
    scores = task == "glm.scores"
    return Asked(theta[:1], 2, False, scores, scores or weighted)


def judged(design: Design, asked: Asked) -> tuple[str, ...]:
    """Names in `Exposure.columns`."""
    names = list(design.names) if asked.order >= 1 else []
    if asked.residuals:
        names += [LOSS, *(f"{RESIDUAL} {name}" for name in names)]
    return (*names, OUTCOME, WEIGHT) if asked.theta is None else tuple(names)


def exposure(plan: Plan, partition: Partition, own: Own, asked: Asked) -> Exposure:
    """Of the rows of one partition in the round `plan`."""
    design = design_of(plan)
    rows, _ = rows_of(plan, partition)
    inside = drawn(plan, partition)
    used = np.ones(len(rows.y), dtype=bool) if rows.weight is None else rows.weight != 0
    key = None if partition.key is None else partition.key[inside]
    kept = None if key is None else key[used]
    rates = _rates(plan, design, rows, asked.theta)
    second = rates[2] if asked.flagged else rates[2][:, 0]
    data = _data(plan, design, partition, inside, rows, used, kept)
    slots, values = _levels(plan, design, rows, used, key, data)
    return Exposure(
        coefficients=_size(design, asked.theta) if asked.order >= 1 else 0,
        slots=slots | pair_counts(design, data, asked.curved),
        joint=plain_counts(design, data) if asked.curved else {},
        values=values | value_counts(design, data),
        columns=_columns(plan, design, rows, rates, used, kept, asked),
        weights=Shares.of(_certain(plan, asked, second)[used], kept),
        leverage=_leverage(plan, design, rows, rates[2][:, 0], used, own, kept),
        levels=max((len(levels) + 1 for levels in groups(design).values()), default=0),
        alone=names_a_site(design, partition.site),
        members=_members(design, partition, inside, used),
    )


def _certain(plan: Plan, asked: Asked, second: Floats) -> Floats:
    """The weights, infinite for a row whose class is so certain that its weight has vanished.

    Where all have vanished no share tells of anybody, and the gradient is a sum over those on one
    side of a plane: less that of a plane a little beside it, one patient's record.
    """
    classes = plan.values["family"] in ("binomial", MULTINOMIAL)
    return (
        np.where(second == 0.0, np.inf, second) if classes and asked.theta is not None else second
    )


def slots(plan: Plan, asked: Asked) -> tuple[str, ...]:
    """Names of the levels that the plan itself names."""
    design, classes = design_of(plan), _classes(plan)
    names = (*design.names, *factors_of(design).names)
    found = [f"{name} = {value}" for name in names for value in (0, 1)]
    found += [f"{column}: other levels" for column in groups(design)]
    found += [f"outcome = {k}" for k in range(classes)]
    found += [NOT_ALLOWED, ALLOWED, *filled_slots(design)]
    return (*found, *pair_slots(design, classes, asked.curved))


def _classes(plan: Plan) -> int:
    """Outcomes that are counted one by one: classes, and those with a weight of their own."""
    weights = plan.values.get("class_weight")
    least = 2 if plan.values["family"] == "binomial" else 0
    return max(int(plan.values["classes"]), least, 0 if weights is None else len(weights))


def _members(
    design: Design, partition: Partition, inside: NDArray[np.bool_], used: NDArray[np.bool_]
) -> tuple[Members, ...]:
    """Of a column with gaps that are filled, the patients who have it; of the others all."""
    person = _where(_where(partition.persons, inside), used)
    columns = tuple(c for c in design.columns if c not in design.fills) or ("",)
    found = [Members(columns, person if np.all(np.diff(person) > 0) else np.unique(person))]
    for column in design.columns:
        if column in design.fills:
            known = ~np.isnan(partition.columns[column][inside][used])
            found.append(Members((column,), np.unique(person[known])))
    return tuple(found)


def _size(design: Design, theta: Floats | None) -> int:
    return len(design.terms) + int(design.intercept) if theta is None else theta.shape[1]


def _rates(plan: Plan, design: Design, rows: Rows, theta: Floats | None) -> Floats:
    """Size of each row's loss and of its first and second derivative at each candidate, (3, n, m).

    Without candidates all are the row's own weight, (3, n, 1).
    """
    own = np.ones(len(rows.y)) if rows.weight is None else np.abs(rows.weight)
    if theta is None:
        return np.repeat(own[None, :, None], 3, axis=0)
    lead = int(design.intercept)
    width = rows.x.shape[1] + lead
    e = np.concatenate([np.zeros(lead, dtype=np.int64), design.exponents])
    shift = np.ldexp(plan.values["shift"], design.exponents)
    out = np.empty((3, len(rows.y), len(theta)))
    with np.errstate(over="ignore", invalid="ignore"):
        for k, one in enumerate(theta):
            beta = np.ldexp(one.reshape(-1, width), -e)
            eta = (rows.x - shift) @ beta[:, lead:].T
            if lead:
                eta = eta + beta[:, 0]
            if rows.offset is not None:
                eta = eta + rows.offset[:, None]
            found = _derivatives(plan.values["family"], eta, rows.y, plan.values["classes"])
            out[:, :, k] = own * np.abs(found)
    return out


def _derivatives(family: str, eta: Floats, y: Floats, classes: int) -> Floats:
    """Loss, first and second derivative per row, (3, n_rows); sums over classes."""
    if family != MULTINOMIAL:
        return np.stack(FAMILIES[family].derivatives(eta[:, 0], y))
    if eta.shape[1] < classes:
        eta = np.hstack([np.zeros((len(eta), 1)), eta])
    at, label = np.arange(len(y)), np.clip(y, 0, classes - 1).astype(np.int64)
    p = np.exp(eta - eta.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    first = 1.0 - p[at, label]
    loss = -np.log(np.maximum(p[at, label], np.finfo(np.float64).tiny))
    return np.stack([loss, 2.0 * first, (p * (1.0 - p)).sum(axis=1)])


def _columns(
    plan: Plan,
    design: Design,
    rows: Rows,
    rates: Floats,
    used: NDArray[np.bool_],
    kept: NDArray[np.int64] | None,
    asked: Asked,
) -> dict[str, Shares]:
    """Shares in the sums of each column under its weights and its residuals, as `judged` names."""
    loss, first, second = rates[:, used] if asked.flagged else rates[:, used, 0]
    found = {}
    if asked.order >= 1:
        for name, x in zip(design.names, _magnitudes(design, _where(rows.x, used)), strict=True):
            x = x[:, None] if asked.flagged else x
            found[name] = Shares.of((x * x if asked.order == 2 else x) * second, kept)
            if asked.residuals:
                found[f"{RESIDUAL} {name}"] = Shares.of(x * first, kept)
    if asked.theta is None:
        good = ~invalid(plan, rows.y[used])
        y = np.where(good, rows.y[used], 0.0) if plan.values["family"] != MULTINOMIAL else 0.0
        found[OUTCOME] = Shares.of(second * y * y, kept)
        found[WEIGHT] = Shares.of(second * good, kept)
    elif asked.residuals:
        found[LOSS] = Shares.of(loss, kept)
    return {name: found[name] for name in judged(design, asked)}


def _where(values: Array, used: NDArray[np.bool_]) -> Array:
    """`values[used]`, without a copy where that is all of them."""
    return values if used.all() else values[used]


def _magnitudes(design: Design, x: Floats) -> Floats:
    """Sizes of the terms, (n_terms, n_rows): a term's lie side by side."""
    found = np.empty(x.shape[::-1])
    scale = np.ldexp(1.0, -design.exponents)
    for start in range(0, len(x), NEAR):  # rows that stay in the cache while they are turned
        at = slice(start, start + NEAR)
        np.abs(x[at].T * scale[:, None], out=found[:, at])
    return found


def _leverage(
    plan: Plan,
    design: Design,
    rows: Rows,
    weight: Floats,
    used: NDArray[np.bool_],
    own: Own,
    kept: NDArray[np.int64] | None,
) -> float:
    """Largest share of a patient in the fit of its own outcome.

    From the site's own Hessian, or before a fit from the products of the columns, where all of the
    site's rows are in one place.
    """
    lead = int(design.intercept)
    size = rows.x.shape[1] + lead
    shift = plan.values.get("shift")
    shift = 0.0 if shift is None else np.ldexp(shift, design.exponents)
    x = np.empty((np.count_nonzero(used), size))
    x[:, :lead] = 1.0
    np.subtract(_where(rows.x, used), shift, out=x[:, lead:])
    x[:, lead:] *= np.ldexp(1.0, -design.exponents)
    weight = _where(weight, used)
    if "hessian" in own and plan.values["family"] != MULTINOMIAL:
        hessian = unpack(own["hessian"][0], plan.values["theta"].shape[1])[:size, :size]
    elif "counts" in own and int(own["n"]) in (len(rows.y), len(x)):
        hessian = x.T @ (x * weight[:, None])
    else:
        return 0.0
    scale = np.sqrt(np.maximum(np.diag(hessian), 1e-300))
    inverse = np.linalg.pinv(hessian / np.outer(scale, scale), rcond=1e-12, hermitian=True)
    x /= scale
    h = np.einsum("ij,ij->i", x @ inverse, x) * weight
    if kept is not None and len(h):
        h = np.add.reduceat(h, np.flatnonzero(np.diff(kept, prepend=-1)))
    return float(min(h.max(initial=0.0), 1.0))


def _data(
    plan: Plan,
    design: Design,
    partition: Partition,
    inside: NDArray[np.bool_],
    rows: Rows,
    used: NDArray[np.bool_],
    kept: NDArray[np.int64] | None,
) -> Data:
    factors = [f for term in design.terms for f in term.factors if f.kind != "site"]
    columns = {f.column: _where(_where(partition.columns[f.column], inside), used) for f in factors}
    return Data(columns, design.fills, rows.y[used], _classes(plan), kept)


def _levels(
    plan: Plan,
    design: Design,
    rows: Rows,
    used: NDArray[np.bool_],
    key: NDArray[np.int64] | None,
    data: Data,
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Patients per level, and per value of the columns that have few."""
    kept, y, bad = data.key, data.y, invalid(plan, rows.y)
    named = {NOT_ALLOWED: patients(bad, key), ALLOWED: patients(~bad[used], kept)}
    values = few_values(design, rows.x[used], kept)
    single = factors_of(design)
    if single.terms:
        values |= few_values(single, single.matrix(data.columns), kept)
    for column, levels in groups(design).items():
        named[f"{column}: other levels"] = patients(~np.isin(data.columns[column], levels), kept)
    weights = plan.values.get("class_weight")
    label = y if weights is None or not len(weights) else class_of(y, len(weights))
    for k in range(_classes(plan)):
        named[f"outcome = {k}"] = patients(label == k, kept)
    return named | filled_counts(design, data.columns, kept) | product_counts(design, data), values


def groups(design: Design) -> dict[str, list[float]]:
    """Levels with a term of their own, by column."""
    found: dict[str, list[float]] = {}
    for term in design.terms:
        if len(term.factors) == 1 and term.factors[0].kind == "level":
            found.setdefault(term.factors[0].column, []).append(term.factors[0].args[0])
    return found


def names_a_site(design: Design, site: str) -> bool:
    """Whether a term is about one site."""
    return any(f.kind == "site" and f.column == site for t in design.terms for f in t.factors)
