"""Numbers of the 128-bit ring in few bytes, when few bits of them are used.

A leaf is packed as ``{"shift": k, "values": v}``: entry i is ``v[i] * 2**k`` units of the ring.
The form follows from the numbers: k is the largest power of two that divides all of them, v the
narrowest of int8, int16, int32 and int64 that holds them; where only four or eight bytes would do
and IEEE halves do as well, these. Numbers that no form holds stay words. Where most entries are 0,
v holds the others only, and a bit for each entry says which they are: ``{"shift", "values", "size",
"inside"}``. So each leaf has one form, and a reader refuses any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core import codec, ring

Array = NDArray[Any]
Words = NDArray[np.uint64]
INTEGERS = ((7, np.int8), (15, np.int16), (31, np.int32), (63, np.int64))
HALF_TOP, HALF_LOW = 15, 24  # highest bit of a half, and its lowest behind the point
WORD, BITS = 64, 128
HEAD = 64  # bytes that it takes to say which entries are not 0, beside the bits


def pack(array: Array) -> Array | dict[str, Any]:
    """The packed form of ring words, (n, 2); other arrays and what does not fit as they are."""
    if array.dtype != np.uint64:
        return array
    found = _dense(array)
    if not isinstance(found, dict):
        return found
    inside, values = array.any(axis=1), found["values"]
    saved = (len(values) - int(inside.sum())) * values.itemsize
    if saved <= -(-len(values) // 8) + HEAD:
        return found
    bits = np.packbits(inside).view(np.int8)
    return {**found, "values": values[inside], "size": len(values), "inside": bits}


def _dense(array: Words) -> Words | dict[str, Any]:
    """The packed form with a number for each entry."""
    magnitude, negative = ring.magnitudes(array)
    low, high = (int(np.bitwise_or.reduce(magnitude[:, i], initial=0)) for i in (0, 1))
    used = (high << WORD) | low
    shift = (used & -used).bit_length() - 1 if used else 0
    width = used.bit_length() - shift
    if width > INTEGERS[1][0]:
        half = _as_half(array, used.bit_length() - 1 - HALF_TOP)
        if half is not None:
            return half
    for bits, kind in INTEGERS:
        if width <= bits:
            integers = _shifted_right(magnitude, shift).astype(np.int64)
            return {"shift": shift, "values": np.where(negative, -integers, integers).astype(kind)}
    return array


def unpack(value: Any) -> Array:
    """The array that was packed. Raises CodecError for any but its one packed form."""
    array: Array | None = value if isinstance(value, np.ndarray) else None
    if isinstance(value, dict) and {"shift", "values"} <= set(value):
        shift, values = value["shift"], value["values"]
        if type(shift) is int and isinstance(values, np.ndarray) and values.ndim == 1:
            array = _opened(values, shift)
        if set(value) != {"shift", "values"}:
            array = None if array is None else _spread(array, value)
    if array is None or not _is_form(array) or codec.encode(pack(array)) != codec.encode(value):
        raise codec.CodecError("a leaf is not in its packed form", code="BAD_MESSAGE")
    return array


def _spread(filled: Words, value: dict[str, Any]) -> Words | None:
    """Ring words of all entries, of those that are not 0; None where they do not fit."""
    size, inside = value.get("size"), value.get("inside")
    if set(value) != {"shift", "values", "size", "inside"} or type(size) is not int:
        return None
    if not isinstance(inside, np.ndarray) or inside.dtype != np.int8:
        return None
    if inside.ndim != 1 or len(inside) != -(-size // 8):
        return None
    at = np.unpackbits(inside.view(np.uint8), count=size).view(bool)
    if at.sum() != len(filled):
        return None
    words = np.zeros((size, 2), dtype=np.uint64)
    words[at] = filled
    return words


def _is_form(array: Array) -> bool:
    return array.dtype != np.uint64 or (array.ndim == 2 and array.shape[1] == 2)


def _opened(values: Array, shift: int) -> Words | None:
    if values.dtype == np.float16:
        if not np.isfinite(values).all():
            return None
        integers = np.ldexp(values.astype(np.float64), HALF_LOW).astype(np.int64)
        return _shifted_left(integers, shift - HALF_LOW)
    if values.dtype in [kind for _, kind in INTEGERS]:
        return _shifted_left(values.astype(np.int64), shift)
    return None


def _as_half(array: Words, shift: int) -> dict[str, Any] | None:
    """IEEE halves of 2**shift units, where they hold every number exactly."""
    magnitude, negative = ring.magnitudes(array)
    low, high = magnitude.T.astype(np.float64)
    values = np.ldexp(high, WORD - shift) + np.ldexp(low, -shift)
    with np.errstate(over="ignore"):
        half = np.where(negative, -values, values).astype(np.float16)
    if not np.isfinite(half).all():
        return None
    found = {"shift": shift, "values": half + np.float16(0.0)}  # no zero below zero
    words = _opened(found["values"], shift)
    return found if words is not None and np.array_equal(words, array) else None


def _shifted_right(magnitude: Words, shift: int) -> Words:
    """The low word of 128-bit numbers divided by 2**shift."""
    low, high = magnitude[:, 0], magnitude[:, 1]
    if shift >= WORD:
        return high >> np.uint64(shift - WORD)
    spill = high << np.uint64(WORD - shift) if shift else np.uint64(0)
    return (low >> np.uint64(shift)) | spill


def _shifted_left(integers: NDArray[np.int64], shift: int) -> Words | None:
    """Ring words of integers times 2**shift; None where they are not whole, or too large."""
    magnitude, negative = np.abs(integers).astype(np.uint64), integers < 0
    if shift < 0:
        whole = magnitude >> np.uint64(min(-shift, WORD - 1))
        if not np.array_equal(whole << np.uint64(min(-shift, WORD - 1)), magnitude):
            return None
        magnitude, shift = whole, 0
    if int(magnitude.max(initial=0)).bit_length() + shift > BITS:
        return None
    words = np.zeros((len(integers), 2), dtype=np.uint64)
    if shift < WORD:
        words[:, 0] = magnitude << np.uint64(shift)
        words[:, 1] = magnitude >> np.uint64(WORD - shift) if shift else 0
    elif shift < BITS:
        words[:, 1] = magnitude << np.uint64(shift - WORD)
    return ring.signed(words, negative)
