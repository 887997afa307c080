"""What groups add up to is what their rows add up to."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.core.exposure import Exposure, Members, Shares
from polyclinic.models.simple.group_sums import groups_in

SIZE = 3


@pytest.mark.parametrize("several", [False, True])
def test_sums_and_shares_of_groups_are_those_of_their_rows(several):
    rng = np.random.default_rng(0)
    n = 400
    key = np.sort(rng.integers(0, n // 2, n)) if several else np.arange(n)
    patients, place = np.unique(key, return_inverse=True)
    persons = rng.permutation(1000)[: len(patients)]
    x, parts = rng.normal(size=(n, 2)), np.abs(rng.standard_t(1, (n, 3)))
    group = rng.permutation(np.arange(len(patients)) % 20)
    everyone = Exposure(coefficients=4, members=(Members(("a", "b"), np.sort(persons)),))
    given = key if several else None
    made = groups_in(x, np.ones(n), parts, group, given, key, persons[place], everyone, "north")
    label = rng.integers(-1, SIZE, 20)
    label[:4] = -1, 0, 1, 2
    rows, centres = label[group][place], rng.normal(size=(SIZE, 2))
    leaves, behind = made.summed(label, SIZE)
    np.testing.assert_array_equal(leaves["n"], [np.sum(rows == k) for k in range(SIZE)])
    total = [x[rows == k].sum(axis=0) for k in range(SIZE)]
    np.testing.assert_allclose(leaves["x"], total, rtol=1e-12)
    np.testing.assert_allclose(leaves["weight"], leaves["n"])
    found = made.exposure(label, SIZE)
    assert found.coefficients == 4 and found.members[0].patients.tolist() == sorted(persons)
    for k in range(SIZE):
        mine = rows == k
        assert behind["n"][k] == len(np.unique(key[mine])) == behind["x"][k, 1]
        assert found.members[1 + k].patients.tolist() == sorted(np.unique(persons[place[mine]]))
        expected = Shares.of(parts[mine], key[mine])
        for name, part in vars(expected).items():
            np.testing.assert_allclose(getattr(found.cells["x"], name)[k], part[:-1], rtol=1e-12)
            np.testing.assert_allclose(getattr(found.cells["weight"], name)[k], part[-1:][0])
    every = np.maximum(label, 0)
    squares = np.square(x - centres[every[group][place]]).sum()
    assert made.inertia(every, centres) == pytest.approx(squares, rel=1e-12)
    first = [key[group[place] == g].min() for g in range(20)]
    assert made.first.tolist() == first


def test_no_rows_are_no_groups():
    none, few = np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    everyone = Exposure(members=(Members(("a",), few),))
    made = groups_in(none, np.zeros(0), none, few, None, few, few, everyone, "north")
    leaves, _ = made.summed(few, SIZE)
    assert leaves["n"].tolist() == [0, 0, 0] and made.inertia(few, np.zeros((SIZE, 2))) == 0.0
    assert made.exposure(few, SIZE).cells["x"].first.shape == (SIZE, 1)
