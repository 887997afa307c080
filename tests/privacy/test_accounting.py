from __future__ import annotations

import math
import sys

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.privacy import accounting
from polyclinic.privacy.accounting import calibrate, epsilon
from polyclinic.privacy.noise import analytic_gaussian_sigma

pytest.importorskip("dp_accounting")


def event(mechanism="gaussian", multiplier=1.0, **more):
    return {"mechanism": mechanism, "multiplier": multiplier, **more}


def root(delta_of, delta: float) -> float:
    return brentq(lambda e: delta_of(e) - delta, 1e-9, 50)


# PLDAccountant of dp-accounting 0.6.0; its RdpAccountant says 5.252, 2.101, 5.289.
@pytest.mark.parametrize(
    ("rate", "multiplier", "times", "expected", "renyi"),
    [(1.0, 5, 30, 4.866, 5.252), (0.01, 1, 1000, 1.828, 2.101), (0.05, 1.2, 400, 4.799, 5.289)],
)
def test_the_golden_numbers(rate, multiplier, times, expected, renyi) -> None:
    found = epsilon([event(multiplier=multiplier, times=times, rate=rate)], 1e-5)
    assert found == pytest.approx(expected, abs=6e-4)
    assert 1.07 < renyi / found < 1.16


@pytest.mark.parametrize("target", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.1])
def test_one_gaussian_costs_what_balle_and_wang_say(target, delta) -> None:
    multiplier = analytic_gaussian_sigma(target, delta, 1.0)
    found = epsilon([event(multiplier=multiplier)], delta)
    assert target * (1 - 1e-9) <= found <= target * 1.0005


def test_gaussians_compose_like_one_with_less_noise() -> None:
    together = epsilon([event(multiplier=3.0), event(multiplier=4.0, times=2)], 1e-6)
    combined = 1 / math.sqrt(1 / 9 + 2 / 16)
    exact = root(
        lambda e: (
            norm.cdf(0.5 / combined - e * combined)
            - math.exp(e) * norm.cdf(-0.5 / combined - e * combined)
        ),
        1e-6,
    )
    assert exact * (1 - 1e-9) <= together <= exact * 1.0005


def test_one_laplace_release_costs_its_closed_form() -> None:
    # delta(e) = 1 - exp((e - 1/b) / 2)
    found = epsilon([event("laplace", 2.0)], 1e-3)
    assert found == pytest.approx(0.5 + 2 * math.log(1 - 1e-3), rel=5e-4)


def test_one_discrete_laplace_release_costs_its_closed_form() -> None:
    # The loss is 1/b where noise <= 0, which has probability 1 / (1 + exp(-1/b)), else -1/b.
    found = epsilon([event("discrete_laplace", 2.0)], 1e-3)
    exact = 0.5 + math.log(1 - 1e-3 * (1 + math.exp(-0.5)))
    assert exact - 1e-9 <= found <= exact * 1.0005
    assert found > epsilon([event("laplace", 2.0)], 1e-3)


@pytest.mark.parametrize(("multiplier", "steps"), [(1.5, 1), (1.0, 3), (4.0, 1)])
@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "discrete_laplace"])
def test_one_release_on_a_grid_costs_its_own_sum(mechanism, multiplier, steps) -> None:
    scale, power = multiplier * steps, 2 if mechanism == "discrete_gaussian" else 1
    weight = {y: math.exp(-((abs(y) / scale) ** power) / power) for y in range(-300, 301)}
    total = sum(weight.values())

    def delta_of(e: float) -> float:
        gaps = (weight[y] - math.exp(e) * weight[y + steps] for y in range(-200, 201))
        return sum(max(gap, 0.0) for gap in gaps) / total

    found = epsilon([event(mechanism, multiplier, steps=steps)], 1e-3)
    assert delta_of(found) <= 1e-3 * (1 + 1e-9) and delta_of(found * 0.999) > 1e-3


def test_a_fine_grid_costs_what_no_grid_costs() -> None:
    below = [event("discrete_gaussian", 1.0, steps=1023, times=4)]
    above = [event("discrete_gaussian", 1.0, steps=1025, times=4)]
    plain = epsilon([event(times=4)], 1e-6)
    assert epsilon(above, 1e-6) == plain
    assert epsilon(below, 1e-6) == pytest.approx(plain, rel=1e-6)


def test_more_releases_cost_more_and_the_order_costs_nothing() -> None:
    a, b, c = event(multiplier=4.0), event("laplace", 9.0), event(multiplier=4, times=3)
    assert epsilon([], 1e-6) == 0.0
    assert epsilon([a], 1e-6) < epsilon([a, b], 1e-6) < epsilon([a, b, c], 1e-6)
    assert epsilon([a, b, c], 1e-6) == epsilon([c, a, b], 1e-6)
    assert epsilon([a] * 1000, 1e-6) == epsilon([event(multiplier=4.0, times=1000)], 1e-6)


