"""The risk from which on a patient counts as having the event, from summed histograms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def threshold(rule: str | tuple[float, float], histogram: Any, predicted: Floats) -> float:
    """The risk from which on a patient counts as having the event.

    histogram  (2, bins): rows without and with the event by bin of the risk
    predicted  (bins,): sums of their risks

    It lies halfway between the mean risks of two bins; of equal ones the lowest.
    """
    many = histogram.sum(axis=0)
    filled = np.flatnonzero(many)
    if not len(filled):
        return 0.5
    without, events = histogram[:, filled].astype(np.float64)
    risk = predicted[filled] / many[filled]
    above = np.cumsum(np.stack([without, events])[:, ::-1], axis=1)[:, ::-1]
    fp, tp = np.hstack([above, np.zeros((2, 1))])
    fn = events.sum() - tp
    good = utility(rule, fp, tp, fn, without.sum())
    edges = np.concatenate([[0.0], (risk[1:] + risk[:-1]) / 2, [1.0]])
    return float(edges[int(np.argmax(good))])


def utility(rule: str | tuple[float, float], fp: Floats, tp: Floats, fn: Floats, n: float) -> Any:
    """What a threshold is worth; higher is better. `n` rows are without the event."""
    if rule == "f1":
        return 2 * tp / np.maximum(2 * tp + fp + fn, 1)
    if rule == "youden":
        return tp / np.maximum(tp + fn, 1) - fp / max(n, 1)
    return -(float(rule[0]) * fp + float(rule[1]) * fn)
