from __future__ import annotations

import pytest

from polyclinic.engines.speeds import Measured, Speeds


def test_speeds_are_relative_and_hold_over_plans_of_any_length():
    speeds = Speeds()
    for row in (1e-6, 1e-3, 5e-5) * 10:  # seconds a row takes at speed 1
        answers = [
            Measured("a", 1000, 1000 * row, 0, 0.0),
            Measured("b", 500, 500 * row / 0.25, 0, 0.0),
        ]
        speeds.measured(f"of {row}", answers)
    assert speeds.speed["a"] / speeds.speed["b"] == pytest.approx(4, rel=1e-6)
    assert sum(speeds.speed.values()) / 2 == pytest.approx(1)
    ratio = speeds.row("of 0.001") / speeds.row("of 1e-06")
    assert ratio == pytest.approx(1000, rel=0.3)


def test_one_slow_round_is_not_a_slow_worker():
    speeds = Speeds()
    for i in range(10):
        slow = 5.0 if i == 9 else 1.0
        speeds.measured("sum", [Measured("a", 10, 1.0, 0, 0.0), Measured("b", 10, slow, 0, 0.0)])
    assert 0.5 < speeds.speed["b"] / speeds.speed["a"] < 1.0


def test_reading_is_measured_by_itself():
    speeds = Speeds()
    speeds.measured("sum", [Measured("a", 10, 1.0, 10, 5.0), Measured("b", 10, 1.0, 0, 0.0)])
    costs = speeds.costs("sum", {"a": 6})
    assert (costs.row, costs.read) == (pytest.approx(0.1), pytest.approx(0.5))
    assert costs.seconds("b", 10) == pytest.approx(1.0)
    assert costs.seconds("b", 10, new=10) == pytest.approx(6.0)
    assert costs.seconds("a", 10) == pytest.approx(1.0 + 4 * 0.5)


def test_who_was_not_waited_for_is_at_most_so_fast():
    speeds = Speeds()
    speeds.lagged("a", 10, 4.0, unit=0.1)
    assert speeds.speed["a"] == pytest.approx(0.25)
    speeds.lagged("a", 10, 1.0, unit=0.1)
    assert speeds.speed["a"] == pytest.approx(0.25)
    speeds.forget("a")
    assert speeds.costs("sum").pace("a") == 1.0
