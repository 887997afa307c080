"""The rows that a plan asks to be scored, and their predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.groups import group_size, groups_of, means, patients_by
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.models.glm.predictor import GLMPredictor
from polyclinic.models.predictor import Personal, Predictor, predictor_from

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Predictions (n_rows,) or (n_rows, classes), outcomes and patients (n_rows,) of the chosen
    rows."""

    predicted: Floats
    outcome: Floats
    keys: NDArray[np.int64]
    patients: int


def predictors_of(plan: Plan) -> list[Predictor]:
    """The predictors that are read, one per fold, made once. Raises BAD_MESSAGE for too few."""
    return plan.once("predictors", lambda: _predictors(plan))


def _predictors(plan: Plan) -> list[Predictor]:
    folds, given = plan.values["folds"], plan.values["predictors"]
    if not 0 <= folds <= len(given) or not given:
        raise PolyclinicError(
            f"{len(given)} predictors for {folds} folds",
            code="BAD_MESSAGE",
            rule="a cross-validation has a predictor for every fold",
        )
    return [_own(predictor_from(one), plan) for one in given[: max(folds, 1)]]


def _own(predictor: Predictor, plan: Plan) -> Predictor:
    """With the numbers that the site which answers kept of its own, where it did."""
    if not isinstance(predictor, Personal):
        return predictor
    kept = plan.kept(predictor.after)
    return predictor if kept is None else predictor.kept_by(kept)


def predictions(plan: Plan, number: int, partition: Partition) -> Floats:
    """What one of the predictors says of the rows, found once for a plan; not to be changed."""

    def make() -> tuple[Partition, Floats]:
        return partition, predictors_of(plan)[number].predict(partition)

    # The partition is kept beside it, so that no other one has its id.
    return plan.once(f"predicted {number} of {id(partition)}", make)[1]


def chosen(plan: Plan, partition: Partition) -> NDArray[np.bool_]:
    """The rows of the plan's subgroup; all rows without one."""
    where = plan.values.get("where")
    if where is None:
        return np.ones(partition.n_rows, dtype=bool)
    return np.asarray(partition.columns[where["column"]] == where["level"])


def scored(plan: Plan, partition: Partition) -> Scored:
    """Score the rows: in cross-validation each by the model fitted without its patient."""
    predictors, folds = predictors_of(plan), plan.values["folds"]
    predicted = predictions(plan, 0, partition)
    if folds > 1:
        predicted, fold = predicted.copy(), partition.keys % folds
        for i in range(1, folds):
            at = fold == i
            if at.any():
                predicted[at] = predictions(plan, i, partition)[at]
    mask = chosen(plan, partition)
    predicted, keys = predicted[mask], partition.keys[mask]
    if not all(isinstance(one, GLMPredictor) for one in predictors):
        predicted = together(predicted, keys, group_size(plan.values["least"]))
    return Scored(predicted, observed(plan, partition)[mask], keys, partition.patients(mask))


def together(predicted: Floats, keys: NDArray[np.int64], least: int) -> Floats:
    """Predictions of `least` patients with neighbouring ones, replaced by their mean.

    What single terms do to the sums of a linear model is judged; other models may treat any patient
    on his own, and predictions that only groups share do not show one.
    """
    if predicted.ndim == 1:
        return means(predicted, groups_of(predicted, keys, least))
    columns = [together(column, keys, least) for column in predicted.T]
    return np.stack(columns, axis=1)


def observed(plan: Plan, partition: Partition) -> Floats:
    """Outcome of every row: 1 for the event and 0 for all else, the class, or a number."""
    outcome = predictors_of(plan)[0].outcome(partition)
    if plan.values["outcome"] == "binary":
        return np.asarray(outcome == 1, dtype=np.float64)
    if plan.values["outcome"] == "classes":
        outcome = np.clip(np.nan_to_num(np.rint(outcome)), 0, plan.values["classes"] - 1)
    return np.asarray(outcome)


Effects = Mapping[str, Mapping[float, float]]


def effects(predictors: Iterable[Predictor]) -> Effects:
    """What each level adds to linear predictors, by column; a level without a term adds nothing."""
    found: dict[str, dict[float, float]] = {}
    for predictor in predictors:
        if not isinstance(predictor, GLMPredictor):
            continue
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
