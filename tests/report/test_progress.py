"""How far a fit is."""

from __future__ import annotations

import math

import pytest

from polyclinic.core.fit import Round
from polyclinic.report.progress import Meter, line, tenth

LEFT = ({"sites": ["a", "b"], "bytes": 30}, {"sites": ["a", "b"], "bytes": 12})


def done(number, seconds, **figures):
    return Round(number, "round of training", "neural.train", "", seconds, figures, LEFT)


def test_time_left_follows_from_the_last_five_rounds():
    meter = Meter()
    for number in range(1, 4):
        meter.read(done(number, 100.0, round=number, rounds=50))
    for number in range(4, 9):
        found = meter.read(done(number + 1, number, round=number, rounds=50, loss=0.5))
    assert (found.round, found.rounds, found.sites, found.bytes) == (8, 50, 2, 42)
    assert found.seconds == 8 and found.left == pytest.approx(42 * 6)
    assert line(found) == "round 8 of 50   loss 0.5   2 hospitals   8.0 s a round   4 min left"


def test_a_fit_whose_rounds_nobody_knows():
    found = Meter().read(done(3, 1.0))
    assert math.isnan(found.left) and math.isnan(found.loss) and not tenth(found)
    assert line(found, "step") == "round 3   step"


def test_what_is_watched_and_who_took_part():
    found = Meter().read(done(1, 0.1, round=50, rounds=50, loss=2, validation_loss=3, sites=1))
    assert line(found) == (
        "round 50 of 50   loss 2   held out 3   1 hospital   0.1 s a round   0.0 s left"
    )


@pytest.mark.parametrize(("rounds", "lines"), [(50, 10), (10, 10), (7, 7), (1, 1), (93, 10)])
def test_every_tenth_is_said_once(rounds, lines):
    meter = Meter()
    said = [tenth(meter.read(done(1, 1, round=i, rounds=rounds))) for i in range(1, rounds + 1)]
    assert sum(said) == lines and said[-1]
