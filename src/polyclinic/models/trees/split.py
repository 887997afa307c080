"""The best split of a node from the summed histogram, as XGBoost scores it.

    gain = sum over lanes of  s(G_left)^2 / (H_left + l2) + s(G_right)^2 / (H_right + l2)
                              - s(G)^2 / (H + l2),        s(G) = sign(G) max(|G| - l1, 0)

Missing values go where the gain is larger. Where values are bounded, by a monotone constraint or a
largest step, a side gains -(2 G w + (H + l2) w^2) at its bounded value w.

Reference: T. Chen and C. Guestrin, "XGBoost: a scalable tree boosting system", KDD (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.kernels import compiled, jit
from polyclinic.models.trees.spec import Spec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LEAST_GAIN = 1e-6  # as in XGBoost


@dataclass(frozen=True)
class Rules:
    """What a split must fulfil, as plain numbers."""

    l2: float
    l1: float
    hessian: float
    leaf: int
    gamma: float

    @staticmethod
    def of(spec: Spec) -> Rules:
        return Rules(spec.l2, spec.l1, spec.hessian, spec.leaf, spec.gamma)


def scan(
    g: Ints,
    h: Ints,
    n: Ints,
    last: Ints,
    missing: bool,
    units: tuple[float, float],
    rules: Rules,
    signs: Ints,
    low: Floats,
    high: Floats,
    out: Floats,
    places: Ints,
    fast: bool | None = None,
) -> None:
    """Best split of each line of each node at ordered bins.

    g (n_nodes, n_lines, n_bins, n_lanes), h, n without the lanes: whole numbers; `missing`: the
    last bin is that of missing values; last (n_nodes, n_lines): how many bins may end the left
    side; units: of g and h; signs (n_nodes, n_lines): monotone; low, high (n_nodes,): bounds.
    out (n_nodes, n_lines): gains; places (n_nodes, n_lines, 2): bin, missing_left.
    """
    bounded = bool(np.any(signs) or np.any(np.isfinite(low)) or np.any(np.isfinite(high)))
    if not (compiled() if fast is None else fast):
        run = _scan_whole
    elif bounded or g.shape[3] > 1:
        run = jit(_scan_lines)
    else:
        run = jit(_scan_simple)
    run(
        g, h, n, last, missing, units[0], units[1], rules.l2, rules.l1, rules.hessian, rules.leaf,
        bounded, signs, low, high, out, places,
    )  # fmt: skip


def _scan_lines(  # noqa: C901 - one compiled loop
    g: Any, h: Any, n: Any, last: Any, missing: Any, unit_g: Any, unit_h: Any, l2: Any, l1: Any,
    hessian: Any, leaf: Any, bounded: Any, signs: Any, low: Any, high: Any, out: Any, places: Any,
) -> None:  # fmt: skip
    n_nodes, n_lines, n_bins, n_lanes = g.shape
    values = n_bins - 1 if missing else n_bins
    whole, left = np.zeros(n_lanes, np.int64), np.zeros(n_lanes, np.int64)
    gone = np.zeros(n_lanes, np.int64)
    for node in range(n_nodes):
        for line in range(n_lines):
            whole[:] = 0
            whole_h, whole_n = 0, 0
            for b in range(n_bins):
                whole_h += h[node, line, b]
                whole_n += n[node, line, b]
                for lane in range(n_lanes):
                    whole[lane] += g[node, line, b, lane]
            gone[:] = 0
            gone_h, gone_n = 0, 0
            if missing:
                gone_h, gone_n = h[node, line, values], n[node, line, values]
                for lane in range(n_lanes):
                    gone[lane] = g[node, line, values, lane]
            parent_h = whole_h * unit_h
            parent = 0.0
            for lane in range(n_lanes):
                s = whole[lane] * unit_g
                s = max(abs(s) - l1, 0.0)
                parent += s * s / (parent_h + l2) if parent_h + l2 > 0 else 0.0
            if bounded:
                s = whole[0] * unit_g
                w = -np.sign(s) * max(abs(s) - l1, 0.0) / (parent_h + l2) if parent_h > 0 else 0.0
                w = min(max(w, low[node]), high[node])
                parent = -(2.0 * s * w + (parent_h + l2) * w * w)
            best, at, side = 0.0, -1, 1
            for way in range(2 if gone_n > 0 else 1):  # missing values right, then left
                left[:] = gone * way
                left_h, left_n = gone_h * way, gone_n * way
                for b in range(last[node, line]):
                    if n[node, line, b] == 0 and b > 0:
                        continue
                    left_h += h[node, line, b]
                    left_n += n[node, line, b]
                    for lane in range(n_lanes):
                        left[lane] += g[node, line, b, lane]
                    right_n = whole_n - left_n
                    if left_n < leaf or right_n < leaf:
                        continue
                    hl, hr = left_h * unit_h, (whole_h - left_h) * unit_h
                    if hl < hessian or hr < hessian or hl + l2 <= 0 or hr + l2 <= 0:
                        continue
                    if bounded:
                        sl, sr = left[0] * unit_g, (whole[0] - left[0]) * unit_g
                        wl = -np.sign(sl) * max(abs(sl) - l1, 0.0) / (hl + l2)
                        wr = -np.sign(sr) * max(abs(sr) - l1, 0.0) / (hr + l2)
                        wl = min(max(wl, low[node]), high[node])
                        wr = min(max(wr, low[node]), high[node])
                        if signs[node, line] * (wr - wl) < 0:
                            continue
                        gain = -(2.0 * sl * wl + (hl + l2) * wl * wl)
                        gain += -(2.0 * sr * wr + (hr + l2) * wr * wr)
                    else:
                        gain = 0.0
                        for lane in range(n_lanes):
                            sl, sr = left[lane] * unit_g, (whole[lane] - left[lane]) * unit_g
                            sl, sr = max(abs(sl) - l1, 0.0), max(abs(sr) - l1, 0.0)
                            gain += sl * sl / (hl + l2) + sr * sr / (hr + l2)
                    gain -= parent
                    if gain > best:
                        best, at, side = gain, b, way
            if at >= 0 and gone_n == 0:
                left_n = 0
                for b in range(at + 1):
                    left_n += n[node, line, b]
                side = 1 if 2 * left_n >= whole_n else 0
            out[node, line] = best
            places[node, line, 0] = at
            places[node, line, 1] = side


def _scan_simple(  # noqa: C901 - one compiled loop
    g: Any, h: Any, n: Any, last: Any, missing: Any, unit_g: Any, unit_h: Any, l2: Any, l1: Any,
    hessian: Any, leaf: Any, bounded: Any, signs: Any, low: Any, high: Any, out: Any, places: Any,
) -> None:  # fmt: skip
    """`_scan_lines` of one lane without bounds: gains without branches, several at once."""
    n_nodes, n_lines, n_bins, _ = g.shape
    values = n_bins - 1 if missing else n_bins
    sums, gains = np.empty((3, n_bins), np.int64), np.empty(n_bins)
    for node in range(n_nodes):
        for line in range(n_lines):
            whole_g, whole_h, whole_n = np.int64(0), np.int64(0), np.int64(0)
            for b in range(n_bins):
                whole_g += g[node, line, b, 0]
                whole_h += h[node, line, b]
                whole_n += n[node, line, b]
            gone_g, gone_h, gone_n = np.int64(0), np.int64(0), np.int64(0)
            if missing:
                gone_g, gone_h = g[node, line, values, 0], h[node, line, values]
                gone_n = n[node, line, values]
            bottom = whole_h * unit_h + l2
            s = max(abs(whole_g * unit_g) - l1, 0.0)
            parent = s * s / bottom if bottom > 0 else 0.0
            best, at, side, stop = 0.0, -1, 1, last[node, line]
            for way in range(2 if gone_n > 0 else 1):  # missing values right, then left
                left_g, left_h, left_n = gone_g * way, gone_h * way, gone_n * way
                for b in range(stop):
                    left_g += g[node, line, b, 0]
                    left_h += h[node, line, b]
                    left_n += n[node, line, b]
                    sums[0, b], sums[1, b], sums[2, b] = left_g, left_h, left_n
                for b in range(stop):
                    sl, sr = sums[0, b] * unit_g, (whole_g - sums[0, b]) * unit_g
                    hl, hr = sums[1, b] * unit_h, (whole_h - sums[1, b]) * unit_h
                    sl, sr = max(abs(sl) - l1, 0.0), max(abs(sr) - l1, 0.0)
                    good = (sums[2, b] >= leaf) & (whole_n - sums[2, b] >= leaf)
                    good &= (hl >= hessian) & (hr >= hessian) & (hl + l2 > 0) & (hr + l2 > 0)
                    good &= (n[node, line, b] != 0) | (b == 0)
                    gain = (sl * sl / (hl + l2) + sr * sr / (hr + l2)) - parent
                    gains[b] = gain if good else 0.0
                for b in range(stop):
                    if gains[b] > best:
                        best, at, side = gains[b], b, way
            if at >= 0 and gone_n == 0:
                left_n = np.int64(0)
                for b in range(at + 1):
                    left_n += n[node, line, b]
                side = 1 if 2 * left_n >= whole_n else 0
            out[node, line] = best
            places[node, line, 0] = at
            places[node, line, 1] = side


def _scan_whole(
    g: Any, h: Any, n: Any, last: Any, missing: Any, unit_g: Any, unit_h: Any, l2: Any, l1: Any,
    hessian: Any, leaf: Any, bounded: Any, signs: Any, low: Any, high: Any, out: Any, places: Any,
) -> None:  # fmt: skip
    """The same on whole arrays: the same operations on the same numbers, so the same bits."""
    values = g.shape[2] - 1 if missing else g.shape[2]
    whole_g, whole_h, whole_n = g.sum(axis=2), h.sum(axis=2), n.sum(axis=2)
    gone = [part[:, :, values] if missing else 0 * part[:, :, 0] for part in (g, h, n)]
    bounds = (low[:, None], high[:, None])
    parent = _score(whole_g * unit_g, whole_h * unit_h, l2, l1, bounded, bounds)
    sums = [part[:, :, :values].cumsum(axis=2) for part in (g, h, n)]
    reachable = (np.arange(values) < last[..., None]) & (n[:, :, :values] > 0)
    reachable[:, :, 0] = last > 0
    best, at = np.zeros(out.shape), np.full(out.shape, -1)
    side = np.ones(out.shape, dtype=np.int64)
    for way in (0, 1):
        left_g, left_h, left_n = (
            total + way * part[:, :, None] for total, part in zip(sums, gone, strict=True)
        )
        right_n = whole_n[..., None] - left_n
        hl, hr = left_h * unit_h, (whole_h[..., None] - left_h) * unit_h
        good = reachable & (left_n >= leaf) & (right_n >= leaf) & (hl >= hessian) & (hr >= hessian)
        good &= (hl + l2 > 0) & (hr + l2 > 0) & ((way == 0) | (gone[2] > 0))[..., None]
        sl, sr = left_g * unit_g, (whole_g[:, :, None] - left_g) * unit_g
        with np.errstate(divide="ignore", invalid="ignore"):
            if bounded:
                wide = (low[:, None, None], high[:, None, None])
                wl, wr = _value(sl[..., 0], hl, l2, l1, wide), _value(sr[..., 0], hr, l2, l1, wide)
                good &= ~(signs[..., None] * (wr - wl) < 0)
                gain = -(2.0 * sl[..., 0] * wl + (hl + l2) * wl * wl)
                gain = gain + -(2.0 * sr[..., 0] * wr + (hr + l2) * wr * wr)
            else:
                gain = np.zeros(hl.shape)
                for lane in range(g.shape[3]):
                    al = np.maximum(np.abs(sl[..., lane]) - l1, 0.0)
                    ar = np.maximum(np.abs(sr[..., lane]) - l1, 0.0)
                    gain = gain + (al * al / (hl + l2) + ar * ar / (hr + l2))
        gain = np.where(good, gain - parent[..., None], 0.0)
        place = np.argmax(gain, axis=2)
        top = np.take_along_axis(gain, place[..., None], axis=2)[..., 0]
        better = top > best
        best, at = np.where(better, top, best), np.where(better, place, at)
        side = np.where(better, way, side)
    count = np.take_along_axis(sums[2], np.maximum(at, 0)[..., None], axis=2)[..., 0]
    none_gone = (at >= 0) & (gone[2] == 0)
    side = np.where(none_gone, (2 * count >= whole_n).astype(np.int64), side)
    out[...], places[..., 0], places[..., 1] = best, at, side


def _value(s: Any, h: Any, l2: Any, l1: Any, bounds: Any) -> Any:
    w = -np.sign(s) * np.maximum(np.abs(s) - l1, 0.0) / (h + l2)
    return np.minimum(np.maximum(w, bounds[0]), bounds[1])


def _score(g: Any, h: Any, l2: Any, l1: Any, bounded: Any, bounds: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        if bounded:
            w = np.where(
                h > 0, -np.sign(g[..., 0]) * np.maximum(np.abs(g[..., 0]) - l1, 0.0) / (h + l2), 0.0
            )
            w = np.minimum(np.maximum(w, bounds[0]), bounds[1])
            return -(2.0 * g[..., 0] * w + (h + l2) * w * w)
        found = np.zeros(h.shape)
        for lane in range(g.shape[-1]):
            s = np.maximum(np.abs(g[..., lane]) - l1, 0.0)
            found = found + np.where(h + l2 > 0, s * s / (h + l2), 0.0)
        return found
