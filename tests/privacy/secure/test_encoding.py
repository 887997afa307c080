from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.privacy.secure import encoding
from polyclinic.privacy.secure.encoding import PROFILES, decode_fast64, encode_fast64
from polyclinic.privacy.secure.errors import SecureSumError

CANARY = bytes(range(200, 232))


@given(st.lists(st.floats(-64, 64), max_size=20), st.integers(3, 64))
def test_fast64_is_the_nearest_number_of_its_grid(values, sites):
    x = np.array(values, dtype=np.float64)
    words = encode_fast64(x, sites, 6)
    step = Fraction(1, 2 ** encoding.fraction_bits(sites, 6))
    for value, word in zip(values, words.view(np.int64).tolist(), strict=True):
        assert abs(Fraction(value) - word * step) <= step / 2
    assert np.abs(decode_fast64(words, sites, 6) - x).max(initial=0) <= 2.0**-48


def test_fast64_of_float32_is_exact_for_twenty_sites():
    x = np.random.default_rng(0).normal(size=(20, 1000)).astype(np.float32).astype(np.float64)
    x = np.round(x * 2**30) / 2**30
    total = sum((encode_fast64(row, 20, 6) for row in x), np.zeros(1000, dtype=np.uint64))
    wanted = [float(sum(map(Fraction, column))) for column in x.T.tolist()]
    assert decode_fast64(total, 20, 6).tolist() == wanted


@pytest.mark.parametrize(
    ("value", "code"),
    [(np.nan, "NONFINITE"), (np.inf, "NONFINITE"), (-np.inf, "NONFINITE"), (64.1, "RANGE")],
)
def test_what_fast64_cannot_hold_is_refused(value, code):
    with pytest.raises(SecureSumError) as caught:
        encode_fast64(np.array([0.0, value]), 5, 6)
    assert caught.value.code == code
    assert encode_fast64(np.array([64.0, -64.0]), 5, 6).size == 2


def framed(profile, k=3):
    words = np.zeros(PROFILES[profile].shape(2), dtype=np.uint64)
    total = sum(
        (encoding.frame(PROFILES[profile], words, 2, CANARY).astype(object) for _ in range(k)),
        start=np.zeros(PROFILES[profile].shape(5), dtype=object),
    )
    if profile == "exact128":
        total[:, 1] += total[:, 0] >> 64
    return (total % 2**64).astype(np.uint64)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_constants_of_k_vectors_are_k_times_themselves(profile):
    ring = PROFILES[profile]
    assert not encoding.unframe(ring, framed(profile), CANARY, 3).any()
    for at in (0, 3, 4):
        total = framed(profile)
        total[at] += np.uint64(1)
        with pytest.raises(SecureSumError) as caught:
            encoding.unframe(ring, total, CANARY, 3)
        assert caught.value.code == "CANARY_MISMATCH"
    with pytest.raises(SecureSumError):
        encoding.unframe(ring, framed(profile), CANARY, 4)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("high", "good"), [(2**62 - 1, True), (2**62 + 1, False), (2**63, False)])
def test_a_total_beyond_the_guard_is_refused(profile, high, good):
    total = framed(profile)
    total[1] = (0, high) if profile == "exact128" else high
    if good:
        encoding.unframe(PROFILES[profile], total, CANARY, 3)
        return
    with pytest.raises(SecureSumError) as caught:
        encoding.unframe(PROFILES[profile], total, CANARY, 3)
    assert caught.value.code == "GUARD"


@pytest.mark.parametrize(
    "words",
    [None, np.zeros((2, 2)), np.zeros((3, 2), np.uint64), np.zeros(4, np.uint64), [[0, 0], [0, 0]]],
)
def test_a_vector_of_another_form_is_refused(words):
    with pytest.raises(SecureSumError) as caught:
        encoding.frame(PROFILES["exact128"], words, 2, CANARY)
    assert caught.value.code == "SCHEMA_MISMATCH"


@pytest.mark.parametrize(
    ("name", "size"), [("exact", 1), (None, 1), ("fast64", 0), ("fast64", True)]
)
def test_an_unknown_profile_or_size_is_refused(name, size):
    with pytest.raises(SecureSumError) as caught:
        encoding.profile_of(name, size)
    assert caught.value.code == "SCHEMA_MISMATCH"
