"""Cox's partial likelihood over sorted rows: loss, gradient, Hessian and what belongs to patients.

In each stratum, with w weights, r = w exp(eta), R_k the rows at risk at event time k, d_k events:

    loss = sum over events i of a_i log(phi_i) - w eta,   phi_i = S0_k - f_i D0_k

S0, S1 sum r and r x over R_k, D0, D1 over the events at k; a_i is the mean weight of these.
Breslow: f_i = 0; Efron: f_i = 0, 1/d_k, ..., (d_k - 1)/d_k. With m_i = (S1_k - f_i D1_k) / phi_i,

    gradient = sum a_i m_i - w x_i,   Hessian = sum_j r_j g_j x_j x_j' - sum_i a_i m_i m_i'

where g_j sums a_i / phi_i over the events for which row j is at risk, times 1 - f_i for its own
ties. One pass over rows in descending time gives all risk sets.

References: Cox, "Regression models and life-tables", JRSS B 34 (1972); Efron, "The efficiency of
Cox's likelihood function for censored data", JASA 72 (1977); Lin & Wei, JASA 84 (1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
BLOCK_ROWS = 8192
ROUNDED = 1e-13  # a column that varies by less, as a part of itself, is the same in every row


@dataclass(frozen=True)
class Stratum:
    """Rows that share a baseline, in descending order of time.

    rows      places in the partition, (n,)
    x         columns less their mean, (n, p): no sum here depends on where zero is
    time, weight, offset   (n,); the latter two None where there are none
    event     rows with an event, in order, (E,)
    tie       per event the number of its event time, (E,), ascending
    share     per event f_i, (E,)
    mean_weight  per event a_i, (E,)
    last      per event time the last row at risk, (K,)
    at        per row the first event time at which it is at risk, (n,), K where at none
    """

    rows: Ints
    x: Floats
    time: Floats
    weight: Floats | None
    offset: Floats | None
    event: Ints
    tie: Ints
    share: Floats
    mean_weight: Floats
    last: Ints
    at: Ints

    @property
    def is_event(self) -> Bools:
        found = np.zeros(len(self.time), dtype=bool)
        found[self.event] = True
        return found


def sort_rows(
    x: Floats,
    time: Floats,
    event: Bools,
    stratum: Ints | None,
    weight: Floats | None,
    offset: Floats | None,
    efron: bool,
) -> tuple[Stratum, ...]:
    """Rows by stratum; those without an event in their stratum say nothing and are left out.

    Rows of weight 0 are left out as well.
    """
    if weight is not None and not np.all(weight):
        kept = np.flatnonzero(weight)
        stratum = None if stratum is None else stratum[kept]
        offset = None if offset is None else offset[kept]
        found = sort_rows(x[kept], time[kept], event[kept], stratum, weight[kept], offset, efron)
        return tuple(replace(one, rows=kept[one.rows]) for one in found)
    order = np.argsort(-time, kind="stable")
    groups = [order]
    if stratum is not None:
        order = order[np.argsort(stratum[order], kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1)
    made = []
    for rows in groups:
        if len(rows) and event[rows].any():
            w, off = (None if v is None else v[rows] for v in (weight, offset))
            made.append(_stratum(rows, x[rows], time[rows], event[rows], w, off, efron))
    return tuple(made)


def _stratum(
    rows: Ints,
    x: Floats,
    time: Floats,
    event: Bools,
    weight: Floats | None,
    offset: Floats | None,
    efron: bool,
) -> Stratum:
    ends = np.append(np.flatnonzero(np.diff(time)), len(time) - 1)  # last row of each time
    group = np.searchsorted(ends, np.arange(len(time)))
    at_event = np.flatnonzero(event)
    kept, tie, ties = np.unique(group[at_event], return_inverse=True, return_counts=True)
    first = np.concatenate([[0], np.cumsum(ties)[:-1]])
    share = (np.arange(len(at_event)) - first[tie]) / ties[tie] if efron else np.zeros(len(tie))
    mean = np.ones(len(tie))
    if weight is not None:
        mean = (np.bincount(tie, weight[at_event]) / ties)[tie]
    last = ends[kept]
    at = np.searchsorted(last, np.arange(len(time)))
    centred = x - x.mean(axis=0)
    constant = np.abs(centred).max(axis=0) <= ROUNDED * np.abs(x).max(axis=0)
    centred[:, constant] = 0.0
    return Stratum(rows, centred, time, weight, offset, at_event, tie, share, mean, last, at)


@dataclass(frozen=True)
class Hazards:
    """Of one stratum at one coefficient vector.

    risk     r_j, up to a factor that is the same for all rows, (n,)
    phi      denominators, (E,)
    mean     m_i, (E, p)
    own      per row r_j g_j, its expected events, (n,)
    squares  per row the sum of a_i p_ij^2 with p_ij its share in phi_i, (n,)
    loss     per event a_i log(phi_i) - w eta, (E,)
    """

    risk: Floats
    phi: Floats
    mean: Floats
    own: Floats
    squares: Floats
    loss: Floats

    @property
    def finite(self) -> bool:
        return bool(
            np.all(self.phi > 0)
            and np.all(np.isfinite(self.loss))
            and np.all(np.isfinite(self.own))
        )


def hazards(one: Stratum, beta: Floats, means: bool = True) -> Hazards:
    """Risk sets of a stratum at `beta` (p,); `mean` is empty without `means`."""
    eta = one.x @ beta
    if one.offset is not None:
        eta = eta + one.offset
    eta = eta - eta.max()
    risk = np.exp(eta)
    weight = np.ones(len(eta)) if one.weight is None else one.weight
    risk = risk * weight
    event, tie, share, a = one.event, one.tie, one.share, one.mean_weight
    tied = np.bincount(tie, risk[event])
    phi = np.cumsum(risk)[one.last][tie] - share * tied[tie]
    jump = a / phi
    own = _own(one, risk, jump, share)
    squares = risk * _own(one, risk, jump / phi, share * (2.0 - share))
    loss = a * np.log(phi) - weight[event] * eta[event]
    mean = _means(one, risk, phi) if means else np.zeros((len(event), 0))
    return Hazards(risk, phi, mean, own, squares, loss)


def _own(one: Stratum, risk: Floats, jump: Floats, less: Floats) -> Floats:
    """risk times the sum of jumps at which a row is at risk; a tied event counts 1 - less."""
    per_time = np.bincount(one.tie, jump)
    ahead = np.append(np.cumsum(per_time[::-1])[::-1], 0.0)
    total = ahead[one.at]
    total[one.event] -= np.bincount(one.tie, jump * less)[one.tie]
    found: Floats = risk * total
    return found


def _means(one: Stratum, risk: Floats, phi: Floats) -> Floats:
    """m_i: running sums over blocks of rows, taken at the event times."""
    p = one.x.shape[1]
    at_times = np.empty((len(one.last), p))
    carried = np.zeros(p)
    for start in range(0, int(one.last[-1]) + 1, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(risk))
        sums = np.cumsum(one.x[start:stop] * risk[start:stop, None], axis=0)
        sums += carried
        a, b = np.searchsorted(one.last, (start, stop))
        at_times[a:b] = sums[one.last[a:b] - start]
        carried = sums[-1]
    mean = at_times[one.tie]
    if one.share.any():
        tied = np.zeros((len(one.last), p))
        np.add.at(tied, one.tie, one.x[one.event] * risk[one.event, None])
        mean -= one.share[:, None] * tied[one.tie]
    mean /= phi[:, None]
    return mean


@dataclass(frozen=True)
class Derivatives:
    """At m coefficient vectors: loss (m,), gradient (m, p), Hessian (m, p, p); lost (m,)."""

    loss: Floats
    gradient: Floats
    hessian: Floats
    lost: Bools


def derivatives(strata: Sequence[Stratum], theta: Floats, order: int) -> Derivatives:
    """Derivatives of minus the log partial likelihood at the rows of `theta` (m, p)."""
    m, p = theta.shape
    loss, gradient, hessian = np.zeros(m), np.zeros((m, p)), np.zeros((m, p, p))
    lost = np.zeros(m, dtype=bool)
    with np.errstate(all="ignore"):
        for k, beta in enumerate(theta):
            for one in strata:
                found = hazards(one, beta, order > 0)
                lost[k] |= not found.finite
                loss[k] += found.loss.sum()
                if order >= 1:
                    gradient[k] += found.mean.T @ one.mean_weight - _observed(one)
                if order == 2:
                    hessian[k] += _hessian(one, found)
    lost |= ~(np.isfinite(loss) & np.isfinite(gradient).all(axis=1))
    lost |= ~np.isfinite(hessian).all(axis=(1, 2))
    for array in (loss, gradient, hessian):
        array[lost] = 0.0
    return Derivatives(loss, gradient, hessian, lost)


def _observed(one: Stratum) -> Floats:
    weight = None if one.weight is None else one.weight[one.event]
    x = one.x[one.event]
    found: Floats = x.sum(axis=0) if weight is None else weight @ x
    return found


def _hessian(one: Stratum, found: Hazards) -> Floats:
    p = one.x.shape[1]
    out = np.zeros((p, p))
    root = np.sqrt(np.maximum(found.own, 0.0))
    for start in range(0, len(root), BLOCK_ROWS):
        z = one.x[start : start + BLOCK_ROWS] * root[start : start + BLOCK_ROWS, None]
        out += z.T @ z
    scaled = found.mean * np.sqrt(one.mean_weight)[:, None]
    out -= scaled.T @ scaled
    return out


def scores(one: Stratum, found: Hazards) -> Floats:
    """Each row's part in minus the gradient, (n, p), with its weight in it (Lin & Wei)."""
    jump = one.mean_weight / found.phi
    times, p = len(one.last), one.x.shape[1]

    def by_time(values: Floats) -> Floats:
        out = np.zeros((times, values.shape[1]))
        np.add.at(out, one.tie, values)
        return out

    moved = found.mean * jump[:, None]
    ahead = np.vstack([np.cumsum(by_time(moved)[::-1], axis=0)[::-1], np.zeros((1, p))])
    q = ahead[one.at]
    q[one.event] -= by_time(moved * one.share[:, None])[one.tie]
    parts = found.risk[:, None] * q - found.own[:, None] * one.x
    ties = np.bincount(one.tie)
    weight = np.ones(len(one.event)) if one.weight is None else one.weight[one.event]
    mean = by_time(found.mean)[one.tie] / ties[one.tie][:, None]
    parts[one.event] += weight[:, None] * (one.x[one.event] - mean)
    return np.asarray(parts)
