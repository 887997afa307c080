"""What the groups of a chunk's patients add up to: all that rounds of k-means read of them.

Groups stay together whatever a round asks about (units.py), so a round adds sums of groups and
never looks at a row again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.exposure import Exposure, Members, Shares, packed, unpacked
from polyclinic.models.simple.nearest import Scaled, added
from polyclinic.models.simple.units import means_of, points_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Of one chunk.

    means      of the groups' patients, (n_groups, n_terms)
    first      ordinal of the first patient of each, by which samples are drawn, (n_groups,)
    n, weight  rows of each, and their weight, (n_groups,)
    x          sums of the scaled terms, (n_groups, n_terms)
    within     squared distances of the rows from their group's mean, summed, (n_groups,)
    behind     patients, (n_groups,)
    shares     in the sums, (n_groups, n_terms + 1)
    group      of each patient, in ascending order of `persons`
    persons    the patients, packed
    whole      how all of them share in sums over all rows, and packed the patients behind those
    patients   of the chunk
    lasting    finding groups takes long, and they take little room: caches keep them longest
    """

    site: str
    means: Scaled
    first: Ints
    n: Ints
    weight: Floats
    x: Floats
    within: Floats
    behind: Ints
    shares: Shares
    group: NDArray[np.int32]
    persons: Mapping[str, Any]
    whole: tuple[Exposure, tuple[Mapping[str, Any], ...]]
    patients: int
    lasting: ClassVar[bool] = True

    def summed(self, label: Ints, size: int) -> tuple[dict[str, Any], dict[str, Ints]]:
        """Per label of the groups, below 0 for none: rows, weight and sums, and patients."""
        inside = label >= 0
        n, behind = np.zeros((2, size), dtype=np.int64)
        np.add.at(n, label[inside], self.n[inside])
        np.add.at(behind, label[inside], self.behind[inside])
        weight = np.bincount(label[inside], weights=self.weight[inside], minlength=size)
        nowhere = np.zeros((size, self.x.shape[1]))
        total = added(Scaled.of(self.x), np.ones(len(label)), label, nowhere).x
        leaves = {"n": n, "weight": weight.astype(np.float64), "x": total}
        wide = np.repeat(behind[:, None], self.x.shape[1], axis=1)
        return leaves, {"n": behind, "weight": behind, "x": wide}

    def inertia(self, label: Ints, centres: Floats) -> float:
        """Squared distances of all rows from the centres of their groups."""
        middle = self.x / self.weight[:, None]
        between = added(Scaled.of(middle), self.weight, label, centres).spread
        return float(self.within.sum()) + between

    def exposure(self, label: Ints, size: int) -> Exposure:
        """How the patients of each label share in its sums, and who they are."""
        bare, all_of = self.whole
        found = tuple(
            replace(one, patients=unpacked(some))
            for one, some in zip(bare.members, all_of, strict=True)
        )
        persons, at = unpacked(self.persons), label[self.group]
        columns = found[0].columns
        parts = tuple(Members(columns, persons[at == k]) for k in range(size))
        shares = [_added(self.shares, label == k) for k in range(size)]
        cells = {
            "x": _stacked(shares, np.s_[:-1]),
            "weight": _stacked(shares, np.s_[-1]),
        }
        return replace(bare, members=(*found, *parts), cells=cells)


def groups_in(
    x: Floats,
    weight: Floats,
    parts: Floats,
    group: Ints,
    key: Ints | None,
    keys: Ints,
    persons: Ints,
    whole: Exposure,
    site: str,
) -> Groups:
    """Of scaled rows (n_rows, n_terms) whose patients are in `group`, (n_patients,).

    parts  of the rows in sums, 0 or more, (n_rows, n_terms + 1)
    key    of the rows' patients; None: a row is one; keys, persons: ordinals of each row's patient
    """
    points, place = points_of(x, key)
    size = int(group.max()) + 1 if len(group) else 0
    label = group[place]
    total = sums_by(x * weight[:, None], label, size)
    mass = np.bincount(label, weights=weight, minlength=size)
    away = x - (total / mass[:, None])[label]
    first = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(first, label, keys)
    of = np.zeros(len(points), dtype=np.int64)
    of[place] = persons
    order = np.argsort(of, kind="stable")
    far = weight * np.einsum("ij,ij->i", away, away)
    squares = np.bincount(label, weights=far, minlength=size)
    none = np.zeros(0, dtype=np.int64)  # a view would hold what it is a view of
    bare = replace(whole, members=tuple(replace(m, patients=none) for m in whole.members))
    return Groups(
        site,
        Scaled.of(means_of(points, group)),
        first,
        np.bincount(label, minlength=size).astype(np.int64),
        mass.astype(np.float64),
        total,
        squares.astype(np.float64),
        np.bincount(group, minlength=size).astype(np.int64),
        shares_by(_of_patients(parts, key), group, size),
        group[order].astype(np.int32),
        packed(of[order]),
        (bare, tuple(packed(one.patients) for one in whole.members)),
        len(points),
    )


def sums_by(x: Floats, group: Ints, size: int) -> Floats:
    """Sums of rows by group, (size, n_columns)."""
    found = [np.bincount(group, weights=column, minlength=size) for column in x.T]
    return np.stack(found, axis=1) if found else np.zeros((size, 0))


def shares_by(parts: Floats, group: Ints, size: int) -> Shares:
    """How patients share in the sums of their group, (size, n_sums); each group has some."""
    if not size:
        nothing = np.zeros((0, parts.shape[1]))
        return Shares(nothing, nothing, nothing, nothing)
    order = np.argsort(group, kind="stable")
    sorted_parts, sorted_group = parts.take(order, axis=0), group[order]
    starts = np.flatnonzero(np.diff(sorted_group, prepend=-1))
    first = np.maximum.reduceat(sorted_parts, starts, axis=0)
    place = np.arange(len(parts))[:, None]
    is_first = np.where(sorted_parts == first[sorted_group], place, len(parts))
    at = np.minimum.reduceat(is_first, starts, axis=0)
    total, squares = sums_by(parts, group, size), sums_by(parts**2, group, size)
    sorted_parts[at, np.arange(parts.shape[1])] = 0.0
    return Shares(total, squares, first, np.maximum.reduceat(sorted_parts, starts, axis=0))


def _of_patients(parts: Floats, key: Ints | None) -> Floats:
    if key is None or not len(key):
        return parts
    starts = np.flatnonzero(np.diff(key, prepend=key[0] - 1))
    return np.asarray(np.add.reduceat(parts, starts, axis=0))


def _added(shares: Shares, inside: NDArray[np.bool_]) -> Shares:
    """Of the patients of some groups together, (n_sums,)."""
    total, squares = shares.total[inside].sum(axis=0), shares.squares[inside].sum(axis=0)
    if not inside.any():
        return Shares(total, squares, np.zeros_like(total), np.zeros_like(total))
    largest = np.concatenate([shares.first[inside], shares.second[inside]])
    second, first = np.partition(largest, -2, axis=0)[-2:]
    return Shares(total, squares, first, second)


def _stacked(shares: list[Shares], at: Any) -> Shares:
    names = ("total", "squares", "first", "second")
    return Shares(*(np.stack([getattr(one, name)[at] for one in shares]) for name in names))
