"""How patients share in the sums of a Cox regression: what the gate judges.

A row's weight is its part in the curvature: the sum of p (1 - p) over the events at which it is at
risk, with p its share in the risk set. Coefficients under which single patients make up the risk
sets, so that a gradient is the difference of two patients' records, leave hardly any p (1 - p)
and give themselves away by the effective number of patients; a risk set of one patient has none at
all. Beside them stand the martingale residuals, the factors of the rows in the gradient, and what
each event adds to the loss. A gradient over very few events is nearly those patients' records: the
patients with the event are counted like a level, also in each stratum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.glm.exposure import groups, names_a_site
from polyclinic.models.glm.pairs import pair_counts, pair_slots, plain_counts
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
from polyclinic.models.survival.crowd import crowds
from polyclinic.models.survival.kernel import hazards, scores
from polyclinic.models.survival.leverage import leverage
from polyclinic.models.survival.rows import Rows, rows_of, spec_of, strata_of
from polyclinic.models.survival.spec import CoxSpec

Floats = NDArray[np.float64]
Own = Mapping[str, NDArray[Any]]
LOSS, RESIDUAL, SCORE, TIME = "(loss)", "(residual of)", "(score of)", "(time of events)"
NOT_ALLOWED, ALLOWED = "outcome: not allowed", "outcome: allowed"


@dataclass(frozen=True)
class Asked:
    """What a task sums.

    theta    coefficients (m, p); None: counts only
    order    highest derivative
    flagged  whether a candidate can be left out of the answer
    scores   whether products of score vectors are summed
    times    whether functions of the events' times are summed
    """

    theta: Floats | None
    order: int
    flagged: bool = False
    scores: bool = False
    times: bool = False


class Exposed:
    """A task of this family: says how patients share in what it sums."""

    def asked(self, plan: Plan) -> Asked:
        """Counts only, unless a task says otherwise."""
        return Asked(None, 0)

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Of a site's rows in the round `plan`."""
        return exposure_of(spec_of(plan), partition, own, self.asked(plan))

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Names of the levels that the plan itself names."""
        return slots_of(spec_of(plan), self.asked(plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns, and the number of candidates."""
        asked = self.asked(plan)
        names = judged(spec_of(plan).design, asked)
        return names, 0 if asked.theta is None else len(asked.theta)


def judged(design: Design, asked: Asked) -> tuple[str, ...]:
    """Names in `Exposure.columns`."""
    if asked.theta is None:
        return ()
    names = design.names if asked.order >= 1 else ()
    found = (*names, LOSS, *(f"{RESIDUAL} {name}" for name in names))
    found += tuple(f"{SCORE} {name}" for name in names) if asked.scores else ()
    return (*found, TIME) if asked.times else found


def slots_of(spec: CoxSpec, asked: Asked) -> tuple[str, ...]:
    """Names of the levels that the plan itself names."""
    design = spec.design
    found = [ALLOWED, NOT_ALLOWED, "outcome = 0", "outcome = 1"]
    count = int(np.prod([1, *spec.levels], dtype=np.int64)) if design.strata else 0
    found += [f"stratum{part} = {k}" for k in range(count) for part in ("", " with the event")]
    if asked.theta is None:
        return tuple(found)
    names = (*design.names, *factors_of(design).names)
    found += [f"{name} = {value}" for name in names for value in (0, 1)]
    found += [f"{column}: other levels" for column in groups(design)]
    return (*found, *filled_slots(design), *pair_slots(design, 2, asked.order == 2))


def exposure_of(spec: CoxSpec, partition: Partition, own: Own, asked: Asked) -> Exposure:
    """Of a site's rows in the round `plan`, all of them in one place."""
    rows = rows_of(spec, partition)
    if asked.theta is None:
        return counted(spec, partition)
    used = rows.used
    rates = _rates(spec, partition, asked.theta)
    x = rows.x[used]
    centre = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
    scored = scores_of(spec, partition, asked.theta[0]) if asked.scores else None
    key = None if partition.key is None else partition.key[used]
    return replace(
        shared_of(spec, partition, asked, rates, centre, scored),
        crowd=_crowd(spec, partition, asked, asked.theta),
        leverage=leverage(x, rates[2][used, 0], own.get("hessian"), key),
    )


def counted(spec: CoxSpec, partition: Partition) -> Exposure:
    """Who there is, whatever the coefficients."""
    rows = rows_of(spec, partition)
    chosen = rows.allowed if rows.weight is None else rows.weight != 0
    return Exposure(
        slots=outcome_slots(rows, chosen, partition.key),
        levels=max([0, *spec.levels]),
        members=members(spec.design, partition, chosen),
    )


def shared_of(
    spec: CoxSpec,
    partition: Partition,
    asked: Asked,
    rates: Floats,
    centre: Floats,
    scored: Floats | None,
) -> Exposure:
    """How patients of some rows of a site share in what hangs on the coefficients, but for the
    crowd and the leverage.

    rates   per row and candidate: part in the loss, residual, part in the curvature, (3, n, m)
    centre  the site's mean of each column, (p,)
    scored  each row's part in minus the gradient, (n, p), where its squares are summed
    """
    design, rows = spec.design, rows_of(spec, partition)
    used = rows.used
    key = None if partition.key is None else partition.key[used]
    data = _data(design, partition, rows, used, key)
    values = few_values(design, rows.x[used], key) | value_counts(design, data)
    single = factors_of(design)
    if single.terms:
        values |= few_values(single, single.matrix(data.columns), key)
    curved = asked.order == 2
    second = rates[2][used] if asked.flagged else rates[2][used, 0]
    return counted(spec, partition) + Exposure(
        coefficients=len(design.terms) if asked.order >= 1 else 0,
        slots=_levels(design, data, key) | pair_counts(design, data, curved),
        joint=plain_counts(design, data) if curved else {},
        values=values,
        columns=_columns(spec, rows, rates, centre, scored, asked, key),
        weights=Shares.of(second, key),
        levels=max((len(levels) + 1 for levels in groups(design).values()), default=0),
        alone=names_a_site(design, partition.site),
        members=(),
    )


