"""Secret sharing over the field of 2**521 - 1 (Shamir 1979).

A secret is the value at 0 of a random polynomial of degree t - 1; site number x holds its value at
x = 1, 2, ... Any t shares give the secret, fewer say nothing about it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

PRIME = 2**521 - 1
SHARE_BYTES = 66


def split(secret: int, threshold: int, holders: int) -> list[int]:
    """One share for each of 1..`holders`, any `threshold` of which give `secret`."""
    if not 0 <= secret < PRIME or not 1 <= threshold <= holders:
        raise ValueError("secret or threshold out of range")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    return [_value_at(x, coefficients, secret) for x in range(1, holders + 1)]


def weights(points: Sequence[int]) -> dict[int, int]:
    """Lagrange weights at 0 of distinct points: secret = sum of weight * share."""
    if len(set(points)) != len(points) or min(points) < 1:
        raise ValueError("points are positive and distinct")
    out = {}
    for x in points:
        top, bottom = 1, 1
        for other in points:
            if other != x:
                top, bottom = top * other % PRIME, bottom * (other - x) % PRIME
        out[x] = top * pow(bottom, -1, PRIME) % PRIME
    return out


def combine(shares: Mapping[int, int], weight: Mapping[int, int]) -> int:
    """The secret behind the shares at the points of `weight`."""
    return sum(weight[x] * shares[x] for x in weight) % PRIME


def to_bytes(share: int) -> bytes:
    """A share as 66 bytes."""
    return share.to_bytes(SHARE_BYTES, "little")


def from_bytes(data: bytes) -> int:
    """The share in 66 bytes; ValueError when it is no element of the field."""
    share = int.from_bytes(data, "little")
    if len(data) != SHARE_BYTES or share >= PRIME:
        raise ValueError("not an element of the field")
    return share


def _value_at(x: int, coefficients: Sequence[int], secret: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * x % PRIME
    return (value + secret) % PRIME
