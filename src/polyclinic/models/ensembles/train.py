"""Every site trains a model on its own rows alone.

What leaves the site, by name: **the fitted model itself**, that is its coefficients or the numbers
of its predictor's form; the number of rows and of patients that it was fitted on; whether there is
one. A policy must allow the step by name (`ensemble.base` among `collect`).
It is judged like the sums from which the coefficients could be solved: for a regression the
derivatives at its own optimum, with all their rules of levels, weights, residuals and leverages;
for other models the moments of its columns, and whoever stands behind its parts. In both cases a
model of p coefficients needs p times as many patients as the policy says. Where the gate refuses,
all of it is hidden and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.design import Design
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Unaided
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.sampling import uniform
from polyclinic.core.task import Grain
from polyclinic.models.ensembles.bases import LARGEST, Arrays, Base, holds_rows
from polyclinic.models.ensembles.spec import Spec
from polyclinic.models.learner import spec_in

Floats = NDArray[np.float64]
WEIGHT = "(weight in the sample)"
FOLDS, SAMPLE = 1, 2  # purposes for which patients are drawn, so that draws do not repeat
MODEL = "model."


@dataclass(frozen=True)
class SizesTask(Unaided):
    """Rows of every site, for models that consist of rows; in one trust domain only."""

    name: str = "ensemble.sizes"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        return (Leaf("n", (), "count", "int64", unit="rows"),)

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        refuse_rows(spec_in(plan, Spec.from_data), partition)
        return Contribution({"n": partition.n_rows}, Evidence(partition.n_patients))

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """Never between sites."""
        raise holds_rows(str(spec_in(plan, Spec.from_data).base["name"]))


@dataclass(frozen=True)
class BaseTask(Unaided):
    """The model of the site's own rows."""

    name: str = "ensemble.base"
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        check_by_name(plan)
        shapes = spec_in(plan, Spec.from_data).model.shapes(_room(plan))
        return (
            Leaf("n", (), "count", "int64", unit="rows", small="hide"),
            Leaf("patients", (), "count", "int64", unit="patients", small="hide"),
            Leaf("fitted", (), "flag", "int64", small="hide"),
            *(Leaf(MODEL + n, shape, "fitted model", small="hide") for n, shape in shapes.items()),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        check_by_name(plan)
        spec = spec_in(plan, Spec.from_data)
        refuse_rows(spec, partition)
        rows, design = training_rows(spec, partition)
        arrays = _fitted(plan, spec, rows, design)
        empty = {name: np.zeros(s) for name, s in spec.model.shapes(_room(plan)).items()}
        return Contribution(
            {
                "n": rows.n_rows,
                "patients": rows.n_patients,
                "fitted": int(arrays is not None),
                **{MODEL + name: array for name, array in (arrays or empty).items()},
            },
            Evidence(rows.n_patients),
        )

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """Of the patients on whom the model was fitted."""
        spec: Spec = spec_in(plan, Spec.from_data)
        rows, design = training_rows(spec, partition)
        arrays = _fitted(plan, spec, rows, design)
        found = spec.model.exposure(rows, design, arrays)
        columns = tuple(c for c in found.members[0].columns if c != WEIGHT)
        first = replace(found.members[0], columns=(*columns, *_weight_of(spec)) or ("",))
        return replace(found, alone=True, members=(first, *found.members[1:]))


def refuse_rows(spec: Spec, partition: Partition) -> None:
    """Raises HOLDS_ROWS for a model of rows, unless these are arrays in one trust domain.

    Before anything is computed; what a gate would judge is refused there once more.
    """
    matrix = partition.columns.get("X")
    if spec.model.holds_rows and (matrix is None or matrix.ndim != 2):
        raise holds_rows(str(spec.base["name"]))


def check_by_name(plan: Plan) -> None:
    """Raises BAD_MESSAGE for a plan that would add models of sites up."""
    if plan.combine != "collect":
        raise PolyclinicError(
            f"{plan.task} is not added up",
            code="BAD_MESSAGE",
            rule="what a hospital computes for itself is asked by name: combine = collect",
        )


def _weight_of(spec: Spec) -> tuple[str, ...]:
    return (spec.design.weight,) if spec.design.weight and spec.sampling == "over" else ()


def _room(plan: Plan) -> int:
    return int(plan.values["state"].get("room", 0))


def _fitted(plan: Plan, spec: Spec, rows: Partition, design: Design) -> dict[str, Floats] | None:
    found = rows.cached(
        f"fitted {plan.content_hash}", lambda: (fitted(spec.model, rows, design, _room(plan)),)
    )
    model: dict[str, Floats] | None = found[0]
    return model


def fitted(base: Base, rows: Partition, design: Design, room: int = 0) -> dict[str, Floats] | None:
    """The model of these rows; None where there is none, as of one class."""
    try:
        arrays = base.fit(rows, design, room)
    except (PolyclinicError, ValueError, ArithmeticError):
        return None
    good = all(np.all(np.abs(array) <= LARGEST) for array in arrays.values())
    return arrays if good else None


def training_rows(spec: Spec, partition: Partition) -> tuple[Partition, Design]:
    """The rows on which a model is trained, and the design that names their weight.

    Those of the fold that is left out are not among them; a sample is drawn, or its weight set.
    """
    key = f"trained {sorted(spec.rows.items())} {spec.sampling} {spec.seed}"
    found: tuple[Partition, Design] = partition.cached(key, lambda: _sampled(spec, partition))
    return found


def without_fold(rows: Mapping[str, Any], partition: Partition) -> Partition:
    """All rows but those of the fold that is left out."""
    if not rows:
        return partition
    return subset(partition, partition.keys % rows["folds"] != rows["without"])


def subset(partition: Partition, kept: NDArray[np.bool_]) -> Partition:
    """Some rows, each with the key that it has."""
    return Partition(
        {name: values[kept] for name, values in partition.columns.items()},
        partition.keys[kept],
        partition.site,
        person=partition.persons[kept],
        outside=partition.outside,
        population=partition.population,
    )


def _sampled(spec: Spec, partition: Partition) -> tuple[Partition, Design]:
    rows, design = without_fold(spec.rows, partition), spec.design
    if not spec.sampling or not rows.n_rows:
        return rows, design
    y = rows.columns[design.response]
    many = [int(np.count_nonzero(y == k)) for k in (0, 1)]
    if min(many) == 0:
        return rows, design
    large = int(many[1] > many[0])
    if spec.sampling == "under":
        draw = uniform(rows.keys, spec.seed, SAMPLE, rows.site)
        last = np.sort(draw[y == large])[min(many) - 1]
        return subset(rows, (y != large) | (draw <= last)), design
    weight = np.where(y == large, 1.0, max(many) / min(many))
    if design.weight:
        weight = weight * rows.columns[design.weight]
    columns = {**rows.columns, WEIGHT: weight}
    bound = design.weight_bound * 2.0**20
    return replace(rows, columns=columns, cache={}), replace(
        design, weight=WEIGHT, weight_bound=bound
    )


def predictions(spec: Spec, models: Mapping[str, Arrays], partition: Partition) -> Floats:
    """What the model of each site predicts, (n_rows, n_models), by the sites' names.

    A site's own model has seen its patients: there each row is predicted by models of the other
    inner folds of its site. Where one of these cannot be fitted, by the site's own model after all.
    """
    out = np.empty((partition.n_rows, len(models)))
    for i, (site, arrays) in enumerate(sorted(models.items())):
        out[:, i] = spec.model.predictor(arrays).predict(partition)
        if site in ("", partition.site):
            _out_of_fold(spec, partition, out[:, i])
    return out


def _out_of_fold(spec: Spec, partition: Partition, out: Floats) -> None:
    base, folds = spec.model, int(spec.settings["folds"])
    rows, design = training_rows(spec, partition)
    inner = inner_fold(spec, rows, folds)
    of_all = inner_fold(spec, partition, folds)
    for fold in range(folds):
        part = subset(rows, inner != fold)
        room = part.n_rows if base.holds_rows else 0
        arrays = fitted(base, part, design, room)
        at = of_all == fold
        if arrays is not None and at.any():
            out[at] = base.predictor(arrays).predict(partition)[at]


def inner_fold(spec: Spec, partition: Partition, folds: int) -> NDArray[np.int64]:
    """The inner fold of each row, by hash of its patient, (n_rows,)."""
    draw = uniform(partition.keys, spec.seed, FOLDS, partition.site)
    return np.floor(draw * folds).astype(np.int64)


tasks = [SizesTask(), BaseTask()]
