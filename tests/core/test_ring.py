from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.core import ring

UNIT = Fraction(1, 2**64)
any_number = st.floats(-(2.0**55), 2.0**55)
# Multiples of 2**-64 that a float64 holds: the ring holds them exactly.
exact_number = st.one_of(
    st.floats(2.0**-11, 2.0**50),
    st.floats(-(2.0**50), -(2.0**-11)),
    st.just(0.0),
    st.integers(-(2**53), 2**53).map(lambda n: math.ldexp(n, -64)),
)


def total(values, order=None, nest=1):
    words = [ring.encode(np.array([v])) for v in (values if order is None else order)]
    groups = [words[i : i + nest] for i in range(0, len(words), nest)]
    summed = ring.zeros(1)
    for group in groups:
        inner = ring.zeros(1)
        for word in group:
            inner = ring.add(inner, word)
        summed = ring.add(summed, inner)
    return summed


def as_integer(words):
    value = int(words[0, 0]) | int(words[0, 1]) << 64
    return value - 2**128 if value >= 2**127 else value


def half_even(value: Fraction) -> int:
    return round(value / UNIT)  # Fraction rounds half to even


@given(any_number)
def test_encoding_is_one_half_even_rounding(x):
    magnitude = half_even(Fraction(abs(x)))
    assert as_integer(ring.encode(np.array([x]))) == (magnitude if x >= 0 else -magnitude)


@given(st.lists(any_number, min_size=1, max_size=30))
def test_a_sum_is_the_nearest_float_to_the_sum_of_what_was_encoded(values):
    exact = sum(
        (Fraction(as_integer(ring.encode(np.array([v])))) * UNIT for v in values), Fraction(0)
    )
    assert ring.decode(total(values))[0] == float(exact)  # int / int division rounds half to even


@given(st.lists(exact_number, max_size=40))
def test_equals_fsum_bitwise_for_numbers_held_exactly(values):
    found = ring.decode(total(values))[0]
    assert np.float64(found).tobytes() == np.float64(math.fsum(values) + 0.0).tobytes()


@given(st.lists(any_number, min_size=1, max_size=20), st.randoms(), st.integers(1, 5))
def test_order_and_nesting_do_not_change_a_bit(values, random, nest):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert np.array_equal(total(values), total(values, shuffled, nest))


@given(st.lists(st.floats(-(2.0**40), 2.0**40), max_size=20), st.integers(-200, 200))
def test_a_scale_moves_the_unit(values, scale):
    x = np.array(values, dtype=float)
    scaled = np.ldexp(x, scale)
    if np.all(np.isfinite(scaled)) and np.all(np.ldexp(scaled, -scale) == x):
        assert np.array_equal(ring.encode(scaled, scale), ring.encode(x))
        assert np.array_equal(
            ring.decode(ring.encode(scaled, scale), scale),
            np.ldexp(ring.decode(ring.encode(x)), scale),
        )


@pytest.mark.parametrize(
    "x", [0.0, -0.0, 2.0**-80, -(2.0**-80), 5e-324, -5e-324, 2.0**-65, -(2.0**-65)]
)
def test_too_small_is_plain_zero(x):
    assert ring.encode(np.array([x])).tolist() == [[0, 0]]
    assert math.copysign(1.0, ring.decode(ring.encode(np.array([x])))[0]) == 1.0


@pytest.mark.parametrize(
    ("x", "n"), [(2.0**-64, 1), (1.5 * 2.0**-64, 2), (2.5 * 2.0**-64, 2), (0.75 * 2.0**-64, 1)]
)
def test_ties_at_the_unit_go_to_even(x, n):
    assert as_integer(ring.encode(np.array([x]))) == n
    assert as_integer(ring.encode(np.array([-x]))) == -n


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(x):
    with pytest.raises(ring.RingError) as caught:
        ring.encode(np.array([1.0, x]))
    assert caught.value.code == "NONFINITE"


@pytest.mark.parametrize("sign", [1, -1])
def test_range_is_the_first_number_too_many(sign):
    largest = sign * np.nextafter(2.0**56, 0)
    assert ring.decode(ring.encode(np.array([largest])))[0] == largest
    for x, scale in ((sign * 2.0**56, 0), (sign * 2.0**46, -10)):
        with pytest.raises(ring.RingError) as caught:
            ring.encode(np.array([x]), scale)
        assert caught.value.code == "RANGE"


def test_sixty_four_largest_numbers_pass_the_guard_and_sixty_five_do_not():
    largest = float(np.nextafter(2.0**56, 0))
    assert ring.decode(total([largest] * 64))[0] == math.fsum([largest] * 64)
    for sign in (1, -1):
        with pytest.raises(ring.RingError) as caught:
            ring.decode(total([sign * largest] * 65))
        assert caught.value.code == "GUARD"


def test_the_most_negative_word_is_guarded():
    words = np.array([[0, 1 << 63]], dtype=np.uint64)
    with pytest.raises(ring.RingError) as caught:
        ring.decode(words)
    assert caught.value.code == "GUARD"


def test_arrays_and_no_numbers():
    x = np.arange(12.0).reshape(3, 4) / 8
    assert np.array_equal(ring.decode(ring.encode(x)), x.ravel())
    assert ring.encode(np.empty((0, 3))).shape == (0, 2)
    assert ring.decode(ring.zeros(0)).shape == (0,)


def test_cancellation_leaves_what_fsum_leaves():
    values = [1e15, 1.0, -1e15, 2.0**-11, -1.0]
    assert ring.decode(total(values))[0] == math.fsum(values) == 2.0**-11
