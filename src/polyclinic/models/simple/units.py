"""A hospital's patients in small groups that stay together.

Sums over two sets of patients that differ in one show that one's values, and rounds of a clustering
move patients one by one. So a hospital first cuts its patients into groups of no fewer than a
minimum, which depend on nothing but its rows and the scale of the columns; a round then puts whole
groups into clusters. Whatever centres anybody asks about, and however often, no sums differ in less
than a group. This is microaggregation (Domingo-Ferrer & Mateo-Sanz, *IEEE TKDE* 14, 2002), here of
who belongs together, not of values.

A group is cut into those who have and who have not what a column says, so that groups fit to tables
by level of such columns; then along its principal direction, where that leaves least spread within
the two parts; as long as both hold the minimum and in neither one patient or two make up nearly all
of the sum of a column. Both rules hold for every union of groups where they hold for each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST = 10_000  # groups of a hospital, about: finer ones bring nothing
STEPS = 12  # of the power method: any direction near the principal one will do
LARGE = 64  # times the minimum: above, no part is below a sixteenth, so that the depth is bounded
TWO, REST = 0.9, 0.1  # the gate's usual rules: of a sum two patients' part, and what others hold


def points_of(x: Floats, key: Ints | None) -> tuple[Floats, Ints]:
    """Mean of each patient's rows, (n_patients, n_terms), and the place of each row's patient."""
    if key is None or len(x) == 0:
        return x, np.arange(len(x))
    starts = np.flatnonzero(np.diff(key, prepend=key[0] - 1))
    place = np.cumsum(np.diff(key, prepend=key[0]) != 0)
    counts = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts, axis=0) / counts[:, None], place


def summed_of(parts: Floats, key: Ints | None) -> Floats:
    """Parts of each patient, (n_patients, n_sums), of those of the rows."""
    points, place = points_of(parts, key)
    return np.asarray(points * np.bincount(place, minlength=len(points))[:, None])


def ruled(parts: Floats) -> NDArray[np.bool_]:
    """The sums of which one patient or two make up nearly all, (n_sums,)."""
    first, second = np.zeros((2, parts.shape[1]))
    if len(parts):
        first, at = parts.max(axis=0), parts.argmax(axis=0)
        for j, i in enumerate(at.tolist()):
            rest = max(parts[:i, j].max(initial=0.0), parts[i + 1 :, j].max(initial=0.0))
            second[j] = rest
    total, two = parts.sum(axis=0), first + second
    return np.asarray((first > 0) & ((two > TWO * total) | (total - two < REST * first)))


def groups_of(points: Floats, parts: Floats, sides: NDArray[np.bool_], least: int) -> Ints:
    """Number of each patient's group, (n_patients,), 0, 1, 2, ...; fewer than `least` are one.

    Parameters
    ----------
    points : where patients are, (n_patients, n_terms).
    parts : each patient's part, 0 or more, in sums that no two may make up, (n_patients, n_sums).
    sides : what says yes or no of each patient, (n_patients, n_columns).
    """
    group = np.zeros(len(points), dtype=np.int64)
    waiting, found = [(np.arange(len(points)), points, parts, sides)], 0
    while waiting:
        inside, x, mine, yes = waiting.pop()
        halves = _sides(x, mine, yes, least) or _cut(x, mine, least)
        if halves is None:
            group[inside] = found
            found += 1
        else:  # what belongs together lies together, and is read at once
            for half in halves:
                own = x.take(half, axis=0), mine.take(half, axis=0), yes.take(half, axis=0)
                waiting.append((inside[half], *own))
    return group


def means_of(points: Floats, group: Ints) -> Floats:
    """Mean of each group's patients, (n_groups, n_terms)."""
    n_groups = int(group.max()) + 1 if len(group) else 0
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=n_groups)
    if not n_groups:
        return np.zeros((0, points.shape[1]))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(points[order], starts, axis=0) / counts[:, None])


def _sides(
    x: Floats, parts: Floats, sides: NDArray[np.bool_], least: int
) -> tuple[Ints, Ints] | None:
    """Those who have, and who have not, what makes most difference; None where none can be cut."""
    best, found = 0.0, None
    for column in sides.T:
        n, yes = len(column), int(np.count_nonzero(column))
        if min(yes, n - yes) < least:
            continue
        apart = x[column].mean(axis=0) - x[~column].mean(axis=0)
        gain = yes * (n - yes) / n * float(apart @ apart)
        halves = np.flatnonzero(column), np.flatnonzero(~column)
        if gain > best and not any(ruled(parts.take(half, axis=0)).any() for half in halves):
            best, found = gain, halves
    return found


def _cut(x: Floats, parts: Floats, least: int) -> tuple[Ints, Ints] | None:
    """The two parts of a group, or None where it stays whole."""
    n = len(x)
    if n < 2 * least:
        return None
    x = x - x.mean(axis=0)
    along = x @ _direction(x)
    order = np.argsort(along, kind="stable")
    first = np.cumsum(along[order])
    size = np.arange(1, n)
    gain = first[:-1] ** 2 / size + (first[-1] - first[:-1]) ** 2 / (n - size)
    edge = max(least, n // 16) if n > LARGE * least else least
    gain[: edge - 1] = gain[n - edge :] = 0.0
    at = int(np.argmax(gain)) + 1
    halves = order[:at], order[at:]
    if gain[at - 1] > 0 and any(ruled(parts.take(half, axis=0)).any() for half in halves):
        gain[~(_shared(parts[order])[:-1] & _shared(parts[order[::-1]])[-2::-1])] = 0.0
        at = int(np.argmax(gain)) + 1
        halves = order[:at], order[at:]
    return halves if gain[at - 1] > 0 else None


def _shared(parts: Floats) -> NDArray[np.bool_]:
    """Of the first 1, 2, ... patients, whether no two make up nearly all of a sum."""
    total, first = np.cumsum(parts, axis=0), np.maximum.accumulate(parts, axis=0)
    second = np.zeros_like(first)
    np.maximum.accumulate(np.minimum(parts[1:], first[:-1]), axis=0, out=second[1:])
    two = first + second
    good = (two <= TWO * total) & (total - two >= REST * first)
    return np.asarray(np.all(good | (first == 0), axis=1))


def _direction(x: Floats) -> Floats:
    """Nearly the principal direction of centred rows."""
    v = x[np.argmax(np.einsum("ij,ij->i", x, x))]
    few = x.T @ x if len(x) > x.shape[1] else None
    for _ in range(STEPS):
        size = np.sqrt(v @ v)
        if size == 0:
            break
        v = v / size
        v = x.T @ (x @ v) if few is None else few @ v
    return np.asarray(v / max(np.sqrt(v @ v), 1e-300))