def outcome_slots(
    rows: Rows, chosen: NDArray[np.bool_], key: NDArray[np.int64] | None
) -> dict[str, int]:
    """Patients per way to end, and per stratum."""
    used = rows.used
    found = {
        ALLOWED: patients(used, key),
        NOT_ALLOWED: patients(chosen & ~rows.allowed, key),
        "outcome = 0": patients(used & ~rows.event, key),
        "outcome = 1": patients(used & rows.event, key),
    }
    if rows.stratum is not None:
        for k in np.unique(rows.stratum[used]):
            inside = used & (rows.stratum == k)
            found[f"stratum = {k}"] = patients(inside, key)
            found[f"stratum with the event = {k}"] = patients(inside & rows.event, key)
    return found


def members(design: Design, partition: Partition, chosen: NDArray[np.bool_]) -> tuple[Members, ...]:
    """Of a column with gaps that are filled, the patients who have it; of the others all."""
    person = partition.persons[chosen]
    columns = tuple(c for c in design.columns if c not in design.fills) or ("",)
    found = [Members(columns, np.unique(person))]
    for column in design.columns:
        if column in design.fills:
            known = ~np.isnan(partition.columns[column][chosen])
            found.append(Members((column,), np.unique(person[known])))
    return tuple(found)


def _rates(spec: CoxSpec, partition: Partition, theta: Floats) -> Floats:
    """Per row and candidate: part in the loss, residual, part in the curvature, (3, n, m)."""
    out = np.zeros((3, partition.n_rows, len(theta)))
    with np.errstate(all="ignore"):
        for one in strata_of(spec, partition):
            for k, beta in enumerate(theta):
                found = hazards(one, beta, means=False)
                own = np.ones(len(one.time)) if one.weight is None else one.weight
                happened = np.where(one.is_event, own, 0.0)
                out[0, one.rows[one.event], k] = np.abs(found.loss)
                out[1, one.rows, k] = np.abs(happened - found.own)
                curved = found.own - found.squares
                # What is left of 1 - 1 by rounding is no share.
                curved[curved <= 1e-12 * found.own] = 0.0
                out[2, one.rows, k] = curved
    return np.where(np.isfinite(out), out, np.inf)


def _crowd(spec: CoxSpec, partition: Partition, asked: Asked, theta: Floats) -> Floats:
    """The fewest over the strata, (m,), or () of a plan without candidates."""
    found = [crowds(one, theta, partition.keys) for one in strata_of(spec, partition)]
    fewest = np.min([np.full(len(theta), np.inf), *found], axis=0)
    return np.asarray(fewest if asked.flagged else fewest[0])


def _columns(
    spec: CoxSpec,
    rows: Rows,
    rates: Floats,
    centre: Floats,
    scored: Floats | None,
    asked: Asked,
    key: NDArray[np.int64] | None,
) -> dict[str, Shares]:
    """Shares in the sums of each column, in products of score vectors, and in functions of the
    events' times, as `judged` names them."""
    design, used = spec.design, rows.used
    loss, first, second = rates[:, used] if asked.flagged else rates[:, used, 0]
    found = {LOSS: Shares.of(loss, key)}
    if asked.order >= 1:
        x = np.abs(rows.x[used] - centre)
        for j, name in enumerate(design.names):
            part = x[:, j][:, None] if asked.flagged else x[:, j]
            found[name] = Shares.of((part * part if asked.order == 2 else part) * second, key)
            found[f"{RESIDUAL} {name}"] = Shares.of(part * first, key)
    if scored is not None:
        for j, name in enumerate(design.names):
            found[f"{SCORE} {name}"] = Shares.of(scored[used, j] ** 2, key)
    if asked.times:
        time = np.where(rows.event, np.nan_to_num(rows.time), 0.0)[used]
        found[TIME] = Shares.of(time / max(design.response_bound, 1e-300), key)
    return found


def scores_of(spec: CoxSpec, partition: Partition, beta: Floats) -> Floats:
    """Each row's part in minus the gradient, (n_rows, n_terms)."""
    parts = np.zeros((partition.n_rows, len(beta)))
    with np.errstate(all="ignore"):
        for one in strata_of(spec, partition):
            parts[one.rows] = scores(one, hazards(one, beta))
    return parts


def _data(
    design: Design,
    partition: Partition,
    rows: Rows,
    used: NDArray[np.bool_],
    key: NDArray[np.int64] | None,
) -> Data:
    factors = [f for term in design.terms for f in term.factors if f.kind != "site"]
    columns = {f.column: partition.columns[f.column][used] for f in factors}
    return Data(columns, design.fills, rows.event[used].astype(np.float64), 2, key)


def _levels(design: Design, data: Data, key: NDArray[np.int64] | None) -> dict[str, int]:
    named = {
        f"{column}: other levels": patients(~np.isin(data.columns[column], levels), key)
        for column, levels in groups(design).items()
    }
    return named | filled_counts(design, data.columns, key) | product_counts(design, data)
