"""Sums and risk sets that are the same however rows are cut."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce

import numpy as np
import pytest

from polyclinic.core.exposure import Shares
from polyclinic.models.exact import WIDE, floats_of, sums_of
from polyclinic.models.trees.at_risk import AtRisk, ExactShares, together, told
from polyclinic.models.trees.cox import RiskSets
from tests.models.trees.test_cox import spec, survival


@pytest.mark.parametrize("top", [2, WIDE])
def test_sums_are_exact_in_any_order(top):
    rng = np.random.default_rng(0)
    x = rng.normal(size=400) * np.exp(rng.uniform(-40 * (top == 2), 0, 400))
    starts = np.array([0, 1, 150])
    whole = sums_of(x, starts, top)
    order = np.concatenate([rng.permutation(part) for part in np.split(np.arange(400), starts[1:])])
    np.testing.assert_array_equal(whole, sums_of(x[order], starts, top))
    for sums, found, part in zip(
        whole, floats_of(whole, top), np.split(x, starts[1:]), strict=True
    ):
        units = (int(one) * Fraction(2) ** (top - 31 * (j + 1)) for j, one in enumerate(sums))
        exact = sum(map(Fraction, part.tolist()), Fraction(0))
        assert abs(sum(units, Fraction(0)) - exact) <= len(part) * Fraction(2) ** (top - 155)
        assert found == pytest.approx(float(exact), rel=1e-15)
    assert floats_of(sums_of(x, np.arange(400), top), top).tobytes() == x.tobytes() or top == WIDE


def test_small_sums_beside_large_ones_keep_their_digits():
    x = np.array([1.0, 3.3e-27, 2.0, -3.0])
    whole = sums_of(x, np.array([0]), 2)
    assert floats_of(whole, 2)[0] == pytest.approx(3.3e-27, rel=1e-12)


def test_shares_of_patients_are_those_of_all_rows():
    rng = np.random.default_rng(1)
    parts, key = rng.exponential(size=60), np.sort(rng.integers(0, 20, 60))
    cut = int(np.searchsorted(key, 11))
    halves = [ExactShares.of(parts[at], key[at]) for at in (slice(cut), slice(cut, None))]
    whole, wanted = ExactShares.of(parts, key), Shares.of(parts, key)
    for one in (whole, halves[0] + halves[1], halves[1] + halves[0] + ExactShares.of(parts[:0])):
        assert vars(one.shares) == vars(whole.shares)
        for name, value in vars(wanted).items():
            assert getattr(one.shares, name) == pytest.approx(value, rel=1e-14)
    assert vars(ExactShares.of(parts[:1]))["second"] == 0.0


def rows_of(rng, trial):
    """Durations with or without ties, of four strata; of the first rows nobody has the event."""
    n = int(rng.integers(8, 120))
    time = rng.integers(0, (5, 1000)[trial % 2], n) * 1.0
    event, weight = rng.random(n) < 0.5, rng.uniform(0.1, 4.0, n)
    event[: n // 4] = False
    return time, event, weight, np.arange(n), rng.integers(0, 4, n)


@pytest.mark.parametrize("parts", [1, 2, 6])
def test_chunks_find_the_derivatives_and_losses_of_all_rows(parts):
    """To the last byte."""
    rng, asked = np.random.default_rng(parts), spec(survival(), strata=("place",), cell=parts)
    more = {"parts": parts, "strata": 4, "bound": asked.weight_exponent}
    for trial in range(12):
        columns = rows_of(rng, trial)
        n = len(columns[0])
        margin = rng.normal(size=n) * (0.5, 3.0, 30.0)[trial % 3]
        cut = np.split(np.arange(n), np.sort(rng.integers(0, n, 3)))
        chunks = [(RiskSets(*(one[at] for one in columns), **more), margin[at]) for at in cut]
        tables = AtRisk(asked, np.zeros(0)).tables({}, losses=True)
        table, near = _found(tables, chunks[::-1] if trial % 2 else chunks)
        whole = RiskSets(*columns, **more)
        wanted = *whole.derivatives(margin), whole.losses(margin)
        assert np.abs(wanted[2]).sum() > 0 or parts > 1
        for (sets, mine), at in zip(chunks, cut, strict=True):
            found = *sets.derivatives(mine, table), sets.losses(mine, near)
            for each, all_rows in zip(found, wanted, strict=True):
                assert each.tobytes() == all_rows[at].tobytes()


def _found(steps, chunks):
    """What steps end in when these chunks answer."""
    try:
        question = next(steps)
        while True:
            question = steps.send(reduce(together, (told(question.values, *one) for one in chunks)))
    except StopIteration as end:
        return end.value
