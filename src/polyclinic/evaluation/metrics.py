"""Measures of a risk model from counts per score bin: pure functions, numpy and scipy only.

A histogram is (2, bins): rows without and with the event by bin of the predicted risk's log-odds.
With every distinct score a bin of its own the same functions are exact.

References: DeLong, DeLong & Clarke-Pearson (1988) and Sun & Xu (2014) for the AUROC's variance;
Wilson (1927) for shares; Vickers & Elkin (2006) for net benefit; DerSimonian & Laird (1986),
Hartung & Knapp (2001) and Higgins et al. (2009) for heterogeneity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.models.distributions import normal_quantile, t_quantile

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
BINS, LIMIT = 2000, 8.0  # bins of equal width over log-odds -8 to 8
Z = float(normal_quantile(0.975))


def interval(
    value: float | None, se: float | None, low: float = -np.inf, high: float = np.inf
) -> dict[str, float | None]:
    """Value with its 95 % interval, cut at `low` and `high`; None where undefined."""
    if value is None or se is None or not np.isfinite(se):
        return {"value": value, "lower": None, "upper": None}
    return {"value": value, "lower": max(value - Z * se, low), "upper": min(value + Z * se, high)}


def log_odds(p: Floats) -> Floats:
    """Log-odds of probabilities, finite for 0 and 1."""
    tiny = np.finfo(np.float64).tiny
    return np.log(np.maximum(p, tiny)) - np.log(np.maximum(1.0 - p, 2.0**-53))


def bin_of(p: Floats) -> Counts:
    """Bin of each predicted risk, 0 to BINS - 1."""
    place = np.floor((log_odds(p) + LIMIT) / (2 * LIMIT) * BINS)
    return np.clip(place, 0, BINS - 1).astype(np.int64)


def bin_log_odds() -> Floats:
    """Log-odds at the middle of each bin, (BINS,)."""
    return (np.arange(BINS) + 0.5) / BINS * 2 * LIMIT - LIMIT


def exact_histogram(p: Floats, y: Floats) -> Counts:
    """Histogram with one bin per distinct score."""
    _, place = np.unique(p, return_inverse=True)
    size = int(place.max(initial=-1)) + 1
    return np.stack([np.bincount(place[y == k], minlength=size) for k in (0, 1)])


def auroc(histogram: Counts) -> tuple[float | None, float | None]:
    """Area under the ROC curve and its DeLong standard error; None with one class only."""
    without, with_ = histogram.astype(np.float64)
    n, m = without.sum(), with_.sum()
    if n == 0 or m == 0:
        return None, None
    below = (np.cumsum(without) - 0.5 * without) / n  # of each event: share of non-events below
    above = (m - np.cumsum(with_) + 0.5 * with_) / m
    area = float(with_ @ below / m)
    if n < 2 or m < 2:
        return area, None
    v10 = with_ @ (below - area) ** 2 / (m - 1)
    v01 = without @ (above - area) ** 2 / (n - 1)
    return area, float(np.sqrt(v10 / m + v01 / n))


def average_precision(histogram: Counts) -> float | None:
    """Area under precision against recall, as a sum of steps; None without events."""
    down = histogram[:, ::-1].cumsum(axis=1).astype(np.float64)
    if down[1, -1] == 0:
        return None
    found = down.sum(axis=0) > 0
    precision = down[1, found] / down[:, found].sum(axis=0)
    return float(np.diff(down[1, found], prepend=0.0) @ precision / down[1, -1])


def roc(histogram: Counts, points: int = 100) -> list[dict[str, float]]:
    """Corners of the ROC curve, thinned to about `points`, from (0, 0) to (1, 1)."""
    down = np.concatenate([np.zeros((2, 1)), histogram[:, ::-1].cumsum(axis=1)], axis=1)
    total = np.maximum(down[:, -1:], 1)
    fpr, tpr = down / total
    keep = np.unique(
        np.searchsorted(fpr + tpr, np.linspace(0, 2, points + 1)).clip(0, len(fpr) - 1)
    )
    keep = np.union1d(keep, [0, len(fpr) - 1])
    return [{"fpr": float(fpr[i]), "tpr": float(tpr[i])} for i in keep]


def wilson(events: float, n: float) -> tuple[float | None, float | None]:
    """Wilson's 95 % interval of a share."""
    if n <= 0:
        return None, None
    p, z2 = events / n, Z * Z
    middle, half = p + z2 / (2 * n), Z * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return (
        float(max((middle - half) / (1 + z2 / n), 0.0)),
        float(min((middle + half) / (1 + z2 / n), 1.0)),
    )


