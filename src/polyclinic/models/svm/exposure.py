"""How patients share in the sums of a machine: what the gate judges.

The rows behind a sum are those that the machine misses, its curvature is over those near the
corner of the loss only. Coefficients choose them: they could be one patient, or all but one, or all
that were asked about before and one more. So the patients of every candidate are counted, and
compared with all that were released before; within a column and an outcome their shares are judged
as in any weighted sum, and levels are counted as for a generalised linear model of these columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design, Term
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.glm import exposure as plain_exposure
from polyclinic.models.glm.kernel import Rows
from polyclinic.models.glm.rows import drawn
from polyclinic.models.glm.support import few_values
from polyclinic.models.svm.rows import (
    curve,
    exponents,
    plain,
    question,
    rows_of,
    shift_of,
    spec_of,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Own = Mapping[str, NDArray[Any]]
LOSS, SLOPE, INSIDE, OUTSIDE = "(loss)", "(slope of)", "(in the class)", "(not in the class)"

FEWEST = 10  # patients on a rounded corner
ON_IT = 2.0**-10  # of a (1 - a): how far a slope is between both of its ends
DECISION = "(decision)"
_CURVE = (LOSS, SLOPE, f"{SLOPE} decision", "(curvature)", DECISION)
_SUMS = plain_exposure.Asked(None, 1, False, False)


class Exposed:
    """The steps that ask for sums at candidates."""

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Of the rows of one partition in the round `plan`."""
        if "band" in plan.values["state"]:
            raise PolyclinicError(
                "rows near a margin apart from others",
                code="BAD_MESSAGE",
                rule="bands about a margin are for rows in one trust domain",
            )
        base = plain_exposure.exposure(plain(plan), partition, {}, _asked(plan))
        rows, _ = rows_of(plan, partition)
        inside = drawn(plain(plan), partition)
        used = np.ones(len(rows.y), dtype=bool) if rows.weight is None else rows.weight != 0
        kept = None if partition.key is None else partition.key[inside][used]
        rates = _rates(plan, rows)
        person = partition.persons[inside]
        order = int(plan.values["state"]["order"])
        weights = _undecided(plan, rates, used, person)
        return replace(
            base,
            coefficients=spec_of(plan).width if order else 0,
            columns=_columns(plan, rows, rates, used, kept),
            weights=Shares.of(weights[used], kept),
            members=(*base.members, *_candidates(plan, rates["signed"], used, person)),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Names of the levels that the plan itself names."""
        return plain_exposure.slots(plain(plan), _asked(plan))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns, and the number of candidates."""
        return _names(plan), len(question(plan).machine)


def _asked(plan: Plan) -> plain_exposure.Asked:
    """The sums of the columns themselves, of which a machine's are a part."""
    order = int(plan.values["state"]["order"])
    return plain_exposure.Asked(None, order, False, False, order == 2)


def _names(plan: Plan) -> tuple[str, ...]:
    spec, order = spec_of(plan), int(plan.values["state"]["order"])
    parts = (LOSS, INSIDE, OUTSIDE) if spec.classes else (LOSS,)
    if order == 0:
        return parts
    names = spec.design.names
    if spec.features is not None:
        names = tuple(f"feature {j}" for j in range(spec.features.components))
    return (*parts, *(f"{SLOPE} {name}" for name in names), *(names if order == 2 else ()))


def _rates(plan: Plan, rows: Rows) -> dict[str, Floats]:
    """Size of each row's loss, slope and curvature at each candidate, (n, m), and its side."""
    asked, shift = question(plan), shift_of(plan)
    with np.errstate(over="ignore", invalid="ignore"):
        each = asked.rows(rows.x if shift is None else rows.x - shift, rows.y)
        bare = each.edge
        each = each.times(asked.weights(rows.y, rows.weight))
    side = asked.side(rows.y) if asked.classes else np.zeros_like(each.first)
    names = ("loss", "first", "curvature", "edge")
    return {name: np.abs(getattr(each, name)) for name in names} | {
        "side": side,
        "signed": each.first,
        "bare": bare,
    }


def _undecided(plan: Plan, rates: Mapping[str, Floats], used: Bools, person: Any) -> Floats:
    """The edges; one stands for all at candidates whose rounded corner hardly anybody is on.

    There the sums are over those on one side of a plane, as without any rounding, and less those of
    a plane a little beside it they are one patient's.
    """
    sharpness, edge = question(plan).sharpness, rates["edge"]
    on_it = (rates["bare"] >= ON_IT * sharpness) & used[:, None]
    few = [len(np.unique(person[on])) < FEWEST for on in on_it.T]
    alone = np.where(np.arange(len(edge)) == np.argmax(used), 2.0**100, 0.0)
    return np.where((sharpness > 0) & few, alone[:, None], edge)


def _columns(
    plan: Plan, rows: Rows, rates: Mapping[str, Floats], used: Bools, kept: Any
) -> dict[str, Shares]:
    """Shares in the sums of each column, as `_names` names them."""
    found = {LOSS: Shares.of(rates["loss"][used], kept)}
    slope, side = rates["first"][used], rates["side"][used]
    if spec_of(plan).classes:
        found[INSIDE] = Shares.of(slope * (side > 0), kept)
        found[OUTSIDE] = Shares.of(slope * (side < 0), kept)
    order, names = int(plan.values["state"]["order"]), _names(plan)[len(found) :]
    lead = int(spec_of(plan).design.intercept)
    scaled = np.ldexp(np.abs(rows.x[used]), -exponents(plan)[lead:])
    for j, name in enumerate(names):
        x = scaled[:, j % scaled.shape[1], None]
        if name.startswith(SLOPE):
            found[name] = Shares.of(x * slope, kept)
        elif order == 2:
            found[name] = Shares.of(x * x * rates["curvature"][used], kept)
    return found


def _candidates(plan: Plan, first: Floats, used: Bools, person: NDArray[np.int64]) -> list[Members]:
    """Patients whose squares each candidate adds: one who comes or goes stands out in a difference.

    Rounded corners have no such patients: nobody is left out of their sums.
    """
    if np.all(question(plan).sharpness > 0):
        return []
    sides = [first != 0.0] if spec_of(plan).classes else [first > 0.0, first < 0.0]
    return [
        Members(spec_of(plan).design.columns, np.unique(person[side[:, k] & used]), candidate=k)
        for side in sides
        for k in range(first.shape[1])
    ]


class CurveExposed:
    """The step that asks for the curve of the probabilities.

    A machine's decision value is one column, whatever coefficients make it: it is counted value by
    value where it has few, and its shares are judged as those of a logistic regression's column.
    """

    def exposure(self, plan: Plan, partition: Partition, own: Own) -> Exposure:
        """Of the rows of one partition in the round `plan`."""
        base = plain_exposure.exposure(plain(plan), partition, {}, _SUMS)
        rows, _ = rows_of(plan, partition)
        inside = drawn(plain(plan), partition)
        used = np.ones(len(rows.y), dtype=bool) if rows.weight is None else rows.weight != 0
        kept = None if partition.key is None else partition.key[inside][used]
        f, loss, first, second = (np.abs(a[used]) for a in curve(plan, partition))
        values = (loss, first, first * f, second, second * f * f)
        places = np.asarray(plan.values["state"]["machine"])
        _, one = np.unique(places, return_index=True)
        design = Design(tuple(Term(f"{DECISION} {places[k]}", ()) for k in one))
        return replace(
            base,
            coefficients=2,
            values={**base.values, **few_values(design, f[:, one], kept)},
            columns={n: Shares.of(v, kept) for n, v in zip(_CURVE, values, strict=True)},
            weights=Shares.of(second, kept),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Names of the levels that the plan itself names."""
        return plain_exposure.slots(plain(plan), _SUMS)

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns, and the number of candidates."""
        return _CURVE, len(plan.values["state"]["theta"])
