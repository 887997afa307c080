"""Who carries the risk sets, against the definition, risk set by risk set."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polyclinic.models.survival.crowd import ALL, PART, crowds
from polyclinic.models.survival.kernel import Stratum, sort_rows


def _effective(risk: np.ndarray, person: np.ndarray) -> float:
    parts = np.array([risk[person == one].sum() for one in np.unique(person)])
    return float(parts.sum() ** 2 / (parts @ parts))


def _slow(x, time, event, weight, offset, beta, person) -> float:
    """Over rows in any order."""
    risk = weight * np.exp(x @ beta + offset)
    times = np.unique(time[event])
    found = [np.inf]
    for k, at in enumerate(times):
        inside = time >= at
        carried = _effective(risk[inside], person[inside])
        if carried * PART < len(np.unique(person[inside])):
            found.append(carried)
        gone = inside & (time < times[k + 1]) if k + 1 < len(times) else np.zeros_like(inside)
        if gone.any() and risk[gone].sum() > ALL * risk[inside].sum():
            found.append(_effective(risk[gone], person[gone]))
    return min(found)


def _rows(seed: int, n: int = 80):
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=n), rng.random(n) < 0.15]) * 1.0
    time, event = np.ceil(rng.exponential(12, n)), rng.random(n) < 0.5  # many ties
    person = np.sort(rng.integers(0, 50, n)).astype(np.int64)
    return x, time, event, rng.uniform(0.2, 3.0, n), rng.normal(0, 0.3, n), person


def _strata(x, time, event, weight, offset, stratum=None) -> tuple[Stratum, ...]:
    return sort_rows(x, time, event, stratum, weight, offset, True)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_least_over_risk_sets(seed: int) -> None:
    x, time, event, weight, offset, person = _rows(seed)
    (one,) = _strata(x, time, event, weight, offset)
    theta = np.array([[0, 0], [1, 0], [3, 0], [0, 4], [0, 9], [0, -9], [-2, 2]], float)
    slow = [_slow(x, time, event, weight, offset, beta, person) for beta in theta]
    assert_allclose(crowds(one, theta, person), slow, rtol=1e-9)
    assert np.isinf(slow[0]) and min(slow) < 5


def test_rows_of_a_patient_are_one_patient() -> None:
    rng = np.random.default_rng(1)
    x = np.append(np.ones(10), np.zeros(90))[:, None]
    time = np.append(np.full(10, 50.0), rng.permutation(90) + 1.0)
    (one,) = _strata(x, time, np.ones(100, bool), np.ones(100), np.zeros(100))
    several, single = np.arange(100), np.append(np.zeros(10, np.int64), np.arange(1, 91))
    at = np.array([[40.0]])
    assert_allclose([crowds(one, at, several)[0], crowds(one, at, single)[0]], [10.0, 1.0])


def test_numbers_that_are_lost_are_nobody() -> None:
    x, time, event, weight, _, person = _rows(0)
    (one,) = _strata(x, time, event, weight, np.where(person == 3, 1e308, 0.0))
    assert crowds(one, np.array([[0.0, 0.0], [1e308, 1e308]]), person)[1] == 0.0
