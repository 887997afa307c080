"""Where the truth is known: bias, coverage of the intervals, and who is robust to a wrong model.

The bands are those of chance: 60 replications of 500 rows, or fewer. Longer runs with the same law
are in the documentation, made by ``benchmarks/treatment_effects.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.treatment_effects import measure, measure_modifier, true_difference

TIMES = 60


@pytest.fixture(scope="module")
def right():
    return measure(500, TIMES, "right")


@pytest.mark.parametrize("method", ["aipw", "ipw", "regression"])
def test_no_bias_and_intervals_that_cover(right, method):
    bias, error, spread, se, covered = right[method]
    assert abs(bias) < 3.5 * error
    assert 0.8 < se / spread < 1.25  # the spread of 60 draws is known to 9 %
    assert 0.86 <= covered <= 1.0  # 95 % of 60, less three standard errors
    assert error < 0.02


def test_without_adjustment_the_answer_is_wrong(right):
    bias, error, *_, covered = right["unadjusted"]
    assert bias > 10 * error and covered < 0.7


def test_one_right_model_of_two_is_enough_for_the_doubly_robust():
    found = measure(500, 30, "treatment wrong")
    for method in ("aipw", "regression"):
        assert abs(found[method][0]) < 3.5 * found[method][1]
    assert found["ipw"][0] < found["aipw"][0] - found["aipw"][1]  # its only model is wrong
    found = measure(500, 30, "outcome wrong")
    for method in ("aipw", "ipw"):
        assert abs(found[method][0]) < 3.5 * found[method][1]


def test_who_profits_more():
    bias, error, spread, se, covered = measure_modifier(400, 15)
    assert abs(bias) < 3.5 * error
    assert 0.65 < se / spread < 1.5
    assert covered >= 0.75


def test_the_truth_of_a_risk_difference_is_known_well_enough():
    assert 0.14 < true_difference(True) < 0.2
    assert np.isclose(true_difference(False), 1.0)
