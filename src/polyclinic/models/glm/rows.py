"""The rows of a partition as a plan asks for them: model matrix, outcome, weight, offset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.core.design import Design
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.sampling import uniform
from polyclinic.models.glm.family import FAMILIES, MULTINOMIAL
from polyclinic.models.glm.kernel import Rows


def design_of(plan: Plan) -> Design:
    """The design of a plan, made once."""
    return plan.once("design", lambda: Design.from_data(plan.values["design"]))


def rows_of(plan: Plan, partition: Partition) -> tuple[Rows, int]:
    """The rows that the plan is about, and the number of patients behind them."""
    base, chosen = base_rows(plan, partition), plan.values["rows"]
    if "folds" in chosen:
        kept = partition.keys % chosen["folds"] != chosen["without"]
        weight = kept if base.weight is None else base.weight * kept
        base = Rows(base.x, base.y, weight.astype(np.float64), base.offset)
        if "sample" not in chosen:
            return base, partition.patients(kept)
    if "sample" not in chosen:
        return base, partition.n_patients

    def take() -> tuple[Rows, int]:
        mask = drawn(plan, partition)
        at = np.flatnonzero(mask)
        part = [None if v is None else v[at] for v in (base.weight, base.offset)]
        return Rows(base.x.take(at, axis=0), base.y[at], *part), partition.patients(mask)

    if chosen["round"] == 0 and "folds" not in chosen:
        draw = (chosen["seed"], chosen["sample"], chosen.get("part", 0))
        found: tuple[Rows, int] = partition.cached(f"sample {draw} {_key(plan)}", take)
        return found
    return take()


def drawn(plan: Plan, partition: Partition) -> NDArray[np.bool_]:
    """True for the rows of the plan's sample; all rows without one."""
    chosen = plan.values["rows"]
    if "sample" not in chosen:
        return np.ones(partition.n_rows, dtype=bool)
    place = uniform(partition.keys, chosen["seed"], chosen["round"], partition.site)
    part = chosen.get("part", 0)
    return np.asarray((place >= part * chosen["sample"]) & (place < (part + 1) * chosen["sample"]))


def base_rows(plan: Plan, partition: Partition) -> Rows:
    """Model matrix, outcome, weight and offset of all rows; built once per design."""
    made: Rows = partition.cached(f"rows {_key(plan)}", lambda: _build(plan, partition))
    return made


def invalid(plan: Plan, y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """True for the outcomes that the plan's family cannot have."""
    family = plan.values["family"]
    if family == MULTINOMIAL:
        return ~np.isin(y, np.arange(plan.values["classes"]))
    return FAMILIES[family].invalid(y)


def class_of(y: NDArray[np.float64], classes: int) -> NDArray[np.int64]:
    """Which of the weights per class a row has."""
    return np.nan_to_num(y).astype(np.int64) % classes


def _key(plan: Plan) -> str:
    needed = {name: plan.values.get(name) for name in ("design", "family", "class_weight")}
    return plan.once("rows key", lambda: codec.digest(needed))


def _build(plan: Plan, partition: Partition) -> Rows:
    design, columns = design_of(plan), partition.columns
    x = design.matrix(columns, partition.site)
    y = columns[design.response] if design.response else np.zeros(partition.n_rows)
    weight = columns[design.weight] if design.weight else None
    offset = columns[design.offset] if design.offset else None
    scale = plan.values.get("response_exponent", 0)
    if scale:
        y = np.ldexp(y, -scale)
        offset = None if offset is None else np.ldexp(offset, -scale)
    class_weight = plan.values.get("class_weight")
    if class_weight is not None and len(class_weight):
        by_class = class_weight[class_of(y, len(class_weight))]
        weight = by_class if weight is None else weight * by_class
    return Rows(x, y, weight, offset)
