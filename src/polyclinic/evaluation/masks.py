"""How well masks are found: Dice and intersection over union, by sums over hospitals.

With both, found and true the numbers of pixels inside of both masks, of the found one and of the
true one, over all rows: Dice = 2 both / (found + true), IoU = both / (found + true - both); beside
them the mean over rows of each row's own Dice.

What leaves the site: the number of rows, these three numbers by channel, and the sum of the rows'
Dice. A network is anybody's and may find nothing but in one patient's image, or all but there: so
each patient's part is judged in the pixels inside both, in one only and in none, and in the sum of
Dice and what is left of it to 1.
Reference: Dice (1945), "Measures of the amount of ecologic association between species".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Contribution, Evidence
from polyclinic.core.errors import PolyclinicError
from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.core.leaf import Leaf
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import Grain
from polyclinic.evaluation import exposure as judged
from polyclinic.evaluation.rows import predictors_of
from polyclinic.models.predictor import Segments

Floats = NDArray[np.float64]
NAME = "evaluation.masks"
CELLS = ("inside both", "found only", "true only", "outside both")
DICE = ("(Dice)", "(1 - Dice)")


@dataclass(frozen=True)
class MasksTask:
    """Pixels inside the masks, and the sum of the rows' Dice."""

    name: str = NAME
    version: int = 1
    grain: Grain = "site"

    def leaves(self, plan: Plan) -> tuple[Leaf, ...]:
        found = (
            Leaf("n", (), "count", "int64", unit="rows"),
            Leaf("pixels", (channels_of(plan), 3), "count", "int64", unit="pixels"),
            Leaf("dice", (), "sum"),
        )
        by_name = plan.combine == "collect"
        return tuple(replace(leaf, small="hide") for leaf in found) if by_name else found

    def slots(self, plan: Plan) -> tuple[str, ...]:
        """Patients of every fold."""
        return tuple(f"fold {i}" for i in range(plan.values["folds"]))

    def candidates(self, plan: Plan) -> tuple[tuple[str, ...], int]:
        """Names of the sums under each fold's network, and one candidate."""
        many = range(len(predictors_of(plan)))
        return tuple(_mark(name, i) for i in many for name in _names(plan)), 1

    def exposure(self, plan: Plan, partition: Partition, own: Mapping[str, Any]) -> Exposure:
        """Shares of patients in every sum, of all rows under each network."""
        folds = plan.values["folds"]
        read = predictors_of(plan)[0].design.columns
        return Exposure(
            slots={
                f"fold {i}": partition.patients(partition.keys % folds == i) for i in range(folds)
            },
            columns=shares_of(plan, partition),
            weights=Shares.of(np.ones(partition.n_rows), partition.key),
            alone=plan.combine == "collect",
            members=(Members(read, np.unique(partition.persons)),),
            updates=judged.own_numbers(plan),
        )

    def local(self, plan: Plan, partition: Partition) -> Contribution:
        folds = plan.values["folds"]
        found = cells_of(plan, 0, partition)
        for i in range(1, folds):
            at = partition.keys % folds == i
            found = np.where(at[:, None, None], cells_of(plan, i, partition), found)
        both, only, missed, _ = found.sum(axis=0).T.astype(np.int64)
        pixels = np.stack([both, both + only, both + missed], axis=1)
        leaves: dict[str, Any] = {
            "n": len(found),
            "pixels": pixels,
            "dice": float(dice(found).sum()),
        }
        return Contribution(leaves, Evidence(partition.n_patients))


def channels_of(plan: Plan) -> int:
    """Channels of a mask. Raises BAD_MESSAGE for models of another outcome."""
    found = {
        one.output[0] if isinstance(one, Segments) and one.explains == "mask" else 0
        for one in predictors_of(plan)
    }
    if found == {0} or len(found) > 1 or plan.values.get("where") is not None:
        raise PolyclinicError(
            f"{plan.task} is of masks", code="BAD_MESSAGE", rule="the network finds masks"
        )
    return int(found.pop())


def shares_of(
    plan: Plan, partition: Partition, order: NDArray[np.int64] | None = None
) -> dict[str, Shares]:
    """Shares of patients in every sum that is judged.

    order  the row behind each row's part, (n_rows,), where that is another one; each is once
    """
    found: dict[str, Shares] = {}
    for i in range(len(predictors_of(plan))):
        parts = _parts(cells_of(plan, i, partition))
        if order is not None:
            parts = parts[np.argsort(order, kind="stable")]
        for name, part in zip(_names(plan), parts.T, strict=True):
            found[_mark(name, i)] = Shares.of(part, partition.key)
    return found


def cells_of(plan: Plan, number: int, partition: Partition) -> Floats:
    """Pixels of each row in the four cells of CELLS, (n_rows, channels, 4)."""
    channels_of(plan)
    predictor: Any = predictors_of(plan)[number]

    def make() -> tuple[Partition, Floats]:
        return partition, predictor.overlaps(partition)

    return plan.once(f"overlaps {number} of {id(partition)}", make)[1]


def dice(cells: Floats) -> Floats:
    """Dice of each row, the mean over its channels; of an empty mask found empty 1, (n_rows,)."""
    both, only, missed = (cells[..., k] for k in range(3))
    each = 2 * both + only + missed
    own = np.where(each > 0, 2 * both / np.maximum(each, 1), 1.0)
    return np.asarray(own.mean(axis=1))


def _parts(cells: Floats) -> Floats:
    """What each row adds to the sums that are judged, (n_rows, sums)."""
    each = dice(cells)
    return np.column_stack([cells.reshape(len(cells), -1), each, 1 - each])


def _names(plan: Plan) -> list[str]:
    cells = [f"{cell}, channel {c}" for c in range(channels_of(plan)) for cell in CELLS]
    return [*cells, *DICE]


def _mark(name: str, fold: int) -> str:
    return f"{name} [{fold}]" if fold else name


def measures(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Dice and IoU over all pixels, by channel, and the mean Dice of rows."""
    n = int(sums["n"])
    both, found, true = np.asarray(sums["pixels"], dtype=np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        of_pixels, iou = 2 * both / (found + true), both / (found + true - both)

    def known(values: Floats) -> list[float | None]:
        return [float(v) if np.isfinite(v) else None for v in values]

    return {
        "n": n,
        "dice": float(sums["dice"]) / n if n else None,
        "dice_of_pixels": known(of_pixels),
        "iou_of_pixels": known(iou),
    }
