"""Sums of floating-point numbers that are the same in any order, and however rows are cut.

A number x, |x| <= 2^top, is held as five whole numbers of 31 bits each:

    x = sum over j of w_j 2^(top - 31 (j + 1)),    |w_j| < 2^31, each with the sign of x

What lies below 2^(top - 155) is dropped, number by number. Whole numbers are added exactly, up to
2^31 of them. So numbers may lie 100 bits apart and still count with all of theirs, where the 128
bits of core/ring.py, which hold one scale for all, would round the small ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PARTS, BITS = 5, 31
WIDE = 62  # a `top` where no bound is known; a number beyond its `top` counts as that


def sums_of(x: Floats, starts: Ints, top: int) -> Ints:
    """The whole numbers of the sums over x (n,) from each start up to the next one, ascending;
    (n_starts, PARTS)."""
    out = np.empty((len(starts), PARTS), np.int64)
    left = np.ldexp(np.clip(x, -np.ldexp(1.0, top), np.ldexp(1.0, top)), -top)
    for j in range(PARTS):
        left = np.ldexp(left, BITS)
        whole = np.trunc(left)
        left -= whole
        out[:, j] = np.add.reduceat(whole.astype(np.int64), starts)
    return out


def words_of(x: Floats, top: int) -> Ints:
    """The whole numbers of each number, (..., PARTS)."""
    out = np.empty((PARTS, *x.shape), np.int64)
    left = np.ldexp(np.clip(x, -np.ldexp(1.0, top), np.ldexp(1.0, top)), BITS - top)
    for j in range(PARTS):
        out[j] = left  # drops what is behind the point
        left -= out[j]
        left *= 2.0**BITS
    return np.moveaxis(out, 0, -1)


def floats_of(parts: Ints, top: int) -> Floats:
    """What whole numbers (..., PARTS) stand for, each within a few units of the last digit."""
    words = np.array(np.moveaxis(parts, -1, 0), order="C")
    _carry(words)
    negative = words[0] < 0
    np.negative(words, out=words, where=negative)
    _carry(words)
    found = np.zeros(words.shape[1:])
    for j in range(PARTS - 1, -1, -1):
        found += words[j] * np.ldexp(1.0, top - BITS * (j + 1))
    return np.where(negative, -found, found)


def _carry(words: Ints) -> None:
    """Makes of (PARTS, ...) the same sums, in which all but the first number are below 2^31, and 0
    or more."""
    for j in range(PARTS - 1, 0, -1):
        words[j - 1] += words[j] >> BITS
        words[j] &= (1 << BITS) - 1
