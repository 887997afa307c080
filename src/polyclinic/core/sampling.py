"""Random numbers that belong to a row, not to its place: hash(seed, round, key).

SplitMix64 (Steele, Lea & Flood 2014) as a keyed hash. Not for privacy noise, which comes from the
operating system.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def uniform(key: NDArray[np.int64], seed: int, round: int, site: str = "") -> NDArray[np.float64]:
    """Numbers in [0, 1), one per key; the same for a key however rows are split or ordered."""
    digest = hashlib.sha256(_place(seed, round) + site.encode()).digest()
    start = np.uint64(int.from_bytes(digest[:8], "little"))
    with np.errstate(over="ignore"):
        return _mixed(key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start)


def uniform_of(sites: Iterable[str], seed: int, round: int) -> NDArray[np.float64]:
    """The number of key 0 of each of `sites`, as `uniform` draws it."""
    first, starts = hashlib.sha256(_place(seed, round)), bytearray()
    for site in sites:
        own = first.copy()
        own.update(site.encode())
        starts += own.digest()[:8]
    return _mixed(np.frombuffer(bytes(starts), dtype="<u8").astype(np.uint64))


def _place(seed: int, round: int) -> bytes:
    return struct.pack("<qq", seed, round)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
