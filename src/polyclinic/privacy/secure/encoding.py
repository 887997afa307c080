"""The vector of a round: its profile, the known constants around it, and numbers as 64-bit words.

``exact128`` holds words of `polyclinic.core.ring`, (n, 2) uint64 modulo 2**128. ``fast64`` holds
(n,) uint64 modulo 2**64 with f = 62 - ceil(log2 K) - m fraction bits, for K sites and numbers of at
most 2**m in magnitude: half the bytes, for updates of neural networks. In front and behind stand
two constants that all members know, and a one for counting: after unmasking they must be exact
multiples, or a mask was not removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.ring import GUARD_BITS
from polyclinic.privacy.secure.errors import failure

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

EXTRA = 3  # constant, payload, one, constant
MOST_VALUES = 2**32
_LARGEST_MAGNITUDE = 500
_GUARD, _TWICE_GUARD = np.uint64(1 << GUARD_BITS), np.uint64(2 << GUARD_BITS)


@dataclass(frozen=True)
class Profile:
    """How one number is held: `width` words of 64 bits."""

    name: str
    width: int

    def shape(self, size: int) -> tuple[int, ...]:
        """Shape of the words of `size` numbers."""
        return (size, 2) if self.width == 2 else (size,)

    def bytes(self, size: int) -> int:
        """Bytes of a framed vector of `size` numbers."""
        return 8 * self.width * (size + EXTRA)


PROFILES = {"exact128": Profile("exact128", 2), "fast64": Profile("fast64", 1)}


def profile_of(name: Any, size: Any) -> Profile:
    """The profile of that name. Raises SCHEMA_MISMATCH for another name or an unusable size."""
    if not isinstance(name, str) or name not in PROFILES:
        raise failure("SCHEMA_MISMATCH", "the profile is not known")
    if type(size) is not int or not 0 < size <= MOST_VALUES:
        raise failure("SCHEMA_MISMATCH", "the size of the vector is not usable")
    return PROFILES[name]


def frame(profile: Profile, words: Any, size: int, canary: bytes) -> Words:
    """A copy of `words` with the constants around it. Raises SCHEMA_MISMATCH."""
    if (
        not isinstance(words, np.ndarray)
        or words.dtype != np.uint64
        or words.shape != profile.shape(size)
    ):
        raise failure("SCHEMA_MISMATCH", "a vector is not as the plan declares it")
    out = np.empty(profile.shape(size + EXTRA), dtype=np.uint64)
    out[0], out[-2], out[-1] = _constants(profile, canary, 1)
    out[1:-2] = words
    return out


def unframe(profile: Profile, total: Words, canary: bytes, sites: int) -> Words:
    """The payload of an unmasked total over `sites` sites.

    Raises
    ------
    SecureSumError : CANARY_MISMATCH when the constants are not `sites` times themselves, GUARD
        when a number is larger than any honest total.
    """
    found = (total[0], total[-2], total[-1])
    wanted = _constants(profile, canary, sites)
    if not all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)):
        raise failure("CANARY_MISMATCH", "a total is not what the sites have sent")
    payload = total[1:-2]
    if profile.width == 2:
        _guard(payload[:, 1], np.uint64((2 << GUARD_BITS) - 1))
    else:
        _guard(payload)
    return payload


def encode_fast64(x: Floats, sites: int, magnitude: int) -> Words:
    """Finite numbers of at most 2**`magnitude` as 64-bit words. Raises NONFINITE or RANGE."""
    flat = np.ravel(np.asarray(x, dtype=np.float64))
    largest = max(flat.max(initial=0.0), -flat.min(initial=0.0))
    if not np.isfinite(largest):
        raise failure("NONFINITE", "a number to be summed is not finite")
    if largest > 2.0**magnitude:
        raise failure("RANGE", "a number to be summed is larger than its declared range")
    scaled = np.ldexp(flat, fraction_bits(sites, magnitude))
    return np.rint(scaled, out=scaled).astype(np.int64).view(np.uint64)


def decode_fast64(words: Words, sites: int, magnitude: int) -> Floats:
    """The numbers in 64-bit words, (n,). Raises GUARD."""
    _guard(words)
    return np.ldexp(words.view(np.int64).astype(np.float64), -fraction_bits(sites, magnitude))


def fraction_bits(sites: int, magnitude: int) -> int:
    """Bits behind the point, so that the sum over `sites` sites stays within 2**62."""
    if not 1 <= sites <= 64 or abs(magnitude) > _LARGEST_MAGNITUDE:
        raise failure("RANGE", "the declared number of sites or magnitude is not usable")
    return GUARD_BITS - (sites - 1).bit_length() - magnitude


def _guard(top: Words, most: np.uint64 = _TWICE_GUARD) -> None:
    if top.size and (top + _GUARD).max() > most:
        raise failure("GUARD", "a total is outside the guarded range")


def _constants(profile: Profile, canary: bytes, times: int) -> tuple[Any, Any, Any]:
    first, last = (int.from_bytes(canary[at : at + 16], "little") for at in (0, 16))
    one = 1 << 64 if profile.width == 2 else 1
    return tuple(_ring_words(profile, value * times) for value in (first, one, last))


def _ring_words(profile: Profile, value: int) -> Any:
    low, high = value % 2**64, (value >> 64) % 2**64
    return np.array([low, high] if profile.width == 2 else low, dtype=np.uint64)
