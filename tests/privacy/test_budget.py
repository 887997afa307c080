from __future__ import annotations

import math

import pytest

from polyclinic.core.errors import InputError
from polyclinic.privacy.budget import Budget, grouped


def zcdp(events, delta):
    """Gaussian events under zero-concentrated privacy, Bun and Steinke 2016, proposition 1.3."""
    rho = sum(event["times"] / (2 * event["multiplier"] ** 2) for event in events)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def gaussian(multiplier, times=1):
    return {"mechanism": "gaussian", "multiplier": multiplier, "times": times}


def test_identical_events_are_one_with_their_times_added():
    events = [gaussian(2.0), {"mechanism": "gaussian", "multiplier": 2.0}, gaussian(3.0, 4)]
    events += [gaussian(2.0, 5), {**gaussian(2.0), "rate": 0.1}]
    together = sorted(grouped(events), key=lambda event: event["times"])
    assert together == [{**gaussian(2.0), "rate": 0.1}, gaussian(3.0, 4), gaussian(2.0, 7)]
    assert grouped(grouped(events)) == grouped(events[::-1])


@pytest.mark.parametrize("times", [0, -1, 1.0, True, "1", None])
def test_an_event_cannot_happen_less_than_once(times):
    with pytest.raises(InputError) as caught:
        Budget(1.0, 1e-6, zcdp).fits([], {**gaussian(2.0), "times": times})
    assert caught.value.code == "BAD_EVENT"


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(-1, 1e-6), (math.nan, 1e-6), (math.inf, 1e-6), (1, 0), (1, 1)]
)
def test_a_budget_is_finite(epsilon, delta):
    with pytest.raises(InputError) as caught:
        Budget(epsilon, delta)
    assert caught.value.code == "BAD_BUDGET"


def test_a_budget_holds_to_the_last_event_that_fits():
    events, budget = [], Budget(1.0, 1e-6, zcdp)
    while budget.fits(events, gaussian(30.0)):
        events.append(gaussian(30.0))
    n = len(events)
    assert zcdp([gaussian(30.0, n)], 1e-6) <= 1.0 < zcdp([gaussian(30.0, n + 1)], 1e-6)
    assert budget.left(events) == 1.0 - zcdp([gaussian(30.0, n)], 1e-6)
    assert budget.left([*events, gaussian(1.0)]) == 0.0
    assert budget.left([]) == 1.0


def test_the_whole_budget_may_be_spent_and_nothing_of_an_empty_one():
    cost = zcdp([gaussian(4.0)], 1e-6)
    assert Budget(cost, 1e-6, zcdp).fits([], gaussian(4.0))
    assert not Budget(math.nextafter(cost, 0), 1e-6, zcdp).fits([], gaussian(4.0))
    assert not Budget(0.0, 1e-6, zcdp).fits([], gaussian(1e6))


def test_an_unclear_cost_does_not_fit():
    assert not Budget(1.0, 1e-6, lambda events, delta: math.nan).fits([], gaussian(4.0))


def test_a_thousand_events_are_composed_as_few():
    seen = []
    budget = Budget(1e9, 1e-6, lambda events, delta: seen.append(len(events)) or 0.0)
    assert budget.fits([gaussian(2.0 + i % 3) for i in range(1000)], gaussian(2.0))
    assert seen == [3]


def test_the_accountant_by_default():
    """PLD of 30 Gaussian releases with noise multiplier 5 at delta 1e-5 costs 4.866."""
    pytest.importorskip("dp_accounting")
    pytest.importorskip("polyclinic.privacy.accounting")
    spent = [gaussian(5.0) for _ in range(29)]
    assert Budget(4.87, 1e-5).fits(spent, gaussian(5.0))
    assert not Budget(4.86, 1e-5).fits(spent, gaussian(5.0))
    assert Budget(5.0, 1e-5).left([*spent, gaussian(5.0)]) == pytest.approx(0.134, abs=2e-3)
