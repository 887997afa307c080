"""Handing out the shares of a batch's secrets, sealed for each member.

Every member can later say, of each other member and index, either the share of its self seed or
that of its masking key. Digests of all shares go along, so a wrong share names who gave it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from polyclinic.core import codec
from polyclinic.privacy.secure import shamir
from polyclinic.privacy.secure.envelope import from_words, to_words
from polyclinic.privacy.secure.errors import failure
from polyclinic.privacy.secure.keyring import Keyring, Secrets
from polyclinic.privacy.secure.mask import Agreement

Words = NDArray[np.uint64]
Pair = tuple[bytes, bytes]  # share of the masking key, share of the self seed

KINDS = ("mask", "seed")
_NONCE = bytes(12)  # every sealing key seals one message


def deal(keyring: Keyring, own: Secrets) -> list[list[Pair]]:
    """Shares by member and index."""
    shares: list[list[Pair]] = [[] for _ in keyring.members]
    for pair in zip(own.masks, own.seeds, strict=True):
        masks, seeds = (
            shamir.split(int.from_bytes(secret, "little"), keyring.threshold, len(shares))
            for secret in pair
        )
        for held, *both in zip(shares, masks, seeds, strict=True):
            held.append((shamir.to_bytes(both[0]), shamir.to_bytes(both[1])))
    return shares


def share_digest(share: bytes) -> bytes:
    """SHA-256 of a share; a share is random, so its digest tells nothing."""
    return hashlib.sha256(b"share" + share).digest()


def digests(shares: list[list[Pair]]) -> Words:
    """Digests of all shares, (members, indices, 2, 4)."""
    data = b"".join(share_digest(s) for held in shares for pair in held for s in pair)
    return to_words(data).reshape(len(shares), len(shares[0]), 2, 4)


def seal(
    keyring: Keyring, exchange: bytes, own: str, shares: list[list[Pair]], table: Words
) -> dict[str, Words]:
    """The shares of each peer, sealed for it."""
    agreement = Agreement(exchange)
    out = {}
    for number, peer in enumerate(keyring.members):
        if peer != own:
            cipher = _cipher(keyring, agreement, peer, own, peer)
            plain = b"".join(share for pair in shares[number] for share in pair)
            plain += bytes(-len(plain) % 8)
            aad = _aad(keyring, own, peer, table[number])
            out[peer] = to_words(cipher.encrypt(_NONCE, plain, aad))
    return out


def unseal(
    keyring: Keyring, exchange: bytes, own: str, sealed: Mapping[str, Any], rows: Mapping[str, Any]
) -> dict[str, list[Pair]]:
    """The shares that every peer has sealed for `own`, by index.

    Raises
    ------
    SecureSumError : SHARE_INVALID, naming the peer, when a sealed message or share is not as dealt.
    """
    peers = set(keyring.members) - {own}
    if set(sealed) != peers or set(rows) != peers:
        raise failure("BAD_MESSAGE", "the shares are not those of all members")
    agreement, count = Agreement(exchange), keyring.count
    words = (2 * shamir.SHARE_BYTES * count + 7) // 8 + 2
    out = {}
    for peer in sorted(peers):
        row = from_words(rows[peer], (count, 2, 4))
        cipher = _cipher(keyring, agreement, peer, peer, own)
        try:
            data = from_words(sealed[peer], (words,))
            plain = cipher.decrypt(_NONCE, data, _aad(keyring, peer, own, rows[peer]))
            out[peer] = _split(plain, row, count)
        except (InvalidTag, ValueError):
            raise failure("SHARE_INVALID", f"the shares of {peer} are not usable", peer) from None
    return out


def _split(plain: bytes, row: bytes, count: int) -> list[Pair]:
    size = shamir.SHARE_BYTES
    shares = [plain[at : at + size] for at in range(0, 2 * count * size, size)]
    if b"".join(map(share_digest, shares)) != row:
        raise ValueError("a share is not the one of its digest")
    for share in shares:
        shamir.from_bytes(share)
    return list(zip(shares[::2], shares[1::2], strict=True))


def _cipher(
    keyring: Keyring, agreement: Agreement, peer: str, sender: str, receiver: str
) -> ChaCha20Poly1305:
    info = ["share", keyring.run, keyring.batch, sender, receiver]
    return ChaCha20Poly1305(agreement.key(keyring.exchange[peer], keyring.transcript, info))


def _aad(keyring: Keyring, sender: str, receiver: str, row: Words) -> bytes:
    return codec.encode([keyring.transcript.hex(), sender, receiver, row])
