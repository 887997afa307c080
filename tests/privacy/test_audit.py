from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import norm

from polyclinic.core import ring
from polyclinic.privacy import noise
from polyclinic.privacy.bounded import BoundedSum
from tests.privacy.audit import ALPHA, caught, gdp_lower_bound

SIGMA = 3.73  # epsilon 1 at delta 1e-5
SIZE = 400_000
RUNS = 20
STEPS = 4000  # per sigma


def test_ten_percent_too_little_noise_is_always_caught_and_the_right_noise_never() -> None:
    """Noise of 4,000 steps is right for a patient of 4,000 / 3.73, 10 % too little for one of more.

    By the binomial distribution a run misses with probability 2e-7, and cries wolf with 2e-8.
    """
    verdicts = []
    for _ in range(RUNS):
        absent, noise_of_present = noise.discrete_gaussian(STEPS, 2 * SIZE).reshape(2, SIZE)
        for patient, claimed in ((STEPS / SIGMA, STEPS), (STEPS / SIGMA / 0.9, STEPS / 0.9)):
            verdicts.append(caught(absent, noise_of_present + patient, patient, claimed))
    assert verdicts == [False, True] * RUNS


@pytest.mark.parametrize(("share", "expected"), [(1.0, False), (0.8, True)])
def test_a_whole_release_is_audited(share: float, expected: bool) -> None:
    """From rows to decoded totals: a bounded sum, ring words, rounding to the grid, noise."""
    bounded = BoundedSum(clip_norm=1.0)
    rows = np.linspace(-0.7, 0.9, 40)
    rows = np.append(rows, 5.0)  # the patient in question; counts for 1
    without, within = bounded.of(rows[:-1]).total, bounded.of(rows).total

    def released(total: np.ndarray) -> np.ndarray:
        words = ring.encode(np.full(SIZE, float(total)))
        grid = noise.grid_of(SIGMA)
        return ring.decode(noise.add_noise(words, share * SIGMA, grid)) - without

    assert float(within - without) == bounded.sensitivity
    assert caught(released(without), released(within), bounded.sensitivity, SIGMA) is expected


def test_the_bound_is_near_the_truth_and_below_it() -> None:
    grid = (np.arange(SIZE) + 0.5) / SIZE
    outputs = ndtri(grid) * SIGMA
    mu = gdp_lower_bound(outputs, outputs + 1.0, 0.5)
    p = norm.sf(0.5 / SIGMA)
    error = 2 * norm.isf(ALPHA / 2) * np.sqrt(p * (1 - p) / SIZE) / norm.pdf(0.5 / SIGMA)
    assert 1 / SIGMA - mu == pytest.approx(error, rel=0.01)


def test_outputs_that_tell_everything_prove_no_finite_bound_too_much() -> None:
    certain = gdp_lower_bound(np.zeros(1000), np.ones(1000), 0.5)
    assert 4 < certain < 6  # 1,000 runs without an error prove errors below 1 %
    assert gdp_lower_bound(np.ones(1000), np.zeros(1000), 0.5) == -np.inf
