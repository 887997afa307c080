"""Images, series, masks and durations that users hand in as arrays, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import InputError
from polyclinic.models.neural.inputs import MASKS
from polyclinic.models.survival.concordance import concordance_of, pairs
from polyclinic.study.survival import outcome_of_arrays

Floats = NDArray[np.float64]
BLOCK = 1024  # items that are looked at at once


def dimensions(X: Any) -> int:
    """Dimensions of an array, a frame or lists."""
    shape = getattr(X, "shape", None)
    return np.asarray(X).ndim if shape is None else len(shape)


def items(X: Any) -> NDArray[Any]:
    """Images (n, channels, height, width) or volumes, which are complete, or series
    (n, steps, variables), in which NaN is a gap. Raises NOT_FINITE, WRONG_TYPE."""
    found = np.asarray(X)
    if found.dtype.kind not in "fiub":
        raise InputError(
            f"X is an array of {found.dtype}",
            code="WRONG_TYPE",
            rule="images and series are numbers",
            next="read the images first",
        )
    gaps = found.ndim == 3
    if found.dtype.kind == "f":
        for start in range(0, len(found), BLOCK):
            block = found[start : start + BLOCK]
            if np.isinf(block).any() if gaps else not np.isfinite(block).all():
                raise _not_finite(gaps)
    return found


def _not_finite(gaps: bool) -> InputError:
    return InputError(
        "Input X contains NaN or infinity." if not gaps else "Input X contains infinity.",
        code="NOT_FINITE",
        rule="images are finite numbers; NaN in a series is a gap",
        next="leave such items out first",
    )


def wrong_shape(name: str, found: tuple[int, ...], wanted: str) -> InputError:
    """The error of items of another shape."""
    return InputError(
        f"{name} has items of shape {found}",
        code="WRONG_SHAPE",
        rule=f"one item is of shape {wanted}",
        next="bring the items to this shape",
    )


def check_length(x: NDArray[Any], y: NDArray[Any]) -> None:
    """Raises WRONG_LENGTH for items without an outcome, or outcomes without an item."""
    if len(x) != len(y):
        raise InputError(
            f"X has {len(x)} items for {len(y)} outcomes",
            code="WRONG_LENGTH",
            rule="one outcome per item",
            next="give as many of both",
        )


def masks(
    y: NDArray[Any], image: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[str, NDArray[np.float32]]]:
    """The shape of one mask, and the masks; without a dimension of channels they have one."""
    y = y[:, None] if y.ndim == len(image) else y
    if y.ndim != len(image) + 1 or y.shape[2:] != image[1:] or y.dtype.kind not in "fiub":
        raise wrong_shape("y", y.shape[1:], f"(channels, {str(image[1:])[1:]}")
    if not np.isin(y, (0, 1)).all():
        raise InputError(
            "y holds numbers other than 0 and 1",
            code="WRONG_VALUE",
            rule="a mask is 1 inside and 0 outside, with a channel for each structure",
            next="make a channel of each label",
        )
    return y.shape[1:], {MASKS: y.astype(np.float32)}


def outcome_of_survival(y: Any, cause: int) -> tuple[Floats, Floats]:
    """Durations and ways to end, (n_rows,) each, of a structured array of events and durations, or
    of two columns, durations and events."""
    if getattr(getattr(y, "dtype", None), "names", None) is None and np.ndim(y) == 2:
        found = np.asarray(y, dtype=np.float64)
        if found.shape[1] == 2:
            return outcome_of_arrays(found[:, 0], found[:, 1], cause)
    return outcome_of_arrays(y, None, cause)


def concordance(duration: Floats, event: NDArray[np.bool_], risk: Floats) -> float:
    """Harrell's C."""
    return concordance_of(pairs(duration, event, risk))["c"]


def dice(y: NDArray[Any], found: NDArray[Any], weight: Any = None) -> float:
    """Mean over rows and channels of 2 |both| / (|one| + |other|); 1 where both are empty."""
    truth = y.reshape(found.shape).astype(bool)
    inner = tuple(range(2, found.ndim))
    both, each = (truth & found).sum(inner), truth.sum(inner) + found.sum(inner)
    rows = np.where(each > 0, 2 * both / np.maximum(each, 1), 1.0).mean(axis=1)
    return float(np.average(rows, weights=weight))
