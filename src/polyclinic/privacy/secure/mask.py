"""Masks: keys that two sites agree upon, and the streams of ring words that keys expand to.

The stream of a key is ChaCha20 (key, 16 zero bytes) over zeros, read as little-endian words. It is
made in blocks that stay in the processor's cache, so no mask of the vector's size ever exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.privacy.secure.errors import failure

Words = NDArray[np.uint64]

KEY_BYTES = 32
_BLOCK_WORDS = 16_384


def new_key() -> bytes:
    """A private X25519 key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_of(private: bytes) -> bytes:
    """The public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def derive(secret: bytes, salt: bytes, info: Sequence[Any], size: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256; `info` is encoded canonically, so no two purposes can look alike."""
    return HKDF(SHA256(), size, salt, codec.encode(list(info))).derive(secret)


class Agreement:
    """One private key, to agree with many peers."""

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)

    def key(self, peer: bytes, salt: bytes, info: Sequence[Any]) -> bytes:
        """The key shared with the owner of the public key `peer`, for one purpose."""
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:  # a point of small order, which makes the secret known to everybody
            raise failure("KEY_SUBSTITUTED", "a public key is not usable") from None
        return derive(secret, salt, info)


def apply(words: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add the streams of `plus` to `words` in place, and subtract those of `minus`.

    `words` is (n, 2), each row one number modulo 2**128 (low, high), or (n,) modulo 2**64.
    """
    if not words.flags.c_contiguous:
        raise ValueError("masks are applied in place, to contiguous words")
    flat = words.reshape(-1)
    wide = words.ndim == 2
    streams: list[tuple[Any, np.ufunc]] = [(_stream(key), np.add) for key in plus]
    streams += [(_stream(key), np.subtract) for key in minus]
    room = min(_BLOCK_WORDS, flat.size)
    nothing = memoryview(bytes(8 * room))
    mask = np.empty(room, dtype="<u8")
    for start in range(0, flat.size, _BLOCK_WORDS):
        block = flat[start : start + _BLOCK_WORDS]
        _apply_block(block, streams, mask[: block.size], nothing[: 8 * block.size], wide)


def add(total: Words, words: Words) -> None:
    """total + words in place, by row modulo 2**128 for (n, 2), modulo 2**64 for (n,)."""
    total += words
    if total.ndim == 2:
        total[:, 1] += total[:, 0] < words[:, 0]


def _apply_block(
    block: Words,
    streams: Sequence[tuple[Any, np.ufunc]],
    mask: Any,
    nothing: memoryview,
    wide: bool,
) -> None:
    """All streams over one block. Carries are counted, and reach the high words once at the end."""
    over = np.empty(block.size, dtype=np.bool_)
    carries, borrows = (np.zeros(block.size, dtype=np.uint8) for _ in range(2))
    out = memoryview(mask).cast("B")
    for cipher, operation in streams:
        cipher.update_into(nothing, out)
        if not wide:
            operation(block, mask, out=block)
        elif operation is np.add:
            np.add(block, mask, out=block)
            np.less(block, mask, out=over)
            np.add(carries, over.view(np.uint8), out=carries)
        else:
            np.less(block, mask, out=over)
            np.subtract(block, mask, out=block)
            np.add(borrows, over.view(np.uint8), out=borrows)
    if wide:
        block[1::2] += carries[::2]
        block[1::2] -= borrows[::2]


def _stream(key: bytes) -> Any:
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
