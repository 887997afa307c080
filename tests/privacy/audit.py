"""An outside look at noise: how private can it be at best, judged by its output alone?

An attacker sees one output and guesses by a threshold whether the patient was in the data. His
error rates over many runs, made pessimistic by exact binomial bounds (Clopper and Pearson), prove
a lower bound on the mu of Gaussian differential privacy (Dong, Roth and Su 2022). A mechanism that
claims less than it was caught with adds too little noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import beta

ALPHA = 1e-4


def gdp_lower_bound(
    absent: ArrayLike, present: ArrayLike, threshold: float, alpha: float = ALPHA
) -> float:
    """A mu that the mechanism's true mu exceeds, except with probability `alpha`.

    absent, present  outputs without and with the patient, who moves them upwards
    threshold        fixed before the outputs are seen; half-way is best
    """
    false_alarm = _upper(np.asarray(absent) > threshold, alpha / 2)
    miss = _upper(np.asarray(present) <= threshold, alpha / 2)
    return float(-ndtri(false_alarm) - ndtri(miss))


def caught(absent: ArrayLike, present: ArrayLike, sensitivity: float, sigma: float) -> bool:
    """Whether outputs around 0 and around `sensitivity` prove less noise than `sigma`."""
    return gdp_lower_bound(absent, present, 0.5 * sensitivity) > sensitivity / sigma


def _upper(hits: np.ndarray, alpha: float) -> float:
    found, size = int(hits.sum()), hits.size
    return 1.0 if found == size else float(beta.ppf(1 - alpha, found + 1, size - found))
