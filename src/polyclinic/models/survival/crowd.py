"""How many patients carry the risk sets: whether sums of a Cox regression tell when a few left.

Whoever chooses coefficients chooses who makes up the risk sets. Say all risk is with five patients:
until the last of them leaves, the mean of a column over the risk set is his, and then that of the
others. So gradient, Hessian and loss count the events until he leaves, however many events and
patients there are: his place in the order of times. Two things give it away.

- A risk set rests on far fewer patients than are in it. With r = w exp(eta), summed over a
  patient's rows, as many as (sum r)^2 / sum r^2 carry it.
- Between two times of events a few leave with nearly all of the risk: the few that are left behind
  are a risk set as well, so this one may be small.

Without an effect neither is ever so. It hangs on the coefficients, not on the number of patients at
risk: the last risk sets of every hospital are small, and no fit could do without them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.survival.kernel import Stratum

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
PART = 4  # one in so many patients at risk, effectively, carries a risk set: the rest do not matter
ALL = 0.99  # of the risk that leaves between two times of events: nothing to speak of is left


def crowds(one: Stratum, theta: Floats, keys: Ints) -> Floats:
    """Fewest patients, effectively, who carry a risk set or take its risk away, (m,); inf: none do.

    theta  coefficients (m, p)
    keys   the patient of each row of the partition
    """
    person = np.unique(keys[one.rows], return_inverse=True)[1]
    return np.array([_crowd(one, beta, person) for beta in theta])


def _crowd(one: Stratum, beta: Floats, person: Ints) -> float:
    with np.errstate(all="ignore"):
        eta = one.x @ beta
        eta = eta if one.offset is None else eta + one.offset
        risk = np.exp(eta - eta.max())
    if not np.all(np.isfinite(risk)):
        return 0.0  # such sums are lost
    risk = risk if one.weight is None else risk * one.weight
    before, fresh = earlier(risk, person)
    whole, left = np.cumsum(risk)[one.last], np.cumsum(fresh)[one.last]
    squares = np.cumsum(risk * (risk + 2.0 * before))[one.last]
    return min(carried(whole, squares, left), _leaving(one, risk, person, whole))


def carried(whole: Floats, squares: Floats, left: Ints | Bools) -> float:
    """Fewest patients, effectively, who carry a risk set of far more.

    whole, squares, left  risk, squares of the patients' risks and patients of each risk set
    """
    carrying = whole * whole / np.maximum(squares, 1e-300)
    return float(np.where(carrying * PART < left, carrying, np.inf).min(initial=np.inf))


def nearly_all_leave(whole: Floats) -> Ints:
    """Risk sets, the latest first, after which nearly all risk leaves before the next one."""
    return np.flatnonzero(whole[:-1] < (1.0 - ALL) * whole[1:])


def earlier(risk: Floats, person: Ints) -> tuple[Floats, Bools]:
    """Per row the risk of the patient's rows before it, and whether it is the first of them."""
    order = np.argsort(person, kind="stable")
    fresh = np.append(True, np.diff(person[order]) > 0)[: len(person)]
    starts = np.flatnonzero(fresh)
    sums = np.cumsum(risk[order]) - risk[order]
    before, first = np.zeros(len(risk)), np.zeros(len(risk), dtype=bool)
    before[order] = sums - np.repeat(sums[starts], np.diff(np.append(starts, len(risk))))
    first[order] = fresh
    return before, first


def _leaving(one: Stratum, risk: Floats, person: Ints, whole: Floats) -> float:
    """Fewest patients, effectively, who leave with nearly all risk between two times of events."""
    fewest = np.inf
    for k in nearly_all_leave(whole):
        rows = slice(int(one.last[k]) + 1, int(one.last[k + 1]) + 1)
        parts = np.bincount(person[rows], risk[rows])
        fewest = min(fewest, parts.sum() ** 2 / max(float(parts @ parts), 1e-300))
    return float(fewest)
