from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.core.partition import Partition
from polyclinic.core.sampling import uniform

rows_per_patient = st.lists(st.integers(1, 7), max_size=25)


def made(counts):
    key = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return Partition({"x": np.arange(len(key), dtype=float)}, key, "a")


def joined(parts, name="x"):
    return np.concatenate([np.empty(0), *(part.columns[name] for part in parts)])


@given(rows_per_patient, st.integers(1, 9), st.integers(1, 9))
def test_a_patient_is_never_split_and_no_row_is_lost(counts, parts, chunk):
    whole = made(counts)
    for cut in (whole.split(parts), whole.chunks(chunk)):
        assert np.array_equal(joined(cut), whole.columns["x"])
        patients = [set(part.keys.tolist()) for part in cut]
        assert sum(map(len, patients)) == len(counts)
        assert sum(part.n_patients for part in cut) == whole.n_patients == len(counts)
        assert all(part.n_rows for part in cut)


@given(rows_per_patient, st.integers(1, 9))
def test_keys_belong_to_patients_whatever_the_split(counts, parts):
    whole = made(counts)
    assert np.array_equal(joined_keys(whole.split(parts)), whole.keys)


def joined_keys(parts):
    return np.concatenate([np.empty(0, np.int64), *(part.keys for part in parts)])


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 9))
def test_without_patients_every_row_has_its_place_as_key(n, parts, again):
    whole = Partition({"x": np.arange(float(n))})
    cut = [small for part in whole.split(parts) for small in part.split(again)]
    assert np.array_equal(joined_keys(cut), np.arange(n))
    assert sum(part.n_patients for part in cut) == n
    sizes = [part.n_rows for part in whole.split(parts)]
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_chunks_are_counted_from_the_start():
    whole = Partition({"x": np.arange(10.0)})
    assert [part.n_rows for part in whole.chunks(4)] == [4, 4, 2]


def test_parts_are_views():
    whole = made([2, 3, 1])
    assert all(np.shares_memory(part.columns["x"], whole.columns["x"]) for part in whole.split(2))


def test_a_long_patient_stays_whole():
    whole = made([1, 100, 1])
    assert [part.n_rows for part in whole.split(5)] == [101, 1]


def test_patients_behind_some_rows():
    whole = made([2, 3, 1])
    mask = np.array([True, False, True, True, False, False])
    assert whole.patients(mask) == 2
    assert whole.patients(~np.ones(6, bool)) == 0
    assert Partition({"x": np.arange(6.0)}).patients(mask) == 3


def test_rows_of_a_patient_must_stand_together():
    """Else a cut would split the patient, and one patient would count as several."""
    with pytest.raises(ValueError, match="together"):
        Partition({"x": np.arange(3.0)}, np.array([0, 1, 0]))


def test_the_cache_is_per_part():
    whole = made([2, 3])
    assert whole.cached("a", lambda: 1) == whole.cached("a", lambda: 2) == 1
    assert [part.cached("a", lambda: 3) for part in whole.split(2)] == [3, 3]
    assert whole.cached("nothing", lambda: None) is None


@given(st.integers(0, 2**31), st.integers(0, 1000), st.permutations(range(20)))
def test_a_sample_belongs_to_the_key(seed, number, order):
    keys = np.arange(20, dtype=np.int64)
    drawn = uniform(keys, seed, number, "a")
    assert np.array_equal(uniform(keys[order], seed, number, "a"), drawn[order])
    assert np.all((drawn >= 0) & (drawn < 1))