def calibration_bins(
    histogram: Counts, predicted: Floats, groups: int = 10
) -> list[dict[str, Any]]:
    """Tenths of patients by predicted risk: n, mean predicted, observed share, Wilson interval.

    `predicted` is the sum of predicted risks per bin.
    """
    n = histogram.sum(axis=0)
    end = np.cumsum(n)
    if end[-1] == 0:
        return []
    group = np.minimum((end - n) * groups // end[-1], groups - 1)
    found = []
    for g in range(groups):
        at = (group == g) & (n > 0)
        count, events = int(n[at].sum()), int(histogram[1, at].sum())
        if count:
            lower, upper = wilson(events, count)
            found.append(
                {
                    "n": count,
                    "predicted": float(predicted[at].sum() / count),
                    "observed": events / count,
                    "lower": lower,
                    "upper": upper,
                }
            )
    return found


def risk_histogram(histogram: Counts, groups: int = 20) -> list[dict[str, Any]]:
    """Patients per twentieth of predicted risk."""
    risk = 1.0 / (1.0 + np.exp(-bin_log_odds()))
    n = histogram.sum(axis=0)
    place = np.minimum((risk * groups).astype(np.int64), groups - 1)
    counts = np.bincount(place, weights=n, minlength=groups)
    return [
        {"lower": i / groups, "upper": (i + 1) / groups, "n": int(c)} for i, c in enumerate(counts)
    ]


def decision_curve(histogram: Counts) -> list[dict[str, float]]:
    """Net benefit of treating above each risk from 1 % to 99 %, and of treating all."""
    n = int(histogram.sum())
    if n == 0:
        return []
    events = int(histogram[1].sum())
    above = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]
    found = []
    for percent in range(1, 100):
        t = percent / 100
        first = int(np.ceil((np.log(t / (1 - t)) + LIMIT) / (2 * LIMIT) * BINS))
        odds = t / (1 - t)
        found.append(
            {
                "threshold": t,
                "net_benefit": float((above[1, first] - above[0, first] * odds) / n),
                "all": float((events - (n - events) * odds) / n),
            }
        )
    return found


def confusion(threshold: float, above: Sequence[int], totals: Sequence[int]) -> dict[str, Any]:
    """Decisions at a threshold. `above` and `totals` are (without event, with event)."""
    fp, tp = (int(v) for v in above)
    tn, fn = int(totals[0]) - fp, int(totals[1]) - tp
    result: dict[str, Any] = {"threshold": threshold, "tp": tp, "fp": fp, "tn": tn, "fn": fn}
    shares = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
    }
    for name, (part, whole) in shares.items():
        lower, upper = wilson(part, whole)
        result[name] = {"value": part / whole if whole else None, "lower": lower, "upper": upper}
    return result


def calibration(log_odds: Floats, n: Floats, events: Floats) -> dict[str, dict[str, float | None]]:
    """Slope of the outcome on the predicted log-odds, and intercept when the slope is held at 1.

    `log_odds` (k,), `n` and `events` counts at each. None where there is no finite optimum.
    """
    alike = not len(log_odds) or float(np.ptp(log_odds)) == 0.0
    with_slope = np.column_stack([np.ones_like(log_odds), log_odds])
    free = None if alike else _logistic(with_slope, n, events, 0.0)
    held = _logistic(np.ones((len(log_odds), 1)), n, events, log_odds)
    none: tuple[None, None] = (None, None)
    slope = none if free is None else (float(free[0][1]), float(free[1][1]))
    level = none if held is None else (float(held[0][0]), float(held[1][0]))
    return {"slope": interval(*slope), "intercept": interval(*level)}


def _logistic(
    x: Floats, n: Floats, events: Floats, offset: Floats | float
) -> tuple[Floats, Floats] | None:
    """Coefficients and standard errors of a small grouped logistic regression, or None."""
    if events.sum() in (0, n.sum()):
        return None
    theta = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ theta + offset, -500, 500)))
        hessian = (x * (n * p * (1 - p))[:, None]).T @ x
        gradient = x.T @ (events - n * p)
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            return None
        scale = max(1.0, float(np.abs(step).max()))
        theta = theta + step / scale
        if float(gradient @ step) < 1e-18 * max(1.0, float(n.sum())):
            return theta, np.sqrt(np.diag(np.linalg.inv(hessian)))
        if np.abs(theta).max() > 100:
            return None
    return None


def heterogeneity(areas: Sequence[float], errors: Sequence[float]) -> dict[str, float | None]:
    """Random-effects summary of the hospitals' AUROCs: mean, I2 and a prediction interval."""
    y, v = np.asarray(areas, dtype=float), np.asarray(errors, dtype=float) ** 2
    none: dict[str, float | None] = dict.fromkeys(
        ("mean", "lower", "upper", "i2", "tau2", "predicted_lower", "predicted_upper")
    )
    k = len(y)
    if k < 2 or np.any(v <= 0):
        return none
    w = 1 / v
    fixed = float(w @ y / w.sum())
    q = float(w @ (y - fixed) ** 2)
    tau2 = max(0.0, (q - (k - 1)) / float(w.sum() - (w**2).sum() / w.sum()))
    w = 1 / (v + tau2)
    mean = float(w @ y / w.sum())
    factor = max(1.0, float(w @ (y - mean) ** 2) / (k - 1))
    half = float(t_quantile(0.975, k - 1) * np.sqrt(factor / w.sum()))
    found = {
        "mean": mean,
        "lower": mean - half,
        "upper": mean + half,
        "i2": max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0,
        "tau2": tau2,
        "predicted_lower": None,
        "predicted_upper": None,
    }
    if k > 2:
        wide = float(t_quantile(0.975, k - 2) * np.sqrt(tau2 + 1 / w.sum()))
        found |= {
            "predicted_lower": max(mean - wide, 0.0),
            "predicted_upper": min(mean + wide, 1.0),
        }
    return found