def test_batches_cost_less() -> None:
    whole = epsilon([event(times=50)], 1e-6)
    assert epsilon([event(times=50, rate=0.1)], 1e-6) < 0.25 * whole


def test_many_small_batches_are_not_drowned_in_rounding() -> None:
    # dp-accounting in bins of 2e-5 gives 2.1431; bins twenty times wider, 2.29.
    found = epsilon([event(multiplier=2.0, times=1_000_000, rate=0.001)], 1e-5)
    assert found == pytest.approx(2.143, rel=1e-3)


@pytest.mark.parametrize("multiplier", [0.01, 1e5])
def test_far_away_multipliers_are_accounted_for(multiplier) -> None:
    found = epsilon([event(multiplier=multiplier)], 1e-12)
    exact = root_of_gaussian(multiplier, 1e-12)
    assert exact * (1 - 1e-6) <= found <= exact * 1.01 + 1e-6


def root_of_gaussian(multiplier: float, delta: float) -> float:
    low, high = 1e-9, 1e5
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        enough = analytic_gaussian_sigma(middle, delta, 1.0) <= multiplier
        low, high = (low, middle) if enough else (middle, high)
    return high


@pytest.mark.parametrize("delta", [1e-12, 0.5, 0.999])
def test_every_delta_is_accounted_for(delta) -> None:
    assert epsilon([event(multiplier=2.0, times=20, rate=0.1)], delta) >= 0


@pytest.mark.parametrize(
    ("target", "rounds", "more"),
    [
        (1.0, 1, {}),
        (0.1, 30, {}),
        (8.0, 100, {}),
        (1.0, 5, {"rate": 0.3}),
        (1.0, 10, {"mechanism": "laplace"}),
        (1.0, 10, {"mechanism": "discrete_laplace"}),
        (2.0, 3, {"mechanism": "discrete_gaussian"}),
    ],
)
def test_calibration_spends_the_budget_and_never_more(target, rounds, more) -> None:
    multiplier = calibrate(target, 1e-6, rounds, **more)
    fields = {"mechanism": "gaussian", "times": rounds, **more}
    assert epsilon([{**fields, "multiplier": multiplier}], 1e-6) <= target
    less = multiplier - 1e-4 * min(1.0, multiplier)
    assert epsilon([{**fields, "multiplier": less}], 1e-6) > target


def test_calibration_of_gaussian_rounds_is_the_analytic_one() -> None:
    exact = analytic_gaussian_sigma(1.0, 1e-6, math.sqrt(30))
    assert exact <= calibrate(1.0, 1e-6, 30) <= exact * 1.0005


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"mechanism": "gaussian"},
        event("normal"),
        event(multiplier=0.0),
        event(multiplier=-1.0),
        event(multiplier=math.nan),
        event(multiplier=math.inf),
        event(multiplier="1"),
        event(multiplier=True),
        event(times=0),
        event(times=1.5),
        event(times=True),
        event(rate=0.0),
        event(rate=1.1),
        event(steps=2),
        event("laplace", rate=0.5),
        event("discrete_gaussian", rate=0.5),
        event("discrete_gaussian", steps=0),
        event(sigma=1.0),
    ],
)
def test_events_without_meaning_are_refused(bad) -> None:
    with pytest.raises(InputError, match="BAD_PRIVACY"):
        epsilon([event(), bad], 1e-6)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan, 1e-13, "x"])
def test_a_delta_without_meaning_is_refused(delta) -> None:
    with pytest.raises(InputError, match="BAD_PRIVACY"):
        epsilon([], delta)


def test_calibration_refuses_a_delta_that_cannot_be_accounted_for() -> None:
    with pytest.raises(InputError, match="BAD_PRIVACY"):
        calibrate(1.0, 1e-13, 1)


@pytest.mark.parametrize("rounds", [0, -1, 1.5])
def test_calibration_needs_rounds(rounds) -> None:
    with pytest.raises(InputError, match="BAD_PRIVACY"):
        calibrate(1.0, 1e-6, rounds)


def test_accountants_that_contradict_each_other_stop_the_release(monkeypatch) -> None:
    for wrong in (50.0, math.inf, math.nan):
        monkeypatch.setattr(accounting, "_by_distributions", lambda *_, wrong=wrong: wrong)
        accounting._epsilon.cache_clear()
        with pytest.raises(PolyclinicError, match="ACCOUNTING"):
            epsilon([event(multiplier=3.21)], 1e-6)
    accounting._epsilon.cache_clear()


def test_without_the_extra_the_next_step_is_said(monkeypatch) -> None:
    accounting._epsilon.cache_clear()
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(PolyclinicError, match="MISSING_EXTRA") as caught:
        epsilon([event()], 1e-6)
    assert caught.value.next == 'pip install "polyclinic[dp]"'
