"""Groups of patients: none is small, none is one patient's, and they depend on rows alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.core.exposure import Shares
from polyclinic.models.simple.units import groups_of, means_of, points_of
from polyclinic.privacy.disclosure import dominated
from polyclinic.privacy.policy import Policy

NO_SIDES = np.zeros((0, 0), dtype=bool)


def grouped(x, parts=None, sides=None, least=5):
    parts = np.zeros((len(x), 1)) if parts is None else parts
    sides = np.zeros((len(x), 0), dtype=bool) if sides is None else sides
    return groups_of(x, parts, sides, least)


@settings(max_examples=40)
@given(st.integers(0, 200), st.integers(1, 9), st.integers(0, 2**31))
def test_every_group_holds_the_minimum_and_nobody_rules_one(n, least, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_t(1, (n, 3))
    parts = np.abs(rng.standard_t(1, (n, 2))) * (rng.random((n, 2)) < 0.5)
    sides = rng.random((n, 2)) < 0.3
    if n and dominated(Policy(), Shares.of(parts)).any():
        parts = np.zeros((n, 2))  # a whole hospital that two patients rule is refused anyway
    group = grouped(x, parts, sides, least)
    sizes = np.bincount(group)
    assert sorted(set(group.tolist())) == list(range(len(sizes)))
    assert n < least or sizes.min() >= least
    for k in range(len(sizes)):
        assert not dominated(Policy(), Shares.of(parts[group == k])).any()


def test_groups_are_near_and_keep_to_gaps_and_sides():
    rng = np.random.default_rng(0)
    centre = np.repeat([0.0, 50.0, 80.0], [61, 7, 33])
    x = centre[:, None] + rng.normal(size=(101, 2))
    group = grouped(x)
    assert all(len(np.unique(centre[group == k])) == 1 for k in range(group.max() + 1))
    assert np.bincount(group).max() < 10
    sides = (np.arange(101) % 3 == 0)[:, None]
    group = grouped(rng.normal(size=(101, 2)) + sides, sides=sides)
    assert all(len(np.unique(sides[group == k])) == 1 for k in range(group.max() + 1))


def test_equal_patients_stay_together_and_large_hospitals_are_quick():
    assert grouped(np.ones((5000, 3))).max() == 0
    skewed = np.exp(np.random.default_rng(0).normal(0, 3, (10_000, 2)))
    sizes = np.bincount(grouped(skewed))
    assert sizes.min() >= 5 and len(sizes) > 700


def test_a_patient_with_several_rows_is_one_point():
    key = np.array([0, 0, 2, 5, 5, 5])
    x = np.array([[1.0], [3.0], [7.0], [0.0], [1.0], [2.0]])
    points, place = points_of(x, key)
    assert points.ravel().tolist() == [2.0, 7.0, 1.0] and place.tolist() == [0, 0, 1, 2, 2, 2]
    group = np.array([1, 0, 1])
    assert means_of(points, group).ravel().tolist() == [7.0, 1.5]
    assert len(points_of(x[:0], key[:0])[0]) == 0 and means_of(x[:0], group[:0]).shape == (0, 1)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_the_order_of_rows_changes_no_group(shift):
    x = np.random.default_rng(1).normal(shift, 1.0, (120, 3))
    order = np.random.default_rng(2).permutation(120)
    one, two = grouped(x), grouped(x[order])
    pairs = {tuple(np.flatnonzero(one == k)) for k in range(one.max() + 1)}
    assert pairs == {tuple(np.sort(order[two == k])) for k in range(two.max() + 1)}
