"""The best split of a node from the summed histogram, as XGBoost scores it.

    gain = sum over lanes of  s(G_left)^2 / (H_left + l2) + s(G_right)^2 / (H_right + l2)
                              - s(G)^2 / (H + l2),        s(G) = sign(G) max(|G| - l1, 0)

Missing values go where the gain is larger. Where values are bounded, by a monotone constraint or a largest step, a side gains
-(2 G w + (H + l2) w^2) at its bounded value w.

Reference: T. Chen and C. Guestrin, "XGBoost: a scalable tree boosting system", KDD (2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.kernels import compiled
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


@cache
def _scan() -> Callable[..., Any]:
    if not compiled():
        return _scan_lines
    import numba

    found: Callable[..., Any] = numba.njit(nogil=True, cache=True)(_scan_lines)
    return found


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
) -> None:
    """Best split of each line of each node at ordered bins.

    g (n_nodes, n_lines, n_bins, n_lanes), h, n without the lanes: whole numbers; `missing`: the
    last bin is that of missing values; last (n_nodes, n_lines): last bin that may end the left side,
    plus one; units: of g and h; signs (n_nodes, n_lines): monotone; low, high (n_nodes,): bounds.
    out (n_nodes, n_lines): gains; places (n_nodes, n_lines, 2): bin, missing_left.
    """
    bounded = bool(np.any(signs) or np.any(np.isfinite(low)) or np.any(np.isfinite(high)))
    _scan()(
        g, h, n, last, missing, units[0], units[1], rules.l2, rules.l1, rules.hessian, rules.leaf,
        bounded, signs, low, high, out, places,
    )  # fmt: skip


def _scan_lines(
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
