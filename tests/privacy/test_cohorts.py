from __future__ import annotations

import time
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.privacy import cohorts
from polyclinic.privacy.cohorts import Atoms, difference, pack, too_close, unpack


def exposed_atom(released, k):
    """Whether the cohorts' sums give away one or two atoms of together fewer than k patients."""
    atoms = Atoms.none(released.shape[1])
    for row in released:
        atoms = atoms.add(row)
    return bool(atoms.exposed(k))


def packed(*masks):
    return np.stack([pack(mask) for mask in masks])


def having(n, *members):
    mask = np.zeros(n, dtype=bool)
    for some in members:
        mask[some] = True
    return mask


def rank(matrix):
    """Rank over the rational numbers, by elimination with fractions."""
    rows = [[Fraction(int(x)) for x in row] for row in matrix]
    found = 0
    for column in range(len(rows[0]) if rows else 0):
        at = next((i for i in range(found, len(rows)) if rows[i][column]), None)
        if at is None:
            continue
        rows[found], rows[at] = rows[at], rows[found]
        for i in range(found + 1, len(rows)):
            factor = rows[i][column] / rows[found][column]
            rows[i] = [x - factor * y for x, y in zip(rows[i], rows[found], strict=True)]
        found += 1
    return found


def exposed_by_fractions(matrix, k):
    """Whether the rows' rank falls without one or two atoms of fewer than k patients together.

    It falls exactly when the row space holds a vector that is nonzero on them only.
    """
    atoms, sizes = np.unique(matrix, axis=1, return_counts=True)
    groups = [g for n in (1, 2) for g in combinations(range(sizes.size), n)]
    few = [list(group) for group in groups if sizes[list(group)].sum() < k]
    return any(rank(np.delete(atoms, group, axis=1)) < rank(atoms) for group in few)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_cohort_survives_packing(mask):
    words = pack(np.array(mask))
    assert words.dtype == np.uint64
    assert unpack(words, len(mask)).tolist() == mask
    assert int(np.bitwise_count(words).sum()) == sum(mask)
    assert all(bool(int(words[i // 64]) >> (i % 64) & 1) == bit for i, bit in enumerate(mask))


def test_difference_counts_patients_in_one_but_not_both():
    a, b = having(130, [0, 64, 129]), having(130, [0, 128, 129])
    assert difference(pack(a), packed(a, b, ~a)).tolist() == [0, 2, 130]
    assert difference(pack(a), np.zeros((0, 3), dtype=np.uint64)).size == 0


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize("removed", [False, True])
def test_cohorts_that_differ_in_fewer_than_k_patients_are_too_close(k, removed):
    released = having(1000, slice(100, 600))
    for apart, refused in ((0, False), (1, True), (k - 1, True), (k, False), (k + 1, False)):
        new = released.copy()
        new[slice(100, 100 + apart) if removed else slice(600, 600 + apart)] = not removed
        assert too_close(pack(new), packed(~released, released), k) is refused


def test_an_exchanged_patient_counts_twice():
    released, new = having(100, slice(0, 50)), having(100, slice(1, 51))
    assert too_close(pack(new), packed(released), 3)
    assert not too_close(pack(new), packed(released), 2)


@pytest.mark.parametrize("k", [2, 5, 10])
def test_a_tracker_of_three_cohorts_is_caught(k):
    """all - (women or target) + women leaves the target, and no two of the three are close."""
    women = having(400, slice(0, 200))
    for size, caught in ((1, True), (k - 1, True), (k, False), (k + 1, False)):
        target = having(400, slice(300, 300 + size))
        tracker = ~women & ~target
        three = packed(women, np.ones(400, dtype=bool), tracker)
        assert not any(too_close(row, np.delete(three, i, 0), k) for i, row in enumerate(three))
        assert exposed_atom(three, k) is caught
        assert not exposed_atom(three[1:], k) and not exposed_atom(three[:2], k)


@pytest.mark.parametrize("young_targets", [1, 2, 3])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_target_that_another_cohort_splits_is_caught(young_targets, backwards):
    """all - (women or target) + women; the young are a part of the target, so it is no atom."""
    women, young = having(400, slice(0, 200)), having(400, slice(100, 300 + young_targets))
    tracker = ~women & ~having(400, slice(300, 304))
    masks = (young, women, np.ones(400, dtype=bool), tracker)
    four = packed(*(mask[::-1] if backwards else mask for mask in masks))
    assert exposed_atom(four, 5) and exposed_atom(four[::-1], 5)
    assert not exposed_atom(four, 4)
    assert not any(exposed_atom(np.delete(four, i, 0), 5) for i in (1, 2, 3))


def test_the_smallest_two_of_several_that_can_be_exchanged():
    members = [slice(0, 1), slice(1, 4), slice(4, 5)]
    rows = packed(*(having(200, slice(100, 200), some) for some in members))
    assert exposed_atom(rows, 4) and exposed_atom(rows[:2], 5)
    assert not exposed_atom(rows, 2) and not exposed_atom(rows[:2], 4)


def test_what_is_exposed_keeps_its_name_while_cohorts_are_added():
    rng = np.random.default_rng(6)
    target, atoms = having(2000, slice(1200, 1203)), Atoms.none(32)
    for row in (rng.random(2000) < 0.5, ~target):
        atoms = atoms.add(pack(row & ~having(2000, slice(1000, 2000))))
    assert not atoms.exposed(5)
    base = having(2000, slice(1000, 2000))
    for row in (base, base & ~target):
        atoms = atoms.add(pack(row))
    assert atoms.exposed(5) == {(1200, 3)}
    for at in range(1400, 1900, 100):
        atoms = atoms.add(pack(having(2000, slice(at, at + 50))))
        assert atoms.exposed(5) == {(1200, 3)}


def test_a_tracker_with_unequal_weights_is_caught():
    """Half of (ab + bc + ca - abc) is nothing, but ab + ac - abct leaves a - t and then t."""
    a, b, c, t = (having(90, slice(at, to)) for at, to in ((0, 20), (20, 40), (40, 60), (60, 61)))
    rows = packed(a | b | t, b | c | t, a | c | t, a | b | c)
    assert exposed_atom(rows, 2)
    assert not any(exposed_atom(np.delete(rows, i, 0), 2) for i in range(4))


def test_honest_overlapping_subgroups_are_allowed():
    rng = np.random.default_rng(1)
    age, sex, smoker = rng.integers(18, 90, 3000), rng.random(3000) < 0.5, rng.random(3000) < 0.3
    everyone = np.ones(3000, dtype=bool)
    subgroups = packed(everyone, sex, ~sex, smoker, age < 50, age >= 50, sex & smoker, age >= 65)
    assert not exposed_atom(subgroups, 10)
    rare = having(3000, slice(0, 6))
    assert exposed_atom(np.vstack([subgroups, packed(sex | rare, ~sex | rare)]), 10)


def test_small_atoms_that_no_combination_reaches_are_allowed():
    """Two cohorts of 50 share one patient: three atoms, two sums."""
    rows = packed(having(99, slice(0, 50)), having(99, slice(49, 99)))
    assert not exposed_atom(rows, 5)
    assert exposed_atom(np.vstack([rows, packed(np.ones(99, dtype=bool))]), 5)


@st.composite
def memberships(draw):
    n, m = draw(st.integers(1, 14)), draw(st.integers(1, 9))
    rows = draw(st.lists(st.lists(st.integers(0, 1), min_size=n, max_size=n), min_size=m))
    repeats = draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
    return np.repeat(np.array(rows[:m]), repeats, axis=1)


@settings(max_examples=150, deadline=None)
@given(memberships(), st.integers(2, 6))
def test_exactly_the_atoms_that_rational_elimination_finds(matrix, k):
    atoms = Atoms.none(pack(matrix[0]).size)
    for row in matrix:
        atoms = atoms.add(pack(row == 1))
    assert len(atoms.rows) == rank(matrix)
    assert exposed_atom(packed(*(matrix == 1)), k) == exposed_by_fractions(matrix, k)


def test_the_inverse_stays_an_inverse_over_many_blocks():
    rng = np.random.default_rng(2)
    rows = [rng.random(3000) < 0.5 for _ in range(40)]
    atoms = Atoms.none(pack(rows[0]).size)
    for row in rows:
        atoms = atoms.add(pack(row))
    basis = np.array([row[atoms.pivots] for row in rows]).astype(object)
    product = (basis @ atoms.inverse.astype(object)) % atoms.prime
    assert (product == np.eye(40, dtype=int)).all()
    assert atoms.add(pack(rows[7])) is atoms


def test_data_sets_with_one_start_share_what_was_found_of_the_same_cohorts():
    start, k = Atoms.none(32), 5
    one, two = pack(having(2000, slice(0, 1000))), pack(having(2000, slice(0, 998)))
    first = start.add(one)
    assert start.add(one.copy()) is first
    other = start.add(two)
    assert other is not first and other.rows[0] is two
    assert not first.exposed(k) and first.add(two).exposed(k)
    assert not first.exposed(k) and first.exposed(1200)
    again = start.add(one)
    assert np.array_equal(again.atom, first.atom) and np.array_equal(again.totals, first.totals)


def test_products_modulo_the_prime_are_exact():
    rng = np.random.default_rng(4)
    for _ in range(20):
        p = cohorts._random_prime()
        assert 2**49 < p < 2**50 and all(p % small for small in range(3, 2000, 2))
        edges = np.array([0, 1, 2, p // 2, p // 2 + 1, p - 2, p - 1])
        a, b = (np.concatenate([edges, rng.integers(0, p, 300)]) for _ in "ab")
        exact = a.astype(object)[:, None] * b.astype(object) % p
        assert (cohorts._times(a[:, None], b[None, :], p) == exact).all()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 100, 1001])
def test_inverses_modulo_the_prime(size):
    p = cohorts._random_prime()
    a = np.random.default_rng(5).integers(1, p, size)
    assert (cohorts._times(a, cohorts._inverses(a, p), p) == 1).all()


def test_primes_are_told_from_composites():
    sieve = [n for n in range(39, 5000, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2))]
    assert [n for n in range(39, 5000, 2) if cohorts._is_prime(n)] == sieve
    assert cohorts._is_prime(2**61 - 1) and not cohorts._is_prime(3215031751)


@pytest.mark.slow
def test_cost_of_one_more_cohort(capsys):
    rng = np.random.default_rng(3)
    rows = packed(*(rng.random(100_000) < rng.uniform(0.05, 0.95) for _ in range(500)))
    atoms = Atoms.none(rows.shape[1])
    for row in rows[:-1]:
        atoms = atoms.add(row)
    start = time.perf_counter()
    assert not too_close(rows[-1], rows[:-1], 5)
    pairs = time.perf_counter()
    assert not atoms.add(rows[-1]).exposed(5)
    done = time.perf_counter()
    with capsys.disabled():
        print(f"\n100,000 patients x 500 cohorts: pairs {1e3 * (pairs - start):.1f} ms, ", end="")
        print(f"atoms {1e3 * (done - pairs):.1f} ms")
