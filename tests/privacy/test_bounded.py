from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polyclinic.core import ring
from polyclinic.core.errors import InputError, PolyclinicError
from polyclinic.privacy.bounded import MOST_PATIENTS, BoundedSum

CLIPS = st.one_of(st.sampled_from([1.0, 0.5, 3.0, 2.0**-30, 2.0**40]), st.floats(1e-6, 1e6))
ANY = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)
NEAR = st.floats(-2, 2)


@st.composite
def cohorts(draw):
    """Rows of a few patients in any order, from harmless to absurd."""
    n, d = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    rows = draw(arrays(np.float64, (n, d), elements=draw(st.sampled_from([ANY, NEAR]))))
    return rows, draw(arrays(np.int64, n, elements=st.integers(0, 3)))


def squared(a, b) -> Fraction:
    return sum((Fraction(float(x)) - Fraction(float(y))) ** 2 for x, y in zip(a, b, strict=True))


@given(cohorts(), CLIPS)
@example((np.full((1, 3), 1 / math.sqrt(3)), np.zeros(1, dtype=np.int64)), 1.0)
@example((np.array([[1.0, 2.0**-29]]), np.zeros(1, dtype=np.int64)), 1.0)  # by one ulp of squares
@example((np.array([[3e-320, 4e-320]]), np.zeros(1, dtype=np.int64)), 1.0)
def test_no_patient_moves_the_sum_by_more_than_the_sensitivity(cohort, clip) -> None:
    rows, patients = cohort
    bounded = BoundedSum(clip)
    whole = bounded.of(rows, patients)
    for patient in np.unique(patients):
        rest = bounded.of(rows[patients != patient], patients[patients != patient])
        assert squared(whole.total, rest.total) <= Fraction(bounded.sensitivity) ** 2
        assert whole.patients - rest.patients == 1
        assert whole.clipped - rest.clipped in (0, 1)


@given(cohorts(), CLIPS)
@example((np.full((1, 7), 1 / 7), np.zeros(1, dtype=np.int64)), 1.0)  # rounds up seven times
def test_nor_in_the_sum_of_absolute_values(cohort, clip) -> None:
    rows, patients = cohort
    bounded = BoundedSum(clip, "l1")
    whole = bounded.of(rows, patients)
    for patient in np.unique(patients):
        rest = bounded.of(rows[patients != patient], patients[patients != patient])
        moved = zip(whole.total, rest.total, strict=True)
        change = sum(abs(Fraction(float(a)) - Fraction(float(b))) for a, b in moved)
        assert change <= Fraction(bounded.sensitivity)


def test_which_patients_are_shortened_in_each_norm() -> None:
    rows = np.array([[0.6, 0.6], [0.5, -0.5], [3.0, 4.0]])
    assert BoundedSum(1.0).of(rows).clipped == 1
    found = BoundedSum(1.0, "l1").of(rows)
    assert found.clipped == 2
    expected = [0.5 + 0.5 + 3 / 7, 0.5 - 0.5 + 4 / 7]
    np.testing.assert_allclose(found.total, expected, atol=1e-8)


@given(cohorts(), CLIPS, st.randoms(use_true_random=False))
def test_the_sum_depends_on_no_order_and_no_split(cohort, clip, shuffler) -> None:
    rows, patients = cohort
    bounded = BoundedSum(clip)
    whole = bounded.of(rows, patients)
    order = list(np.unique(patients))
    shuffler.shuffle(order)
    parts = [bounded.of(rows[patients == p], patients[patients == p]) for p in order]
    words = ring.zeros(rows.shape[1])
    for part in parts:
        words = ring.add(words, ring.encode(part.total))
    assert np.array_equal(ring.decode(words), whole.total)
    assert sum(part.clipped for part in parts) == whole.clipped


@given(cohorts(), CLIPS)
def test_sums_are_near_the_plain_clipped_sums_and_multiples_of_the_quantum(cohort, clip) -> None:
    rows, patients = cohort
    bounded = BoundedSum(clip)
    result = bounded.of(rows, patients)
    expected = np.zeros(rows.shape[1])
    longer = 0
    for patient in np.unique(patients):
        vector = [math.fsum(column) for column in rows[patients == patient].T]
        assume(all(abs(x) < 1e300 for x in vector))
        norm = math.hypot(*vector)
        longer += norm > clip
        expected += np.array([x * (clip / norm) if norm > clip else x for x in vector])
    tolerance = len(rows) * clip * 2.0**-27 + 1e-15 * np.abs(rows).max()
    if np.abs(rows).max() < 1e10 * clip:  # else fsum and float sums of one patient differ
        assert result.total == pytest.approx(expected, abs=tolerance)
    assert np.all(result.total / bounded.quantum == np.rint(result.total / bounded.quantum))
    assert clip * 2.0**-30 < bounded.quantum <= clip * 2.0**-29


