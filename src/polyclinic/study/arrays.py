"""Arrays in one trust domain: checked, described by bounds, cut into blocks without a copy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.contribution import Sum
from polyclinic.core.design import Design, Term
from polyclinic.core.errors import InputError
from polyclinic.core.federation import Domain, Inline
from polyclinic.core.partition import CHUNK_ROWS, Partition
from polyclinic.core.plan import Plan

Floats = NDArray[np.float64]
QUICK_ROWS, SAMPLE_ROWS = 200_000, 4096


@dataclass(frozen=True)
class Arrays:
    """A design over a matrix, and the rows behind it.

    labels  the site of every row, or None; they partition nothing unless the model needs them
    """

    design: Design
    rows: Partition
    labels: NDArray[Any] | None = None

    def by_site(self) -> Domain:
        """One trust domain in which every label is a site: its rows are gathered."""
        if self.labels is None:
            raise InputError(
                "errors clustered by site need the site of every row",
                code="NO_SITES",
                rule="fit(X, y, sites=labels) names the sites",
                next="fit again with sites=",
            )
        parts = [
            Partition(
                {name: values[self.labels == label] for name, values in self.rows.columns.items()},
                site=str(label),
            )
            for label in np.unique(self.labels)
        ]
        return Domain(_Labelled(parts))


class _Labelled:
    """Workers with one partition per label."""

    def __init__(self, parts: Sequence[Partition]) -> None:
        self.parts = parts

    def sum(self, plan: Plan) -> Sum:
        first, *others = (Inline(part).sum(plan) for part in self.parts)
        for more in others:
            first = first + more
        return first


def from_arrays(
    x: Floats,
    y: Floats,
    names: Sequence[str],
    *,
    intercept: bool = True,
    weight: Any = None,
    offset: Any = None,
    labels: Any = None,
    site_effects: bool = False,
    quick: bool = False,
) -> Arrays:
    """Describe and check arrays. `x` (n_rows, n_features) is not copied.

    With `quick` the bounds of large arrays come from a sample of rows, and NaN in `x` shows only in
    the first sums, which then cannot be held (`RingError`): call again without it.

    Raises
    ------
    InputError : NOT_FINITE for NaN or infinity, WRONG_LENGTH for arrays of different length.
    """
    columns: dict[str, Floats] = {"X": x, "y": y}
    for name, values in (("w", weight), ("offset", offset)):
        if values is not None:
            columns[name] = _column(name, values, len(y))
    if labels is not None:
        labels = np.asarray(labels)
        if len(labels) != len(y):
            raise _length("sites", len(labels), len(y))
    if site_effects:
        if labels is None:
            raise InputError(
                "a fixed effect per site needs the site of every row",
                code="NO_SITES",
                rule="fit(X, y, sites=labels) names the sites",
                next="give sites=",
            )
        levels = np.unique(labels)[1:]
        columns["X"] = x = np.hstack([x, (labels[:, None] == levels).astype(np.float64)])
        names = [*names, *(f"site[T.{level}]" for level in levels)]
    bounds = _sampled_bounds(x) if quick else _bounds(x, "X")
    for name in ("w", "offset"):
        if name in columns:
            _bounds(columns[name][:, None], name)
    terms = tuple(
        Term(str(name), (), float(bound)) for name, bound in zip(names, bounds, strict=True)
    )
    design = Design(
        terms,
        "y",
        intercept,
        "offset" if offset is not None else None,
        "w" if weight is not None else None,
        response_bound=float(_bounds(y[:, None], "y")[0]) or 1.0,
    )
    return Arrays(design, Partition(columns), labels)


def _column(name: str, values: Any, n_rows: int) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    column = np.broadcast_to(column, (n_rows,)).copy() if column.ndim == 0 else column
    if column.shape != (n_rows,):
        raise _length("sample_weight" if name == "w" else name, len(column), n_rows)
    if name == "w" and np.any(column < 0):
        raise InputError(
            "sample_weight: some weights are negative",
            code="NEGATIVE_WEIGHT",
            rule="weights are 0 or more",
        )
    return column


def _length(name: str, got: int, wanted: int) -> InputError:
    return InputError(
        f"{name} has {got} entries for {wanted} rows", code="WRONG_LENGTH", rule="one entry per row"
    )


def _sampled_bounds(x: Floats) -> Floats:
    """Largest magnitude per column over some rows; the ring has room for far larger ones."""
    if len(x) < QUICK_ROWS:
        return _bounds(x, "X")
    sample = x[:: len(x) // SAMPLE_ROWS]
    bounds = np.maximum(sample.max(axis=0), -sample.min(axis=0)).astype(np.float64)
    for column in np.flatnonzero(~(bounds > 0)):  # nothing seen, or NaN
        bounds[column] = _bounds(x[:, column : column + 1], "X")[0]
    return np.asarray(bounds)


def _bounds(x: Floats, name: str) -> Floats:
    """Largest magnitude per column. One pass; NaN and infinity show in it."""

    def one(start: int) -> Floats:
        block = x[start : start + CHUNK_ROWS]
        return np.asarray(np.maximum(block.max(axis=0), -block.min(axis=0)), dtype=np.float64)

    starts = range(0, len(x), CHUNK_ROWS)
    if len(starts) > 1:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = list(pool.map(one, starts))
    else:
        found = [one(start) for start in starts]
    bounds = np.max(found, axis=0) if found else np.zeros(x.shape[1])
    if not np.all(np.isfinite(bounds)):
        kind = "NaN" if np.isnan(bounds).any() else "infinity"
        raise InputError(
            f"Input {name} contains {kind}.",
            code="NOT_FINITE",
            rule="arrays are finite numbers",
            next="drop or fill the missing values first",
        )
    return np.asarray(bounds)
