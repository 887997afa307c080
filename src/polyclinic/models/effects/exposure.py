"""How patients share in the sums of treatment effects: what the gate judges.

The rules of the models underneath hold here, too: patients per coefficient, per level and per pair
of columns. Beside them each arm has enough patients in every level of a column, and with every
outcome. Weights, and what becomes of them when a model changes, are judged as the candidates of a
plan are: propensities that are chosen so that a few patients have nearly all of a weight give
themselves away by the effective number of patients, and within one column by its shares. Nobody
is all but certain to be in one arm, or to have an outcome: steeper models could be chosen that tell
one patient from all others, and their sums less those of a model a little beside them are that
patient's values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.codes import NEXT, RULES
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.effects.rows import Rows, rows_of, spec_of
from polyclinic.models.effects.spec import Spec
from polyclinic.models.glm import exposure as glm_exposure
from polyclinic.models.glm.spec import Spec as GLMSpec
from polyclinic.models.glm.support import few_values, patients

Floats = NDArray[np.float64]
CERTAIN = 2.0**-20  # of p (1 - p): chances below about one in a million
STEEP = 3  # factors that say how steep the propensities are
ODDS = "(odds)"  # no term has a name that begins like this
MEANS = glm_exposure.Asked(None, 2, False, False, True)


@dataclass(frozen=True)
class Rates:
    """What each row contributes, as magnitudes; all arrays (n, m).

    weights   factors of a row that do not depend on its outcome
    columns   its numbers in the sums of each column, by the names of `Judged.columns`
    """

    weights: Floats
    columns: Mapping[str, Floats]


class Judged:
    """A task of this family: says how patients share in what it sums."""

    def uses(self, plan: Plan) -> tuple[str, ...]:
        """Models on which its sums depend: "propensity", "outcome"."""
        return ("propensity", *(("outcome",) if "outcome" in plan.values["state"] else ()))

    def weights(self, plan: Plan) -> int:
        """How many factors of a row there are."""
        raise NotImplementedError

    def columns(self, plan: Plan) -> tuple[str, ...]:
        """Names of what is summed."""
        raise NotImplementedError

    def rates(self, plan: Plan, rows: Rows) -> Rates:
        """What each row contributes."""
        raise NotImplementedError

    def exposure(
        self, plan: Plan, partition: Partition, own: Mapping[str, NDArray[Any]]
    ) -> Exposure:
        """Of the rows of one partition in the round `plan`."""
        spec, key, rows = spec_of(plan), partition.key, rows_of(plan, partition)
        check_certain(spec, rows, self.uses(plan))
        base = glm_exposure.exposure(underneath(plan), partition, {}, MEANS)
        rates = with_steep(self.rates(plan, rows), plan, rows, partition, self.uses(plan))
        counts, values = _by_arm(spec, rows, key)
        return replace(
            base,
            slots={**base.slots, **counts},
            values={**base.values, **values},
            columns={n: Shares.of(np.abs(rates.columns[n]), key) for n in self.names(plan)},
            weights=Shares.of(np.abs(rates.weights), key),
            members=with_outcome(spec, base.members),
        )

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Names of the levels that the plan itself names."""
        return (*glm_exposure.slots(underneath(plan), MEANS), *slots_by_arm(spec_of(plan)))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the columns, and the number of factors."""
        return self.names(plan), self.weights(plan) + STEEP * folds_of(plan)

    def names(self, plan: Plan) -> tuple[str, ...]:
        """What is summed, and the covariates under the propensities."""
        return (*self.columns(plan), *(f"{ODDS} {name}" for name in spec_of(plan).matrix.names))


def with_outcome(spec: Spec, members: tuple[Members, ...]) -> tuple[Members, ...]:
    """The same patients behind the outcome, too, which the model of the treatment does not have."""
    first, *filled = members
    columns = tuple(dict.fromkeys((*first.columns, spec.design.response)))
    return (replace(first, columns=columns), *filled)


def folds_of(plan: Plan) -> int:
    """Models of the treatment in a plan: each has the patients of its fold."""
    return len(plan.values["state"]["propensity"])


def with_steep(
    rates: Rates, plan: Plan, rows: Rows, partition: Partition, uses: tuple[str, ...]
) -> Rates:
    """The same, and for each fold what a small change of the propensities does to its patients.

    Propensities are held within bounds, and beyond them a weight does not change at all: there the
    sums of two models could differ by one patient alone. So their odds count as they are.
    """
    folds, own = folds_of(plan), rates.weights.shape[1]
    width = own + STEEP * folds
    odds = steep(spec_of(plan), rows) * ("propensity" in uses)
    fold = partition.keys % folds
    inside = [odds * (fold == k)[:, None] for k in range(folds)]
    columns = {name: padded(values, width) for name, values in rates.columns.items()}
    before = np.zeros((len(odds), own))
    placed = padded(np.hstack([before, odds]), width)
    columns |= by_column(spec_of(plan), rows.x, placed, f"{ODDS} ")
    return Rates(np.hstack([rates.weights, *inside]), columns)


def steep(spec: Spec, rows: Rows) -> Floats:
    """Odds of the arm that a row is not in, arm by arm, and e (1 - e), (n, 3)."""
    odds = rows.score / np.maximum(1.0 - rows.score, CERTAIN)
    back = 1.0 / np.maximum(odds, CERTAIN) if spec.estimand == "ate" or spec.modifiers else 0.0
    return np.column_stack([(1.0 - rows.a) * odds, rows.a * back, rows.spread])


def check_certain(spec: Spec, rows: Rows, uses: tuple[str, ...]) -> None:
    """Raises NO_OVERLAP where a patient is all but certain to be in an arm, or of an outcome."""
    found = [rows.spread] if "propensity" in uses else []
    if "outcome" in uses and spec.binary and rows.slope is not None:
        found.append(rows.slope)
    if any(np.any(one < CERTAIN) for one in found):
        raise PolyclinicError(
            "a patient is all but certain to be in an arm, or to have an outcome",
            code="NO_OVERLAP",
            rule=RULES["NO_OVERLAP"],
            next=NEXT["NO_OVERLAP"],
        )


def model_underneath(spec: Spec) -> GLMSpec:
    """The largest model that an effect rests on."""
    return spec.outcome() if spec.models_outcome else spec.propensity()


def underneath(plan: Plan) -> Plan:
    """The plan of the moments of that model: the same patients, columns and levels."""

    def made() -> Plan:
        glm = model_underneath(spec_of(plan))
        values = glm.values(response_exponent=glm.response_exponent)
        return Plan("glm.moments", values)

    return plan.once("underneath", made)


def slots_by_arm(spec: Spec) -> tuple[str, ...]:
    """Names of `_by_arm`'s levels, as far as the plan names them."""
    names = [*(("outcome",) if spec.binary else ()), *spec.matrix.names]
    return (
        *(f"arm {arm}" for arm in (0, 1)),
        *(f"{name} in arm {arm} = {value}" for name in names for arm in (0, 1) for value in (0, 1)),
    )


