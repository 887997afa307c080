"""Fixed-point numbers whose sum does not depend on the order of addition.

A real number is held as a 128-bit two's complement integer of 2**-64 (format Q63.64), stored as
(n, 2) uint64: low word, high word. Integer addition is associative, so a sum of contributions has
the same bytes for any number of workers, any order and any nesting. Numbers of at least 2**-11 in
magnitude are held exactly; the only rounding is one half-even step of 2**-65 per encoded number.
Decoding is correctly rounded, so for exactly held numbers the result equals `math.fsum`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

RANGE_BITS = 56  # one contribution stays below 2**56, so that 64 of them stay below 2**62
GUARD_BITS = 62
_ONE = np.uint64(1)


class RingError(PolyclinicError):
    """A number that the ring cannot hold: NONFINITE, RANGE or GUARD."""


def encode(x: Floats, scale: int = 0) -> Words:
    """Encode finite `x` (any shape) as (x.size, 2) words of 2**(scale - 64).

    Raises
    ------
    RingError : NONFINITE for NaN or infinity, RANGE for a magnitude of 2**56 or more after scaling.
    """
    flat = np.ravel(np.asarray(x, dtype=np.float64))
    y = np.abs(flat)
    if scale:
        y = np.ldexp(y, -scale)
    largest = y.max(initial=0.0)
    if not np.isfinite(largest):
        raise RingError("a sum is not finite", code="NONFINITE")
    if largest >= 2.0**RANGE_BITS:
        raise RingError("a sum is larger than its declared range", code="RANGE")
    whole = np.floor(y)
    words = np.empty((flat.size, 2), dtype=np.uint64)
    words[:, 0] = np.rint((y - whole) * 2.0**64).astype(np.uint64)
    words[:, 1] = whole.astype(np.uint64)
    return _negate_where(words, flat < 0)


def zeros(size: int) -> Words:
    """Ring form of `size` zeros."""
    return np.zeros((size, 2), dtype=np.uint64)


def add(a: Words, b: Words) -> Words:
    """a + b modulo 2**128, word by word."""
    out = a + b
    out[:, 1] += out[:, 0] < a[:, 0]
    return out


def subtract(a: Words, b: Words) -> Words:
    """a - b modulo 2**128, word by word."""
    out = a - b
    out[:, 1] -= a[:, 0] < b[:, 0]
    return out


def magnitudes(words: Words) -> tuple[Words, NDArray[np.bool_]]:
    """Absolute values, and which numbers are below zero."""
    negative = words[:, 1] >> np.uint64(63) == 1
    return _negate_where(words.copy(), negative), negative


def signed(magnitude: Words, negative: NDArray[np.bool_]) -> Words:
    """The numbers of `magnitudes`; it changes the words that it is given."""
    return _negate_where(magnitude, negative)


def decode(words: Words, scale: int = 0) -> Floats:
    """The float64 nearest to each number (ties to even), (n,).

    Raises
    ------
    RingError : GUARD when a number is 2**62 or more in magnitude, which no honest sum reaches.
    """
    magnitude, negative = magnitudes(words)
    low, high = magnitude[:, 0], magnitude[:, 1]
    if high.size and int(high.max()) >= 1 << GUARD_BITS:
        raise RingError("a total is outside the guarded range", code="GUARD")
    short = high == 0
    top, rest = np.where(short, low, high), np.where(short, np.uint64(0), low)
    left = _leading_zeros(top)
    shifted = top << left
    spill = np.where(left > 0, rest >> (np.uint64(64) - np.maximum(left, _ONE)), np.uint64(0))
    shifted |= np.where(left > 0, spill, np.uint64(0))
    remainder = np.where(left > 0, rest << left, rest)
    mantissa, tail = shifted >> np.uint64(11), shifted & np.uint64(0x7FF)
    sticky = (remainder != 0) | ((mantissa & _ONE) == 1)
    up = (tail > 0x400) | ((tail == 0x400) & sticky)
    exponent = np.where(short, -64, 0) + 11 - left.astype(np.int64)
    value = np.ldexp((mantissa + up).astype(np.float64), exponent + scale)
    return np.where(top == 0, 0.0, np.where(negative, -value, value))


def _negate_where(words: Words, mask: NDArray[np.bool_]) -> Words:
    if mask.any():
        low, high = ~words[mask, 0] + _ONE, ~words[mask, 1]
        words[mask, 0], words[mask, 1] = low, high + (low == 0)
    return words


def _leading_zeros(x: Words) -> Words:
    """Number of zero bits above the highest one; 63 for 0."""
    count = np.zeros(x.shape, dtype=np.uint64)
    y = x.copy()
    for step in (32, 16, 8, 4, 2, 1):
        empty = y >> np.uint64(64 - step) == 0
        count += np.where(empty, np.uint64(step), np.uint64(0))
        y = np.where(empty, y << np.uint64(step), y)
    return count
