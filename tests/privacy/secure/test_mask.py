from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from polyclinic.privacy.secure import mask
from polyclinic.privacy.secure.errors import SecureSumError


def stream(key, values, width):
    """The stream by another road: one call, Python's integers."""
    encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    data = encryptor.update(bytes(width * values))
    return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("size", [1, 5, 8191, 8192, 8193, 16385])
def test_masks_are_those_of_python_integers(wide, size):
    rng = np.random.default_rng(size)
    words = rng.integers(0, 2**64, (size, 2) if wide else size, dtype=np.uint64)
    words[0] = 2**64 - 1
    width = 16 if wide else 8
    before = [int.from_bytes(row.tobytes(), "little") for row in words]
    keys = [bytes([i]) * 32 for i in range(7)]
    mask.apply(words, keys[:4], keys[4:])
    plus, minus = ([stream(k, size, width) for k in ks] for ks in (keys[:4], keys[4:]))
    wanted = [
        (b + sum(s[i] for s in plus) - sum(s[i] for s in minus)) % 2 ** (8 * width)
        for i, b in enumerate(before)
    ]
    assert [int.from_bytes(row.tobytes(), "little") for row in words] == wanted


def test_every_bit_of_a_key_changes_the_whole_stream():
    def first(key):
        words = np.zeros((4, 2), dtype=np.uint64)
        mask.apply(words, [key], [])
        return words.tobytes()

    streams = {first(bytes(32))}
    for bit in range(256):
        streams.add(first((1 << bit).to_bytes(32, "little")))
    assert len(streams) == 257


def test_addition_carries_into_the_high_word_and_wraps():
    total = np.array([[2**64 - 1, 2**64 - 1], [2**64 - 1, 0]], dtype=np.uint64)
    mask.add(total, np.array([[1, 0], [2, 5]], dtype=np.uint64))
    assert total.tolist() == [[0, 0], [1, 6]]


def test_two_sides_agree_and_each_purpose_has_its_key():
    a, b = mask.new_key(), mask.new_key()
    one = mask.Agreement(a).key(mask.public_of(b), b"T", ["mask", 1])
    assert one == mask.Agreement(b).key(mask.public_of(a), b"T", ["mask", 1])
    others = [
        mask.Agreement(a).key(mask.public_of(b), b"T", ["mask", 2]),
        mask.Agreement(a).key(mask.public_of(b), b"U", ["mask", 1]),
        mask.Agreement(a).key(mask.public_of(b), b"T", ["mas", "k", 1]),
    ]
    assert len({one, *others}) == 4


def test_a_key_that_makes_the_secret_public_is_refused():
    with pytest.raises(SecureSumError) as caught:
        mask.Agreement(mask.new_key()).key(bytes(32), b"", [])
    assert caught.value.code == "KEY_SUBSTITUTED"


def test_words_that_are_not_contiguous_are_refused():
    with pytest.raises(ValueError, match="contiguous"):
        mask.apply(np.zeros((4, 4), dtype=np.uint64)[:, :2], [bytes(32)], [])