def _by_arm(
    spec: Spec, rows: Rows, key: NDArray[np.int64] | None
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Patients of each arm, with each outcome, and per value of the columns that have few."""
    counts: dict[str, int] = {}
    values: dict[str, dict[str, int]] = {}
    for arm in (0, 1):
        inside = rows.a == arm
        kept = None if key is None else key[inside]
        counts[f"arm {arm}"] = patients(inside, key)
        for value in (0, 1) if spec.binary else ():
            counts[f"outcome in arm {arm} = {value}"] = patients(inside & (rows.y == value), key)
        found = few_values(spec.matrix, np.ldexp(rows.x[inside, 1:], spec.matrix.exponents), kept)
        values |= {f"{name} in arm {arm}": by for name, by in found.items() if _some_alike(by)}
    return counts, values


def _some_alike(values: Mapping[str, int]) -> bool:
    """Whether patients share a value: else their number alone may be too small."""
    return max(values.values(), default=0) != 1 or set(values) <= {"0", "1"}


def by_column(spec: Spec, x: Floats, rates: Floats, prefix: str = "") -> dict[str, Floats]:
    """The rates times each covariate, (n, m) by name."""
    names = spec.matrix.names
    return {f"{prefix}{name}": rates * x[:, [j + 1]] for j, name in enumerate(names)}


def padded(rates: Floats, size: int) -> Floats:
    """The rates with zeros behind them, (n, size)."""
    if rates.shape[1] == size:
        return rates
    return np.hstack([rates, np.zeros((len(rates), size - rates.shape[1]))])
