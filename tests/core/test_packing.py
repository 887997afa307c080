"""Ring numbers in few bytes: every number comes back, in one form only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.core import ring
from polyclinic.core.codec import CodecError, decode, encode
from polyclinic.core.compress import KINDS, rounded
from polyclinic.core.packing import pack, unpack


def words(integers: list[int]) -> np.ndarray:
    unsigned = [i % 2**128 for i in integers]
    halves = [(i & (2**64 - 1), i >> 64) for i in unsigned]
    return np.array(halves, dtype=np.uint64).reshape(-1, 2)


@st.composite
def leaves(draw):
    """Integers of any width up to 128 bits, with any common power of two."""
    width = draw(st.integers(0, 127))
    numbers = draw(st.lists(st.integers(-(2**width), 2**width - 1), max_size=8))
    shift = draw(st.integers(0, 127 - width))
    return [number << shift for number in numbers]


def narrowest(integers: list[int]) -> tuple[int, int]:
    """Common power of two, and the bits that are left of the largest."""
    used = 0
    for number in integers:
        used |= abs(number)
    shift = (used & -used).bit_length() - 1 if used else 0
    return shift, used.bit_length() - shift


@given(leaves())
def test_every_leaf_comes_back_through_its_bytes(integers):
    array = words(integers)
    packed = decode(encode(pack(array)))
    assert unpack(packed).tobytes() == array.tobytes()
    shift, width = narrowest(integers)
    if width <= 63:
        size = next(size for size, bits in ((1, 7), (2, 15), (4, 31), (8, 63)) if width <= bits)
        values = packed["values"]
        assert values.dtype.itemsize <= size
        if values.dtype.kind == "i":
            assert packed["shift"] == shift
            assert [int(v) << shift for v in values] == integers


@given(
    st.lists(st.floats(-(2.0**40), 2.0**40), min_size=1, max_size=20), st.sampled_from(["i", "f"])
)
def test_rounded_numbers_take_one_or_two_bytes(values, kind):
    name, size = ("int8", 1) if kind == "i" else ("float16", 2)
    # Beside the largest, what is below the ring's unit is rounded by the ring as well.
    kept = [x for x in values if abs(x) > 2.0**-20]
    array = ring.encode(rounded(np.array(kept), name))
    assert pack(array)["values"].dtype.itemsize <= size == KINDS[name]


def test_numbers_of_many_bits_stay_words():
    array = words([2**64 + 1, -5])
    assert pack(array) is array and unpack(array) is array
    counts = np.array([1, 2, 3])
    assert pack(counts) is counts and unpack(counts) is counts


def test_halves_are_used_where_integers_of_two_bytes_are_too_narrow():
    packed = pack(ring.encode(np.array([1.0, 2.0**-20, -1.5, 0.0])))
    assert packed["values"].dtype == np.float16
    assert not np.signbit(packed["values"][3])


@pytest.mark.parametrize(
    "other",
    [
        {"shift": 1, "values": np.array([2, 4], dtype=np.int8)},  # a larger shift would do
        {"shift": 0, "values": np.array([1, 2], dtype=np.int16)},  # a narrower form would do
        {"shift": 0, "values": np.array([1, -(2**63)])},  # its own size is no such integer
        {"shift": 5, "values": np.array([0], dtype=np.int8)},  # nothing has no power of two
        {"shift": -1, "values": np.array([2], dtype=np.int8)},
        {"shift": 128, "values": np.array([1], dtype=np.int8)},
        {"shift": 10**30, "values": np.array([1], dtype=np.int8)},
        {"shift": 1.0, "values": np.array([1], dtype=np.int8)},
        {"shift": True, "values": np.array([1], dtype=np.int8)},
        {"shift": 0, "values": np.array([[1]], dtype=np.int8)},
        {"shift": 0, "values": np.array([1.0])},
        {"shift": 0, "values": np.array([np.nan], dtype=np.float16)},
        {"shift": 0, "values": np.array([np.inf, 1.0], dtype=np.float16)},
        {"shift": 0, "values": np.array([1.0, 2.0], dtype=np.float16)},  # integers would do
        {"shift": 0, "values": [1]},
        {"shift": 0},
        {"shift": 0, "values": np.array([1], dtype=np.int8), "more": 1},
        np.zeros(3, dtype=np.uint64),  # no pairs
        words([4, 8]),  # would fit into bytes
        None,
        7,
    ],
)
def test_any_other_form_is_refused(other):
    with pytest.raises(CodecError) as caught:
        unpack(other)
    assert caught.value.code == "BAD_MESSAGE"


def test_a_zero_below_zero_is_no_half():
    packed = pack(ring.encode(np.array([1.0, 2.0**-20, 0.0])))
    packed["values"][2] = np.float16(-0.0)
    with pytest.raises(CodecError):
        unpack(packed)


def mostly_nothing(size=1000, filled=10):
    array = ring.zeros(size)
    array[np.arange(filled) * 7] = ring.encode(np.arange(1.0, filled + 1))
    return array


def test_where_most_entries_are_nothing_only_the_others_travel():
    array = mostly_nothing()
    packed = decode(encode(pack(array)))
    assert packed["values"].tolist() == [*range(1, 11)] and packed["size"] == 1000
    assert unpack(packed).tobytes() == array.tobytes()
    assert len(encode(pack(array))) < 0.3 * len(encode(pack(ring.encode(np.ones(1000)))))
    nothing = ring.zeros(1000)
    assert unpack(decode(encode(pack(nothing)))).tobytes() == nothing.tobytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 1001),
        ("size", 10**15),
        ("size", -1),
        ("size", 1000.0),
        ("inside", np.full(125, -1, dtype=np.int8)),  # more than there are values
        ("inside", np.zeros(125, dtype=np.int8)),
        ("inside", np.zeros((125, 1), dtype=np.int8)),
        ("inside", np.zeros(125)),
        ("inside", None),
        ("values", np.arange(10, dtype=np.int8)),  # nothing has no place of its own
        ("more", 1),
    ],
)
def test_any_other_form_of_few_entries_is_refused(name, value):
    with pytest.raises(CodecError):
        unpack({**pack(mostly_nothing()), name: value})


def test_many_entries_are_not_named_one_by_one():
    dense = pack(mostly_nothing(1000, 140))
    assert set(dense) == {"shift", "values", "size", "inside"}
    array = ring.encode(np.ones(1000))
    bits = np.packbits(np.ones(1000, dtype=bool)).view(np.int8)
    with pytest.raises(CodecError):
        unpack({**pack(array), "size": 1000, "inside": bits})
