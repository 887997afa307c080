"""Groups of patients with neighbouring risks: what is counted are the groups, never a patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SMALLEST = 5


def group_size(least: int) -> int:
    """The patients of a group when a plan asks for `least`: 1, or 5, 10, 20, ...

    Groups of these sizes lie within each other; those of 5 and of 6 differ by single patients.
    """
    size = SMALLEST
    while size < least < 2**30:
        size *= 2
    return size if least > 1 else 1


def groups_of(p: Floats, keys: Ints, least: int) -> Ints:
    """Group of each row, (n_rows,), numbered by ascending risk.

    Groups are cut along ascending risks, between different ones, as soon as `least` patients are
    in; what is left over at the end joins the last group.
    """
    order = np.argsort(p, kind="stable")
    sorted_p, sorted_keys = p[order], keys[order]
    group = np.zeros(len(p), dtype=np.int64)
    inside: set[int] = set()
    number = 0
    for i, key in enumerate(sorted_keys.tolist()):
        if len(inside) >= least and sorted_p[i] != sorted_p[i - 1]:
            number, inside = number + 1, set()
        inside.add(key)
        group[i] = number
    if number and len(inside) < least:
        group[group == number] = number - 1
    out = np.empty_like(group)
    out[order] = group
    return out


def means(p: Floats, group: Ints) -> Floats:
    """Each risk replaced by the mean over its group, (n_rows,)."""
    if not len(p):
        return p
    found = np.bincount(group, weights=p) / np.maximum(np.bincount(group), 1)
    return np.asarray(found[group])


def patients_by(place: Ints, keys: Ints, size: int) -> Ints:
    """Patients per place, (size,)."""
    pairs = np.unique(np.stack([place, keys]), axis=1)
    return np.bincount(pairs[0], minlength=size).astype(np.int64)


def behind_bins(place: Ints, group: Ints, keys: Ints, bins: int) -> Ints:
    """Patients behind each bin, no more than in the smallest of its groups, (bins,).

    Else edges that are moved a little would show the groups in a bin one by one.
    """
    found = patients_by(place, keys, bins)
    if len(group):
        sizes = patients_by(group, keys, int(group.max()) + 1)
        np.minimum.at(found, place, sizes[group])
    return found


def behind_thresholds(p: Floats, group: Ints, keys: Ints, thresholds: Sequence[float]) -> Ints:
    """Patients behind the count above each threshold, (len(thresholds),).

    Two counts differ by those between the thresholds: the fewest on either side, or in a group.
    """
    if not len(p):
        return np.zeros(len(thresholds), dtype=np.int64)
    edges = np.unique(np.asarray(thresholds, dtype=np.float64))
    between = patients_by(np.searchsorted(edges, p, side="right"), keys, len(edges) + 1)
    between = np.where(between == 0, len(p), between)
    fewest = int(patients_by(group, keys, int(group.max()) + 1).min())
    at = np.searchsorted(edges, np.asarray(thresholds, dtype=np.float64))
    return np.minimum(np.minimum(between[at], between[at + 1]), fewest)