def test_a_patient_counts_once_however_many_rows() -> None:
    rows = np.ones((100, 1))
    assert BoundedSum(1.0).of(rows, np.zeros(100, dtype=np.int64)).total.tolist() == [1.0]
    assert BoundedSum(1.0).of(rows).total.tolist() == [100.0]
    result = BoundedSum(1.0).of(rows, np.arange(100) // 2)
    assert (result.total.tolist(), result.patients, result.clipped) == ([50.0], 50, 50)


def test_rows_of_a_patient_are_added_before_they_are_clipped() -> None:
    rows = np.array([[5.0, 0.0], [0.3, 0.4], [-5.0, 0.0]])
    result = BoundedSum(1.0).of(rows, np.array([7, 2, 7]))
    assert result.total == pytest.approx([0.3, 0.4], abs=1e-8)
    assert (result.patients, result.clipped) == (2, 0)


def test_direction_is_kept_and_norms_up_to_the_bound_are_left_alone() -> None:
    result = BoundedSum(5.0).of(np.array([[30.0, 40.0], [3.0, 4.0], [0.0, 0.0]]))
    assert result.total == pytest.approx([6.0, 8.0], abs=1e-7)
    assert result.clipped == 1
    one_hot = BoundedSum(1.0).of(np.eye(4)[[0, 1, 1, 3]])
    assert one_hot.total.tolist() == [1.0, 2.0, 0.0, 1.0]
    assert one_hot.clipped == 0


def test_shapes_of_one_row_are_kept() -> None:
    bounded = BoundedSum(10.0)
    assert bounded.of(np.ones((3, 2, 4))).total.shape == (2, 4)
    assert bounded.of(np.ones(3)).total == 3.0
    empty = bounded.of(np.empty((0, 2)), np.empty(0, dtype=np.int64))
    assert (empty.total.tolist(), empty.patients, empty.clipped) == ([0.0, 0.0], 0, 0)


def test_rows_are_not_changed() -> None:
    rows = np.array([[30.0, 40.0], [3.0, 4.0]])
    BoundedSum(1.0).of(rows)
    assert rows.tolist() == [[30.0, 40.0], [3.0, 4.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("patients", [None, np.array([0, 1, 1])])
def test_what_is_not_finite_is_refused_and_not_named(bad, patients) -> None:
    rows = np.array([[1.0, 2.0], [bad, 777.25], [1.0, 1.0]])
    with pytest.raises(InputError, match="NONFINITE") as caught:
        BoundedSum(1.0).of(rows, patients)
    assert "777" not in str(caught.value)


def test_rows_that_overflow_together_are_refused() -> None:
    with pytest.raises(InputError, match="NONFINITE"):
        BoundedSum(1.0).of(np.full((2, 1), 1.5e308), np.zeros(2, dtype=np.int64))
    assert BoundedSum(1.0).of(np.full((1, 4), 1.5e308)).total == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf, 2.0**-31, 2.0**41])
def test_a_bound_that_bounds_nothing_is_refused(clip) -> None:
    with pytest.raises(InputError, match="BAD_PRIVACY"):
        BoundedSum(clip)


def test_rows_and_patients_belong_together() -> None:
    with pytest.raises(PolyclinicError, match="SCHEMA_MISMATCH"):
        BoundedSum(1.0).of(np.ones((3, 1)), np.zeros(2, dtype=np.int64))


def test_the_sum_of_the_most_patients_is_exact() -> None:
    clip, many = 2.0 - 2.0**-29, 2**20
    assert BoundedSum(clip).of(np.full(many, 9.0)).total == many * clip
    assert MOST_PATIENTS * clip / BoundedSum(clip).quantum <= 2**53
    with pytest.raises(PolyclinicError, match="RANGE"):
        BoundedSum(1.0).of(np.broadcast_to(1.0, (MOST_PATIENTS + 1,)))
