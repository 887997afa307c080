"""What a chunk tells of those at risk, and what it does with the sums over all of them.

A row is told of at the first event time at which it is at risk. With r = w exp(eta), as large as
the largest risk of the stratum lets it be, the sums at a time are: r of those without an event
there, r of those with it, what the squares of the patients' risks grow by, and r x of both. The
running totals are the risk sets (risk_sums.py). None of it leaves the hospital.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.by_time import ByTime
from polyclinic.models.exact import PARTS, WIDE, words_of
from polyclinic.models.survival.crowd import earlier
from polyclinic.models.survival.known import Piece, Times

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def scales(times: Times, asked: Mapping[str, Any], candidates: int) -> Ints:
    """Of each column that `at_times` adds, the power of two that bounds it.

    asked  "vectors": sums of r x; "tied": those with the event apart; "observed": sums of w x
    """
    wide = (times.wide + times.top).tolist()
    sums = [times.top, *(wide if asked["vectors"] else [])]
    one = [2 * times.top, *(sums * (1 + asked["tied"]))]
    return np.array(one * candidates + (wide if asked["observed"] else []), dtype=np.int64)


def risks(piece: Piece, theta: Floats, top: Floats) -> tuple[Floats, Floats]:
    """eta less its largest in the stratum, and w exp of it, (n, m); 0 where that is not finite."""
    top = top.T[piece.stratum]
    good = np.isfinite(top)
    with np.errstate(all="ignore"):
        eta = np.where(good, piece.eta(theta) - np.where(good, top, 0.0), 0.0)
    return eta, np.where(good, np.exp(eta) * piece.weight[:, None], 0.0)


def highest(piece: Piece, theta: Floats, strata: int) -> Floats:
    """Largest eta of each candidate and stratum, (m, strata)."""
    eta, found = piece.eta(theta), np.full((len(theta), strata), -np.inf)
    for k in np.unique(piece.stratum):
        found[:, k] = eta[piece.stratum == k].max(axis=0)
    return found


def at_times(piece: Piece, times: Times, theta: Floats, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Sums at the event times from number `first` up to `stop`, of those that the chunk has; before
    them how many patients are at risk for the first time."""
    inside = np.flatnonzero((piece.at >= asked["first"]) & (piece.at < asked["stop"]))
    at, event = piece.at[inside], piece.event[inside]
    risk, columns = risks(piece, theta, asked["top"])[1], []
    fresh = np.zeros(len(inside), dtype=np.int64)
    x = piece.x[inside]
    for k in range(len(theta)):
        sooner, first = earlier(risk[:, k], piece.person)
        r, sooner, fresh = risk[inside, k], sooner[inside], first[inside].astype(np.int64)
        died = np.where(event, r, 0.0)
        apart = [r - died, died] if asked["tied"] else [r]
        columns.append((r * (r + 2.0 * sooner))[:, None])
        for part in apart:
            columns += [part[:, None], x * part[:, None]][: 1 + asked["vectors"]]
    if asked["observed"]:
        columns.append(x * np.where(event, piece.weight[inside], 0.0)[:, None])
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    bounds = scales(times, asked, len(theta))
    sums = np.zeros((0, len(bounds)))
    if len(at):
        sums = np.add.reduceat(np.column_stack(columns), starts, axis=0)
        fresh = np.add.reduceat(fresh, starts)
    words = words_of(np.ldexp(sums, -bounds), 0).reshape(len(sums), PARTS * len(bounds))
    return vars(ByTime(at[starts], np.zeros(len(starts)), np.column_stack([fresh, words])))


@dataclass(frozen=True)
class Table:
    """Of each candidate and event time, (m, K).

    once, twice      sums of a / phi and a / phi^2 over the events at this time and earlier ones
    less, less_twice what of these a row with the event at this time has not been at risk for
    loss, apart      mean of a log(phi) over the events at this time; how far one may be from that
    lost             candidates whose sums are not finite, (m,)
    """

    once: Floats
    twice: Floats
    less: Floats
    less_twice: Floats
    loss: Floats
    apart: Floats
    lost: NDArray[np.bool_]


def rates(piece: Piece, eta: Floats, risk: Floats, table: Table) -> tuple[Floats, Floats]:
    """Of the piece's rows: part in the loss, residual, part in the curvature, and how much more or
    less the first may be, (4, n, m); and expected events, (n, m)."""

    def at(values: Floats) -> Floats:
        return np.append(values, np.zeros((len(values), 1)), axis=1)[:, piece.at].T

    happened = np.where(piece.event, piece.weight, 0.0)[:, None]
    event = piece.event[:, None]
    with np.errstate(all="ignore"):
        own = risk * (at(table.once) - event * at(table.less))
        squares = risk * risk * (at(table.twice) - event * at(table.less_twice))
        loss = np.where(event, at(table.loss) - happened * eta, 0.0)
        apart = np.where(event, at(table.apart), 0.0)
    curved = own - squares
    curved[curved <= 1e-12 * own] = 0.0  # what is left of 1 - 1 by rounding is no share
    return np.stack([loss, happened - own, curved, apart]), own


def whole(values: Floats) -> Ints:
    """Numbers of any size as whole ones, (..., PARTS); 0 of what is not finite."""
    return np.ascontiguousarray(words_of(np.where(np.isfinite(values), values, 0.0), WIDE))


def leaving(piece: Piece, risk: Floats, flagged: list[Ints]) -> list[Floats]:
    """Of each candidate and time that is asked for, sums of the risks and of their squares over
    the patients whose first time it is, (times, 2)."""
    found = []
    for k, times in enumerate(flagged):
        sums = np.zeros((len(times), 2))
        for i, time in enumerate(times.tolist()):
            a, b = (int(np.searchsorted(piece.at, time, side)) for side in ("left", "right"))
            parts = np.bincount(piece.person[a:b], risk[a:b, k]) if b > a else np.zeros(0)
            sums[i] = parts.sum(), parts @ parts
        found.append(sums)
    return found


def scores(piece: Piece, risk: Floats, own: Floats, vectors: Mapping[str, Floats]) -> Floats:
    """Each row's part in minus the gradient, (n, p); `vectors` by event time (K, p)."""

    def at(values: Floats) -> Floats:
        return np.vstack([values, np.zeros((1, values.shape[1]))])[piece.at]

    event = piece.event[:, None]
    q = at(vectors["ahead"]) - event * at(vectors["less"])
    observed = np.where(event, piece.weight[:, None] * (piece.x - at(vectors["mean"])), 0.0)
    return np.asarray(risk[:, None] * q - own[:, None] * piece.x + observed)
