"""The best split of a category column: which levels go right.

With one lane, levels are sorted by G / (H + l2) and a set of the first ones goes right, which finds
the best of all sets (Fisher 1958); with several lanes each level is tried against the others.
Levels that nobody in the node has go left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.trees.split import Rules

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class SetSplit:
    """gain; the levels that go right, as bits; whether missing values go left."""

    gain: float
    set: int
    missing_left: bool


NONE = SetSplit(0.0, 0, True)


def best_set(
    g: Floats, h: Floats, n: Ints, missing: bool, rules: Rules, low: float, high: float
) -> SetSplit:
    """Of one line of one node: g (n_bins, n_lanes), h, n (n_bins,) in natural units."""
    levels = len(h) - int(missing)
    held = np.flatnonzero(n[:levels] > 0)
    if len(held) + int(missing and n[-1] > 0) < 2:
        return NONE
    sets = _candidates(g, h, held, rules)
    best = NONE
    both = (False, True) if missing and n[-1] > 0 else (False,)
    for gone_right in both:
        right = np.zeros((len(sets), len(h)), dtype=bool)
        right[:, :levels] = sets[:, :levels]
        if missing:
            right[:, -1] = gone_right
        gains = _gains(right, g, h, n, rules, low, high)
        at = int(np.argmax(gains))
        if gains[at] > best.gain:
            bits = sum(1 << int(level) for level in np.flatnonzero(sets[at]))
            left_n = int(n[~right[at]].sum())
            seen = missing and n[-1] > 0
            best = SetSplit(
                float(gains[at]), bits, not gone_right if seen else 2 * left_n >= n.sum()
            )
    return best


def _candidates(g: Floats, h: Floats, held: Ints, rules: Rules) -> Bools:
    """Sets of levels to try on the right, (n_sets, n_bins)."""
    if g.shape[1] > 1:
        sets = np.zeros((len(held), len(h)), dtype=bool)
        sets[np.arange(len(held)), held] = True
        return sets
    ratio = g[held, 0] / np.maximum(h[held] + rules.l2, 1e-300)
    order = held[np.argsort(ratio, kind="stable")]
    sets = np.zeros((len(order), len(h)), dtype=bool)
    for i, level in enumerate(order):
        sets[i:, level] = True
    return sets


def _gains(
    right: Bools, g: Floats, h: Floats, n: Ints, rules: Rules, low: float, high: float
) -> Floats:
    """Gain of each set, 0 where a side has too little."""
    parts: list[tuple[Any, Any, Any]] = []
    for mask in (right, ~right):
        m = mask.astype(np.float64)
        parts.append((m @ g, m @ h, mask.astype(np.int64) @ n))
    good = np.ones(len(right), dtype=bool)
    total = -score(g.sum(axis=0)[None], h.sum()[None], rules, low, high)
    for sum_g, sum_h, count in parts:
        good &= (count >= max(rules.leaf, 1)) & (sum_h >= rules.hessian) & (sum_h + rules.l2 > 0)
        total = total + score(sum_g, sum_h, rules, low, high)
    found: Floats = np.where(good, total, 0.0)
    return found


def score(g: Floats, h: Floats, rules: Rules, low: float, high: float) -> Floats:
    """What nodes gain over a value of 0: g (m, n_lanes), h (m,)."""
    bottom = np.maximum(h + rules.l2, 1e-300)
    s = np.maximum(np.abs(g) - rules.l1, 0.0)
    if not (np.isfinite(low) or np.isfinite(high)):
        found: Floats = (s * s).sum(axis=1) / bottom
        return found
    w = np.clip(-np.sign(g[:, 0]) * s[:, 0] / bottom, low, high)
    return -(2.0 * g[:, 0] * w + bottom * w * w)
