"""Arrays in one trust domain: checked, described by bounds, cut into blocks without a copy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets

from polyclinic.core.design import Design, Term
from polyclinic.core.errors import InputError
from polyclinic.core.federation import Domain, Domains, Inline
from polyclinic.core.partition import CHUNK_ROWS, Partition
from polyclinic.engines.embedded import Embedded
from polyclinic.engines.workers import single_threaded_blas
from polyclinic.models.learner import Column

Floats = NDArray[np.float64]
QUICK_ROWS, SAMPLE_ROWS = 200_000, 4096
SIDE_BY_SIDE = 16


@dataclass(frozen=True)
class Arrays:
    """A design over a matrix, and the rows behind it.

    labels  the site of every row, or None; they partition nothing unless the model needs them
    ends    smallest and largest value of each term, (2, n_terms); None: not of all rows
    """

    design: Design
    rows: Partition
    labels: NDArray[Any] | None = None
    ends: Floats | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names, in order; none without labels."""
        return () if self.labels is None else tuple(str(one) for one in np.unique(self.labels))

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of every label, by its name; of all of them without labels."""
        if self.labels is None:
            return {self.rows.site: self.rows.n_rows}
        names, counts = np.unique(self.labels, return_counts=True)
        return {str(name): int(n) for name, n in zip(names, counts, strict=True)}

    def columns(self) -> tuple[Column, ...]:
        """The terms as columns with the ranges that they have; empty where these are not known."""
        if self.ends is None:
            return ()
        each = zip(self.design.names, *self.ends.tolist(), strict=True)
        return tuple(Column(name, "number", (), a, b, name) for name, a, b in each)

    def by_site(self) -> Domain:
        """One trust domain in which every label is a site: its rows are gathered."""
        if self.labels is None:
            raise InputError(
                "errors clustered by site need the site of every row",
                code="NO_SITES",
                rule="fit(X, y, sites=labels) names the sites",
                next="fit again with sites=",
            )
        return Domains({part.site: Inline(part) for part in self.parts()})

    def each_site(self, engine: Embedded) -> Domains:
        """One trust domain in which every label is a site that can answer by itself."""
        workers = {part.site: engine.workers(part) for part in self.parts()}
        return Domains(workers, single_threaded_blas)

    def parts(self) -> list[Partition]:
        """The rows of every label; all of them without labels."""
        if self.labels is None:
            return [self.rows]
        return [
            Partition(
                {name: values[self.labels == label] for name, values in self.rows.columns.items()},
                site=str(label),
            )
            for label in np.unique(self.labels)
        ]


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
    gaps: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Arrays:
    """Describe and check arrays. `x` (n_rows, n_features) is not copied.

    With `gaps` NaN in `x` is a missing value; `extra` are more columns, (n_rows,). With `quick` the
    bounds of large arrays come from a sample of rows, and NaN in `x` shows only in the first sums,
    which then cannot be held (`RingError`): call again without it.

    Raises
    ------
    InputError : NOT_FINITE for NaN or infinity, WRONG_LENGTH for arrays of different length.
    """
    columns: dict[str, Floats] = {"X": x, "y": y}
    for name, values in (("w", weight), ("offset", offset), *(extra or {}).items()):
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
    ends = None if quick else _ends(x, "X", gaps)
    bounds = _sampled_bounds(x) if ends is None else np.maximum(ends[1], -ends[0])
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
    return Arrays(design, Partition(columns), labels, ends)


def reduced(function: np.ufunc, block: Floats) -> Floats:
    """`function` down the columns; rows lie side by side, as numpy is slow over a few columns."""
    rows, columns = block.shape
    if rows < SIDE_BY_SIDE or not block.flags.c_contiguous:
        return np.asarray(function.reduce(block, axis=0))
    whole = rows // SIDE_BY_SIDE * SIDE_BY_SIDE
    folded = function.reduce(block[:whole].reshape(-1, SIDE_BY_SIDE * columns), axis=0)
    left = np.vstack([folded.reshape(SIDE_BY_SIDE, columns), block[whole:]])
    return np.asarray(function.reduce(left, axis=0))


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
    """Largest magnitude per column."""
    low, high = _ends(x, name)
    return np.asarray(np.maximum(high, -low))


def _ends(x: Floats, name: str, gaps: bool = False) -> Floats:
    """`ranges`; infinity shows in them, and NaN without `gaps`."""
    ends = np.array(ranges(x, gaps))
    if not np.all(np.isfinite(ends)):
        kind = "NaN" if np.isnan(ends).any() else "infinity"
        raise InputError(
            f"Input {name} contains {kind}.",
            code="NOT_FINITE",
            rule="arrays are finite numbers",
            next="drop or fill the missing values first",
        )
    return ends


def ranges(x: Floats, gaps: bool = False) -> tuple[Floats, Floats]:
    """Smallest and largest value per column, in one pass; with `gaps` of those that are there."""
    if not x.shape[1]:  # images only
        return np.zeros(0), np.zeros(0)

    # fmin and fmax pass over NaN
    least, most = (np.fmin, np.fmax) if gaps else (np.minimum, np.maximum)

    def one(start: int) -> Floats:
        block = x[start : start + CHUNK_ROWS]
        return np.array([reduced(least, block), reduced(most, block)], dtype=np.float64)

    starts = range(0, len(x), CHUNK_ROWS)
    if len(starts) > 1:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = np.array(list(pool.map(one, starts)))
    else:
        found = np.array([one(start) for start in starts] or [np.zeros((2, x.shape[1]))])
    low, high = least.reduce(found[:, 0], axis=0), most.reduce(found[:, 1], axis=0)
    if gaps:  # a column without any value
        low, high = (np.where(np.isnan(ends), 0.0, ends) for ends in (low, high))
    return low, high


def coded(y: NDArray[Any]) -> tuple[NDArray[Any], Floats]:
    """The classes of an outcome, in order, and the class of every row, (n_rows,)."""
    if y.dtype.kind in "fiub":
        two = _two(y)
        if two is not None:
            return two
        codes, found = pd.factorize(y, sort=True)
        check_classification_targets(found)
        return np.asarray(found), codes.astype(np.float64)
    check_classification_targets(y)
    found, codes = np.unique(y, return_inverse=True)
    return found, codes.astype(np.float64)


def _two(y: NDArray[Any]) -> tuple[NDArray[Any], Floats] | None:
    """`coded` of an outcome of two classes, which needs no table; None for others."""
    if not len(y) or y.dtype.kind == "b":
        return None
    ends = np.array([y.min(), y.max()])
    if not np.isfinite(ends).all() or ends[0] == ends[1]:
        return None
    high = y == ends[1]
    if np.count_nonzero(high) + np.count_nonzero(y == ends[0]) < len(y):
        return None
    check_classification_targets(ends)
    return ends, high.astype(np.float64)
