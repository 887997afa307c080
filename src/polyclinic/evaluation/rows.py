"""The rows that a plan asks to be scored, and their predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.evaluation.groups import patients_by
from polyclinic.models.glm.predictor import GLMPredictor
from polyclinic.models.predictor import predictor_from

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Predictions (n_rows,) or (n_rows, classes), outcomes and patients (n_rows,) of the chosen
    rows."""

    predicted: Floats
    outcome: Floats
    keys: NDArray[np.int64]
    patients: int


def predictors_of(plan: Plan) -> list[GLMPredictor]:
    """The predictors that are read, one per fold, made once. Raises BAD_MESSAGE for too few."""
    return plan.once("predictors", lambda: _predictors(plan))


def _predictors(plan: Plan) -> list[GLMPredictor]:
    folds, given = plan.values["folds"], plan.values["predictors"]
    if not 0 <= folds <= len(given) or not given:
        raise PolyclinicError(
            f"{len(given)} predictors for {folds} folds",
            code="BAD_MESSAGE",
            rule="a cross-validation has a predictor for every fold",
        )
    found = [predictor_from(one) for one in given[: max(folds, 1)]]
    known = [one for one in found if isinstance(one, GLMPredictor)]
    if len(known) < len(found):
        raise PolyclinicError(
            "a predictor of a kind that cannot be judged",
            code="BAD_MESSAGE",
            rule="predictors are formula models, whose columns are known",
        )
    return known


def chosen(plan: Plan, partition: Partition) -> NDArray[np.bool_]:
    """The rows of the plan's subgroup; all rows without one."""
    where = plan.values.get("where")
    if where is None:
        return np.ones(partition.n_rows, dtype=bool)
    return np.asarray(partition.columns[where["column"]] == where["level"])


def scored(plan: Plan, partition: Partition) -> Scored:
    """Score the rows: in cross-validation each by the model fitted without its patient."""
    predictors, folds = predictors_of(plan), plan.values["folds"]
    predicted = predictors[0].predict(partition)
    if folds > 1:
        predicted, fold = predicted.copy(), partition.keys % folds
        for i in range(1, folds):
            at = fold == i
            if at.any():
                predicted[at] = predictors[i].predict(partition)[at]
    mask = chosen(plan, partition)
    outcome = observed(plan, partition)[mask]
    return Scored(predicted[mask], outcome, partition.keys[mask], partition.patients(mask))


def observed(plan: Plan, partition: Partition) -> Floats:
    """Outcome of every row: 1 for the event and 0 for all else, the class, or a number."""
    outcome = predictors_of(plan)[0].outcome(partition)
    if plan.values["outcome"] == "binary":
        return np.asarray(outcome == 1, dtype=np.float64)
    if plan.values["outcome"] == "classes":
        outcome = np.clip(np.nan_to_num(np.rint(outcome)), 0, plan.values["classes"] - 1)
    return np.asarray(outcome)


Effects = Mapping[str, Mapping[float, float]]


def effects(predictors: Iterable[GLMPredictor]) -> Effects:
    """What each level adds to the predictors, by column; a level without a term adds nothing."""
    found: dict[str, dict[float, float]] = {}
    for predictor in predictors:
        lead = int(predictor.design.intercept)
        for j, term in enumerate(predictor.design.terms):
            if len(term.factors) == 1 and term.factors[0].kind == "level":
                (factor,) = term.factors
                of_column = found.setdefault(factor.column, {})
                level = float(factor.args[0])
                of_column[level] = of_column.get(level, 0.0) + float(predictor.coef[0, lead + j])
    return found


def merged(
    designs: Iterable[Design],
    partition: Partition,
    least: int,
    kept: Iterable[str | None],
    effects: Effects = MappingProxyType({}),
) -> tuple[Partition, int]:
    """Rows in which levels of fewer than `least` patients are another one of their column, and how
    many levels that were.

    The other one has enough patients, and of these levels the nearest effect, or where no effects
    are known the most patients. Columns in `kept` stay as they are.
    """
    names = {
        factor.column
        for design in designs
        for term in design.terms
        for factor in term.factors
        if factor.kind == "level"
    } - set(kept)
    columns, many = dict(partition.columns), 0
    for name in sorted(names):
        values = columns[name]
        known = ~np.isnan(values)
        levels, place = np.unique(values[known], return_inverse=True)
        counts = patients_by(place, partition.keys[known], len(levels))
        small = counts < least
        if small.any() and not small.all():
            of_level = effects.get(name, {})
            effect = np.array([of_level.get(level, 0.0) for level in levels.tolist()])
            moved, large = values.copy(), np.flatnonzero(~small)
            for k in np.flatnonzero(small):
                order = np.lexsort((-counts[large], np.abs(effect[large] - effect[k])))
                moved[values == levels[k]] = levels[large[order[0]]]
            columns[name], many = moved, many + int(small.sum())
    if not many:
        return partition, 0
    return replace(partition, columns=columns, cache={}), many
