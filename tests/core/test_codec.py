from __future__ import annotations

import json
import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polyclinic.core import codec
from polyclinic.core.codec import CodecError, decode, digest, encode
from polyclinic.core.plan import Plan

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=8),
    st.floats(allow_nan=False, allow_infinity=False),
)
arrays = st.sampled_from(["f8", "i8", "u8", "b1", "f4", "f2", "i4", "i2", "i1"]).flatmap(
    lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))
)
keys = st.text(max_size=6).filter(lambda text: text != "$array")
values = st.recursive(
    st.one_of(scalars, arrays),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and set(a) == set(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(values)
def test_round_trip(value):
    data = encode(value)
    assert same(decode(data), value)
    assert encode(decode(data)) == data


@given(st.dictionaries(keys, values, min_size=2, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_change_the_bytes(value, shuffler):
    turned = list(value.items())
    shuffler.shuffle(turned)
    assert encode(dict(turned)) == encode(value)
    assert digest(dict(turned)) == digest(value)


def test_what_is_fixed_has_the_bytes_of_its_mapping():
    plain = {"b": [1, {"a": np.arange(3)}], "a": np.ones((2, 2)), "c": None}
    fixed = codec.Fixed(plain)
    for _ in range(2):
        message = {"x": np.zeros(1), "spec": fixed, "z": np.ones(1)}
        assert codec.encode(message) == codec.encode({**message, "spec": plain})
    assert dict(fixed) == plain and len(fixed) == 3
    with pytest.raises(TypeError):
        fixed["a"] = 1


def test_arrays_do_not_depend_on_their_memory():
    x = np.arange(12.0).reshape(3, 4)
    fortran, strided = np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]
    swapped = x.astype(">f8")
    assert encode(x) == encode(fortran) == encode(strided) == encode(swapped)
    assert encode(np.float64(1.5)) == encode(1.5)
    assert encode((1, 2)) == encode([1, 2])


def test_special_floats_travel_in_arrays_only():
    x = np.array([np.nan, np.inf, -np.inf, -0.0])
    assert decode(encode(x)).tobytes() == x.tobytes()
    for bad in (float("nan"), float("inf"), np.float64("nan")):
        with pytest.raises(CodecError):
            encode({"a": bad})


@pytest.mark.parametrize(
    "bad",
    [
        object(),
        {1: 2},
        {"$array": ["f8", [1]]},
        np.array(["text"]),
        np.array([object()]),
        1j,
        b"x",
        {"a": {1, 2}},
        np.array([1], dtype=np.uint16),
        np.datetime64("2020-01-01"),
    ],
)
def test_what_does_not_travel(bad):
    with pytest.raises(CodecError) as caught:
        encode(bad)
    assert caught.value.code == "BAD_MESSAGE"


def raw(header, tail=b"", magic=codec.MAGIC, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return magic + struct.pack("<Q", len(text) if length is None else length) + text + tail


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PCM1",
        raw(1, magic=b"PCM2"),
        raw(1, length=99),
        raw(1, length=2**63),
        raw(b"{"),
        raw(b"NaN"),
        raw(b"Infinity"),
        raw(b"1e999"),
        raw(b'{"b":1,"a":2}'),
        raw(b'{"a": 1}'),
        raw(b'{"a":1,"a":1}'),
        raw(b"1", b"x"),
        raw(b"\xff"),
        raw(b"[" * 50_000),
        raw(b"1.0e0"),
        raw(b'"\\u0061"'),
        raw(b'{"$array":["f8",[2]]}', b"\0" * 8),
        raw(b'{"$array":["f8",[2]]}', b"\0" * 24),
        raw(b'{"$array":["O",[1]]}', b"\0" * 8),
        raw(b'{"$array":["f8",[-1]]}'),
        raw(b'{"$array":["f8",[1.0]]}', b"\0" * 8),
        raw(b'{"$array":["f8",[true]]}', b"\0" * 8),
        raw(b'{"$array":["f8",1]}'),
        raw(b'{"$array":[["f8"],[1]]}', b"\0" * 8),
        raw(b'{"$array":null}'),
        raw(b'{"$array":["f8",[1]],"b":1}', b"\0" * 8),
        raw(b'{"$array":["f8",[1099511627775,1099511627775,1099511627775]]}'),
        raw(b'{"$array":["f8",[0,1099511627775,1099511627775]]}'),
        raw(b'{"$array":["f8",[1,1,1,1,1,1,1,1,1]]}', b"\0" * 8),
        raw(b'{"$array":["b1",[1]]}', b"\x02"),
        raw(b'{"$array":["f8",{}]}', b"\0" * 8),
    ],
    ids=lambda data: repr(data[12:52]),
)
def test_bytes_that_are_not_canonical_are_refused(data):
    with pytest.raises(CodecError):
        decode(data)


def test_two_thousand_mutated_messages_crash_nothing():
    plan = Plan(
        "toy.sum",
        {
            "centre": 0.5,
            "names": ["a", "é"],
            "x": np.arange(9.0).reshape(3, 3),
            "flags": np.array([True, False]),
            "none": None,
            "deep": {"n": -3},
        },
        cohort={"where": "age >= 18"},
        to=("a",),
    )
    whole, draw = plan.to_bytes(), random.Random(17)
    accepted = 0
    for _ in range(2_000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data))
            kind = draw.randrange(4)
            if kind == 0:
                data[at] = draw.randrange(256)
            elif kind == 1:
                del data[at : at + draw.randint(1, 9)]
            elif kind == 2:
                data[at:at] = draw.randbytes(draw.randint(1, 9))
            else:
                data = data[: max(at, 1)]
        try:
            found = Plan.from_bytes(bytes(data))
        except CodecError:
            continue
        accepted += 1  # another number or name: still a plan, and canonical
        assert found.to_bytes() == bytes(data)
    assert accepted < 1_000
