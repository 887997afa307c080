"""Canonical bytes: one value, one byte string, the same on every machine.

A message is a JSON header (sorted keys, no spaces) and, after it, the arrays in the order in which
the header meets them, little-endian and C-ordered. Only None, bool, int, float, str, list, dict and
arrays of nine types exist, so decoding cannot run code. Decoding is strict: what is not canonical,
too long or cut short is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.errors import PolyclinicError

MAGIC = b"PCM1"
Bytes = bytes | bytearray | memoryview
LONGEST = 1 << 30  # bytes of a message that any process takes from another
DEEPEST = 64  # levels of nesting in a message
_DTYPES = {"f8": "<f8", "i8": "<i8", "u8": "<u8", "b1": "|b1", "f4": "<f4"}
_DTYPES |= {"i1": "|i1", "i2": "<i2", "i4": "<i4", "f2": "<f2"}
_ARRAY = "$array"
_PLAIN = (str, int, bool)
_JSON = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, check_circular=False
)


class CodecError(PolyclinicError):
    """Bytes or a value outside the canonical form: BAD_MESSAGE."""


def encode(value: Any) -> bytes:
    """Canonical bytes of a nested value."""
    return b"".join(_parts(value))


def decode(data: Bytes) -> Any:
    """The value of canonical bytes. Raises CodecError for anything else."""
    if data[:4] != MAGIC or len(data) < 12:
        raise _bad("no Polyclinic message")
    (length,) = struct.unpack_from("<Q", data, 4)
    if length > len(data) - 12:
        raise _bad("the header is cut short")
    try:
        text = bytes(data[12 : 12 + length])
        header = json.loads(text, parse_constant=_no_constant)
        again = _JSON.encode(header).encode()  # ValueError: a number too large to be finite
    except (ValueError, RecursionError):
        raise _bad("the header is not JSON") from None
    cursor = _Cursor(data, 12 + length)
    value = _raise(header, cursor)
    if cursor.at != len(data):
        raise _bad("bytes are left over")
    if again != text:
        raise _bad("the message is not in canonical form")
    return value


class Fixed(Mapping[str, Any]):
    """A mapping that nobody changes any more: what is the same in many messages is lowered once."""

    def __init__(self, of: Mapping[str, Any]) -> None:
        self._of = dict(of)
        self.derived: dict[str, Any] = {}  # what is found out about it once

    def __getitem__(self, key: str) -> Any:
        return self._of[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    @cached_property
    def lowered(self) -> tuple[Any, Raw]:
        """Its part of a header, and its arrays."""
        arrays: Raw = []
        return _lower(self._of, arrays), arrays


def room(n: int) -> memoryview:
    """Bytes to be written over: NumPy asks for large pages, and nothing is set to zero before."""
    return np.empty(n, np.uint8).data


def digest(value: Any) -> str:
    """SHA-256 of the canonical bytes, in hex."""
    hash = hashlib.sha256()
    for part in _parts(value):
        hash.update(part)
    return hash.hexdigest()


Raw = list["memoryview | bytes"]


def _parts(value: Any) -> Raw:
    """The canonical bytes in pieces; those of arrays are not copied."""
    arrays: Raw = []
    header = _header(value, arrays)
    return [MAGIC, struct.pack("<Q", len(header)), header, *arrays]


def _header(value: Any, arrays: Raw) -> bytes:
    return _JSON.encode(_lower(value, arrays)).encode()


def _lower(value: Any, arrays: Raw) -> Any:
    kind = type(value)  # looked at first: most values are plain, and there are very many of them
    if value is None or kind in _PLAIN or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _bad("a number is not finite")
        return value
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _PLAIN else _lower(item, arrays) for item in value]
    if kind is dict or isinstance(value, Mapping):
        return _mapping(value, arrays)
    if isinstance(value, np.ndarray):
        return _array(value, arrays)
    if isinstance(value, np.generic):
        return _lower(value.item(), arrays)
    raise _bad(f"values of type {kind.__name__} do not travel")


def _mapping(value: Mapping[Any, Any], arrays: Raw) -> Any:
    if isinstance(value, Fixed):
        found, more = value.lowered
        arrays += more
        return found
    for key in value:
        if not isinstance(key, str) or key == _ARRAY:
            raise _bad("keys are texts")
    return {key: _lower(value[key], arrays) for key in sorted(value)}


def _array(value: NDArray[Any], arrays: Raw) -> Any:
    kind = f"{value.dtype.kind}{value.dtype.itemsize}"
    if kind not in _DTYPES:
        raise _bad(f"arrays of type {value.dtype} do not travel")
    whole = np.ascontiguousarray(value, dtype=_DTYPES[kind])
    arrays.append(whole.data.cast("B") if whole.size else b"")
    return {_ARRAY: [kind, list(value.shape)]}


class _Cursor:
    def __init__(self, data: Bytes, at: int) -> None:
        self.data, self.at = data, at

    def array(self, spec: Any) -> Any:
        try:
            kind, shape = spec
            dtype = np.dtype(_DTYPES[kind])
            valid = (
                isinstance(shape, list)
                and len(shape) <= 8
                and all(type(n) is int and 0 <= n < 2**40 for n in shape)
            )
        except (TypeError, ValueError, KeyError):
            valid = False
        if not valid:
            raise _bad("an array is described wrongly")
        size = math.prod(shape) * dtype.itemsize
        if size > len(self.data) - self.at:
            raise _bad("an array is cut short")
        try:
            chunk = np.frombuffer(self.data, dtype, math.prod(shape), self.at).reshape(shape)
        except ValueError:  # no entries, but more dimensions' worth of them than numpy can count
            raise _bad("an array is described wrongly") from None
        if kind == "b1" and chunk.view(np.uint8).max(initial=0) > 1:
            raise _bad("a truth value is neither 0 nor 1")
        self.at += size
        return chunk.astype(dtype.newbyteorder("="))


def _raise(value: Any, cursor: _Cursor, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise _bad("a value is nested too deeply")
    if isinstance(value, list):
        return [_raise(item, cursor, depth + 1) for item in value]
    if isinstance(value, dict):
        if _ARRAY not in value:
            return {key: _raise(value[key], cursor, depth + 1) for key in sorted(value)}
        if len(value) == 1:
            return cursor.array(value[_ARRAY])
        raise _bad("an array is described wrongly")
    return value


def _no_constant(_: str) -> Any:
    raise ValueError("not a finite number")


def _bad(what: str) -> CodecError:
    return CodecError(what, code="BAD_MESSAGE", rule="messages are canonical bytes of plain data")
