"""Random numbers that belong to a row, not to its place: hash(seed, round, key).

SplitMix64 (Steele, Lea & Flood 2014) as a keyed hash. Not for privacy noise, which comes from the
operating system.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray


def uniform(key: NDArray[np.int64], seed: int, round: int, site: str = "") -> NDArray[np.float64]:
    """Numbers in [0, 1), one per key; the same for a key however rows are split or ordered."""
    text = struct.pack("<qq", seed, round) + site.encode()
    start = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
    with np.errstate(over="ignore"):
        z = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
